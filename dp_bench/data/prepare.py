"""From a task's files to encoded examples to train on, to select on, and to report."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dp_bench.data.encode import HIDDEN, UNMATCHED, EncodedSplit, encode
from dp_bench.data.fewshot import degenerate, draw
from dp_bench.data.overlap import Overlap
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import Source, SplitFile
from dp_bench.data.split import held_out
from dp_bench.data.template import Template
from dp_bench.progress import notice
from dp_bench.randomness import derive
from dp_bench.settings import RunSettings, Scoring, Selection, TaskSettings
from dp_bench.types import Example, UserError

UNKNOWN = 0.03  # the share of unknown tokens from which it is told


@dataclass(frozen=True)
class TaskData:
    """The examples of one task of a run.

    `select` is held out of the training file, or under trainer.selection=validation it is `report` itself.
    """

    task: TaskSettings
    train: EncodedSplit
    select: EncodedSplit
    report: EncodedSplit
    whole_train: EncodedSplit  # train and what is held out of it, in the order of the file
    overlap: Overlap  # of the examples trained on or selected on with the reported ones
    notes: tuple[str, ...] = ()  # what a reader of the result should know of the data


def prepare(settings: RunSettings, task: TaskSettings, source: Source, tokenizer: Any) -> TaskData:
    """Read, check, encode and split the examples of one task of a run."""
    trainer = settings.trainer
    report = prepare_report(settings, task, source, tokenizer)
    on_report = trainer.selection is Selection.validation
    if settings.regime.shots is not None:
        train, select, whole, notes = _few_shot(settings, task.training, tokenizer, source.train)
    else:
        whole, notes = _encoded(settings, tokenizer, task.training, source.train, None), ()
        train = select = whole.select(np.flatnonzero(whole.labels >= 0))
        if not on_report:
            kept, held = held_out(
                train.sources,
                train.labels.tolist(),
                trainer.heldout_fraction,
                trainer.heldout_max,
                derive(settings.seed_of("heldout"), "heldout"),
            )
            train, select = train.select(kept), train.select(held)
    overlap = Overlap.of(whole, report)
    notes = (*notes, *overlap.notes(len(report)), *_unknown(whole, report))
    return TaskData(task, train, report if on_report else select, report, whole, overlap, notes)


def _unknown(train: EncodedSplit, report: EncodedSplit) -> Iterator[str]:
    for name, split in (("training", train), ("reported", report)):
        if split.share_unknown > UNKNOWN:
            yield (
                f"{100 * split.share_unknown:.0f} % of the tokens of the {name} texts are unknown to this "
                "backbone's tokenizer: it reads little of them"
            )


def prepare_report(settings: RunSettings, task: TaskSettings, source: Source, tokenizer: Any) -> EncodedSplit:
    """Read, check and encode the reported examples of a task."""
    return _encoded(settings, tokenizer, task, source.validation, None)


def _few_shot(
    settings: RunSettings, task: TaskSettings, tokenizer: Any, file: SplitFile
) -> tuple[EncodedSplit, EncodedSplit, EncodedSplit, tuple[str, ...]]:
    """Draw from the training file and encode the drawn rows alone."""
    data = settings.data
    examples = list(ExampleFile(task, file, file.split, data.limit))
    official = data.name == "superglue" and data.limit is None
    drawn = draw(
        settings.regime,
        task,
        examples,
        str(file.path),
        official=official,
        whole_classes=bool(settings.protocol.whole_classes),
    )
    whole = _encoded(settings, tokenizer, task, file, [*drawn.train, *drawn.select])
    first = len(drawn.train)
    notes = (*drawn.notes, *degenerate(drawn.train, task))
    return whole.select(np.arange(first)), whole.select(np.arange(first, len(whole))), whole, notes


def _encoded(
    settings: RunSettings,
    tokenizer: Any,
    task: TaskSettings,
    file: SplitFile,
    examples: Collection[Example] | None,
) -> EncodedSplit:
    """Encode the examples of a file, or some of them; refuse a file that hides its labels."""
    encoded = encode(
        ExampleFile(task, file, file.split, settings.data.limit) if examples is None else examples,
        Template.of(task),
        tokenizer,
        max_length=task.max_length,
        cache_dir=settings.cache,
        key_parts={"sha256": file.sha256, "split": file.split, "limit": settings.data.limit},
        scoring=task.scoring,
        cue=settings.backbone.answer_cue,
    )
    _refuse_hidden(encoded, task, ExampleFile(task, file, file.split, settings.data.limit))
    return encoded


def _refuse_hidden(encoded: EncodedSplit, task: TaskSettings, file: ExampleFile) -> None:
    """Refuse a file without labels, and one that lacks some where every example has to have one."""
    num_hidden, num_unmatched = (int((encoded.labels == kind).sum()) for kind in (HIDDEN, UNMATCHED))
    path = file.file.path
    if num_hidden == len(encoded):
        raise UserError(
            f"{path} hides its labels, as the official test splits do: train and report on others."
        )
    if num_unmatched == len(encoded):
        raise UserError(
            f"{path}: no answer of any query is an entity of its passage, so that nothing can be right. "
            "Compare the offsets of the entities and the texts of the answers with the passages."
        )
    if num_hidden and task.scoring is Scoring.words:
        lines = file.lines_without_label()
        shown = ", ".join(map(str, lines[:5])) + (", …" if len(lines) > 5 else "")
        raise UserError(
            f"{path} has no label in {num_hidden} of {len(encoded)} examples, in line {shown}: label them, "
            "or take them out of the file."
        )
    if num_hidden + num_unmatched:
        number = f"{num_hidden + num_unmatched} of {len(encoded)}"
        notice(
            f"{path}: none of the choices is right in {number} examples; they are not trained on, and count "
            "as wrong where they are reported"
        )
