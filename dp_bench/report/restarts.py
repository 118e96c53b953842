"""The best of R restarts, from finished runs: the score of a method with R times the compute.

R consecutive seeds of a row and few-shot draw form a group. From each group, keep the run with the highest
selection score (never the reported score). A run on several tasks is kept for all of them or for none.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from statistics import fmean

from dp_bench.records import RunRecord
from dp_bench.report.frame import Cell, Row, Table, by_seed_and_draw


def with_restarts(table: Table, number: int) -> Table:
    """Return the table with a best-of-`number` row below each row with a group of `number` runs."""
    rows = [new for row in table.rows for new in (row, _best_of(row, number)) if new is not None]
    return replace(table, rows=tuple(rows))


def _best_of(row: Row, number: int) -> Row | None:
    by_task = by_seed_and_draw(record for record in row.records if record.num_updates)
    cells, spent = {}, []
    for task, runs in by_task.items():
        selected = {key: fmean(map(_selection, repeats)) for key, repeats in runs.items()}
        by_draw = groupby(sorted(runs, key=itemgetter(1, 0)), itemgetter(1))  # keys are (seed, draw)
        seeds = [list(keys) for _, keys in by_draw]  # the remainder of each is left out
        groups = [keys[i : i + number] for keys in seeds for i in range(0, len(keys) - number + 1, number)]
        best = {group[0]: max(group, key=lambda key: selected[key]) for group in groups}
        if best:
            values = {first: row.cells[task].values[key] for first, key in best.items()}
            chosen = {first: runs[key][0] for first, key in best.items()}
            cells[task] = Cell(values, row.cells[task].marks, chosen)
            spent += [record for group in groups for key in group for record in runs[key]]
    label = f"{row.label}, best of {number}"
    shown = f"{row.name}, best of {number}"
    return Row(label, cells, tuple(spent), restarts=number, shown=shown) if cells else None


def _selection(record: RunRecord) -> float:
    """Return the selection score of a run; for several tasks, the mean over them."""
    if not record.by_task:
        return record.select_score
    return fmean(entry["select_score"] for entry in record.by_task.values())
