"""`dp-bench status`: the state of the runs of sweeps, from folders and claims only; records are not read."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from dp_bench import config
from dp_bench.pack import packed_rows
from dp_bench.sweep import slurm
from dp_bench.sweep.grid import LEGEND, counts, grid
from dp_bench.sweep.plan import State, failure, make_plan, saved_plans, states
from dp_bench.terminal import make_console, print_whole
from dp_bench.types import UserError

FAILURES_SHOWN = 20


def status(results_dir: Path, experiment: str | None) -> int:
    """Print a grid for each sweep below `results_dir`, or of one experiment."""
    console = make_console(soft_wrap=True)
    experiment = config.with_present_names(experiment, typed=True) if experiment else None
    sweeps = _sweeps(results_dir, experiment)
    packed = packed_rows(results_dir)
    if not sweeps and not packed and not (results_dir / "runs").is_dir():
        raise UserError(
            f"There is nothing below {results_dir}. Start a sweep: dp-bench sweep experiment=micro/position; "
            "or name the folder of the runs: --results-dir DIR."
        )
    present = {path.name for path in (results_dir / "runs").glob("*") if path.is_dir()} | packed.keys()
    planned = {run_id for _, labels in sweeps for run_id in labels}
    jobs = slurm.in_queue(results_dir)
    state_of = states(results_dir, present | planned, jobs)
    for title, labels in sweeps:
        _show(console, title, labels, state_of)
    strays = {run_id: _labels(run_id) for run_id in sorted(present - planned)}
    if strays and experiment is None:
        _show(console, "runs of no sweep" if sweeps else "runs", strays, state_of)
    for text, number in Counter(job.text for job in jobs.values()).items():
        console.print(f"Slurm: {number} {text}")
    selected = planned if experiment else planned | present
    failed = sorted(run_id for run_id in selected if state_of[run_id] is State.failed)
    for run_id in failed[:FAILURES_SHOWN]:
        console.print(f"failed: {run_id}: {failure(results_dir, run_id).message}")
    if len(failed) > FAILURES_SHOWN:
        console.print(f"… and {len(failed) - FAILURES_SHOWN} more; status.json in each folder has the error")
    console.print(f"Next: {_next(results_dir, experiment, {state_of[run_id] for run_id in selected})}")
    return 0


def _next(results_dir: Path, experiment: str | None, found: set[State]) -> str:
    """Return what to type next."""
    where = "" if results_dir == Path("results") else f" --results-dir {shlex.quote(str(results_dir))}"
    only = f" --experiment {experiment}" if experiment else ""
    if found & {State.running, State.queued}:
        return f"dp-bench status{where}{only}, while it runs"
    if found & {State.missing, State.interrupted, State.failed}:
        retry = "; --retry-failed runs failed ones again" if State.failed in found else ""
        return f"the same dp-bench sweep or train as before, which continues{retry}"
    return f"dp-bench tables{where}{only}"


def _sweeps(results_dir: Path, experiment: str | None) -> list[tuple[str, dict[str, dict[str, str]]]]:
    """Return title and labels by run id of each saved sweep, or the plan of an experiment never started."""
    saved = [p for p in saved_plans(results_dir) if experiment is None or experiment in p["experiments"]]
    sweeps = [(str(p["name"]), {run["run_id"]: run["labels"] for run in p["runs"]}) for p in saved]
    if experiment is None or sweeps:
        return sweeps
    plan = make_plan([f"experiment={experiment}", f"results_dir={results_dir}"])
    return [(f"{experiment} (never started as a sweep)", {run.run_id: run.labels for run in plan.runs})]


def _labels(run_id: str) -> dict[str, str]:
    """Parse the grid's labels from a run id, `task-backbone-prompt-regime-protocol-sSEED-hash`."""
    parts = run_id.split("-")
    if len(parts) != 7:
        return {"task": "?", "prompt": run_id}
    names = ("task", "backbone", "prompt", "regime", "protocol", "seed")
    return dict(zip(names, [*parts[:5], parts[5][1:]], strict=True))


def _show(
    console: Console, title: str, labels: Mapping[str, Mapping[str, str]], state_of: Mapping[str, State]
) -> None:
    console.print(f"{title}: {counts([state_of[run_id] for run_id in labels])}")
    print_whole(console, grid(labels, state_of))
    console.print(LEGEND + "\n")
