"""What a table shows, cell by cell, before it is written in some format: texts, marks and what sorts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from dp_bench.report import paper, routes, stats
from dp_bench.report.columns import Shown, columns
from dp_bench.report.controls import control_notes
from dp_bench.report.frame import MEAN, Cell, Header, Row, Table
from dp_bench.report.notes import MEAN_SD
from dp_bench.report.stats import Comparison

DIFFERS_MARK = "†"
AGGREGATES = ("mean", "median")


@dataclass(frozen=True)
class Options:
    columns: Sequence[str] = ()  # their names
    against_paper: bool = False
    reference: str = "fixed"  # the row that others are tested against
    # What a mark rests on: the test over seeds, or over examples where predictions are there.
    by_examples: bool = False
    correct: stats.Correct | None = None
    sources: stats.SourceOf | None = None  # what examples are about
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
    return f"{number} ({cell.n}){cell.marks}{mark}"


def make_sheet(table: Table, options: Options = Options()) -> Sheet:
    """Lay out a table with the columns and marks that are asked for."""
    tasks = table.columns
    compared = _compared(table, options)
    ranks = stats.supported_ranks(table)
    printed = paper.beside(table) if options.against_paper else {}
    beside = {task for _, task in printed}
    heads = [table.row_head]
    for task in tasks:
        heads += [table.title(task), *(["paper", "Δ (p)"] if task in beside else [])]
    extra = [columns()[name] for name in options.columns]
    heads += [column.title for column in extra]
    lines = []
    marks = {(c.a, c.task) for c in compared if c.supported}
    by_answer = routes.by_the_answer(table)
    for row in table.rows:
        line = [Shown(row.label)]
        for task in tasks:
            cell = row.cell(task, table.tasks)
            mark = DIFFERS_MARK if (row.label, task) in marks else ""
            mark += routes.MARK if (row.label, task) in by_answer else ""
            text = cell_text(cell, mark, options.aggregate)
            line.append(Shown(text, cell.mean if cell else None, ranks.get((row.label, task))))
            if task in beside:
                line += _beside(printed.get((row.label, task)))
        line += [column.value(row, table.tasks) for column in extra]
        lines.append(line)
    notes = [
        *_cell_notes(table, options.aggregate),
        *_test_notes(table, compared, options),
        *routes.notes(table),
        *control_notes(table),
        *(note for column in extra for note in column.notes(table)),
    ]
    header = table.header
    if printed:
        header = replace(header, more=(*header.more, f"ours: protocol {header.protocol}; {paper.HEADER}"))
        notes.append(paper.NOTE)
    if options.against_paper and (without := [task for task in tasks if task not in beside]):
        which = "this table" if not printed else ", ".join(table.title(task) for task in without)
        notes.append(f"{paper.SOURCE} has no number for any row of {which}")
    return Sheet(header, heads, lines, notes, compared)


def _cell_notes(table: Table, aggregate: str) -> list[str]:
    """Return the notes of the table, with what the cells say as they are aggregated."""
    said = {"mean": MEAN_SD, "median": "median [lowest, highest]"}[aggregate]
    return [note.replace(MEAN_SD, said) for note in table.notes]


def _compared(table: Table, options: Options) -> list[Comparison]:
    found = _references(table, options.reference)
    if len(found) != 1 or table.row_head != "prompt":
        return []
    return compare_rows(table, stats.against(table, found[0]), options)


def compare_rows(table: Table, pairs: Sequence[tuple[Row, Row]], options: Options) -> list[Comparison]:
    """Test each of these pairs of rows as the options say."""
    return stats.compare(
        *(table, pairs), correct=options.correct, sources=options.sources, by_examples=options.by_examples
    )


def _references(table: Table, name: str) -> list[Row]:
    """Return the row of that label, or those of that prompt where settings part them."""
    exact = [row for row in table.rows if row.label == name]
    return exact or [row for row in table.rows if row.label.startswith(f"{name} [") and row.restarts == 1]


def _test_notes(table: Table, compared: list[Comparison], options: Options) -> list[str]:
    if options.by_examples:
        return _example_notes(table, compared) or _which_reference(table, options)
    several = [c for c in compared if c.n > 1]
    if not several:
        return _which_reference(table, options)
    over = "draws" if any(c.over == "draws" for c in several) else "seeds"
    most = max(c.n for c in several)
    least = 2 / 2 ** min(most, stats.EXACT_UP_TO)
    if least >= stats.ALPHA:
        return [
            f"no difference is marked, nor a best row: with {most} {over} the p of the exact test over "
            f"{over} cannot go under {least:g}; --tests examples tests over examples"
        ]
    return [
        f"{DIFFERS_MARK} differs from {compared[0].b}: exact sign-flip test over {over}, p < {stats.ALPHA} "
        f"after Holm's correction for {len(compared)} comparisons"
    ]


def _example_notes(table: Table, compared: list[Comparison]) -> list[str]:
    """Say what the test over examples was made of; of comparisons without predictions, that it was not."""
    tested = [c for c in compared if c.examples is not None]
    missing = [c for c in compared if c.examples is None and c.task != MEAN]
    lacking = "predictions.parquet is not there for the runs of both rows, or is of other examples"
    if not tested:
        return [f"no difference is marked: {lacking}"] if missing else []
    sizes = {c.task: c.examples for c in tested if c.examples}
    grouped = "; ".join(
        f"{table.title(task)} {own.num_sources:,} texts with {own.num_examples:,} examples"
        for task, own in sizes.items()
        if own.num_sources < own.num_examples
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
