"""Plan the runs of a sweep, and read the state of each from the disk. Nothing here imports torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any

from dp_bench import config, reading, records
from dp_bench.claims import holders
from dp_bench.config import Experiment
from dp_bench.identity import Sources, identify
from dp_bench.progress import line, notice
from dp_bench.sweep import slurm
from dp_bench.sweep.expand import Choice, axes_of, expand
from dp_bench.types import UserError

MANY = 60  # combinations, whose planning takes more than a second


class State(Enum):
    """The state of a run; the names are those of the grid."""

    done = "done"
    running = "running"  # a live process holds its claim, or its job in Slurm has begun
    queued = "queued"  # its job waits in Slurm's queue
    failed = "failed"
    interrupted = "interrupted"  # begun, and no process runs it: resumes from its checkpoint
    missing = "missing"


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its ids, its overrides, its labels in the grid, and its configuration."""

    run_id: str
    words: tuple[str, ...]
    labels: dict[str, str]  # task, backbone, prompt, regime, protocol, seed, and what else is swept
    resolved: Mapping[str, Any]
    cell_id: str
    experiment: Experiment | None = field(default=None, compare=False, repr=False)
    sources: Sources | None = field(default=None, compare=False, repr=False)  # the files that it reads


@dataclass(frozen=True)
class Outcome:
    """How a run ended: done, failed, refused (wrong input), or elsewhere (another sweep has done it)."""

    run_id: str
    kind: str
    message: str


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, each once."""

    name: str  # of its file, and in messages
    results_dir: Path
    runs: tuple[Run, ...]
    experiments: tuple[str, ...] = ()

    def save(self) -> None:
        """Write the plan to results_dir/sweeps, for `dp-bench status`."""
        runs = [{"run_id": run.run_id, "labels": run.labels} for run in self.runs]
        content = {"name": self.name, "experiments": list(self.experiments), "runs": runs}
        file = f"{self.name.replace('/', '.')}.json"
        records.write_json(self.results_dir / "sweeps" / file, content)


def saved_plans(results_dir: Path) -> list[dict[str, Any]]:
    """Return all saved plans, in the order of names; of a sweep under two names, the later plan."""
    paths = [path for path in (results_dir / "sweeps").glob("*.json") if path.exists()]
    plans: dict[str, dict[str, Any]] = {}
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        try:
            plan = _saved_plan(path)
        except UserError as error:
            notice(str(error))
        else:
            plans[plan["name"]] = plan
    return [plans[name] for name in sorted(plans)]


def _saved_plan(path: Path) -> dict[str, Any]:
    remedy = "It is left out: move it away, or start its sweep again."
    text = reading.text(path, remedy)
    with reading.guarded(path, remedy):
        plan: dict[str, Any] = reading.parsed(config.with_present_names(text))
        problem = reading.misfit(plan, dict[str, Any], "the plan")
        for key, hint in {"name": str, "experiments": list[str], "runs": list[dict[str, Any]]}.items():
            problem = problem or reading.misfit(plan[key], hint, key)
        for run in plan["runs"] if not problem else ():
            problem = problem or reading.misfit(run["run_id"], str, "run_id")
            problem = problem or reading.misfit(run["labels"], dict[str, str], "labels")
            problem = problem or reading.misfit(run["labels"].get("task"), str, "labels.task")
        if problem:
            raise ValueError(problem)
    return plan


def make_plan(words: Sequence[str], extra_dir: Path | None = None) -> Plan:
    """Plan what was typed: `experiment=…`, sweeps a,b,c, or both.

    Raises UserError where an override is wrong, or where the data of a task cannot be found.
    """
    axes = axes_of(words, extra_dir)
    combinations = sum(math.prod(len(values) for values in sweep.values()) for sweep in axes)
    if combinations >= MANY:
        line(f"planning {combinations} combinations …")
    folders: set[str] = set()
    located: dict[str, Sources] = {}  # once for all runs that read the same data
    runs: dict[str, Run] = {}
    for choice in (choice for sweep in axes for choice in expand(sweep, extra_dir)):
        resolved = choice.experiment.resolved
        folders.add(choice.experiment.settings.results_dir)
        key = json.dumps([resolved["task"], resolved.get("transfer"), resolved["data"]], sort_keys=True)
        if key not in located:
            located[key] = Sources.of(choice.experiment)
        identity = identify(choice.experiment, located[key])
        run_id = identity.run_id
        run = Run(
            *(run_id, choice.words, _labels(choice), resolved, identity.cell_id),
            *(choice.experiment, located[key]),
        )
        runs.setdefault(run_id, run)
    if len(folders) > 1:
        raise UserError(f"results_dir={','.join(sorted(folders))}: a sweep writes to one folder.")
    if combinations >= MANY and len(runs) < combinations:
        same = combinations - len(runs)
        line(
            f"{same} of them are the same runs as others, such as the seeds of a baseline that draws nothing"
        )
    experiments = tuple(sweep["experiment"][0].split("=", 1)[1] for sweep in axes if "experiment" in sweep)
    return Plan(_name(experiments, words), Path(folders.pop()), tuple(runs.values()), experiments)


def _labels(choice: Choice) -> dict[str, str]:
    groups = ("task", "backbone", "prompt", "regime", "protocol", "data")
    named = {group: str(choice.experiment.resolved[group]["name"]) for group in groups}
    other = {key: value for key, value in choice.swept.items() if key not in (*groups, "seed")}
    return {**named, "seed": str(choice.experiment.settings.seed), **other}


def _name(experiments: Sequence[str], words: Sequence[str]) -> str:
    """Name a sweep by its experiments, with a digest of the other overrides that change its runs."""
    decisive = sorted(w for w in words if w.split("=")[0] not in ("experiment", *records.VOLATILE))
    digest = sha256("\n".join(decisive).encode()).hexdigest()[:6]
    return "-".join([*(experiments or ["sweep"]), *([digest] if decisive else [])])


def states(
    results_dir: Path, run_ids: Iterable[str], jobs: Mapping[str, slurm.Job] | None = None
) -> dict[str, State]:
    """Return the states of runs by id, from their folders, claims and `jobs` in Slurm's queue (default: those
    that squeue lists now), without reading their records."""
    running, runs = holders(results_dir), results_dir / "runs"
    jobs = slurm.in_queue(results_dir) if jobs is None else jobs
    return {
        run_id: State.running if run_id in running else _state(runs / run_id, jobs.get(run_id))
        for run_id in run_ids
    }


def _state(directory: Path, job: slurm.Job | None) -> State:
    if records.is_finished(directory):
        return State.done
    if job is not None:
        return State.queued if job.state in slurm.WAITING else State.running
    status = records.status_of(directory)
    if status is None:
        return State.interrupted if (directory / "checkpoint").is_dir() else State.missing
    return State.failed if status["status"] == "failed" else State.interrupted


def failure(results_dir: Path, run_id: str) -> Outcome:
    """Return the outcome of a failed run: the line with the exception in its traceback."""
    status = records.status_of(results_dir / "runs" / run_id) or {}
    lines = str(status.get("traceback", "")).splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("  File ")]
    behind = lines[frames[-1] + 1 :] if frames else lines  # the exception, perhaps with notes below it
    message = next((line for line in behind if line and line[0] != " "), "no reason recorded")
    return Outcome(run_id, "failed", message)
