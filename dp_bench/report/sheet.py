"""What a table shows, cell by cell, before it is written in some format: texts, marks and what sorts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, median

from dp_bench.records import RunRecord
from dp_bench.report import paper, routes, stats
from dp_bench.report.controls import control_notes
from dp_bench.report.frame import DEGENERATE_MARK, Cell, Header, Row, Table
from dp_bench.report.stats import Comparison

DIFFERS_MARK = "†"
COLUMNS = {
    "params": "trainable parameters",
    "seconds": "seconds a run",
    "memory": "peak memory (MB)",
    "optimism": "optimism",
    "steps": "best step",
    "updates": "updates",
    "batch": "batch",
    "trials": "trials",
    "hours": "device hours",
    "ci": "95 % interval of the mean",
    "forwards": "forwards an update",
    "routes": "what routes tell",
}
AGGREGATES = ("mean", "median")
BUDGET = ("steps", "updates", "batch", "trials", "params", "hours")  # --budget


@dataclass(frozen=True)
class Shown:
    """One cell: its text, the number that it sorts by, and its rank where a test supports it (1, 2)."""

    text: str
    number: float | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Options:
    columns: Sequence[str] = ()
    against_paper: bool = False
    reference: str = "fixed"  # the row that others are tested against
    # What a mark rests on: the test over seeds, or over examples where predictions are there.
    by_examples: bool = False
    correct: stats.Correct | None = None
    aggregate: str = "mean"


@dataclass(frozen=True)
class Sheet:
    header: Header
    heads: list[str]
    lines: list[list[Shown]]
    notes: list[str]
    comparisons: list[Comparison] = field(default_factory=list)


def cell_text(cell: Cell | None, mark: str = "", aggregate: str = "mean") -> str:
    """Return `mean ± sd (n)`, or `median [min, max] (n)`; the number alone for one seed, `-` for none."""
    if cell is None:
        return "-"
    spread = "" if cell.sd is None else f" ± {cell.sd:.2f}"
    number = f"{cell.mean:.2f}{spread}"
    if aggregate == "median":
        values = cell.values.values()
        spread = "" if cell.n == 1 else f" [{min(values):.2f}, {max(values):.2f}]"
        number = f"{median(values):.2f}{spread}"
    return f"{number} ({cell.n}){DEGENERATE_MARK if cell.degenerate else ''}{mark}"


def make_sheet(table: Table, options: Options = Options()) -> Sheet:
    """Lay out a table with the columns and marks that are asked for."""
    tasks = table.columns
    compared = _compared(table, options)
    ranks = stats.supported_ranks(table)
    heads = [table.row_head]
    for task in tasks:
        heads += [table.titles.get(task, task), *(["paper", "Δ (p)"] if options.against_paper else [])]
    heads += [COLUMNS[column] for column in options.columns]
    lines = []
    marks = {(c.a, c.task) for c in compared if c.supported}
    by_answer = routes.by_the_answer(table)
    for row in table.rows:
        line = [Shown(row.label)]
        for task in tasks:
            cell = row.cell(task, table.tasks)
            mark = DIFFERS_MARK if (row.label, task) in marks else ""
            mark += routes.MARK if (row.label, task) in by_answer else ""
            line.append(
                Shown(
                    cell_text(cell, mark, options.aggregate),
                    cell.mean if cell else None,
                    ranks.get((row.label, task)),
                )
            )
            if options.against_paper:
                line += _beside(paper.printed(table, row, task, cell))
        line += [extra(row, column, table.tasks) for column in options.columns]
        lines.append(line)
    notes = [
        *table.notes,
        *_test_notes(table, compared, options),
        *routes.notes(table),
        *control_notes(table),
    ]
    header = table.header
    if options.against_paper:
        header = replace(header, more=(*header.more, f"ours: protocol {header.protocol}; {paper.HEADER}"))
        notes.append(paper.NOTE)
    return Sheet(header, heads, lines, notes, compared)


def _compared(table: Table, options: Options) -> list[Comparison]:
    found = _references(table, options.reference)
    if len(found) != 1 or table.row_head != "prompt":
        return []
    pairs = stats.against(table, found[0])
    return stats.compare(table, pairs, correct=options.correct, by_examples=options.by_examples)


def _references(table: Table, name: str) -> list[Row]:
    """Return the row of that label, or those of that prompt where settings part them."""
    exact = [row for row in table.rows if row.label == name]
    return exact or [row for row in table.rows if row.label.startswith(f"{name} [") and row.restarts == 1]


def _test_notes(table: Table, compared: list[Comparison], options: Options) -> list[str]:
    several = [c for c in compared if c.n > 1]
    if not several:
        return _which_reference(table, options)
    if options.by_examples:
        rest = "paired bootstrap over examples"
    else:
        rest = "exact sign-flip test over seeds"
        most = max(c.n for c in several)
        least = 2 / 2 ** min(most, stats.EXACT_UP_TO)
        if least >= stats.ALPHA:
            return [
                f"no difference is marked, nor a best row: with {most} seeds the p of the exact test over "
                f"seeds cannot go under {least:g}; --tests examples tests over examples"
            ]
    return [
        f"{DIFFERS_MARK} differs from {compared[0].b}: {rest}, p < {stats.ALPHA} after Holm's correction "
        f"for {len(compared)} comparisons"
    ]


def _which_reference(table: Table, options: Options) -> list[str]:
    """Say how to name a row to compare with, where the usual one is parted by its settings."""
    found = _references(table, options.reference)
    if len(found) < 2:
        return []
    return [
        f"no row is compared: {options.reference} is in {len(found)} rows; "
        f'name one: --reference "{found[0].label}"'
    ]


def _beside(printed: paper.Printed | None) -> list[Shown]:
    if printed is None:
        return [Shown("-"), Shown("-")]
    if printed.difference is None:
        return [Shown(f"{printed.value:.2f}", printed.value), Shown("-")]
    p = "" if printed.p is None else f" ({printed.p:.2g})"
    return [
        Shown(f"{printed.value:.2f}", printed.value),
        Shown(f"{printed.difference:+.2f}{p}", printed.difference),
    ]


def extra(row: Row, column: str, tasks: Sequence[str]) -> Shown:  # noqa: PLR0911 - one line a column
    """Return what a row cost or spent, over its runs; the interval is that of its mean over tasks."""
    if column == "optimism":
        gain = row.optimism
        return Shown("-") if gain is None else Shown(f"{gain.mean:+.2f} ({gain.n})", gain.mean)
    if column == "ci":
        cell = row.average(tasks)
        low, high = stats.interval(list(cell.values.values())) if cell else (None, None)
        return Shown("-") if low is None else Shown(f"{low:.2f} to {high:.2f}", low)
    if column == "params":
        return _span([record.trainable_parameters for record in row.records])
    if column == "steps":
        return _span([record.best_step for record in row.records])
    if column == "updates":
        return _span([record.num_updates for record in row.records])
    if column == "batch":
        return _span([int(r.config["trainer"]["batch_size"]) if r.num_updates else 0 for r in row.records])
    if column == "trials":
        return _span([_trials(record) for record in row.records])
    if column == "forwards":
        return _span(
            [int(r.diagnostics.get("forwards_per_update", 1)) if r.num_updates else 0 for r in row.records]
        )
    if column == "routes":
        return Shown(routes.in_words(row))
    if column == "hours":
        hours = sum(record.total_seconds for record in row.records) / 3600
        return Shown(f"{hours:.2f} {_device(row)}", hours)
    if column == "seconds":
        seconds = mean(record.total_seconds for record in row.records)
        return Shown(f"{seconds:.0f}", seconds)
    memory = mean(record.peak_memory_mb for record in row.records)
    return Shown(f"{memory:.0f}", memory)


def _trials(record: RunRecord) -> int:
    """Return how many trials a run's settings were searched with; 1 for settings that were given."""
    if not record.num_updates:
        return 0
    hpo = record.config.get("hpo") or {}
    return int(hpo["trials"]) if hpo.get("name") and hpo["searched"] else 1


def _device(row: Row) -> str:
    kinds = {"GPU" if record.device.startswith("cuda") else "CPU" for record in row.records}
    return "/".join(sorted(kinds))


def _span(numbers: Sequence[int]) -> Shown:
    low, high = min(numbers), max(numbers)
    return Shown(f"{low:,}" if low == high else f"{low:,} to {high:,}", low)
