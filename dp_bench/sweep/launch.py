"""A sweep through a launcher of Hydra: joblib, or submitit on this machine or on Slurm.

A requeued job resumes from its checkpoint, because it is the same run. Jobs in Slurm's queue are followed by
squeue and by what they leave, not by submitit, which waits for ever where sacct has no accounting to ask.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from dp_bench import faults
from dp_bench.claims import BusyError
from dp_bench.config import jobs
from dp_bench.printing import say
from dp_bench.signals import Preempted
from dp_bench.sweep import slurm
from dp_bench.sweep.plan import Outcome, Plan, Run, State, failure, states
from dp_bench.sweep.watch import Watch
from dp_bench.types import UserError

REFUSED = "dp-bench refuses this run: "
POLL_SECONDS = 10.0
SILENCE_SECONDS = 60.0
KILL_SECONDS = 60.0  # Slurm's KillWait, between SIGTERM and SIGKILL, is 30 s, unless a cluster sets another


def job(cfg: Any) -> str | None:
    """Run one configuration in the process of a launcher; return why it was refused, or None.

    A signal that announces the end is raised again once the run has left its checkpoint, so that the launcher
    requeues the job. Where the launcher ignores it, as submitit does SIGTERM, the end is waited for without a
    claim, and the run goes on if there is none.

    Waits while another live process runs it. After a requeue that may be this job before it was requeued,
    whose claim is valid until it is stale.
    """
    from dp_bench.run import run

    while True:
        try:
            run(jobs.build_in_job(cfg))
        except BusyError:
            time.sleep(POLL_SECONDS)
            continue
        except Preempted as stop:
            signal.raise_signal(stop.number)
            time.sleep(KILL_SECONDS)
            continue
        except UserError as error:
            say(f"{REFUSED}{error}", file=sys.stderr)  # where Slurm's log of the job is read
            return str(error)
        except Exception as error:
            say(faults.of_machine(error) or traceback.format_exc(), file=sys.stderr)  # status.json has it too
        return None


def follow(plan: Plan, todo: Sequence[Run], watch: Watch) -> list[Outcome]:
    """Wait until no run of `todo` has a job in Slurm's queue; return how each ended."""
    left, outcomes = {run.run_id: run for run in todo}, list[Outcome]()
    gone: set[str] = set()  # at the last look: a job that is being requeued may leave the list for a moment
    with watch.live:
        while left:
            listed = slurm.jobs(plan.results_dir)
            if listed is None:
                watch.console.print("squeue does not answer; the jobs go on without it", markup=False)
                time.sleep(SILENCE_SECONDS)
                continue
            alive = {run_id: job for run_id, job in listed.items() if job.is_in_queue}
            state_of = states(plan.results_dir, left, alive)
            watch.jobs = max(1, sum(state is State.running for state in state_of.values()))
            for run_id, run in list(left.items()):
                state = state_of[run_id]
                if run_id in alive:
                    watch.in_queue(run, state, f"Slurm job {alive[run_id].job_id}")
                elif state is State.done or (run_id in gone and state is not State.running):
                    outcomes.append(_ended(plan, run_id, state, listed.get(run_id)))
                    watch.ended(outcomes[-1])
                    del left[run_id]
            gone = left.keys() - alive.keys()
            watch.tick()
            if left:
                time.sleep(POLL_SECONDS)
    return outcomes


def _ended(plan: Plan, run_id: str, state: State, job: slurm.Job | None) -> Outcome:
    if state is State.done:
        return Outcome(run_id, "done", "")
    if state is State.failed:
        return failure(plan.results_dir, run_id)
    if job is None:
        return Outcome(run_id, "failed", "its job has left Slurm's queue")
    last = slurm.last_words(plan.results_dir, job)
    if last.startswith(REFUSED):
        return Outcome(run_id, "refused", last.removeprefix(REFUSED))
    return Outcome(run_id, "failed", f"its job {job.job_id} ended as {job.state}: {last}")
