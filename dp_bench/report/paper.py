"""The numbers that the paper printed, to stand beside ours. What it did not print is never guessed."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dp_bench.report.expand import MULTITASK
from dp_bench.report.frame import Cell, Row, Table

# Where a prompt stands in several tables, the first of these is taken. The rows of OpenPrompt's own baseline
# in the file are not the paper's.
TABLES = ("adaptive_position", "adaptive_prompt", "adaptive_length")
METRIC = "accuracy"
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


def printed(table: Table, row: Row, task: str, cell: Cell | None) -> Printed | None:
    """Return what the paper has for a cell, or None; `task` may be `mean`, of its five tasks alone."""
    data = row.records[0].config["data"]
    if data["name"] != "superglue" or data["limit"] is not None or row.records[0].prompt.endswith(MULTITASK):
        return None
    own_tasks = {task for *_, task in _numbers()} - {"mean"}
    if task == "mean" and set(table.tasks) != own_tasks:
        return None
    key = (table.header.backbone, table.header.regime, row.records[0].prompt, task)
    if key not in _numbers():
        return None
    value = _numbers()[key]
    if cell is None:
        return Printed(value, None, None)
    return Printed(value, cell.mean - value, _p_of_one_more(cell, value))


def _p_of_one_more(cell: Cell, value: float) -> float | None:
    """Return the two-sided p of one further draw at `value`, were it one of the same normal population."""
    if cell.sd is None:
        return None
    spread = cell.sd * (1 + 1 / cell.n) ** 0.5
    if spread == 0:
        return 1.0 if value == cell.mean else 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(cell.n - 1, -abs(value - cell.mean) / spread))
