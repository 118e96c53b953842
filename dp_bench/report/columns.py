"""The columns that a table may have behind its scores: each once, with all that is known of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean

from dp_bench.plugins import by_key
from dp_bench.records import RunRecord
from dp_bench.report import routes, stats
from dp_bench.report.frame import Row, Table
from dp_bench.report.runs import search_of

ENTRY_POINTS = "dp_bench.columns"  # of other packages: each names a Column, or a list of them


@dataclass(frozen=True)
class Shown:
    """One cell: its text, the number that it sorts by, and its rank where a test supports it (1, 2)."""

    text: str
    number: float | None = None
    rank: int | None = None


Value = Callable[[Row, Sequence[str]], Shown]  # of a row, and the tasks of its table


@dataclass(frozen=True)
class Column:
    """What a row cost, spent or is like."""

    name: str  # as --columns takes it
    title: str  # its head
    help: str  # one phrase
    value: Value
    is_budget: bool = False  # one of --budget
    csv: str | None = None  # the field of a record whose mean over a row's runs on a task the CSV has
    notes: Callable[[Table], Sequence[str]] = lambda table: ()  # that a table with this column has


def _span(number: Callable[[RunRecord], int]) -> Value:
    """Show a number of each run: the one that all have, or the lowest and the highest."""

    def value(row: Row, tasks: Sequence[str]) -> Shown:
        numbers = [number(record) for record in row.records]
        low, high = min(numbers), max(numbers)
        return Shown(f"{low:,}" if low == high else f"{low:,} to {high:,}", low)

    return value


def _spent(name: str, title: str, help: str, number: Callable[[RunRecord], int]) -> Column:
    return Column(name, title, help, _span(number), is_budget=True)


def _mean(name: str, title: str, field: str) -> Column:
    def value(row: Row, tasks: Sequence[str]) -> Shown:
        number = mean(getattr(record, field) for record in row.records)
        return Shown(f"{number:.0f}", number)

    return Column(name, title, "mean over the runs of a row", value, csv=field)


def _batch(record: RunRecord) -> int:
    return int(record.config["trainer"]["batch_size"]) if record.num_updates else 0


def _forwards(record: RunRecord) -> int:
    return int(record.diagnostics.get("forwards_per_update", 1)) if record.num_updates else 0


def _trials(record: RunRecord) -> int:
    if not record.num_updates:
        return 0
    search = search_of(record)
    return int(search["trials"]) if search.get("searched") else 1


def _hours(row: Row, tasks: Sequence[str]) -> Shown:
    runs = {record.run_id: record.total_seconds for record in row.records}  # one on several tasks is one
    hours = sum(runs.values()) / 3600
    kinds = {"GPU" if record.device.startswith("cuda") else "CPU" for record in row.records}
    return Shown(f"{hours:.2f} {'/'.join(sorted(kinds))}", hours)


def _interval(row: Row, tasks: Sequence[str]) -> Shown:
    cell = row.average(tasks)
    low, high = stats.interval(cell.independent) if cell else (None, None)
    return Shown("-") if low is None else Shown(f"{low:.2f} to {high:.2f}", low)


def _optimism(row: Row, tasks: Sequence[str]) -> Shown:
    gain = row.optimism
    return Shown("-") if gain is None else Shown(f"{gain.mean:+.2f} ({gain.n})", gain.mean)


def _optimism_notes(table: Table) -> list[str]:
    """Say what the two runs of a difference were trained on: selecting on held-out rows takes some away."""
    pairs = sorted({(own.title, *own.trained_on) for row in table.rows for own in row.twins})
    said = "optimism: scores selected on the reported split less those selected on held-out rows, same seed"
    if not pairs:
        return [f"{said}; no run of this table has such a twin"]
    unlike = [pair for pair in pairs if pair[1] != pair[2]]
    if not unlike:
        return [f"{said}, trained on as many rows"]
    rows = "; ".join(f"{title} {here:,} and {there:,}" for title, here, there in unlike)
    return [f"{said}; part of it is that the former were trained on more rows: {rows}"]


SHIPPED = (
    _spent("steps", "best step", "the update with the best score on what selects", lambda r: r.best_step),
    _spent("updates", "updates", "steps of the optimizer that were made", lambda r: r.num_updates),
    _spent("batch", "batch", "examples an update", _batch),
    _spent("trials", "trials", "of the search for settings; 1 where they were given", _trials),
    _spent("params", "trainable parameters", "numbers that are trained", lambda r: r.trainable_parameters),
    Column("hours", "device hours", "of all runs together, on CPU or GPU", _hours, is_budget=True),
    _mean("seconds", "seconds a run", "total_seconds"),
    _mean("memory", "peak memory (MB)", "peak_memory_mb"),
    Column("ci", "95 % interval of the mean", "t interval over seeds of the mean over all tasks", _interval),
    Column(
        *("optimism", "optimism", "score selected on the reported split less that selected on held-out rows"),
        _optimism,
        notes=_optimism_notes,
    ),
    Column("forwards", "forwards an update", "passes through the backbone in an update", _span(_forwards)),
    Column(
        *("routes", "what routes tell", "of label, sub-skill and task, and how far two seeds agree"),
        lambda row, tasks: Shown(routes.in_words(row)),
    ),
)


@cache
def columns() -> dict[str, Column]:
    """Return all columns by name: those of this package, then those that installed packages add."""
    return by_key({column.name: column for column in SHIPPED}, ENTRY_POINTS, Column, "name")
