"""The parts of a table: header, rows and cells.

A table holds one data set, backbone, regime, protocol and selection. A row is a prompt. If its runs differ in
a setting, there is one row per value, labelled with it. Settings outside the prompt that differ between rows,
such as the training budget, are added to every label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from dp_bench.effective import method_of
from dp_bench.records import RunRecord
from dp_bench.report.runs import SeedAndDraw, seed_and_draw_of

MEAN = "mean"  # used as a task name: the mean over all tasks


@dataclass(frozen=True)
class Header:
    """What all runs of a table share."""

    data: str
    backbone: str
    regime: str
    protocol: str
    selection: str
    split: str
    random_weights: bool
    weights: str = ""  # start of the checkpoint's fingerprint, if two tables have the same backbone name
    more: tuple[str, ...] = ()  # further lines

    def lines(self) -> list[str]:
        """Return the lines printed above the table."""
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

    values: dict[SeedAndDraw, float]
    marks: str = ""  # of notes on the data of its runs
    # The run behind each value, also if it is one of another seed; none for a mean over tasks.
    runs: Mapping[SeedAndDraw, RunRecord] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Return the number of runs."""
        return len(self.values)

    @property
    def draws(self) -> set[int]:
        """Return the few-shot draws of the runs."""
        return {draw for _, draw in self.values}

    @property
    def independent(self) -> list[float]:
        """Return the values, or with several few-shot draws the mean of each.

        Runs on one draw share its rows, so they are not independent samples of other draws.
        """
        if len(self.draws) == 1:
            return list(self.values.values())
        return [fmean(v for (_, of), v in self.values.items() if of == draw) for draw in sorted(self.draws)]

    @property
    def mean(self) -> float:
        """Return the mean over runs."""
        return fmean(self.values.values())

    @property
    def sd(self) -> float | None:
        """Return the sample standard deviation over runs; None for one run."""
        return stdev(self.values.values()) if self.n > 1 else None


@dataclass(frozen=True)
class Twins:
    """A run that selected on the reported split, and its twin that selected on held-out rows."""

    title: str  # of the task
    difference: float  # in score points, first less second
    trained_on: tuple[int, int]  # training rows of the first and of the second


@dataclass(frozen=True)
class Row:
    """The runs of one prompt and its settings, on all tasks of a table."""

    label: str
    cells: dict[str, Cell]  # by task
    records: tuple[RunRecord, ...]
    twins: tuple[Twins, ...] = ()
    restarts: int = 1  # each score is the best of this many runs
    shown: str = ""  # the name that is shown, if it is not the label
    named: Mapping[str, Any] = field(default_factory=dict)  # the settings that the label names

    @property
    def name(self) -> str:
        """Return what tables, plots and notes call the row."""
        return self.shown or self.label

    @cached_property
    def is_seedless(self) -> bool:
        """Return whether the scores are the same for every seed: only few-shot rows are drawn."""
        seedless = all(method_of(record.config).is_seedless for record in self.records)
        return seedless and all(len(cell.draws) == cell.n for cell in self.cells.values())

    @property
    def distinct(self) -> list[RunRecord]:
        """Return one record per task, seed and draw, without repeated runs."""
        return [runs[0] for by_draw in by_seed_and_draw(self.records).values() for runs in by_draw.values()]

    def average(self, tasks: Sequence[str]) -> Cell | None:
        """Return the mean over tasks for each seed that all tasks have; None if there is no such seed."""
        if not all(task in self.cells for task in tasks):
            return None
        seeds = set.intersection(*(set(self.cells[task].values) for task in tasks))
        values = {seed: fmean(self.cells[task].values[seed] for task in tasks) for seed in sorted(seeds)}
        return Cell(values) if values else None

    def cell(self, task: str, tasks: Sequence[str]) -> Cell | None:
        """Return the cell of a task, or for MEAN that of the mean over `tasks`."""
        return self.average(tasks) if task == MEAN else self.cells.get(task)


@dataclass(frozen=True)
class Table:
    """Rows that are comparable: same data, backbone, regime, protocol and selection."""

    header: Header
    tasks: tuple[str, ...]
    titles: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    row_head: str = "prompt"  # what the rows are

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the tasks and, if there are several, MEAN."""
        return (*self.tasks, MEAN) if len(self.tasks) > 1 else self.tasks

    def title(self, column: str) -> str:
        """Return the heading of a column."""
        return self.titles.get(column, column)


def by_seed_and_draw(records: Iterable[RunRecord]) -> dict[str, dict[SeedAndDraw, list[RunRecord]]]:
    """Return runs by task, then by seed and draw: several in a list are repeats."""
    grouped: dict[str, dict[SeedAndDraw, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda r: (r.task, r.seed, r.run_id)):
        grouped[record.task][seed_and_draw_of(record)].append(record)
    return grouped
