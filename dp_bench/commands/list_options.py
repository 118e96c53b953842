"""`dp-bench list`: what there is to choose from, read from YAML files, records and the columns of tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from dp_bench import records
from dp_bench.prompts.counts import T5, formula, trained
from dp_bench.report.columns import columns
from dp_bench.report.index import load_all
from dp_bench.suggest import did_you_mean
from dp_bench.terminal import make_console
from dp_bench.types import UserError

GROUPS = {
    "tasks": "task",
    "backbones": "backbone",
    "prompts": "prompt",
    "regimes": "regime",
    "experiments": "experiment",
}
KINDS = (*GROUPS, "columns", "metrics", "runs")


def list_options(kind: str, results_dir: Path) -> int:
    """Print a line for each option of a kind."""
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise UserError(f"There is nothing called '{kind}' to list. {hint}Choose one of: {', '.join(KINDS)}.")
    lines = _lines(kind, results_dir)
    if not lines:
        print(f"no {kind} yet")
        return 0
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console = make_console()
    if console.is_terminal:
        console.print(table)
    else:
        for line in lines:
            print("\t".join(line))
    return 0


def _lines(kind: str, results_dir: Path) -> Sequence[tuple[str, ...]]:
    if kind == "runs":
        return _runs(results_dir)
    if kind == "columns":
        return [(column.name, column.title, column.help) for column in columns().values()]
    if kind == "metrics":
        from dp_bench.data.metrics import described

        return described()
    found = _options(GROUPS[kind])
    return [(name, f"{text} Trains {_count(name)}.") for name, text in found] if kind == "prompts" else found


def _options(group: str) -> list[tuple[str, str]]:
    from dp_bench.config import describe, options

    return [(name, describe(group, name)) for name in options(group)]


def _count(name: str) -> str:
    """Return the formula of a prompt's trained numbers, and their count on T5-base."""
    from dp_bench.config import prompt_settings

    prompt = prompt_settings(name)
    number = trained(prompt, T5["base"], 1)
    return f"{formula(prompt)}{f': {number:,} on T5-base' if number else ''}"


def _runs(results_dir: Path) -> list[tuple[str, str]]:
    scores = {record.run_id: f"score {record.score:.2f}" for record in load_all(results_dir)}
    states = {name: _finished(results_dir / "runs" / name) for name in records.finished(results_dir)}
    states |= {name: status["status"] for name, status in records.statuses(results_dir).items()}
    return [(name, f"{states[name]}  {scores.get(name, '')}".rstrip()) for name in sorted(states)]


def _finished(directory: Path) -> str:
    return "packed" if records.is_packed(directory) else "done"
