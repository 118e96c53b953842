"""From a task's files to encoded examples to train on, to select on, and to report."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from dp_bench.data.encode import EncodedSplit, encode
from dp_bench.data.fewshot import draw
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import Source, SplitFile
from dp_bench.data.split import held_out
from dp_bench.data.template import Template
from dp_bench.randomness import derive
from dp_bench.settings import RunSettings, Scoring, Selection, TaskSettings
from dp_bench.types import Example, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskData:
    """The examples of a run. `select` is a held-out part of train, or under selection=validation `report`
    itself."""

    train: EncodedSplit
    select: EncodedSplit
    report: EncodedSplit
    whole_train: EncodedSplit  # train and what is held out of it, in the order of the file
    notes: tuple[str, ...] = ()  # what a reader of the result should know of the draw


def prepare(settings: RunSettings, source: Source, tokenizer: Any) -> TaskData:
    """Read, check, encode and split the examples of a run."""
    task, trainer = settings.task, settings.trainer

    def load(
        task: TaskSettings, file: SplitFile, examples: Collection[Example] | ExampleFile | None = None
    ) -> EncodedSplit:
        if examples is None:
            examples = ExampleFile(task, file, file.split, settings.data.limit)
        key_parts = {"sha256": file.sha256, "split": file.split, "limit": settings.data.limit}
        encoded = encode(
            examples,
            Template.of(task),
            tokenizer,
            max_length=task.max_length,
            cache_dir=settings.cache,
            key_parts=key_parts,
            scoring=task.scoring,
        )
        num_hidden = int((encoded.labels < 0).sum())
        if num_hidden and (task.scoring is Scoring.words or num_hidden == len(encoded)):
            raise UserError(
                f"{file.path} hides its labels, as the official test splits do: train and report on others."
            )
        if num_hidden:
            logger.warning(
                "%s: none of the choices is right in %d of %d examples; they are not trained on, and count as "
                "wrong where they are reported.",
                *(file.path, num_hidden, len(encoded)),
            )
        return encoded

    report = load(task, source.validation)
    if settings.regime.shots is not None:
        file = source.train
        examples = list(ExampleFile(task.training, file, file.split, settings.data.limit))
        official = settings.data.name == "superglue" and settings.data.limit is None
        drawn = draw(settings.regime, task.training, examples, str(file.path), official=official)
        few = load(task.training, file, [*drawn.train, *drawn.select])
        parts = few.select(np.arange(len(drawn.train))), few.select(np.arange(len(drawn.train), len(few)))
        select = report if trainer.selection is Selection.validation else parts[1]
        return TaskData(parts[0], select, report, few, drawn.notes)
    whole_train = load(task.training, source.train)
    labelled = whole_train.select(np.flatnonzero(whole_train.labels >= 0))
    if trainer.selection is Selection.validation:
        return TaskData(labelled, report, report, whole_train)
    kept, held = held_out(
        labelled.sources,
        labelled.labels.tolist(),
        trainer.heldout_fraction,
        trainer.heldout_max,
        derive(settings.seed, "heldout"),
    )
    return TaskData(labelled.select(kept), labelled.select(held), report, whole_train)
