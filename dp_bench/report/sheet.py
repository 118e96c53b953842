"""The formatted cells, marks and notes of a table, independent of the output format."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from dp_bench.report import paper, routes, stats
from dp_bench.report.columns import CellView, columns
from dp_bench.report.controls import control_notes
from dp_bench.report.frame import MEAN, Cell, Header, Row, Table
from dp_bench.report.notes import MEAN_SD, RUNS
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
    rows: list[Row] = field(default_factory=list)  # of the lines
    blocks: Mapping[int, str] = field(default_factory=dict)  # titles, by the line that they precede

    def compact(self) -> Sheet:
        """Return the sheet without the number of runs in cells that have the usual one, which a note says."""
        numbers = Counter(view.n for line in self.lines for view in line if view.n is not None)
        usual = max(sorted(numbers, reverse=True), key=lambda n: numbers[n], default=0)
        if usual < 2 or numbers[usual] < 2 or not any(RUNS in note for note in self.notes):
            return self
        lines = [
            [replace(v, text=v.text.replace(f" ({usual})", "", 1)) if v.n == usual else v for v in line]
            for line in self.lines
        ]
        notes = [note.replace(RUNS, f"({usual} runs where a cell does not say)") for note in self.notes]
        return replace(self, lines=lines, notes=notes)


def split_notes(sheets: Sequence[Sheet]) -> tuple[list[str], list[list[str]]]:
    """Return the notes that all of several sheets have, and the other notes of each."""
    if len(sheets) < 2:
        return [], [sheet.notes for sheet in sheets]
    shared = [note for note in sheets[0].notes if all(note in sheet.notes for sheet in sheets)]
    return shared, [[note for note in sheet.notes if note not in shared] for sheet in sheets]


def in_blocks(sheets: Sequence[Sheet]) -> list[Sheet]:
    """Return the sheets, with those that differ in their backbone only as the blocks of one: the layout of
    the paper's tables. Small backbones come first."""
    alike: dict[str, list[Sheet]] = defaultdict(list)
    for sheet in sheets:
        alike[repr(replace(sheet.header, backbone="", weights="", random_weights=False))].append(sheet)
    return [part[0] if len(part) == 1 else _one_of(part) for part in alike.values()]


def _one_of(sheets: list[Sheet]) -> Sheet:
    sheets = sorted(sheets, key=lambda sheet: sheet.rows[0].records[0].frozen_parameters)
    longest = max(sheets, key=lambda sheet: len(sheet.heads))
    heads = list(dict.fromkeys([*longest.heads, *(head for sheet in sheets for head in sheet.heads)]))
    lines: list[list[CellView]] = []
    blocks = {}
    notes: dict[str, list[str]] = defaultdict(list)
    for sheet in sheets:
        header = sheet.header
        random = "random weights" if header.random_weights else ""
        blocks[len(lines)] = " ".join(filter(None, [header.backbone, random, header.weights]))
        for line in sheet.lines:
            by_head = dict(zip(sheet.heads, line, strict=True))
            lines.append([by_head.get(head, CellView("-")) for head in heads])
        for note in sheet.notes:
            notes[note].append(header.backbone)
    texts = [
        note if len(names) == len(sheets) else f"{', '.join(names)}: {note}" for note, names in notes.items()
    ]
    header = replace(
        sheets[0].header,
        backbone=", ".join(sheet.header.backbone for sheet in sheets),
        weights="",
        random_weights=False,
    )
    comparisons = [comparison for sheet in sheets for comparison in sheet.comparisons]
    return Sheet(header, heads, lines, texts, comparisons, [r for s in sheets for r in s.rows], blocks)


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
        line = [CellView(row.name)]
        for task in tasks:
            cell = row.cell(task, table.tasks)
            mark = DIFFERS_MARK if (row.label, task) in marks else ""
            mark += routes.MARK if (row.label, task) in routed else ""
            text = cell_text(cell, mark, options.aggregate)
            if cell is None:
                line.append(CellView(text))
            else:
                line.append(CellView(text, cell.mean, ranks.get((row.label, task)), cell.n, cell))
            if task in paper_tasks:
                line += _paper_cells(paper_numbers.get((row.label, task)))
        line += [column.value(row, table.tasks) for column in extra]
        lines.append(line)
    notes = [
        *(note.replace(MEAN_SD, AGGREGATES[options.aggregate]) for note in table.notes),
        *(_example_notes(table, compared) if options.results else _seed_notes(table, compared)),
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
    return Sheet(header, heads, lines, notes, compared, list(table.rows))


def _references(table: Table, name: str) -> list[Row]:
    """Return the row with this name or label, or else all rows of this prompt (they differ in settings)."""
    rows = [row for row in table.rows if row.restarts == 1]
    for is_meant in (
        lambda row: name in (row.label, row.name),
        lambda row: row.label.startswith(f"{name} [") or row.records[0].prompt == name,
    ):
        if found := [row for row in rows if is_meant(row)]:
            return found
    return []


def _reference_notes(name: str, references: list[Row]) -> list[str]:
    """Return a note on how to name the reference if several rows match."""
    if len(references) < 2:
        return []
    return [
        f"no row is compared: {name} is in {len(references)} rows; "
        f'name one: --reference "{references[0].name}"'
    ]


def _seed_notes(table: Table, compared: list[Comparison]) -> list[str]:
    """Return a note on the test over seeds or draws."""
    several = [c for c in compared if c.n > 1]
    if not several:
        return []
    over = "draws" if any(c.over == "draws" for c in several) else "seeds"
    max_pairs = max(c.n for c in several)
    lowest_p = 2 / 2 ** min(max_pairs, stats.EXACT_UP_TO)
    if lowest_p >= stats.ALPHA:
        return [
            f"no difference is marked, nor a best row: the exact test over {max_pairs} {over} has p of at "
            f"least {lowest_p:g}; --tests examples tests over examples"
        ]
    test = f"exact sign-flip test over {over}, p < {stats.ALPHA}, Holm's correction for {len(compared)} tests"
    reference = _name(table, compared[0].b)
    if any(c.supported for c in compared):
        return [f"{DIFFERS_MARK} differs from {reference}: {test}"]
    return [f"no row is marked as differing from {reference}: {test}"]


def _name(table: Table, label: str) -> str:
    return next(row.name for row in table.rows if row.label == label)


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
        f"{DIFFERS_MARK} differs from {_name(table, compared[0].b)}: paired bootstrap over "
        f"examples{by_source}, p < {stats.ALPHA}, Holm's correction for {len(tested)} tests"
    ]
    if missing:
        pairs = ", ".join(dict.fromkeys(f"{_name(table, c.a)} on {table.title(c.task)}" for c in missing))
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
