"""`dp-bench tables`: print and write the comparison tables of what is finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dp_bench import records
from dp_bench.report import tables as report
from dp_bench.report.frame import build_tables, value_of
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError

WRITERS = {"md": "tables.md", "csv": "tables.csv"}


def tables(
    results_dir: Path, *, out: Path | None, formats: Sequence[str], metric: str, columns: Sequence[str]
) -> int:
    """Print the tables of all finished runs below `results_dir` and write them to `out`."""
    _check_words("--format", formats, tuple(WRITERS))
    _check_words("--columns", columns, tuple(report.COLUMNS))
    found = records.load_all(results_dir)
    if not found:
        raise UserError(
            f"There are no finished runs below {results_dir / 'runs'}. Start one: dp-bench train task=rte "
            "prompt=fixed; "
            "or say where they are: dp-bench tables --results-dir DIR."
        )
    known = sorted({"score", "select_score", *(name for record in found for name in record.metrics)})
    _check_words("--metric", [metric], known)
    built = build_tables([record for record in found if value_of(record, metric) is not None], metric)
    console = Console(highlight=False)
    if console.is_terminal:
        for table in built:
            console.print(report.to_terminal(table, columns))
    else:
        print(report.to_markdown(built, columns), end="")
    out = out or results_dir / "tables"
    text = {"md": report.to_markdown(built, columns), "csv": report.to_csv(built)}
    for name in formats:
        records.write_text(out / WRITERS[name], text[name])
    print(f"\nwritten: {', '.join(str(out / WRITERS[name]) for name in formats)}")
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
