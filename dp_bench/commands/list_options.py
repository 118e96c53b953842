"""`dp-bench list`: the available options, read from YAML files, records and the columns of tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Column, Table

from dp_bench import config, reading, records
from dp_bench.data import metrics
from dp_bench.methods.counts import T5, formula, trained
from dp_bench.methods.table import Method, methods
from dp_bench.printing import say
from dp_bench.prompts import catalogue
from dp_bench.report.columns import columns
from dp_bench.report.index import load_all
from dp_bench.suggest import did_you_mean
from dp_bench.terminal import make_console
from dp_bench.types import UserError

Lines = Sequence[tuple[str, ...]]


def list_options(kind: str, results_dir: Path, extra_dir: Path | None = None) -> int:
    """Print one line per option of a kind, with those of the user's folder `extra_dir`."""
    if kind not in KINDS:
        hint = did_you_mean(kind, tuple(KINDS))
        raise UserError(f"There is no list of '{kind}'. {hint}Choose one of: {', '.join(KINDS)}.")
    lines = KINDS[kind](results_dir, extra_dir)
    if not lines:
        say(f"no {kind} yet")
        return 0
    console = make_console()
    if console.is_terminal:
        table = Table.grid(Column(no_wrap=True), padding=(0, 2))
        for line in lines:
            table.add_row(*line)
        console.print(table)
    else:
        say("\n".join("\t".join(line) for line in lines))
    return 0


def _methods() -> Lines:
    return [(m.name, _with_paper(_trains(m), m.paper)) for m in methods().values()]


def _trains(method: Method) -> str:
    what = f"trains {method.trains or 'nothing'}" if method.fit is None else "is fitted"
    return what if method.formula in ("", "0") else f"{what}: {method.formula}"


def _pieces() -> Lines:
    pieces = catalogue.catalogue().values()
    return [
        (p.name, ", ".join(p.parts), _with_paper(p.formula or "nothing trained", p.paper)) for p in pieces
    ]


def _with_paper(text: str, paper: str) -> str:
    return f"{text} ({paper})" if paper else text


def _files(group: str, extra_dir: Path | None) -> Lines:
    return [(name, config.describe(group, name, extra_dir)) for name in config.options(group, extra_dir)]


def _prompts(extra_dir: Path | None) -> Lines:
    return [(name, f"{text} Trains {_count(name, extra_dir)}.") for name, text in _files("prompt", extra_dir)]


def _count(name: str, extra_dir: Path | None) -> str:
    """Return the formula of a prompt's trainable parameters, and their number on T5-base."""
    with reading.guarded(
        config.option_path("prompt", name, extra_dir), "dp-bench new prompt NAME writes a sound one."
    ):
        prompt = config.option_settings("prompt", name, extra_dir)
        number = trained(prompt, T5["base"], 1)
        return f"{formula(prompt)}{f': {number:,} on T5-base' if number else ''}"


def _runs(results_dir: Path) -> Lines:
    scores = {record.run_id: f"score {record.score:.2f}" for record in load_all(results_dir)}
    states = {
        name: "packed" if records.is_packed(results_dir / "runs" / name) else "done"
        for name in records.finished(results_dir)
    }
    states |= {name: status["status"] for name, status in records.statuses(results_dir).items()}
    return [(name, f"{states[name]}  {scores.get(name, '')}".rstrip()) for name in sorted(states)]


# By name, the lines for a results folder and the user's folder of configurations.
KINDS: dict[str, Callable[[Path, Path | None], Lines]] = {
    "tasks": lambda _, extra_dir: _files("task", extra_dir),
    "backbones": lambda _, extra_dir: _files("backbone", extra_dir),
    "prompts": lambda _, extra_dir: _prompts(extra_dir),
    "regimes": lambda _, extra_dir: _files("regime", extra_dir),
    "experiments": lambda _, extra_dir: _files("experiment", extra_dir),
    "methods": lambda *_: _methods(),
    "pieces": lambda *_: _pieces(),
    "columns": lambda *_: [(column.name, column.title, column.help) for column in columns().values()],
    "metrics": lambda *_: metrics.described(),
    "runs": lambda results_dir, _: _runs(results_dir),
}
