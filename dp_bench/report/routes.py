"""What the routes of a table's rows depend on. Tables mark pools whose route predicts the label.

A selector that reads the label off the frozen features turns a pool into "a prompt for yes and a prompt for
no". It may score well, but has not learned which example needs which prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import combinations
from math import comb
from statistics import mean

from dp_bench.records import RunRecord
from dp_bench.report.frame import Row, Table

BY_ANSWER = 0.4  # share of the errors in guessing the label that knowing the route saves
MARK = "§"


def label_routes(table: Table) -> dict[tuple[str, str], float]:
    """Return the share of errors that the route saves, by row label and task, if at least BY_ANSWER."""
    return {
        (row.label, task): share
        for row in table.rows
        for task in row.cells
        if (share := predictive_power(row, task, "label")) is not None and share >= BY_ANSWER
    }


def notes(table: Table, shares: Mapping[tuple[str, str], float]) -> list[str]:
    """Return a note on the rows with these shares (`label_routes`), if any."""
    if not shares:
        return []
    names = {row.label: row.name for row in table.rows}
    listed = (
        f"{100 * share:.0f} % ({names[row]} on {table.title(task)})" for (row, task), share in shares.items()
    )
    return [
        f"{MARK} routes by the answer: knowing the route saves so much of the errors in guessing the label: "
        + ", ".join(listed)
    ]


def predictive_power(row: Row, task: str, group: str) -> float | None:
    """Return the mean over seeds of `route_lambda_{group}`; None if not measured."""
    return _mean(r.diagnostics.get(f"route_lambda_{group}") for r in row.distinct if r.task == task)


def summary_of(row: Row) -> str:
    """Return how well routes predict label, sub-skill and task, and how far two seeds agree (at most 1)."""
    measured = {
        group: _mean(predictive_power(row, task, group) for task in row.cells)
        for group in ("label", "skill", "task")
    }
    measured["seeds"] = _mean(agreement(row, task) for task in row.cells)
    parts = [f"{name} {value:.2f}" for name, value in measured.items() if value is not None]
    routed = {record.run_id: record for record in row.distinct if record.routes}
    collapsed = sum(_is_collapsed(record) for record in routed.values())
    parts += [f"{collapsed} of {len(routed)} runs use one member"] if collapsed else []
    return ", ".join(parts) or "-"


def _is_collapsed(record: RunRecord) -> bool:
    return len(set(record.routes.split())) == 1


def agreement(row: Row, task: str) -> float | None:
    """Return the mean adjusted Rand index of routes over pairs of seeds (1: equal, 0: chance), or None.

    Runs that use one member are left out.
    """
    routed = (record for record in row.distinct if record.task == task and record.routes)
    routes = [record.routes.split() for record in routed if not _is_collapsed(record)]
    pairs = ((one, other) for one, other in combinations(routes, 2) if len(one) == len(other))
    return _mean(adjusted_rand(one, other) for one, other in pairs)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def adjusted_rand(one: Collection[object], other: Collection[object]) -> float:
    """Return the Rand index corrected for chance (Hubert and Arabie, 1985)."""

    def pairs(*routes: Collection[object]) -> int:
        """Return the number of pairs of examples that have equal routes."""
        return sum(comb(number, 2) for number in Counter(zip(*routes, strict=True)).values())

    together, in_one, in_other = pairs(one, other), pairs(one), pairs(other)
    by_chance = in_one * in_other / comb(len(one), 2)
    most = (in_one + in_other) / 2
    return 1.0 if most == by_chance else (together - by_chance) / (most - by_chance)
