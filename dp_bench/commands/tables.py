"""`dp-bench tables`: print and write comparison tables of the finished runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from dp_bench import records
from dp_bench.commands.finished import check_words, finished_runs
from dp_bench.printing import say
from dp_bench.records import RunRecord
from dp_bench.report import paper, stats
from dp_bench.report import tables as report
from dp_bench.report.aliases import prompt_aliases
from dp_bench.report.build import build_tables
from dp_bench.report.columns import columns
from dp_bench.report.examples import ExampleResults
from dp_bench.report.frame import Table
from dp_bench.report.html import to_html
from dp_bench.report.latex import to_latex
from dp_bench.report.names import Names, read_names
from dp_bench.report.restarts import with_restarts
from dp_bench.report.sheet import AGGREGATES, Sheet, SheetOptions, in_blocks, make_sheet
from dp_bench.report.transfer import transfer_tables
from dp_bench.terminal import make_console
from dp_bench.types import UserError

# From tables, their sheets and the names of more columns to a text.
FORMATS: dict[str, Callable[[Made], str]] = {
    "md": lambda made: report.to_markdown(made.sheets),
    "csv": lambda made: report.to_csv(made.tables, made.columns),
    "tex": lambda made: to_latex(made.sheets, made.options.caption, made.options.label),
    "html": lambda made: to_html(made.sheets, made.place_of),
}
LAYOUTS = ("tables", "paper")
WRITTEN = ("md", "csv")  # with --out alone


@dataclass(frozen=True)
class TableOptions:
    """The options of `dp-bench tables`, as typed."""

    out: Path | None = None
    formats: Sequence[str] | None = None
    metric: str | None = None
    columns: Sequence[str] = ()
    transfer: bool = False
    experiment: str | None = None
    against: str | None = None
    budget: bool = False
    rows: Sequence[str] = ()
    tasks: Sequence[str] = ()
    aggregate: str = "mean"
    reference: str = "fixed"
    tests: str = "seeds"
    pairs: bool = False
    best_of: int | None = None
    names: Path | None = None
    extra_dir: Path | None = None
    layout: str = "tables"
    caption: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Made:
    """What formats are written from; `place_of` a run is its folder as seen from the page, if it has one."""

    tables: Sequence[Table]
    sheets: Sequence[Sheet]
    columns: Sequence[str]
    options: TableOptions
    place_of: Callable[[str], str | None]


def tables(results_dir: Path, options: TableOptions) -> int:
    """Print the tables of all finished runs below `results_dir`, and write them where a format or a folder is
    given."""
    check_words("--format", options.formats or (), tuple(FORMATS))
    check_words("--layout", [options.layout], LAYOUTS)
    formats = _formats(options)
    check_words("--columns", options.columns, tuple(columns()))
    check_words("--against", [options.against] if options.against else [], ("paper",))
    check_words("--tests", [options.tests], ("seeds", "examples"))
    check_words("--aggregate", [options.aggregate], tuple(AGGREGATES))
    if options.best_of is not None and options.best_of < 2:
        raise UserError(f"--best-of {options.best_of}: give the number of restarts, 2 or more.")
    selected = _selected_records(results_dir, options)
    metric = options.metric or (paper.METRIC if options.against else "score")
    check_words("--metric", [metric], sorted({"score", "select_score", *_metrics(selected)}))
    names = read_names(options.names, options.extra_dir)
    build = transfer_tables if options.transfer else build_tables
    built = build(selected, metric, options.tasks, names)
    if not built:
        raise UserError(
            "No run was evaluated on other tasks: train with regime.transfer=[TASK], such as [boolq]."
            if options.transfer
            else "No finished run is one of --rows on one of --tasks: leave one of them out."
        )
    if options.best_of:
        built = [with_restarts(table, options.best_of) for table in built]
    budget = [column.name for column in columns().values() if column.is_budget]
    sheet_options = SheetOptions(
        columns=list(dict.fromkeys([*options.columns, *(budget if options.budget else ())])),
        against_paper=options.against == "paper",
        reference=_reference(options.reference, built),
        results=ExampleResults(results_dir) if options.tests == "examples" else None,
        aggregate=options.aggregate,
    )
    sheets = [make_sheet(table, sheet_options) for table in built]
    sheets = [_with_names(sheet, names) for sheet in sheets]
    shown = in_blocks(sheets) if options.layout == "paper" else sheets
    _print(shown)
    if options.against and not any(paper.HEADER in line for s in sheets for line in s.header.more):
        say(f"\n--against paper: {paper.SOURCE} has no number for any row here; it has T5 on SuperGLUE.")
    out = options.out or results_dir / "tables"

    def place_of(run_id: str) -> str | None:
        folder = results_dir / "runs" / run_id
        return f"{Path(os.path.relpath(folder, out)).as_posix()}/" if folder.is_dir() else None

    made = Made(built, shown, sheet_options.columns, options, place_of)
    name = "transfer" if options.transfer else "tables"
    texts = {f"{name}.{form}": FORMATS[form](made) for form in formats}
    if options.pairs or (sheet_options.results and formats):
        comparisons = [
            # Of the sheet, or else of all pairs.
            (not options.pairs and sheet.comparisons)
            or stats.compare(table, combinations(table.rows, 2), sheet_options.results)
            for table, sheet in zip(built, sheets, strict=True)
        ]
        texts["comparisons.csv"] = report.comparisons_csv(built, comparisons)
    for file, text in texts.items():
        records.write_text(out / file, text)
    if texts:
        say(f"\nwritten: {', '.join(str(out / file) for file in texts)}")
    _print_unfinished(results_dir)
    return 0


def _formats(options: TableOptions) -> Sequence[str]:
    """Return the formats to write: none unless a format or a folder is given."""
    default = WRITTEN if options.out else ()
    formats = default if options.formats is None else options.formats
    for flag, value in (("--caption", options.caption), ("--label", options.label)):
        if value is not None and "tex" not in formats:
            raise UserError(f"{flag} is of a table in LaTeX: add --format tex.")
    return formats


def _with_names(sheet: Sheet, names: Names) -> Sheet:
    return replace(sheet, header=replace(sheet.header, backbone=names.of(sheet.header.backbone)))


def _selected_records(results_dir: Path, options: TableOptions) -> list[RunRecord]:
    """Return the records that the options select. Raises UserError if there are none."""
    selected = finished_runs(results_dir, options.experiment)
    prompts, tasks = {r.prompt for r in selected}, {task for r in selected for task in (r.task, *r.by_task)}
    rows = [_current_name(row, prompts) for row in options.rows]
    check_words("--rows", rows, sorted(prompts))
    check_words("--tasks", options.tasks, sorted(tasks))
    selected = [r for r in selected if not rows or r.prompt in rows]
    return [r for r in selected if not options.tasks or {r.task, *r.by_task} & set(options.tasks)]


def _current_name(name: str, known: Collection[str]) -> str:
    """Return `name` if it is known, else the current name of the prompt that it is an alias of."""
    return name if name in known else prompt_aliases().get(name, name)


def _metrics(selected: Sequence[RunRecord]) -> set[str]:
    several = [entry["metrics"] for record in selected for entry in record.by_task.values()]
    return {name for metrics in (*several, *(record.metrics for record in selected)) for name in metrics}


def _reference(label: str, built: Sequence[Table]) -> str:
    rows = [row for table in built for row in table.rows]
    known = {text for row in rows for text in (row.label, row.name, row.records[0].prompt)}
    label = _current_name(label, known)
    if label not in (*known, "fixed"):  # the default may be missing: then nothing is marked
        check_words("--reference", [label], sorted({row.name for row in rows}))
    return label


def _print(sheets: Sequence[Sheet]) -> None:
    console = make_console()
    if console.is_terminal:
        for part in report.to_terminal(sheets):
            console.print(part)
    else:
        say(report.to_markdown(sheets), end="")


def _print_unfinished(results_dir: Path) -> None:
    unfinished = records.statuses(results_dir, unfinished=True)
    if unfinished:
        states = ", ".join(sorted({status["status"] for status in unfinished.values()}))
        say(f"not in the tables: {len(unfinished)} runs that are {states}")
