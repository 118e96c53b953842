"""The runs of sweeps in Slurm's queue, submitted by submitit's launcher and followed by squeue.

A submission has a name of its own, which its jobs keep when they are requeued, and a file
`sweeps/slurm/NAME.json` with its runs in the order of the array. Accounting (sacct) is not needed.
"""

from __future__ import annotations

import io
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dp_bench import reading, records
from dp_bench.progress import notice
from dp_bench.types import UserError

PROGRAMS = ("sbatch", "srun", "squeue", "scontrol")
LARGEST_ARRAY = 1000  # Slurm's MaxArraySize is 1001, unless a cluster sets another
PATIENCE_SECONDS = 60.0  # for a busy controller to answer
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED"}


@dataclass(frozen=True)
class Job:
    """A job as squeue lists it: its id, its state (PENDING, RUNNING, …) and why it waits."""

    job_id: str
    state: str
    reason: str

    @property
    def is_in_queue(self) -> bool:
        return self.state not in ENDED

    @property
    def text(self) -> str:
        reason = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"{self.state.lower()}{reason}"


def check_programs() -> None:
    """Raise UserError where a program of Slurm is missing."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise UserError(
            f"There is no Slurm here ({', '.join(missing)} not found): use a cluster's login node, or run "
            "on this machine with --jobs N or --gpus all."
        )


def submit(launcher: Any, runs: Mapping[str, Sequence[str]], results_dir: Path) -> list[str]:
    """Submit runs, ids with their overrides, as arrays of jobs, and return the names of the submissions.

    Raises UserError with what sbatch says where Slurm refuses them.
    """
    from submitit.core.utils import FailedJobError
    from submitit.slurm.slurm import SlurmJob

    ids, names = list(runs), []
    if cpus := launcher.params.get("cpus_per_task"):  # srun reads no other since Slurm 22.05
        launcher.params["setup"] = [f"export SRUN_CPUS_PER_TASK={cpus}"]
    launcher.params["additional_parameters"] = {"requeue": True}  # also where the cluster's default is not to
    for first in range(0, len(ids), LARGEST_ARRAY):
        part = ids[first : first + LARGEST_ARRAY]
        names.append(f"dp-bench-{secrets.token_hex(4)}")
        launcher.params["name"] = names[-1]
        note = _folder(results_dir) / f"{names[-1]}.json"
        records.write_json(note, {"runs": part})
        # The launcher asks each job for its results, and would wait for them.
        with patch.object(SlurmJob, "results", lambda job: [job]), redirect_stderr(io.StringIO()):
            try:
                launcher.launch([list(runs[run_id]) for run_id in part], initial_job_idx=first)
            except FailedJobError as error:
                note.unlink()
                raise UserError(
                    f"Slurm refuses the jobs: {' '.join(str(error).split())}. hydra.launcher.KEY=VALUE says "
                    "what they ask for: partition, account, gpus_per_node (null: none), mem_gb, timeout_min."
                ) from None
    return names


def jobs(results_dir: Path) -> dict[str, Job] | None:
    """Return the last job of each run that Slurm knows of, by run id; None where squeue does not answer."""
    runs_of = {path.stem: _runs(path) for path in sorted(_folder(results_dir).glob("dp-bench-*.json"))}
    if not runs_of or shutil.which("squeue") is None:
        return {}
    columns = "%i|%K|%T|%r|%j"
    command = ["squeue", "--me", "--array", "--states=all", "--noheader", "--sort=i", f"--format={columns}"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    found: dict[str, Job] = {}
    for line in listed.stdout.splitlines():
        job_id, index, state, reason, name = [*line.split("|", 4), *[""] * 4][:5]
        place, job = int(index) if index.isdigit() else 0, Job(job_id, state, reason)
        if place < len(runs_of.get(name, ())):
            run_id = runs_of[name][place]
            if job.is_in_queue or run_id not in found or not found[run_id].is_in_queue:
                found[run_id] = job
    return found


def in_queue(results_dir: Path) -> dict[str, Job]:
    """Return the jobs that have not ended, by run id."""
    return {run_id: job for run_id, job in (jobs(results_dir) or {}).items() if job.is_in_queue}


def last_words(results_dir: Path, job: Job) -> str:
    """Return the last line of a job's log, where Slurm says why it has ended it."""
    path = results_dir / "multirun" / ".submitit" / job.job_id / f"{job.job_id}_0_log.err"
    try:
        lines = path.read_text("utf-8", errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), f"no log in {path.parent}")


def _folder(results_dir: Path) -> Path:
    return results_dir / "sweeps" / "slurm"


def _runs(path: Path) -> list[str]:
    try:
        content = reading.json_object(path, "Move it away: its jobs are no longer followed.")
    except UserError as error:
        notice(str(error))
        return []
    runs = content.get("runs")
    return list(map(str, runs)) if isinstance(runs, list) else []
