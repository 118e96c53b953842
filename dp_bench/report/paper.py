"""The numbers that the paper printed, to stand beside ours. What it did not print is never guessed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import variance

from dp_bench.report.aliases import prompt_aliases
from dp_bench.report.expand import MULTITASK
from dp_bench.report.frame import Cell, Row, Table

# Where a prompt stands in several tables, the first of these is taken. The rows of OpenPrompt's own baseline
# in the file are not the paper's.
TABLES = ("adaptive_position", "adaptive_prompt", "adaptive_length")
METRIC = "accuracy"
SOURCE = "the paper (arXiv 2303.02909 v2)"
HEADER = (
    "paper: arXiv 2303.02909 v2, accuracy of one seed, the best of about 40 noisy evaluations on the split "
    "it reports; Δ: ours less the paper's"
)
NOTE = (
    "p: how far the paper's number lies from our seeds, two-sided, by the t prediction interval of one more "
    "run; it says nothing about why"
)


@dataclass(frozen=True)
class Printed:
    """One number of the paper, and how ours lies to it."""

    value: float
    difference: float | None  # None where ours was not run
    p: float | None  # None for fewer than two seeds


@cache
def _numbers() -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    with Path(__file__).with_name("paper.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in reversed(TABLES):
        for row in rows:
            if row["table"] == name:
                found[row["backbone"], row["regime"], row["prompt"], row["task"]] = float(row["accuracy"])
    return found


def beside(table: Table, aliases: Mapping[str, str] | None = None) -> dict[tuple[str, str], Printed]:
    """Return what the paper has beside a table's cells, by row label and task. Its names of prompts that are
    called otherwise here are known."""
    known = prompt_aliases() if aliases is None else aliases
    return {
        (row.label, task): found
        for row in table.rows
        for task in table.columns
        if (found := _printed(table, row, task, row.cell(task, table.tasks), known)) is not None
    }


def _printed(
    table: Table, row: Row, task: str, cell: Cell | None, aliases: Mapping[str, str]
) -> Printed | None:
    """Return what the paper has for a cell, or None; `task` may be `mean`, of its five tasks alone."""
    data = row.records[0].config["data"]
    if data["name"] != "superglue" or data["limit"] is not None or row.records[0].prompt.endswith(MULTITASK):
        return None
    own_tasks = {task for *_, task in _numbers()} - {"mean"}
    if task == "mean" and set(table.tasks) != own_tasks:
        return None
    prompt = aliases.get(row.records[0].prompt, row.records[0].prompt)
    names = (prompt, *(alias for alias, name in aliases.items() if name == prompt))
    keys = [(table.header.backbone, table.header.regime, name, task) for name in names]
    value = next((_numbers()[key] for key in keys if key in _numbers()), None)
    if value is None or row.restarts > 1:
        return None
    if cell is None:
        return Printed(value, None, None)
    return Printed(value, cell.mean - value, _p_of_one_more(cell, value))


def _p_of_one_more(cell: Cell, value: float) -> float | None:
    """Return the two-sided p of one further run at `value`, were it one of the same normal population. Of
    several few-shot draws the mean is known from those draws."""
    independent = cell.independent
    if cell.sd is None or len(independent) == 1:
        return None
    spread = (cell.sd**2 + variance(independent) / len(independent)) ** 0.5
    if spread == 0:
        return 1.0 if value == cell.mean else 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(len(independent) - 1, -abs(value - cell.mean) / spread))
