"""The splits of a run, with the cached summaries of the texts that a selector or a probe reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dp_bench.data.encoded import EncodedSplit
from dp_bench.evaluation import Split
from dp_bench.methods.context import RunContext
from dp_bench.prompts.prompt import Prompt
from dp_bench.randomness import derive
from dp_bench.settings import RunSettings, TaskSettings
from dp_bench.summaries import cached_summaries


@dataclass(frozen=True)
class Splits:
    """The splits of all tasks; `report` ends with those of `RunContext.transfer`."""

    train: list[Split]
    select: list[Split]
    report: list[Split]


def make_splits(context: RunContext, *, with_summaries: bool) -> Splits:
    """Return the splits of a run, each with the cached summaries of its file if `with_summaries`."""
    summaries_of = _summaries(context) if with_summaries else {}

    def split(name: str, task: TaskSettings, encoded: EncodedSplit, number: int) -> Split:
        full_name = f"{task.name}/{name}" if len(context.verbalizers) > 1 else name
        prompt_task = number if number < len(context.data) else 0
        return Split(full_name, task, encoded, summaries_of.get(encoded.fingerprint), number, prompt_task)

    data = list(enumerate(context.data))
    # Draws depend on the name: a split that selects and is reported is evaluated with the same draws.
    reported = ["select" if part.select is part.report else "report" for part in context.data]
    transfer = enumerate(context.transfer, start=len(data))
    return Splits(
        [split("train", part.task.training, part.train, i) for i, part in data],
        [split("select", part.task.training, part.select, i) for i, part in data],
        [split(reported[i], part.task, part.report, i) for i, part in data]
        + [split("report", task, encoded, i) for i, (task, encoded) in transfer],
    )


def cached_splits(context: RunContext, prompt: Prompt) -> Splits:
    """Return the splits of a run, with the summaries that its prompt reads."""
    settings = context.settings
    splits = make_splits(context, with_summaries=reads_cached_summaries(prompt, settings))
    if not settings.prompt.shuffle_input:
        return splits
    uses = (splits.train, splits.select, splits.report)
    return Splits(*([shuffled(split, settings) for split in use] for use in uses))


def reads_cached_summaries(prompt: Prompt, settings: RunSettings) -> bool:
    """Return whether a prompt reads summaries that can be cached. With dropout in the frozen model a summary
    is random: it is computed in every forward pass."""
    return prompt.needs_summary and not settings.protocol.frozen_dropout


def shuffled(split: Split, settings: RunSettings) -> Split:
    """Return a split that gives selectors the summary of another example of the split: a control."""
    return split.with_shuffled_summaries(derive(settings.seed_of("order"), "input of others", split.name))


def _summaries(context: RunContext) -> dict[str, Tensor]:
    """Return the cached summaries of every file that is read, by the fingerprint of its encoding."""
    files = [whole for task in context.data for whole in (task.whole_train, task.report)]
    read = (*files, *(encoded for _, encoded in context.transfer))
    by_fingerprint = {encoded.fingerprint: summaries(context, encoded) for encoded in read}
    context.reporter.finish()
    return by_fingerprint


def summaries(context: RunContext, encoded: EncodedSplit) -> Tensor:
    """Return the summary of each text [M,D], from the cache if it is there."""
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
