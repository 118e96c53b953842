"""The paper's numbers, for comparison. Numbers that the paper does not print are left empty."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import variance

from dp_bench.report.aliases import prompt_aliases
from dp_bench.report.expand import MULTITASK
from dp_bench.report.frame import Cell, Row, Table

# If several tables have a prompt, the first of these is used. Rows of OpenPrompt's baseline in the file
# are not from the paper.
TABLES = ("adaptive_position", "adaptive_prompt", "adaptive_length")
METRIC = "accuracy"
SOURCE = "the paper (arXiv 2303.02909 v2)"
HEADER = (
    "paper: arXiv 2303.02909 v2, accuracy of one seed, the best of about 40 noisy evaluations on the split "
    "it reports; Δ: ours less the paper's"
)
NOTE = (
    "p: two-sided p of the paper's number under the t prediction interval of one more of our runs; it does "
    "not tell the cause of a difference"
)


@dataclass(frozen=True)
class Printed:
    """A number of the paper (accuracy, 0 to 100), and how ours compares."""

    value: float
    difference: float | None  # ours less the paper's; None if ours was not run
    p: float | None  # None with fewer than two seeds


@cache
def _numbers() -> dict[tuple[str, ...], float]:
    with Path(__file__).with_name("paper.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (row["backbone"], row["regime"], row["prompt"], row["task"]): float(row["accuracy"])
        for name in reversed(TABLES)
        for row in rows
        if row["table"] == name
    }


def printed_numbers(table: Table) -> dict[tuple[str, str], Printed]:
    """Return the paper's numbers for a table's cells, by row label and task. Aliases of prompts are
    resolved."""
    return {
        (row.label, task): printed
        for row in table.rows
        for task in table.columns
        if (printed := _printed(table, row, task)) is not None
    }


def _printed(table: Table, row: Row, task: str) -> Printed | None:
    """Return the paper's number for a cell, or None. For `mean` the table must have the paper's tasks."""
    data, prompt = row.records[0].config["data"], row.records[0].prompt
    if data["name"] != "superglue" or data["limit"] is not None or prompt.endswith(MULTITASK):
        return None
    paper_tasks = {task for *_, task in _numbers()} - {"mean"}
    if task == "mean" and set(table.tasks) != paper_tasks:
        return None
    names = (prompt, *(alias for alias, name in prompt_aliases().items() if name == prompt))
    keys = [(table.header.backbone, table.header.regime, name, task) for name in names]
    value = next((_numbers()[key] for key in keys if key in _numbers()), None)
    if value is None or row.restarts > 1:
        return None
    cell = row.cell(task, table.tasks)
    if cell is None:
        return Printed(value, None, None)
    return Printed(value, cell.mean - value, _p_of_one_more(cell, value))


def _p_of_one_more(cell: Cell, value: float) -> float | None:
    """Return the two-sided p of `value` under the t prediction interval of one more run. With several
    few-shot draws, the standard error of the mean is over draws."""
    independent = cell.independent
    if cell.sd is None or len(independent) == 1:
        return None
    spread = (cell.sd**2 + variance(independent) / len(independent)) ** 0.5
    if spread == 0:
        return 1.0 if value == cell.mean else 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(len(independent) - 1, -abs(value - cell.mean) / spread))
