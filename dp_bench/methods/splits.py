"""The splits of a run, with what a selector or a probe looks at: cached summaries of the texts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dp_bench.data.encode import EncodedSplit
from dp_bench.evaluation import Split
from dp_bench.methods.context import RunContext
from dp_bench.prompts.prompt import Prompt
from dp_bench.randomness import derive
from dp_bench.settings import RunSettings, TaskSettings
from dp_bench.summaries import cached_summaries


@dataclass(frozen=True)
class Splits:
    """The splits of all tasks; `report` goes on with the tasks of `RunContext.transfer`."""

    train: list[Split]
    select: list[Split]
    report: list[Split]


def make_splits(context: RunContext, *, with_summaries: bool) -> Splits:
    """Name the splits; attach to each the cached summaries of its file where they are looked at."""
    known = _summaries(context) if with_summaries else {}

    def split(name: str, task: TaskSettings, encoded: EncodedSplit, number: int) -> Split:
        full_name = f"{task.name}/{name}" if len(context.verbalizers) > 1 else name
        prompt_task = number if number < len(context.data) else 0
        return Split(full_name, task, encoded, known.get(encoded.fingerprint), number, prompt_task)

    data = list(enumerate(context.data))
    # What selects on the reported rows is their evaluation, draws and all.
    reported = ["select" if own.select is own.report else "report" for own in context.data]
    transfer = enumerate(context.transfer, start=len(data))
    return Splits(
        [split("train", own.task.training, own.train, i) for i, own in data],
        [split("select", own.task.training, own.select, i) for i, own in data],
        [split(reported[i], own.task, own.report, i) for i, own in data]
        + [split("report", task, encoded, i) for i, (task, encoded) in transfer],
    )


def cached_splits(context: RunContext, prompt: Prompt) -> Splits:
    """Return the splits of a run, with the summaries that its prompt looks at."""
    # With dropout on in the frozen model a summary is a random draw: it is made anew in every forward pass.
    settings = context.settings
    cached = prompt.needs_summary and not settings.protocol.frozen_dropout
    splits = make_splits(context, with_summaries=cached)
    if not settings.prompt.shuffle_input:
        return splits

    return Splits(
        *(
            [shuffled(split, settings) for split in use]
            for use in (splits.train, splits.select, splits.report)
        )
    )


def shuffled(split: Split, settings: RunSettings) -> Split:
    """Return a split that shows each text's selectors the summary of another text."""
    return split.with_inputs_of_others(derive(settings.seed_of("order"), "input of others", split.name))


def _summaries(context: RunContext) -> dict[str, Tensor]:
    """Return the cached summaries of every file that is read, by the fingerprint of its encoding."""
    files = [whole for task in context.data for whole in (task.whole_train, task.report)]
    read = (*files, *(encoded for _, encoded in context.transfer))
    found = {encoded.fingerprint: summaries(context, encoded) for encoded in read}
    context.reporter.finish()
    return found


def summaries(context: RunContext, encoded: EncodedSplit) -> Tensor:
    """Return the summary of each text [N,D], from the cache where it is there."""
    settings = context.settings
    context.reporter.begin("summarising the texts", total=len(encoded))
    return cached_summaries(
        context.backbone,
        encoded,
        settings.prompt.summary,
        pad_to=settings.protocol.summary_pad_to,
        batch_size=settings.trainer.eval_batch_size,
        cache_dir=settings.cache,
        weights=context.fingerprint,
        advance=context.reporter.advance,
    )
