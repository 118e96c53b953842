"""`dp-bench tables`: print and write the comparison tables of what is finished."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dp_bench import records
from dp_bench.commands.finished import check_words, finished_runs
from dp_bench.data.grouping import components
from dp_bench.records import RunRecord
from dp_bench.report import paper, stats
from dp_bench.report import tables as report
from dp_bench.report.aliases import prompt_aliases
from dp_bench.report.build import build_tables
from dp_bench.report.columns import columns
from dp_bench.report.frame import Table
from dp_bench.report.restarts import with_restarts
from dp_bench.report.sheet import AGGREGATES, Options, Sheet, compare_rows, make_sheet
from dp_bench.report.transfer import transfer_tables
from dp_bench.terminal import make_console
from dp_bench.types import UserError

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("md", "csv", "tex", "html")


@dataclass(frozen=True)
class Asked:
    """What is asked of the tables, as it was typed."""

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


def tables(results_dir: Path, asked: Asked) -> int:
    """Print the tables of all finished runs below `results_dir` and write them to `asked.out`."""
    check_words("--format", asked.formats, FORMATS)
    check_words("--columns", asked.columns, tuple(columns()))
    check_words("--against", [asked.against] if asked.against else [], ("paper",))
    check_words("--tests", [asked.tests], ("seeds", "examples"))
    check_words("--aggregate", [asked.aggregate], AGGREGATES)
    found = _chosen(results_dir, asked)
    metric = asked.metric or (paper.METRIC if asked.against else "score")
    check_words("--metric", [metric], sorted({"score", "select_score", *_metrics(found)}))
    built = transfer_tables(found, metric) if asked.transfer else build_tables(found, metric)
    if not built:
        raise UserError(
            "No run was evaluated on tasks other than its own: train with regime.transfer=[boolq], say."
        )
    built = [_of_tasks(table, asked.tasks) for table in built] if asked.tasks else built
    if asked.best_of is not None:
        if asked.best_of < 2:
            raise UserError(f"--best-of {asked.best_of}: give the number of restarts, 2 or more.")
        built = [with_restarts(table, asked.best_of) for table in built]
    predictions = Predictions(results_dir) if asked.tests == "examples" else None
    budget = [column.name for column in columns().values() if column.is_budget]
    options = Options(
        columns=list(dict.fromkeys([*asked.columns, *(budget if asked.budget else ())])),
        against_paper=asked.against == "paper",
        reference=_reference(asked.reference, built),
        by_examples=asked.tests == "examples",
        correct=predictions,
        sources=None if predictions is None else predictions.sources,
        aggregate=asked.aggregate,
    )
    sheets = [make_sheet(table, options) for table in built]
    _print(sheets)
    _write(built, sheets, options, asked, asked.out or results_dir / "tables")
    _tell_unfinished(results_dir)
    return 0


def _chosen(results_dir: Path, asked: Asked) -> list[RunRecord]:
    """Return the records that the tables are of; raise UserError where there are none."""
    found = finished_runs(results_dir, asked.experiment)
    prompts, tasks = {r.prompt for r in found}, {task for r in found for task in (r.task, *r.by_task)}
    rows = [_today(row, prompts) for row in asked.rows]
    check_words("--rows", rows, sorted(prompts))
    check_words("--tasks", asked.tasks, sorted(tasks))
    found = [r for r in found if not rows or r.prompt in rows]
    return [r for r in found if not asked.tasks or {r.task, *r.by_task} & set(asked.tasks)]


def _today(name: str, known: Collection[str]) -> str:
    """Return what is called `name` here, or what a prompt of that name is called today."""
    return name if name in known else prompt_aliases().get(name, name)


def _of_tasks(table: Table, tasks: Sequence[str]) -> Table:
    """Leave the other columns out, which runs on several tasks bring along."""
    kept = tuple(task for task in table.tasks if task in tasks)
    rows = tuple(
        replace(row, cells={task: cell for task, cell in row.cells.items() if task in kept})
        for row in table.rows
    )
    return replace(table, tasks=kept, rows=tuple(row for row in rows if row.cells))


def _metrics(found: Sequence[RunRecord]) -> set[str]:
    single = {name for record in found for name in record.metrics}
    return single | {name for r in found for entry in r.by_task.values() for name in entry["metrics"]}


def _reference(label: str, built: Sequence[Table]) -> str:
    labels = sorted({row.label for table in built for row in table.rows})
    label = _today(label, labels)
    if label not in (*labels, "fixed"):  # without a fixed prompt nothing is marked
        check_words("--reference", [label], labels)
    return label


class Predictions:
    """What runs got right, example by example, from their predictions.parquet."""

    def __init__(self, results_dir: Path) -> None:
        self.results_dir = results_dir
        self._read = lru_cache(maxsize=64)(self._answers)

    def __call__(self, record: RunRecord, task: str) -> Mapping[str, bool] | None:
        found = self._of(record, task)
        return None if found is None else dict(zip(found["id"], found["right"], strict=True))

    def sources(self, record: RunRecord, task: str) -> Mapping[str, str] | None:
        """Return for each example the text that it is about, alone or through others that share one."""
        found = self._of(record, task)
        return None if found is None else dict(zip(found["id"], found["about"], strict=True))

    def _of(self, record: RunRecord, task: str) -> pd.DataFrame | None:
        found = self._read(record.run_id)
        return found.get(task, found.get(""))

    def _answers(self, run_id: str) -> dict[str, pd.DataFrame]:
        """Return id, right and about of each example, by task; of a run on one task under ""."""
        import pandas as pd

        path = self.results_dir / "runs" / run_id / "predictions.parquet"
        if not path.is_file():
            return {}
        frame = pd.read_parquet(path)
        frame["right"] = frame["gold"] == frame["prediction"]
        if "golds" in frame:  # where several choices are right
            own = frame[frame["golds"].notna()]  # of several tasks, not all have such choices
            pairs = zip(own["prediction"], own["golds"], strict=True)
            frame.loc[own.index, "right"] = [prediction in golds for prediction, golds in pairs]
        parts = (
            {"": frame} if "task" not in frame else {str(task): own for task, own in frame.groupby("task")}
        )
        return {task: own.assign(about=_about(own))[["id", "right", "about"]] for task, own in parts.items()}


def _about(frame: pd.DataFrame) -> list[str]:
    """Name for each example all that hangs together with it: its source and its group, as the file has them,
    or else as the ids say."""
    names = [stats.source_in(name) for name in frame["group" if "group" in frame else "id"]]
    if "source" in frame:
        names = [f"{name} {source}" for name, source in zip(names, frame["source"], strict=True)]
    return [str(component) for component in components(names)]


def _print(sheets: Sequence[Sheet]) -> None:
    console = make_console()
    if console.is_terminal:
        for sheet in sheets:
            console.print(report.to_terminal(sheet))
    else:
        print(report.to_markdown(sheets), end="")


def _write(
    built: Sequence[Table], sheets: Sequence[Sheet], options: Options, asked: Asked, out: Path
) -> None:
    from dp_bench.report.html import to_html
    from dp_bench.report.latex import to_latex

    name = "transfer" if asked.transfer else "tables"
    writers = {
        "md": lambda: report.to_markdown(sheets),
        "csv": lambda: report.to_csv(built, options.columns),
        "tex": lambda: to_latex(sheets),
        "html": lambda: to_html(sheets),
    }
    paths = []
    for form in asked.formats:
        paths.append(out / f"{name}.{form}")
        records.write_text(paths[-1], writers[form]())
    if asked.pairs or asked.tests == "examples":
        paths.append(out / "comparisons.csv")
        found = [
            _comparisons(table, sheet, options, all_pairs=asked.pairs)
            for table, sheet in zip(built, sheets, strict=True)
        ]
        records.write_text(paths[-1], report.comparisons_csv(built, found))
    print(f"\nwritten: {', '.join(map(str, paths))}")


def _comparisons(table: Table, sheet: Sheet, options: Options, *, all_pairs: bool) -> list[stats.Comparison]:
    """Return those of all rows, or those with the reference, which the sheet has made already."""
    if sheet.comparisons and not all_pairs:
        return sheet.comparisons
    return compare_rows(table, stats.all_pairs(table), options)


def _tell_unfinished(results_dir: Path) -> None:
    unfinished = records.statuses(results_dir, unfinished=True)
    if unfinished:
        states = ", ".join(sorted({status["status"] for status in unfinished.values()}))
        print(f"not in the tables: {len(unfinished)} runs that are {states}")
