"""From a task's files to encoded examples to train on, to select on, and to report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dp_bench.data.encode import EncodedSplit, encode
from dp_bench.data.readers import read_examples
from dp_bench.data.source import Source, SplitFile
from dp_bench.data.split import held_out
from dp_bench.data.template import Template
from dp_bench.randomness import derive
from dp_bench.settings import RunSettings, Selection
from dp_bench.types import UserError


@dataclass(frozen=True)
class TaskData:
    """The examples of a run. `select` is a held-out part of train, or under selection=validation `report`
    itself."""

    train: EncodedSplit
    select: EncodedSplit
    report: EncodedSplit
    whole_train: EncodedSplit  # train and what is held out of it, in the order of the file


def prepare(settings: RunSettings, source: Source, tokenizer: Any) -> TaskData:
    """Read, check, encode and split the examples of a run."""
    task, trainer = settings.task, settings.trainer
    template = Template.of(task)

    def load(file: SplitFile) -> EncodedSplit:
        examples = read_examples(task, file, file.split, settings.data.limit)
        key_parts = {"sha256": file.sha256, "split": file.split, "limit": settings.data.limit}
        encoded = encode(
            examples,
            template,
            tokenizer,
            max_length=task.max_length,
            cache_dir=settings.cache,
            key_parts=key_parts,
        )
        if (encoded.labels < 0).any():
            raise UserError(
                f"{file.path} hides its labels, as the official test splits do: train and report on others."
            )
        return encoded

    whole_train, report = load(source.train), load(source.validation)
    if trainer.selection is Selection.validation:
        return TaskData(whole_train, report, report, whole_train)
    kept, held = held_out(
        whole_train.sources,
        whole_train.labels.tolist(),
        trainer.heldout_fraction,
        trainer.heldout_max,
        derive(settings.seed, "heldout"),
    )
    return TaskData(whole_train.select(kept), whole_train.select(held), report, whole_train)
