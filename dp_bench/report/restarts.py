"""The best of R restarts, from runs that are there: what any method could have had for R times the compute.

Consecutive seeds of a row and a few-shot draw make a group, in the order of their numbers; of each group the
run counts that was best on the examples it selected on, never the one that is best on those reported. A run
on several tasks counts for all of them, or for none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from dp_bench.records import RunRecord
from dp_bench.report.frame import Cell, Row, Table, by_place
from dp_bench.report.runs import Place


def with_restarts(table: Table, number: int) -> Table:
    """Return a table with a second row for each row that has groups of `number` runs."""
    rows = [more for row in table.rows for more in (row, _best_of(row, number)) if more is not None]
    return replace(table, rows=tuple(rows))


def _best_of(row: Row, number: int) -> Row | None:
    places = by_place(record for record in row.records if record.num_updates)
    cells, spent = {}, []
    chosen: dict[tuple[str, Place], RunRecord] = {}
    for task, runs in places.items():
        selected = {place: fmean(map(_selection, several)) for place, several in runs.items()}
        groups = _groups(sorted(runs), number)
        best = {group[0]: max(group, key=lambda place: selected[place]) for group in groups}
        if best:
            values = {first: row.cells[task].values[place] for first, place in best.items()}
            cells[task] = Cell(values, row.cells[task].marks)
            chosen |= {(task, first): runs[place][0] for first, place in best.items()}
            spent += [record for group in groups for place in group for record in runs[place]]
    label = f"{row.label}, best of {number}"
    return Row(label, cells, tuple(spent), restarts=number, chosen=chosen) if cells else None


def _groups(places: Sequence[Place], number: int) -> list[list[Place]]:
    """Cut the seeds of each draw into groups; what is left over is in none."""
    by_draw: dict[int, list[Place]] = defaultdict(list)
    for place in places:
        by_draw[place[1]].append(place)
    return [
        own[first : first + number]
        for _, own in sorted(by_draw.items())
        for first in range(0, len(own) - number + 1, number)
    ]


def _selection(record: RunRecord) -> float:
    """Return the score that a run was selected by: of one on several tasks, the mean over them."""
    if not record.by_task:
        return record.select_score
    return fmean(entry["select_score"] for entry in record.by_task.values())
