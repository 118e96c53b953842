"""Predict a stream of records with one finished run, or with several on one backbone at once.

Lester et al. (2021), section 1: with prompts, one frozen model serves many tasks, and a batch may hold a
different prompt for each of its rows. Runs that train a prompt in the input alone are answered in such mixed
batches; the others, whose backbone or attentions differ, one after another.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from dp_bench.data.encode import Encoder
from dp_bench.data.encoded import EncodedSplit
from dp_bench.data.metrics import Answers
from dp_bench.data.readers import read_record
from dp_bench.data.source import streamed
from dp_bench.evaluation import Predictions, Score, Split, predict_together, score_of
from dp_bench.settings import TaskSettings
from dp_bench.trained import TrainedRun
from dp_bench.types import Example, UserError

WHOLE = 16_384  # examples of a chunk: more than the largest reported file of SuperGLUE has, 10,000
IDLE = 0.05  # seconds without input after which a stream that is no file gets its answers
Refuse = Callable[[str], None]
Row = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """An example of the input: its line, and the id that it is given in the output."""

    line: int
    id: str | int
    example: Example


def read(
    file: BinaryIO, path: Path, task: TaskSettings, *, suffix: str, with_labels: bool, refuse: Refuse
) -> Iterator[Line]:
    """Yield the examples of a stream as they arrive, and close it at its end; what cannot be read is passed
    to `refuse`."""
    with file:
        for line, number, values in streamed(file, path, suffix, refuse):
            try:
                where = (task, path.stem, path, line, values)
                examples = read_record(*where, number=number, with_label=with_labels)
            except UserError as error:
                refuse(str(error))
                continue
            for example in examples:
                yield Line(line, _id(values, example) if len(examples) == 1 else example.id, example)


def _id(values: Mapping[str, Any], example: Example) -> str | int:
    """Return the id that a record gives itself, or the example's."""
    given = values.get("id")
    if given is None and isinstance(values.get("idx"), str) and not values["idx"].isdecimal():
        given = values["idx"]
    if given is None or given == "":
        return example.id
    is_plain = isinstance(given, str | int) and not isinstance(given, bool)
    return given if is_plain else json.dumps(given)


def chunks(asked: Iterator[Line], size: int, idle: float | None) -> Iterator[list[Line]]:
    """Yield up to `size` examples at a time; fewer where none arrives for `idle` seconds.

    They are read in a thread, while a chunk is predicted. Raises what reading raises.
    """
    arrived: queue.Queue[Line | BaseException | None] = queue.Queue(maxsize=2 * size)

    def fill() -> None:
        try:
            for each in asked:
                arrived.put(each)
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    threading.Thread(target=fill, daemon=True).start()
    chunk: list[Line] = []
    while True:
        try:
            item = arrived.get(timeout=idle if chunk else None)
        except queue.Empty:
            yield chunk
            chunk = []
            continue
        if isinstance(item, Line):
            chunk.append(item)
        if chunk and (len(chunk) == size or not isinstance(item, Line)):
            yield chunk
            chunk = []
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return


class Predictor:
    """Predict chunks of examples of a task with runs; keep what their scores need.

    Raises UserError for a run without the task.
    """

    def __init__(self, runs: Sequence[TrainedRun], task: str) -> None:
        self.runs, self.task = list(runs), task
        self.encoders: dict[tuple[Any, ...], Encoder] = {}
        self.keys = [self._key(run) for run in self.runs]
        self.groups = together(self.runs, task)
        self.tallies = [Tally(run.tasks[task]) for run in self.runs]
        self.num_shortened = 0  # texts, by the first run

    def _key(self, run: TrainedRun) -> tuple[Any, ...]:
        """Return what is equal for runs that read the same tokens, for which there is one encoder."""
        encoder = run.encoder(self.task)
        template = encoder.template
        parts = (template.text, template.shorten, encoder.max_length, encoder.scoring)
        key = (id(run.context.backbone.tokenizer), *parts, *map(tuple, (encoder.prefix, encoder.suffix)))
        self.encoders.setdefault(key, encoder)
        return key

    def __call__(self, chunk: Sequence[Line], refuse: Refuse) -> Iterator[list[Row]]:
        """Yield for each example of a chunk, in order, its row of each run; an example that a run cannot read
        is passed to `refuse`."""
        chunk, encoded = self._encoded(chunk, refuse)
        if not chunk:
            return
        self.num_shortened += encoded[self.keys[0]].num_truncated
        splits, summaries = [], dict[tuple[Any, ...], Tensor | None]()
        for run, key in zip(self.runs, self.keys, strict=True):
            settings = run.experiment.settings
            kind = (key, run.reads_summaries, settings.prompt.summary, settings.protocol.summary_pad_to)
            if kind not in summaries:
                summaries[kind] = run.summaries(encoded[key])
            splits.append(run.split(self.task, encoded[key], summaries[kind]))
        predictions = self._predictions(splits)
        for tally, split, found in zip(self.tallies, splits, predictions, strict=True):
            tally.add(split, found, [each.example for each in chunk])
        made = [_rows(*pair, chunk) for pair in zip(splits, predictions, strict=True)]
        yield from map(list, zip(*made, strict=True))

    def _predictions(self, splits: Sequence[Split]) -> list[Predictions]:
        found: dict[int, Predictions] = {}
        for group in self.groups:
            runs = [self.runs[number] for number in group]
            if len(group) == 1:
                found[group[0]] = runs[0].predict_split(splits[group[0]])
                continue
            asked = [run.asked(splits[number]) for run, number in zip(runs, group, strict=True)]
            size = min(run.experiment.settings.trainer.eval_batch_size for run in runs)
            found |= dict(zip(group, predict_together(asked, size), strict=True))
        return [found[number] for number in range(len(self.runs))]

    def _encoded(
        self, chunk: Sequence[Line], refuse: Refuse
    ) -> tuple[list[Line], dict[tuple[Any, ...], EncodedSplit]]:
        """Return the examples that every run can read, and their encoding by each encoder."""
        reasons: dict[int, str] = {}
        numbers = {id(each.example): number for number, each in enumerate(chunk)}
        encoded, taken = {}, {}
        for key, encoder in self.encoders.items():
            refused: dict[int, str] = {}

            def note(example: Example, reason: str, refused: dict[int, str] = refused) -> None:
                refused[numbers[id(example)]] = reason

            encoded[key] = encoder.in_memory([each.example for each in chunk], note)
            taken[key] = np.array([n for n in range(len(chunk)) if n not in refused], dtype=np.int64)
            reasons |= refused
        for run, key in zip(self.runs, self.keys, strict=True):
            for row, reason in _misfits(run, encoded[key]):
                reasons.setdefault(int(taken[key][row]), reason)
        for number, reason in sorted(reasons.items()):
            refuse(f"line {chunk[number].line}: {reason}")
        good = [number for number in range(len(chunk)) if number not in reasons]
        if reasons:  # encoded again, since what is computed of an example may depend on all rows
            chunk = [chunk[number] for number in good]
            examples = [each.example for each in chunk]
            encoded = {key: encoder.in_memory(examples) for key, encoder in self.encoders.items()}
        return list(chunk), encoded


def together(runs: Sequence[TrainedRun], task: str) -> list[list[int]]:
    """Return the indices of runs that one forward pass can answer, in groups."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, run in enumerate(runs):
        alone = why_alone(run)
        scoring = run.tasks[task].scoring.is_whole
        key = (number,) if alone else (-1, id(run.context.backbone), scoring)
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def why_alone(run: TrainedRun) -> str | None:
    """Return why a run cannot share a forward pass with others; None if it can."""
    if run.model is None:
        return "it is a baseline without a prompt"
    if not run.trains_prompt_alone:
        return "it trained weights of the backbone"
    if run.experiment.settings.prompt.layers is not None:
        return "its prompt is in the layers of the backbone"
    return None


def _misfits(run: TrainedRun, encoded: EncodedSplit) -> Iterator[tuple[int, str]]:
    """Yield the rows of examples for which a run has no prompt or no positions, with the reason."""
    if not len(encoded):
        return
    backbone, prompt = run.context.backbone, run.experiment.settings.prompt
    backbone.refuse_unknown(encoded.largest_id)
    if run.model is not None and run.model.prompt.needs_skill and encoded.skills is None:
        for row in np.flatnonzero(np.asarray(encoded.dataset["skill"]) < 0):
            yield int(row), "field skill is missing, which this prompt reads"
    if run.model is not None and (text := run.model.prompt.text) is not None:
        for row in np.flatnonzero(encoded.lengths > text.max_length):
            yield (
                int(row),
                f"the text has {encoded.lengths[row]} tokens, and prompt.text changes {text.max_length}",
            )
    if backbone.num_positions is None:
        return
    slots = encoded.lengths + (0 if run.model is None else prompt.num_tokens)
    if backbone.continues_texts:  # a choice's last token is scored, but not read
        slots = slots + np.maximum(encoded.longest_choices - 1, 0)
    for row in np.flatnonzero(slots > backbone.num_positions):
        yield (
            int(row),
            f"text and prompt take {slots[row]} positions, and the model has {backbone.num_positions}",
        )


def _rows(split: Split, predictions: Predictions, chunk: Sequence[Line]) -> list[Row]:
    """Return the output of a run, one row an example."""
    probabilities = torch.softmax(torch.from_numpy(predictions.logits_MC).double(), dim=1).tolist()
    names_of = split.encoded.choices if len(split.task.labels) == 0 else [split.task.labels] * len(chunk)
    members: list[int] | list[None] = predictions.routes or [None] * len(chunk)
    columns = zip(
        *(chunk, names_of, probabilities, predictions.choices.tolist(), predictions.position_M.tolist()),
        *(predictions.length_M.tolist(), members),
        strict=True,
    )
    return [
        {
            "line": each.line,
            "id": each.id,
            "label": names[choice],
            "probabilities": dict(zip(names, shares, strict=False)),  # other examples may have more choices
            "position": position,
            "length": length,
            "member": member,
            "gold": _gold(each.example, names),
        }
        for each, names, shares, choice, position, length, member in columns
    ]


def _gold(example: Example, names: Sequence[str]) -> str | None:
    return None if example.label is None else names[example.label]


@dataclass
class Tally:
    """The labels and predictions of a run so far, without those of examples whose label is hidden."""

    task: TaskSettings
    labels: list[int] = field(default_factory=list)
    predictions: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    choices: list[Sequence[str]] = field(default_factory=list)
    golds: list[Sequence[int]] = field(default_factory=list)

    def add(self, split: Split, predictions: Predictions, examples: Sequence[Example]) -> None:
        """Add the examples of a split."""
        golds = split.encoded.golds
        found = predictions.choices.tolist()
        for row, example in enumerate(examples):
            if example.label is None and not example.is_unmatched:
                continue
            self.labels.append(-1 if example.label is None else example.label)
            self.predictions.append(found[row])
            self.groups.append(example.group)
            if golds:
                self.choices.append(example.choices)
                self.golds.append(golds[row])

    def score(self) -> Score:
        """Return the score of all examples with a label; raise UserError if there are none."""
        if not self.labels:
            raise UserError("--score needs labels, and no line has one: remove --score, or add a label.")
        labels, predictions = (np.asarray(each, dtype=np.int64) for each in (self.labels, self.predictions))
        classes = range(len(self.task.labels))
        return score_of(
            self.task, Answers(labels, predictions, self.groups, classes, self.choices, self.golds)
        )
