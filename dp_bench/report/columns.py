"""The optional columns of a table, each defined once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter
from statistics import fmean, mean

from dp_bench import costs
from dp_bench.costs import EVALUATION, TRAINING
from dp_bench.plugins import by_key
from dp_bench.records import RunRecord
from dp_bench.report import routes, stats
from dp_bench.report.frame import Cell, Row, Table
from dp_bench.report.runs import search_of

ENTRY_POINTS = "dp_bench.columns"  # in other packages: each names a Column, or a list of them


@dataclass(frozen=True)
class CellView:
    """A formatted cell: text, number to sort by, and rank (1 or 2) if a test supports it."""

    text: str
    number: float | None = None
    rank: int | None = None
    n: int | None = None  # number of runs, of a score
    cell: Cell | None = None  # the scores behind it


Value = Callable[[Row, Sequence[str]], CellView]  # from a row and the tasks of its table


@dataclass(frozen=True)
class Column:
    """A property of a row, such as its cost."""

    name: str  # as given to --columns
    title: str  # heading
    help: str  # a phrase
    value: Value
    is_budget: bool = False  # included in --budget
    csv: str | None = None  # heading in the CSV, which has the mean over a row's runs on a task
    number: Callable[[RunRecord], float | None] | None = None  # of a run; None: its field `csv`
    notes: Callable[[Table], Sequence[str]] = lambda table: ()  # notes below a table that has this column

    def mean(self, runs: Sequence[RunRecord]) -> float | None:
        """Return the mean of the column's number over the runs that have it; None where none has."""
        number = self.number or attrgetter(str(self.csv))
        numbers = [value for record in runs if (value := number(record)) is not None]
        return mean(numbers) if numbers else None


def _span(number: Callable[[RunRecord], int]) -> Value:
    """Show an integer of each run: the common value, or the lowest and the highest."""

    def value(row: Row, tasks: Sequence[str]) -> CellView:
        numbers = [number(record) for record in row.records]
        return CellView(span_text(numbers), min(numbers))

    return value


def span_text(numbers: Sequence[int]) -> str:
    """Return the common value of numbers, or the lowest and the highest."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _spent(name: str, title: str, help: str, number: Callable[[RunRecord], int]) -> Column:
    return Column(name, title, help, _span(number), is_budget=True)


def _mean(
    name: str,
    title: str,
    csv: str,
    number: Callable[[RunRecord], float | None] | None = None,
    *,
    form: str = ".0f",
    help: str = "mean over the runs of a row",
) -> Column:
    def value(row: Row, tasks: Sequence[str]) -> CellView:
        known = column.mean(row.records)
        return CellView("-") if known is None else CellView(format(known, form), known)

    column = Column(name, title, help, value, csv=csv, number=number)
    return column


def _rate(name: str, phase: str, unit: str, what: str) -> Column:
    number = partial(costs.rate, phase=phase, unit=unit)
    return _mean(name, f"{unit} a second, {phase}", name, number, form=",.0f", help=what)


def _flops(name: str, phase: str) -> Column:
    number = partial(costs.work_of, phase=phase, unit="flops")
    what = "of matrix products and attention, estimated from one batch; mean over the runs of a row"
    return _mean(name, f"FLOPs of {phase}", name, number, form=".2e", help=what)


def _batch(record: RunRecord) -> int:
    return int(record.config["trainer"]["batch_size"]) if record.num_updates else 0


def forwards(record: RunRecord) -> int:
    """Return the passes of the backbone per update."""
    return int(record.diagnostics.get("forwards_per_update", 1)) if record.num_updates else 0


def _trials(record: RunRecord) -> int:
    search = search_of(record)
    trials = int(search["trials"]) if search.get("searched") else 1
    return trials if record.num_updates else 0


def _hours(row: Row, tasks: Sequence[str]) -> CellView:
    runs = {record.run_id: record.total_seconds for record in row.records}  # a multitask run counts once
    hours = sum(runs.values()) / 3600
    kinds = {"GPU" if record.device.startswith("cuda") else "CPU" for record in row.records}
    return CellView(f"{hours:.2f} {'/'.join(sorted(kinds))}", hours)


def _interval(row: Row, tasks: Sequence[str]) -> CellView:
    cell = row.average(tasks)
    low, high = stats.interval(cell.independent) if cell else (None, None)
    return CellView("-") if low is None else CellView(f"{low:.2f} to {high:.2f}", low)


def _optimism(row: Row, tasks: Sequence[str]) -> CellView:
    if not row.twins:
        return CellView("-")
    gain = fmean(twins.difference for twins in row.twins)
    return CellView(f"{gain:+.2f} ({len(row.twins)})", gain)


def _optimism_notes(table: Table) -> list[str]:
    """Return notes on the training rows of each pair of twins: held-out rows are not trained on."""
    pairs = sorted({(twins.title, *twins.trained_on) for row in table.rows for twins in row.twins})
    text = "optimism: scores selected on the reported split less those selected on held-out rows, same seed"
    if not pairs:
        return [f"{text}; no run of this table has such a pair"]
    unequal = [pair for pair in pairs if pair[1] != pair[2]]
    if not unequal:
        return [f"{text}, trained on equally many rows"]
    rows = "; ".join(f"{title} {first:,} and {second:,}" for title, first, second in unequal)
    return [f"{text}; part of it is due to the former being trained on more rows: {rows}"]


SHIPPED = (
    _spent("steps", "best step", "the update with the best selection score", lambda r: r.best_step),
    _spent("updates", "updates", "optimizer steps taken", lambda r: r.num_updates),
    _spent("batch", "batch", "examples per update", _batch),
    _spent("trials", "trials", "of the hyperparameter search; 1 without a search", _trials),
    _spent(
        "params", "trainable parameters", "how many numbers are trained", lambda r: r.trainable_parameters
    ),
    Column("hours", "device hours", "of all runs together, on CPU or GPU", _hours, is_budget=True),
    _mean("seconds", "seconds a run", "total_seconds"),
    _mean("memory", "peak memory (MB)", "peak_memory_mb"),
    _rate("train_ex", TRAINING, "examples", "mean over the runs of a row"),
    _rate("train_tok", TRAINING, "tokens", "of texts, without padding and prompt"),
    _rate("eval_ex", EVALUATION, "examples", "mean over the runs of a row"),
    _rate("eval_tok", EVALUATION, "tokens", "of texts, without padding and prompt"),
    _flops("train_fl", TRAINING),
    _flops("eval_fl", EVALUATION),
    _mean(
        *("peak", "share of the device's peak", "share_of_peak", costs.share_of_peak),
        form=".1%",
        help="FLOPs of training a second by what the GPU can do in this precision, where that is known",
    ),
    _mean(
        *("joules", "energy a run (J)", "energy_joules"),
        form=",.0f",
        help="of the whole GPUs in training and evaluation, by NVML",
    ),
    Column("ci", "95 % interval of the mean", "t interval over seeds of the mean over all tasks", _interval),
    Column(
        *("optimism", "optimism", "score selected on the reported split less that selected on held-out rows"),
        _optimism,
        notes=_optimism_notes,
    ),
    Column("forwards", "forwards per update", "backbone passes per update", _span(forwards)),
    Column(
        *("routes", "what routes predict", "of label, sub-skill and task, and how far two seeds agree"),
        lambda row, tasks: CellView(routes.summary_of(row)),
    ),
)


@cache
def columns() -> dict[str, Column]:
    """Return all columns by name: those of this package, then those of installed packages."""
    return by_key({column.name: column for column in SHIPPED}, ENTRY_POINTS, Column, "name")
