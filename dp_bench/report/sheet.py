"""The formatted cells, marks and notes of a table, independent of the output format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from dp_bench.report import paper, routes, stats
from dp_bench.report.columns import CellView, columns
from dp_bench.report.controls import control_notes
from dp_bench.report.frame import MEAN, Cell, Header, Row, Table
from dp_bench.report.notes import MEAN_SD
from dp_bench.report.stats import Comparison

DIFFERS_MARK = "†"
AGGREGATES = {"mean": MEAN_SD, "median": "median [lowest, highest]"}  # in the note on the cells


@dataclass(frozen=True)
class SheetOptions:
    """What to show of a table in addition to its scores, and what to test."""

    columns: Sequence[str] = ()  # names
    against_paper: bool = False
    reference: str = "fixed"  # the row that others are compared with
    results: stats.Results | None = None  # given: mark by the test over examples, not over seeds
    aggregate: str = "mean"


@dataclass(frozen=True)
class Sheet:
    """A formatted table: header, headings, a list of cells per row, notes, and the tests behind marks."""

    header: Header
    heads: list[str]
    lines: list[list[CellView]]
    notes: list[str]
    comparisons: list[Comparison] = field(default_factory=list)


def cell_text(cell: Cell | None, mark: str = "", aggregate: str = "mean") -> str:
    """Return `mean ± sd (n)` or `median [min, max] (n)`; no spread for one run, `-` for none."""
    if cell is None:
        return "-"
    values = cell.values.values()
    center, spread = cell.mean, f" ± {cell.sd or 0.0:.2f}"
    if aggregate == "median":
        center, spread = median(values), f" [{min(values):.2f}, {max(values):.2f}]"
    return f"{center:.2f}{spread if cell.n > 1 else ''} ({cell.n}){cell.marks}{mark}"


def make_sheet(table: Table, options: SheetOptions = SheetOptions()) -> Sheet:
    """Format a table with the columns and marks that the options name."""
    tasks = table.columns
    references = _references(table, options.reference)
    compared = []
    if len(references) == 1 and table.row_head == "prompt":
        pairs = [(row, references[0]) for row in table.rows if row is not references[0]]
        compared = stats.compare(table, pairs, options.results)
    ranks = stats.supported_ranks(table)
    paper_numbers = paper.printed_numbers(table) if options.against_paper else {}
    paper_tasks = {task for _, task in paper_numbers}
    heads = [table.row_head]
    for task in tasks:
        heads += [table.title(task), *(["paper", "Δ (p)"] if task in paper_tasks else [])]
    extra = [columns()[name] for name in options.columns]
    heads += [column.title for column in extra]
    lines = []
    marks = {(c.a, c.task) for c in compared if c.supported}
    routed = routes.label_routes(table)
    for row in table.rows:
        line = [CellView(row.label)]
        for task in tasks:
            cell = row.cell(task, table.tasks)
            mark = DIFFERS_MARK if (row.label, task) in marks else ""
            mark += routes.MARK if (row.label, task) in routed else ""
            text = cell_text(cell, mark, options.aggregate)
            line.append(CellView(text, cell.mean if cell else None, ranks.get((row.label, task))))
            if task in paper_tasks:
                line += _paper_cells(paper_numbers.get((row.label, task)))
        line += [column.value(row, table.tasks) for column in extra]
        lines.append(line)
    notes = [
        *(note.replace(MEAN_SD, AGGREGATES[options.aggregate]) for note in table.notes),
        *(_example_notes(table, compared) if options.results else _seed_notes(compared)),
        *_reference_notes(options.reference, references),
        *routes.notes(table, routed),
        *control_notes(table),
        *(note for column in extra for note in column.notes(table)),
    ]
    header = table.header
    if paper_numbers:
        header = replace(header, more=(*header.more, f"ours: protocol {header.protocol}; {paper.HEADER}"))
        notes.append(paper.NOTE)
    if options.against_paper and (without := [task for task in tasks if task not in paper_tasks]):
        which = "this table" if not paper_numbers else ", ".join(table.title(task) for task in without)
        notes.append(f"{paper.SOURCE} has no number for any row of {which}")
    return Sheet(header, heads, lines, notes, compared)


def _references(table: Table, name: str) -> list[Row]:
    """Return the row with this label, or else all rows of this prompt (they differ in settings)."""
    exact = [row for row in table.rows if row.label == name]
    return exact or [row for row in table.rows if row.label.startswith(f"{name} [") and row.restarts == 1]


def _reference_notes(name: str, references: list[Row]) -> list[str]:
    """Return a note on how to name the reference if several rows match."""
    if len(references) < 2:
        return []
    return [
        f"no row is compared: {name} is in {len(references)} rows; "
        f'name one: --reference "{references[0].label}"'
    ]


def _seed_notes(compared: list[Comparison]) -> list[str]:
    """Return a note on the test over seeds or draws."""
    several = [c for c in compared if c.n > 1]
    if not several:
        return []
    over = "draws" if any(c.over == "draws" for c in several) else "seeds"
    max_pairs = max(c.n for c in several)
    lowest_p = 2 / 2 ** min(max_pairs, stats.EXACT_UP_TO)
    if lowest_p >= stats.ALPHA:
        return [
            f"no difference is marked, nor a best row: with {max_pairs} {over} the p of the exact test over "
            f"{over} cannot go under {lowest_p:g}; --tests examples tests over examples"
        ]
    return [
        f"{DIFFERS_MARK} differs from {compared[0].b}: exact sign-flip test over {over}, p < {stats.ALPHA} "
        f"after Holm's correction for {len(compared)} comparisons"
    ]


def _example_notes(table: Table, compared: list[Comparison]) -> list[str]:
    """Return notes on the test over examples and on the comparisons that lack predictions."""
    tested = [c for c in compared if c.examples is not None]
    missing = [c for c in compared if c.examples is None and c.task != MEAN]
    lacking = "predictions.parquet is missing for a run of the two rows, or has other examples"
    if not tested:
        return [f"no difference is marked: {lacking}"] if missing else []
    sizes = {c.task: c.examples for c in tested if c.examples}
    grouped = "; ".join(
        f"{table.title(task)} {tests.num_sources:,} texts with {tests.num_examples:,} examples"
        for task, tests in sizes.items()
        if tests.num_sources < tests.num_examples
    )
    by_source = f" (whole texts are resampled: {grouped})" if grouped else ""
    notes = [
        f"{DIFFERS_MARK} differs from {compared[0].b}: paired bootstrap over examples{by_source}, "
        f"p < {stats.ALPHA} after Holm's correction for {len(tested)} comparisons"
    ]
    if missing:
        pairs = ", ".join(dict.fromkeys(f"{c.a} on {table.title(c.task)}" for c in missing))
        notes.append(f"not tested: {pairs}; {lacking}")
    return notes


def _paper_cells(printed: paper.Printed | None) -> list[CellView]:
    if printed is None:
        return [CellView("-"), CellView("-")]
    value = CellView(f"{printed.value:.2f}", printed.value)
    if printed.difference is None:
        return [value, CellView("-")]
    p = "" if printed.p is None else f" ({printed.p:.2g})"
    return [value, CellView(f"{printed.difference:+.2f}{p}", printed.difference)]
