"""From a task's files to encoded examples to train on, to select on, and to report."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from dp_bench.data.encode import EncodedSplit, encode
from dp_bench.data.fewshot import degenerate, draw
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import Source, SplitFile
from dp_bench.data.split import held_out
from dp_bench.data.template import Template
from dp_bench.progress import notice
from dp_bench.randomness import derive
from dp_bench.settings import RunSettings, Scoring, Selection, TaskSettings
from dp_bench.types import Example, UserError


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
    notes: tuple[str, ...] = ()  # what a reader of the result should know of the draw


def prepare(settings: RunSettings, task: TaskSettings, source: Source, tokenizer: Any) -> TaskData:
    """Read, check, encode and split the examples of one task of a run."""
    trainer = settings.trainer
    report = prepare_report(settings, task, source, tokenizer)
    on_report = trainer.selection is Selection.validation
    if settings.regime.shots is not None:
        train, select, whole, notes = _few_shot(settings, task.training, tokenizer, source.train)
        return TaskData(task, train, report if on_report else select, report, whole, notes)
    whole = _encoded(settings, tokenizer, task.training, source.train, None)
    labelled = whole.select(np.flatnonzero(whole.labels >= 0))
    if on_report:
        return TaskData(task, labelled, report, report, whole)
    kept, held = held_out(
        labelled.sources,
        labelled.labels.tolist(),
        trainer.heldout_fraction,
        trainer.heldout_max,
        derive(settings.seed_of("heldout"), "heldout"),
    )
    return TaskData(task, labelled.select(kept), labelled.select(held), report, whole)


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
    num_hidden = int((encoded.labels < 0).sum())
    if num_hidden and (task.scoring is Scoring.words or num_hidden == len(encoded)):
        raise UserError(
            f"{file.path} hides its labels, as the official test splits do: train and report on others."
        )
    if num_hidden:
        notice(
            f"{file.path}: none of the choices is right in {num_hidden} of {len(encoded)} examples; they are "
            "not trained on, and count as wrong where they are reported"
        )
    return encoded
