"""What the routes of a table's rows go by: of a pool that knows the answer, tables say so.

A selector that reads the label off the frozen features makes a pool "a prompt that says yes and a prompt that
says no". It may score well; nothing was learned about which text needs which prompt.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from statistics import mean

import numpy as np

from dp_bench.records import RunRecord
from dp_bench.report.frame import Row, Table

BY_ANSWER = 0.4  # of the errors in guessing the label that knowing the route saves: two of five
MARK = "§"


def by_the_answer(table: Table) -> dict[tuple[str, str], float]:
    """Return the rows and tasks whose route knows the label, with the share of errors that it saves."""
    found = {}
    for row in table.rows:
        for task in row.cells:
            value = what_it_tells(row, task, "label")
            if value is not None and value >= BY_ANSWER:
                found[row.label, task] = value
    return found


def notes(table: Table) -> list[str]:
    """Say of which rows."""
    known = [
        f"{100 * value:.0f} % ({row} on {table.title(task)})"
        for (row, task), value in by_the_answer(table).items()
    ]
    if not known:
        return []
    return [
        f"{MARK} routes by the answer: of the errors in guessing the label, knowing the route saves "
        + ", ".join(known)
    ]


def what_it_tells(row: Row, task: str, group: str) -> float | None:
    """Return the mean over seeds of what a row's routes tell of label, prediction, skill or task."""
    values = [r.diagnostics.get(f"route_lambda_{group}") for r in row.distinct if r.task == task]
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def in_words(row: Row) -> str:
    """Return what routes tell of label, sub-skill and task, and how far those of two seeds agree: 1 at
    most."""
    tasks = list(row.cells)
    found = {
        group: [v for task in tasks if (v := what_it_tells(row, task, group)) is not None]
        for group in ("label", "skill", "task")
    }
    agreed = [value for task in tasks if (value := agreement(row, task)) is not None]
    parts = [f"{name} {mean(values):.2f}" for name, values in {**found, "seeds": agreed}.items() if values]
    made = {record.run_id: record for record in row.distinct if record.routes}
    collapsed = sum(_is_collapsed(record) for record in made.values())
    parts += [f"{collapsed} of {len(made)} runs use one member"] if collapsed else []
    return ", ".join(parts) or "-"


def _is_collapsed(record: RunRecord) -> bool:
    return len(set(record.routes.split())) == 1


def agreement(row: Row, task: str) -> float | None:
    """Return the mean adjusted Rand index of the routes of each two seeds: 1 where they part the texts alike
    under whatever names, 0 where no more than chance would. What uses one member alone does not part them."""
    by_length: dict[int, list[np.ndarray]] = defaultdict(list)
    own = (record for record in row.distinct if record.task == task and record.routes)
    for routes in (_routes(record) for record in own if not _is_collapsed(record)):
        by_length[len(routes)].append(routes)
    pairs = [pair for own in by_length.values() for pair in combinations(own, 2)]
    return mean(adjusted_rand(one, other) for one, other in pairs) if pairs else None


def _routes(record: RunRecord) -> np.ndarray:
    return np.array(record.routes.split(), dtype=np.int64)


def adjusted_rand(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Rand index corrected for chance (Hubert and Arabie, 1985)."""
    _, rows = np.unique(one, return_inverse=True)
    _, columns = np.unique(other, return_inverse=True)
    table = np.zeros((rows.max() + 1, columns.max() + 1), dtype=np.int64)
    np.add.at(table, (rows, columns), 1)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, in_rows, in_columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    by_chance = in_rows * in_columns / pairs(np.array([len(one)]))
    most = (in_rows + in_columns) / 2
    return 1.0 if most == by_chance else (together - by_chance) / (most - by_chance)
