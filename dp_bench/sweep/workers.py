"""Run a sweep in worker processes of this machine: several runs at once, each on its GPU.

A failed run does not stop the others, and a worker that dies is replaced. Runs that another sweep is running
are left to it and checked again.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from dp_bench import lockstep, signals
from dp_bench.claims import holder
from dp_bench.sweep.plan import Outcome, Run
from dp_bench.sweep.watch import Watch

POLL_SECONDS = 1.0
STOP_SECONDS = 20.0  # for a worker to stop
Events = queue.Queue["tuple[_Worker, dict[str, Any] | None]"]  # answers of workers; None: it has died


class Workers:
    """Up to `jobs` processes, which live until the end of the `with`.

    Each has one run at a time, or up to `pack` that are trained in lockstep (lockstep.py).
    """

    def __init__(
        self,
        jobs: int,
        results_dir: Path,
        gpus: Sequence[str] = (),
        extra_dir: Path | None = None,
        pack: int = 1,
    ) -> None:
        self.jobs, self.results_dir, self.gpus, self.extra_dir = jobs, results_dir, gpus, extra_dir
        self.pack = pack
        self._events: Events = queue.Queue()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        # What `timeout`, Slurm and a closed terminal send stops a sweep like Ctrl-C.
        self._watch = signals.watched()
        self._watch.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        """Wait for the workers to end; after an error stop them, which leaves checkpoints."""
        for worker in self._workers:
            worker.stop(at_once=kind is not None)
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            worker.wait(deadline)
        self._watch.__exit__(kind, *rest)

    def run(self, runs: Sequence[Run], watch: Watch) -> list[Outcome]:
        """Start the runs in their order, each once; return how each ended."""
        pending, outcomes = list(runs), list[Outcome]()
        with watch.live:
            while pending or self._num_busy:
                while self._num_busy < self.jobs and (runs := self._next_runs(pending)):
                    for run in runs:
                        pending.remove(run)
                    self._start(runs)
                    for run in runs:
                        watch.begun(run)
                if pending and self._num_busy < self.jobs:  # others have claimed them all
                    watch.waiting(pending)
                for outcome in self._next_outcomes(pending, watch):
                    outcomes.append(outcome)
                    watch.ended(outcome)
                watch.tick()
        return outcomes

    @property
    def _num_busy(self) -> int:
        return sum(bool(worker.runs) for worker in self._workers)

    def _next_runs(self, pending: Sequence[Run]) -> list[Run]:
        """Return the next run that nobody has claimed, with those that can be trained with it."""
        unclaimed = (run for run in pending if holder(self.results_dir, run.run_id) is None)
        first = next(unclaimed, None)
        if first is None:
            return []
        others = (run for run in unclaimed if lockstep.can_join(first.resolved, run.resolved))
        return [first, *(islice(others, self.pack - 1) if self.pack > 1 else ())]

    def _start(self, runs: Sequence[Run]) -> None:
        """Give runs to an idle worker, a new one if there is none."""
        worker = next((worker for worker in self._workers if not worker.runs), None)
        if worker is None:
            index = min(set(range(self.jobs)) - {worker.index for worker in self._workers})
            worker = _Worker(index, self._environment(index), self._events)
            self._workers.append(worker)
        logs = self.results_dir / "logs"
        worker.start(
            runs,
            [
                {
                    "run_id": run.run_id,
                    "words": run.words,
                    "log": logs / f"{run.run_id}.log",
                    "extra_dir": self.extra_dir,
                }
                for run in runs
            ],
        )

    def _environment(self, index: int) -> dict[str, str]:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = {"OMP_NUM_THREADS": str(max(1, cores // self.jobs))}
        visible = {"CUDA_VISIBLE_DEVICES": self.gpus[index % len(self.gpus)]} if self.gpus else {}
        return {**threads, **os.environ, **visible}

    def _next_outcomes(self, pending: list[Run], watch: Watch) -> list[Outcome]:
        """Wait at most POLL_SECONDS for an answer of a worker; return how a run of it ended, if one did.

        A run that another sweep began just now is pending again.
        """
        try:
            worker, event = self._events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return []
        if event is None:  # it has died
            self._workers.remove(worker)
            worker.wait(time.monotonic() + STOP_SECONDS)
            return [Outcome(run_id, "failed", worker.cause_of_death()) for run_id in worker.runs]
        run = worker.runs[event["run_id"]]
        if "progress" in event:
            watch.progress(run, event["progress"])
            return []
        del worker.runs[run.run_id]
        if event["outcome"] == "busy":
            pending.append(run)
            return []
        return [Outcome(run.run_id, event["outcome"], event["message"])]


class _Worker:
    """One process, and its current runs by their ids."""

    def __init__(self, index: int, environment: dict[str, str], events: Events) -> None:
        self.index = index
        self.runs: dict[str, Run] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dp_bench.sweep.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the sweep only, which stops its workers
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._listener = threading.Thread(target=self._listen, args=(events,), daemon=True)
        self._listener.start()

    def start(self, runs: Sequence[Run], jobs: Sequence[Mapping[str, Any]]) -> None:
        self.runs = {run.run_id: run for run in runs}
        with suppress(BrokenPipeError):  # it has died, which _listen reports
            self._stdin.write(json.dumps(jobs, default=str) + "\n")
            self._stdin.flush()

    def _listen(self, events: Events) -> None:
        for line in self._stdout:
            events.put((self, json.loads(line)))
        events.put((self, None))

    def cause_of_death(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"its process ended with code {code}"
        hint = ": out of memory, or stopped by someone" if -code == signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-code).name}{hint}"

    def stop(self, *, at_once: bool) -> None:
        with suppress(OSError):  # it has died
            if at_once:
                self._process.send_signal(signal.SIGTERM)
            self._stdin.close()

    def wait(self, deadline: float) -> None:
        """Wait for the process to end, kill it at the deadline, and close its pipes."""
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        with suppress(OSError):  # it died with a job half written
            self._stdin.close()
        self._stdout.close()
