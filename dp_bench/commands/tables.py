"""`dp-bench tables`: print and write the comparison tables of what is finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dp_bench import records
from dp_bench.report import tables as report
from dp_bench.report.frame import build_tables, transfer_tables
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError

WRITERS = {"md": "tables.md", "csv": "tables.csv"}


def tables(
    results_dir: Path,
    *,
    out: Path | None,
    formats: Sequence[str],
    metric: str,
    columns: Sequence[str],
    transfer: bool = False,
) -> int:
    """Print the tables of all finished runs below `results_dir` and write them to `out`.

    `transfer` gives the matrices of runs with regime.transfer instead.
    """
    _check_words("--format", formats, tuple(WRITERS))
    _check_words("--columns", columns, tuple(report.COLUMNS))
    found = records.load_all(results_dir)
    if not found:
        raise UserError(
            f"There are no finished runs below {results_dir / 'runs'}. Start one: dp-bench train task=rte "
            "prompt=fixed; "
            "or say where they are: dp-bench tables --results-dir DIR."
        )
    metrics = {
        name
        for r in found
        for own in ({"metrics": r.metrics}, *r.by_task.values())
        for name in own["metrics"]
    }
    known = sorted({"score", "select_score", *metrics})
    _check_words("--metric", [metric], known)
    built = transfer_tables(found, metric) if transfer else build_tables(found, metric)
    if not built:
        raise UserError(
            "No run was evaluated on tasks other than its own: train with regime.transfer=[boolq], say."
        )
    console = Console(highlight=False)
    if console.is_terminal:
        for table in built:
            console.print(report.to_terminal(table, columns))
    else:
        print(report.to_markdown(built, columns), end="")
    out = out or results_dir / "tables"
    text = {"md": report.to_markdown(built, columns), "csv": report.to_csv(built)}
    paths = {name: out / (f"transfer.{name}" if transfer else WRITERS[name]) for name in formats}
    for name, path in paths.items():
        records.write_text(path, text[name])
    print(f"\nwritten: {', '.join(map(str, paths.values()))}")
    unfinished = {k: v["status"] for k, v in records.statuses(results_dir).items() if v["status"] != "done"}
    if unfinished:
        states = ", ".join(sorted(set(unfinished.values())))
        print(f"not in the tables: {len(unfinished)} runs that are {states}")
    return 0


def _check_words(option: str, words: Sequence[str], known: Sequence[str]) -> None:
    for word in words:
        if word not in known:
            raise UserError(
                f"{option} does not know '{word}'. {did_you_mean(word, known)}It takes: {', '.join(known)}."
            )
