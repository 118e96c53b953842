"""`dp-bench sweep`: plan the runs of an experiment, run the unfinished ones, list failures."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dp_bench import config
from dp_bench.commands.finished import started_from
from dp_bench.methods.counts import T5, trained
from dp_bench.report.columns import span_text
from dp_bench.report.index import load_all
from dp_bench.sweep import slurm
from dp_bench.sweep.estimate import Costs, total
from dp_bench.sweep.grid import counts
from dp_bench.sweep.plan import Outcome, Plan, Run, State, failure, make_plan, states
from dp_bench.sweep.preview import preview
from dp_bench.sweep.watch import Watch, duration, duration_of
from dp_bench.sweep.workers import Workers
from dp_bench.terminal import make_console
from dp_bench.types import UserError

LOCAL_GPUS = "local_gpus"  # the launcher with this name means --gpus all


def sweep(
    words: Sequence[str],
    *,
    dry_run: bool = False,
    retry_failed: bool = False,
    jobs: int | None = None,
    pack: int | None = None,
    gpus: str | None = None,
    detach: bool = False,
    start: str | None = None,
    extra_dir: Path | None = None,
) -> int:
    """Run the sweep of `experiment=…` or of settings with several values, and return the exit code."""
    ours, hydra_words = _split(
        started_from(start, config.renew(words, extra_dir), config.Composer(extra_dir))
    )
    if f"hydra/launcher={LOCAL_GPUS}" in hydra_words:
        hydra_words.remove(f"hydra/launcher={LOCAL_GPUS}")
        gpus = gpus or "all"
    config.check(hydra_words)
    is_slurm = any(word.startswith("hydra/launcher=") and "slurm" in word for word in hydra_words)
    if detach and not is_slurm:
        raise UserError("--detach is for Slurm: add hydra/launcher=slurm_gpu. Here: nohup dp-bench sweep … &")
    if is_slurm and not dry_run:
        slurm.check_programs()
    used_gpus = _gpus(gpus)
    num_jobs = _num_jobs(jobs, used_gpus, hydra_words)
    num_packed = _num_packed(pack, hydra_words)
    console = make_console(soft_wrap=True)
    if any(word.split("=")[0] == "hpo" for word in ours):
        from dp_bench.sweep.hpo import search

        if hydra_words:
            raise UserError("hpo= chooses each trial from earlier results: use --jobs, not a launcher.")
        plan = search(
            *(ours, extra_dir),
            jobs=num_jobs,
            pack=num_packed,
            gpus=used_gpus,
            dry_run=dry_run,
            console=console,
        )
    else:
        plan = make_plan(ours, extra_dir)
    state_of = states(plan.results_dir, [run.run_id for run in plan.runs])
    before = [] if retry_failed else [r.run_id for r in plan.runs if state_of[r.run_id] is State.failed]
    finished = {r.run_id for r in plan.runs if state_of[r.run_id] is State.done and not r.resolved["rerun"]}
    todo = [r for r in plan.runs if r.run_id not in finished.union(before)]
    costs = Costs(load_all(plan.results_dir), plan.results_dir)
    _show(console, plan, state_of, todo, costs, num_jobs)
    if dry_run:
        _show_needs(console, todo, costs, num_jobs)
        console.print(f"launcher: {_launcher(hydra_words, num_jobs, used_gpus)}")
        for line in preview(plan.runs):
            console.print(line)
        return 0
    plan.save()
    outcomes: list[Outcome] = []
    watch = Watch(plan, todo, state_of, costs, num_jobs, console)
    if todo and is_slurm:
        _submit(console, plan, todo, hydra_words, extra_dir)
        if detach:
            return 0
        from dp_bench.sweep.launch import follow

        outcomes = follow(plan, todo, watch)
    elif todo and any(word.startswith("hydra/launcher=") for word in hydra_words):
        outcomes = _through_launcher(plan, todo, hydra_words, extra_dir)
    elif todo:
        with Workers(num_jobs, plan.results_dir, used_gpus, extra_dir, num_packed) as workers:
            outcomes = workers.run(todo, watch)
    new = [outcome for outcome in outcomes if outcome.kind in ("failed", "refused")]
    return _conclude(console, plan, [failure(plan.results_dir, run_id) for run_id in before], new)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split overrides into settings of runs and settings of Hydra, such as its launcher."""
    named = [f"hydra/{word}" if word.startswith("launcher=") else word for word in words]
    hydra = [word for word in named if config.is_of_hydra(word)]
    return [word for word in named if word not in hydra], hydra


def _num_jobs(jobs: int | None, gpus: Sequence[str], hydra_words: Sequence[str]) -> int:
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs} must be at least 1.")
    if hydra_words and (jobs or gpus):
        raise UserError("--jobs and --gpus are for this machine: leave them out with hydra/launcher=…")
    return jobs or len(gpus) or 1


def _num_packed(pack: int | None, hydra_words: Sequence[str]) -> int:
    if pack is not None and pack < 1:
        raise UserError(f"--pack {pack} must be at least 1: so many runs are trained at once in a process.")
    if hydra_words and pack:
        raise UserError("--pack is for this machine: leave it out with hydra/launcher=…")
    return pack or 1


def _gpus(typed: str | None) -> list[str]:
    """Return the GPUs that --gpus names; `all` asks nvidia-smi, which avoids loading torch."""
    if typed is None:
        return []
    if typed != "all":
        return typed.split(",")
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UserError("--gpus all: nvidia-smi finds none here. List them: --gpus 0,1.") from None
    return [str(number) for number, _ in enumerate(listed.stdout.splitlines())]


def _through_launcher(
    plan: Plan, todo: Sequence[Run], hydra_words: Sequence[str], extra_dir: Path | None
) -> list[Outcome]:
    from dp_bench.config.jobs import launcher
    from dp_bench.sweep.launch import job

    with launcher(job, hydra_words, plan.results_dir, extra_dir) as made:
        results = made.launch([list(run.words) for run in todo], initial_job_idx=0)
    refused = [str(result.return_value) for result in results if result.return_value]
    state_of = states(plan.results_dir, [run.run_id for run in todo])
    failed = [run_id for run_id, state in state_of.items() if state is State.failed]
    return [
        *(failure(plan.results_dir, run_id) for run_id in failed),
        *(Outcome("a run", "refused", message) for message in dict.fromkeys(refused)),
    ]


def _submit(
    console: Console, plan: Plan, todo: Sequence[Run], hydra_words: Sequence[str], extra_dir: Path | None
) -> None:
    """Submit to Slurm the runs that are not in its queue already."""
    from dp_bench.config.jobs import launcher
    from dp_bench.sweep.launch import job

    queued = slurm.in_queue(plan.results_dir)
    new = {run.run_id: run.words for run in todo if run.run_id not in queued}
    if len(new) < len(todo):
        console.print(f"in Slurm's queue already: {len(todo) - len(new)} runs")
    if new:
        with launcher(job, hydra_words, plan.results_dir, extra_dir) as made:
            names = slurm.submit(made, new, plan.results_dir)
        console.print(
            f"submitted to Slurm: {len(new)} runs, which go on without this command; to stop them: scancel "
            f"--name={','.join(names)}"
        )
    console.print(f"Progress: dp-bench status{_where(plan)}")


def _where(plan: Plan) -> str:
    return "" if plan.results_dir == Path("results") else f" --results-dir {plan.results_dir}"


def _conclude(console: Console, plan: Plan, before: Sequence[Outcome], new: Sequence[Outcome]) -> int:
    state_of = states(plan.results_dir, [run.run_id for run in plan.runs])
    console.print(f"{plan.name}: {counts(list(state_of.values()))}")
    for title, failures in (
        ("failed now:", new),
        ("failed before, left out; --retry-failed runs them again:", before),
    ):
        if failures:
            console.print(f"\n{title}")
        for outcome in failures:
            console.print(f"  {outcome.run_id}: {outcome.message}")
    if State.done in state_of.values():
        console.print(f"Next: dp-bench tables{_where(plan)}")
    if not (before or new):
        return 0
    return 2 if not before and all(outcome.kind == "refused" for outcome in new) else 1


def _show(
    console: Console, plan: Plan, state_of: dict[str, State], todo: Sequence[Run], costs: Costs, jobs: int
) -> None:
    """Print the plan: runs, finished runs, and the estimated time of the rest."""
    console.print(f"{plan.name}: {len(plan.runs)} runs: {counts(list(state_of.values()))}")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("backbone, prompt", no_wrap=True)
    for title in ("runs", "done", "to do", "parameters", "takes"):
        table.add_column(title, justify="right", no_wrap=True)
    rows: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in plan.runs:
        rows[run.labels["backbone"], run.labels["prompt"]].append(run)
    unfinished = {run.run_id for run in todo}
    for (backbone, prompt), group in rows.items():
        group_todo = [run for run in group if run.run_id in unfinished]
        seconds, unknown = duration_of(group_todo, costs, jobs)
        time = "-" if seconds is None else f"{duration(seconds)}{' +' if unknown else ''}"
        done = sum(state_of[run.run_id] is State.done for run in group)
        columns = (str(len(group)), str(done), str(len(group_todo)), _trainable(group, costs), time)
        table.add_row(f"{backbone} {prompt}", *columns)
    console.print(table)
    seconds, unknown = duration_of(todo, costs, jobs)
    if todo:
        estimate = "no estimate without earlier runs" if seconds is None else f"about {duration(seconds)}"
        unknown_part = f", and {unknown} runs without an estimate" if seconds is not None and unknown else ""
        processes = f"{jobs} process{'es' if jobs > 1 else ''}"
        console.print(f"to do: {len(todo)} runs, {estimate}{unknown_part}, on {processes}")


def _show_needs(console: Console, todo: Sequence[Run], costs: Costs, jobs: int) -> None:
    """Print how much memory and disk the unfinished runs will take."""
    if not todo:
        return
    peak = max((mib for run in todo if (mib := costs.memory(run)) is not None), default=None)
    memory = "no estimate without earlier runs"
    if peak is not None:
        together = f", {_size(jobs * peak * 2**20)} for {jobs} processes" if jobs > 1 else ""
        memory = f"{_size(peak * 2**20)}{together} (the peak of similar runs)"
    console.print(f"memory: {memory}")
    size, unknown = total([costs.disk(run, _trainable_of(run, costs)) for run in todo])
    without = f", and {unknown} runs without an estimate" if unknown else ""
    disk = f"about {_size(size)}{without}" if size is not None else "no estimate without earlier runs"
    console.print(f"disk: {disk}")


def _size(number: float) -> str:
    """Return bytes as "12 kB", "3.4 MB" or "1.2 GB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number / 1e3:.0f} kB"


def _launcher(hydra_words: Sequence[str], jobs: int, gpus: Sequence[str]) -> str:
    """Return the name of what will run the sweep."""
    named = [word.split("=", 1)[1] for word in hydra_words if word.startswith("hydra/launcher=")]
    if named:
        return named[-1]
    where = f", GPU {', '.join(gpus)}" if gpus else ""
    return f"none: {jobs} process{'es' if jobs > 1 else ''} on this machine{where}"


def _trainable(runs: Sequence[Run], costs: Costs) -> str:
    """Return the range of trainable parameters, from earlier records or the formula for T5."""
    sizes = [size for run in runs if (size := _trainable_of(run, costs)) is not None]
    return span_text(sizes) if sizes else "-"


def _trainable_of(run: Run, costs: Costs) -> int | None:
    return costs.trainable.get(run.cell_id) or _by_formula(run)


def _by_formula(run: Run) -> int | None:
    """Return the trainable parameters of a run on a T5 of known widths, else None."""
    size = run.labels["backbone"].rsplit("t5_", 1)[-1]
    if size not in T5 or any(word.startswith("backbone.") for word in run.words):
        return None
    tasks = run.resolved["regime"]["tasks"] or [run.labels["task"]]
    labels = run.resolved["task"].get("labels") or []
    return trained(run.resolved["prompt"], T5[size], len(tasks), len(labels))
