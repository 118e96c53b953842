"""`dp-bench status`: how far the sweeps are, from folders and claims alone; records are not read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from dp_bench import config
from dp_bench.pack import beside
from dp_bench.sweep.grid import LEGEND, counts, grid
from dp_bench.sweep.plan import State, first_line, make_plan, saved_plans, states
from dp_bench.terminal import make_console
from dp_bench.types import UserError

FAILURES_SHOWN = 20


def status(results_dir: Path, experiment: str | None) -> int:
    """Print a grid for each sweep below `results_dir`, or for those of one experiment."""
    console = make_console(soft_wrap=True)
    experiment = config.present_name(experiment) if experiment else None
    sweeps = _sweeps(results_dir, experiment)
    packed = beside(results_dir)
    if not sweeps and not packed and not (results_dir / "runs").is_dir():
        raise UserError(
            f"There is nothing below {results_dir}. Start a sweep: dp-bench sweep experiment=micro/position; "
            "or say where the runs are: --results-dir DIR."
        )
    there = {path.name for path in (results_dir / "runs").glob("*") if path.is_dir()} | packed.keys()
    planned = {run_id for _, labels in sweeps for run_id in labels}
    found = states(results_dir, there | planned)
    for title, labels in sweeps:
        _show(console, title, labels, found)
    strays = {run_id: _labels(run_id) for run_id in sorted(there - planned)}
    if strays and experiment is None:
        _show(console, "runs of no sweep" if sweeps else "runs", strays, found)
    asked = planned if experiment else planned | there
    failed = sorted(run_id for run_id in asked if found[run_id] is State.failed)
    for run_id in failed[:FAILURES_SHOWN]:
        console.print(f"failed: {run_id}: {first_line(results_dir / 'runs' / run_id)}", markup=False)
    if len(failed) > FAILURES_SHOWN:
        console.print(f"… and {len(failed) - FAILURES_SHOWN} more; each says why in its status.json")
    return 0


def _sweeps(results_dir: Path, experiment: str | None) -> list[tuple[str, dict[str, dict[str, str]]]]:
    """Return title and runs of each sweep that was started here; of an experiment never started, its plan."""
    saved = [p for p in saved_plans(results_dir) if experiment is None or experiment in p["experiments"]]
    found = [(str(p["name"]), {run["run_id"]: run["labels"] for run in p["runs"]}) for p in saved]
    if experiment is None or found:
        return found
    plan = make_plan([f"experiment={experiment}", f"results_dir={results_dir}"])
    return [(f"{experiment} (never started as a sweep)", {run.run_id: run.labels for run in plan.runs})]


def _labels(run_id: str) -> dict[str, str]:
    """Read the grid's labels off a run id, `task-backbone-prompt-regime-protocol-sSEED-hash`."""
    parts = run_id.split("-")
    if len(parts) != 7:
        return {"task": "?", "prompt": run_id}
    names = ("task", "backbone", "prompt", "regime", "protocol", "seed")
    return dict(zip(names, [*parts[:5], parts[5][1:]], strict=True))


def _show(
    console: Console, title: str, labels: Mapping[str, Mapping[str, str]], found: Mapping[str, State]
) -> None:
    console.print(f"{title}: {counts([found[run_id] for run_id in labels])}", markup=False)
    console.print(grid(labels, found))
    console.print(LEGEND + "\n")
