"""The best of R restarts, from runs that are there: what any method could have had for R times the compute.

Consecutive seeds of a row make a group, in the order of their numbers; of each group the run counts that was
best on the examples it selected on, never the one that is best on those reported.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from dp_bench.records import RunRecord
from dp_bench.report.frame import Cell, Row, Table, draw_of, value_of


def with_restarts(table: Table, number: int, metric: str) -> Table:
    """Return a table with a second row for each row that has groups of `number` runs."""
    rows = [more for row in table.rows for more in (row, _best_of(row, number, metric)) if more is not None]
    return replace(table, rows=tuple(rows))


def _best_of(row: Row, number: int, metric: str) -> Row | None:
    own: dict[str, list[RunRecord]] = defaultdict(list)
    for record in sorted(row.records, key=draw_of):
        if record.num_updates:
            own[record.task].append(record)
    cells, spent = {}, []
    for task, runs in own.items():
        groups = [runs[first : first + number] for first in range(0, len(runs) - number + 1, number)]
        values = {}
        for group in groups:
            value = value_of(max(group, key=lambda record: record.select_score), metric)
            if value is not None:
                values[draw_of(group[0])] = value
        if values:
            cells[task] = Cell(values, row.cells[task].degenerate)
            spent += [record for group in groups for record in group]
    return Row(f"{row.label}, best of {number}", cells, tuple(spent), restarts=number) if cells else None
