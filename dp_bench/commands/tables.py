"""`dp-bench tables`: print and write comparison tables of the finished runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
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
from dp_bench.report.restarts import with_restarts
from dp_bench.report.sheet import AGGREGATES, Sheet, SheetOptions, make_sheet
from dp_bench.report.transfer import transfer_tables
from dp_bench.terminal import make_console
from dp_bench.types import UserError

# From tables, their sheets and the names of more columns to a text.
FORMATS: dict[str, Callable[[Sequence[Table], Sequence[Sheet], Sequence[str]], str]] = {
    "md": lambda _, sheets, names: report.to_markdown(sheets),
    "csv": lambda tables, _, names: report.to_csv(tables, names),
    "tex": lambda _, sheets, names: to_latex(sheets),
    "html": lambda _, sheets, names: to_html(sheets),
}


@dataclass(frozen=True)
class TableOptions:
    """The options of `dp-bench tables`, as typed."""

    out: Path | None = None
    formats: Sequence[str] = ("md", "csv")
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


def tables(results_dir: Path, options: TableOptions) -> int:
    """Print the tables of all finished runs below `results_dir` and write them to `options.out`."""
    check_words("--format", options.formats, tuple(FORMATS))
    check_words("--columns", options.columns, tuple(columns()))
    check_words("--against", [options.against] if options.against else [], ("paper",))
    check_words("--tests", [options.tests], ("seeds", "examples"))
    check_words("--aggregate", [options.aggregate], tuple(AGGREGATES))
    if options.best_of is not None and options.best_of < 2:
        raise UserError(f"--best-of {options.best_of}: give the number of restarts, 2 or more.")
    selected = _selected_records(results_dir, options)
    metric = options.metric or (paper.METRIC if options.against else "score")
    check_words("--metric", [metric], sorted({"score", "select_score", *_metrics(selected)}))
    build = transfer_tables if options.transfer else build_tables
    built = build(selected, metric, options.tasks)
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
    _print(sheets)
    name, out = "transfer" if options.transfer else "tables", options.out or results_dir / "tables"
    names = sheet_options.columns
    texts = {f"{name}.{form}": FORMATS[form](built, sheets, names) for form in options.formats}
    if options.pairs or sheet_options.results:
        comparisons = [
            # Of the sheet, or else of all pairs.
            (not options.pairs and sheet.comparisons)
            or stats.compare(table, combinations(table.rows, 2), sheet_options.results)
            for table, sheet in zip(built, sheets, strict=True)
        ]
        texts["comparisons.csv"] = report.comparisons_csv(built, comparisons)
    for file, text in texts.items():
        records.write_text(out / file, text)
    say(f"\nwritten: {', '.join(str(out / file) for file in texts)}")
    _print_unfinished(results_dir)
    return 0


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
    labels = sorted({row.label for table in built for row in table.rows})
    label = _current_name(label, labels)
    if label not in (*labels, "fixed"):  # the default may be missing: then nothing is marked
        check_words("--reference", [label], labels)
    return label


def _print(sheets: Sequence[Sheet]) -> None:
    console = make_console()
    if console.is_terminal:
        for sheet in sheets:
            console.print(report.to_terminal(sheet))
    else:
        say(report.to_markdown(sheets), end="")


def _print_unfinished(results_dir: Path) -> None:
    unfinished = records.statuses(results_dir, unfinished=True)
    if unfinished:
        states = ", ".join(sorted({status["status"] for status in unfinished.values()}))
        say(f"not in the tables: {len(unfinished)} runs that are {states}")
