"""From the files of a task to its encoded splits: train, select and report."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dp_bench.data.encode import Encoder, encode
from dp_bench.data.encoded import EncodedSplit
from dp_bench.data.fewshot import Draw, degenerate, draw
from dp_bench.data.overlap import Overlap, Row
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import Source, SplitFile, read_records
from dp_bench.data.split import held_out, number_held_out
from dp_bench.data.template import Template
from dp_bench.progress import notice
from dp_bench.randomness import derive
from dp_bench.settings import RunSettings, Selection, TaskSettings
from dp_bench.suggest import did_you_mean
from dp_bench.types import Example, UserError

MAX_UNKNOWN = 0.03  # a larger share of unknown tokens is noted


@dataclass(frozen=True)
class TaskData:
    """The examples of one task of a run.

    `select` is held out of the training file; with trainer.selection=validation it is `report`.
    """

    task: TaskSettings
    train: EncodedSplit
    select: EncodedSplit
    report: EncodedSplit
    whole_train: EncodedSplit  # train and the held-out rows, in the order of the file
    overlap: Overlap  # of whole_train with report
    notes: tuple[str, ...] = ()  # on the data, for the record


def prepare(settings: RunSettings, task: TaskSettings, source: Source, tokenizer: Any) -> TaskData:
    """Read, check, encode and split the examples of one task of a run.

    Raises UserError if the files cannot be read, lack labels, or cannot be split.
    """
    trainer = settings.trainer
    report = prepare_report(settings, task, source, tokenizer)
    on_report = trainer.selection is Selection.validation
    notes: tuple[str, ...] = ()
    if settings.regime.shots is not None:
        drawn = _drawn(settings, task.training, source.train)
        whole = _encoded(settings, tokenizer, task.training, source.train, [*drawn.train, *drawn.select])
        train, select = map(whole.select, np.split(np.arange(len(whole)), [len(drawn.train)]))
        notes = (*drawn.notes, *degenerate(drawn.train, task.training))
    else:
        whole = _encoded(settings, tokenizer, task.training, source.train)
        train = select = whole.select(np.flatnonzero(whole.labels >= 0))
        if not on_report:
            kept, held = held_out(
                train.sources,
                train.labels.tolist(),
                number_held_out(len(train), trainer),
                derive(settings.seed_of("heldout"), "heldout"),
            )
            train, select = train.select(kept), train.select(held)
    overlap = Overlap.of(_rows(whole), _rows(report))
    notes = (*notes, *overlap.notes(len(report)), *_unknown(whole, report))
    return TaskData(task, train, report if on_report else select, report, whole, overlap, notes)


def written_anew(
    settings: RunSettings, data: TaskData, task: TaskSettings, source: Source, tokenizer: Any
) -> TaskData:
    """Return the data of a task with the selected and the reported rows as `task` writes them, a task with
    another template. The training rows stay as they are."""
    report = prepare_report(settings, task, source, tokenizer)
    on_report = data.select is data.report
    select = report if on_report else selected_anew(settings, data, task, source, tokenizer).select
    return replace(data, task=task, select=select, report=report)


def selected_anew(
    settings: RunSettings, data: TaskData, task: TaskSettings, source: Source, tokenizer: Any
) -> TaskData:
    """Return the data of a task with the selected rows alone as `task` writes them."""
    if data.select is data.report:
        select = prepare_report(settings, task, source, tokenizer)
    else:
        held = examples_of(settings, task, source, data.select.ids)
        select = _encoded(settings, tokenizer, task.training, source.train, held)
    return replace(data, task=task, select=select)


def examples_of(
    settings: RunSettings, task: TaskSettings, source: Source, ids: Sequence[str]
) -> list[Example]:
    """Return the examples of the training file with these ids, in their order."""
    wanted = set(ids)
    found = {e.id: e for e in ExampleFile(task.training, source.train, settings.data.limit) if e.id in wanted}
    return [found[each] for each in ids]


def overlap_of_other_task(data: Sequence[TaskData], report: EncodedSplit) -> Overlap:
    """Compare the reported examples of a task with the training examples of others, without the labels of
    these, which mean something else."""
    train = ((text, -1) for task in data for text in task.whole_train.texts.tolist())
    return Overlap.of(train, _rows(report))


def _rows(split: EncodedSplit) -> Iterator[Row]:
    return zip(split.texts.tolist(), split.labels.tolist(), strict=True)


def _unknown(train: EncodedSplit, report: EncodedSplit) -> Iterator[str]:
    for name, split in (("training", train), ("reported", report)):
        if split.share_unknown > MAX_UNKNOWN:
            yield (
                f"{100 * split.share_unknown:.0f} % of the tokens of the {name} texts are unknown to this "
                "backbone's tokenizer: it reads little of them"
            )


def prepare_report(settings: RunSettings, task: TaskSettings, source: Source, tokenizer: Any) -> EncodedSplit:
    """Read, check and encode the reported examples of a task."""
    return _encoded(settings, tokenizer, task, source.validation)


def _drawn(settings: RunSettings, task: TaskSettings, file: SplitFile) -> Draw:
    """Draw few-shot rows from the training file, all of whose rows must have labels."""
    data = settings.data
    whole_file = _Labels(task, file, ExampleFile(task, file, data.limit))
    examples = list(whole_file)
    whole_file.refuse_missing()
    return draw(
        settings.regime,
        task,
        examples,
        str(file.path),
        official=data.name == "superglue" and data.limit is None,
        whole_classes=bool(settings.protocol.whole_classes),
    )


def _encoded(
    settings: RunSettings,
    tokenizer: Any,
    task: TaskSettings,
    file: SplitFile,
    examples: Collection[Example] | None = None,
) -> EncodedSplit:
    """Encode the examples of a file, or those given; raise UserError if labels are missing."""
    whole_file = ExampleFile(task, file, settings.data.limit)
    labels = _Labels(task, file, whole_file if examples is None else examples)
    source = {"sha256": file.sha256, "split": file.split, "limit": settings.data.limit}
    encoded = encode(
        labels,
        Template.of(task),
        tokenizer,
        max_length=task.max_length,
        cache_dir=settings.cache,
        key_parts=source,
        scoring=task.scoring,
        cue=settings.cue_of(task),
    )
    labels.refuse_missing()
    labels.report_doubtful()
    return encoded


def encoder_of(settings: RunSettings, task: TaskSettings, tokenizer: Any) -> Encoder:
    """Return what encodes examples as the settings of a task and a run say."""
    return Encoder(Template.of(task), tokenizer, task.max_length, task.scoring, settings.cue_of(task))


@dataclass
class _Labels:
    """Examples of a file; iterating over them collects those whose labels are missing or doubtful.

    Their lines are collected by their ids, because a line of MultiRC holds many examples.
    """

    task: TaskSettings
    file: SplitFile
    examples: Iterable[Example]
    number: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)  # with answers, none of which is a choice
    cut: dict[str, int] = field(default_factory=dict)  # with choices that begin or end inside a word

    @property
    def path(self) -> Path:
        return self.file.path

    def __iter__(self) -> Iterator[Example]:
        for number, example in enumerate(self.examples, start=1):
            self.number = number
            if example.label is None:
                (self.unmatched if example.is_unmatched else self.missing)[example.id] = example.line
            if example.cuts_words:
                self.cut[example.id] = example.line
            yield example

    def refuse_missing(self) -> None:
        """Raise UserError if a label is missing, or if no example has an answer among its choices."""
        if len(self.missing) == self.number:
            if name := self.task.label_field:
                *_, first = next(read_records(self.file))
                raise UserError(
                    f"{self.path} has no labels in the field '{name}', which task.label_field names; its "
                    f"fields are {', '.join(first)}. {did_you_mean(name, [*first])}".rstrip()
                )
            raise UserError(
                f"{self.path} hides its labels, as the official test splits do: use another file to train or "
                "report on."
            )
        if self.missing:
            raise UserError(
                f"{self.path}, {_lines(self.missing)}: {next(iter(self.missing))} has no label, while others "
                f"of the file have one (without: {len(self.missing)} of {self.number}). Label every example, "
                "or remove those without."
            )
        if len(self.unmatched) == self.number:
            hint = f" {_OFFSETS}" if self.cut else ""
            raise UserError(
                f"{self.path}, {_lines(self.unmatched)}: no answer is one of the entities of its passage, so "
                f"there is nothing to train on or to score.{hint}"
            )

    def report_doubtful(self) -> None:
        """Print a notice on doubtful labels that do not end the run."""
        if self.unmatched:
            notice(
                f"{self.path}, {_lines(self.unmatched)}: none of the choices is right in "
                f"{len(self.unmatched)} of {self.number} examples; they are not trained on, and count as "
                "wrong when they are reported"
            )
        if self.cut:
            notice(
                f"{self.path}, {_lines(self.cut)}: entities begin or end inside a word in {len(self.cut)} of "
                f"{self.number} examples. {_OFFSETS}"
            )


_OFFSETS = "Offsets count characters, `end` is the last one: an emoji is one character, not two."


def _lines(line_of: Mapping[str, int], most: int = 5) -> str:
    """Return the numbers of the lines of examples for a message, at most `most` of them."""
    lines = list(dict.fromkeys(line_of.values()))
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return f"line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines[:most]))}{more}"
