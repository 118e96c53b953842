"""What a table is made of: its header, rows and cells.

A table holds one data set, backbone, regime, protocol and selection. A row is a prompt. If its runs differ in
a setting, there is one row per value, labelled with it. Settings outside the prompt that differ between rows,
such as the training budget, are added to every label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, sqrt
from statistics import fmean

from dp_bench.records import RunRecord
from dp_bench.report.runs import Place, draw_of

MEAN = "mean"  # in the place of a task: the mean over all of them


@dataclass(frozen=True)
class Header:
    """What all runs of a table have in common."""

    data: str
    backbone: str
    random_weights: bool
    regime: str
    protocol: str
    selection: str
    split: str
    weights: str = ""  # start of the checkpoint's fingerprint, where the name does not tell tables apart
    more: tuple[str, ...] = ()  # further lines

    def lines(self) -> list[str]:
        weights = ", RANDOM weights" if self.random_weights else ""
        weights += f" {self.weights}" if self.weights else ""
        selected = {
            "heldout": "prompt selected on held-out training examples",
            "validation": "prompt selected on the REPORTED split, which flatters every row",
        }
        return [
            f"data {self.data} · backbone {self.backbone}{weights} · regime {self.regime} · protocol "
            f"{self.protocol}",
            f"scores on {self.split}; {selected[self.selection]}",
            *self.more,
        ]


@dataclass(frozen=True)
class Cell:
    """The scores of one row on one task, by seed and few-shot draw (`regime.split_seed`)."""

    values: dict[Place, float]
    marks: str = ""  # of notes on the data of one of its runs

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def independent(self) -> list[float]:
        """Return what may be taken for independent: the values, or of several few-shot draws their means."""
        return independent(self.values)

    @property
    def mean(self) -> float:
        return fmean(self.values.values())

    @property
    def sd(self) -> float | None:
        """Return the sample standard deviation over seeds; None for one seed."""
        if self.n == 1:
            return None
        center = self.mean
        return sqrt(fsum((value - center) ** 2 for value in self.values.values()) / (self.n - 1))


def independent(values: Mapping[Place, float]) -> list[float]:
    """Return values by seed and draw as they are, or of several draws the mean of each.

    Runs on one few-shot draw share its rows, so that they are no independent word on other draws.
    """
    by_draw: dict[int, list[float]] = defaultdict(list)
    for (_, draw), value in values.items():
        by_draw[draw].append(value)
    return list(values.values()) if len(by_draw) == 1 else [fmean(by_draw[draw]) for draw in sorted(by_draw)]


@dataclass(frozen=True)
class Twins:
    """One run that selected on the reported split, and its twin that selected on held-out rows."""

    title: str  # of the task
    difference: float
    trained_on: tuple[int, int]  # rows, of the one and the other


@dataclass(frozen=True)
class Row:
    label: str
    cells: dict[str, Cell]  # by task
    records: tuple[RunRecord, ...]
    twins: tuple[Twins, ...] = ()
    restarts: int = 1  # runs of which each score is the best one's
    # By task, seed and draw: the run whose score stands there, where that is one of another seed.
    chosen: Mapping[tuple[str, Place], RunRecord] = field(default_factory=dict)

    @property
    def optimism(self) -> Cell | None:
        """The scores selected on the reported split less those selected on held-out rows."""
        values = {(number, 0): own.difference for number, own in enumerate(self.twins)}
        return Cell(values) if values else None

    @property
    def distinct(self) -> list[RunRecord]:
        """The records of each task, one a seed and draw: a run that was made twice is one."""
        return [runs[0] for by_draw in by_place(self.records).values() for runs in by_draw.values()]

    def average(self, tasks: Sequence[str]) -> Cell | None:
        """Return the mean over tasks, for each seed that all of them have; None where a task or all seeds are
        missing."""
        if not all(task in self.cells for task in tasks):
            return None
        seeds = set.intersection(*(set(self.cells[task].values) for task in tasks))
        values = {seed: fmean(self.cells[task].values[seed] for task in tasks) for seed in sorted(seeds)}
        return Cell(values) if values else None

    def cell(self, task: str, tasks: Sequence[str]) -> Cell | None:
        """Return a task's cell, or for MEAN that over `tasks`."""
        return self.average(tasks) if task == MEAN else self.cells.get(task)


@dataclass(frozen=True)
class Table:
    header: Header
    tasks: tuple[str, ...]
    titles: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    row_head: str = "prompt"  # what the rows are

    @property
    def columns(self) -> tuple[str, ...]:
        """The tasks and, of several, their mean."""
        return (*self.tasks, MEAN) if len(self.tasks) > 1 else self.tasks

    def title(self, column: str) -> str:
        return self.titles.get(column, column)


def by_place(records: Iterable[RunRecord]) -> dict[str, dict[Place, list[RunRecord]]]:
    """Return the runs of a row by task, seed and draw: one each, unless some were made twice."""
    places: dict[str, dict[Place, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda r: (r.task, r.seed, r.run_id)):
        places[record.task][draw_of(record)].append(record)
    return places
