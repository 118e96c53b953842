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

from dp_bench import signals
from dp_bench.claims import holder
from dp_bench.sweep.plan import Outcome, Run
from dp_bench.sweep.watch import Watch

POLL_SECONDS = 1.0
STOP_SECONDS = 20.0  # for a worker to stop
Events = queue.Queue["tuple[_Worker, dict[str, Any] | None]"]  # answers of workers; None: it has died


class Workers:
    """Up to `jobs` processes, which live until the end of the `with`."""

    def __init__(
        self, jobs: int, results_dir: Path, gpus: Sequence[str] = (), extra_dir: Path | None = None
    ) -> None:
        self.jobs, self.results_dir, self.gpus, self.extra_dir = jobs, results_dir, gpus, extra_dir
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
                room = self.jobs - self._num_busy
                unclaimed = (run for run in pending if holder(self.results_dir, run.run_id) is None)
                free = list(islice(unclaimed, max(1, room)))  # without room, to know whether all are claimed
                if pending and not free:
                    watch.waiting(pending)
                for run in free[:room]:
                    pending.remove(run)
                    self._start(run)
                    watch.begun(run)
                outcome = self._next_outcome(pending, watch)
                if outcome is not None:
                    outcomes.append(outcome)
                    watch.ended(outcome)
                watch.tick()
        return outcomes

    @property
    def _num_busy(self) -> int:
        return sum(worker.run is not None for worker in self._workers)

    def _start(self, run: Run) -> None:
        """Give a run to an idle worker, a new one if there is none."""
        worker = next((worker for worker in self._workers if worker.run is None), None)
        if worker is None:
            index = min(set(range(self.jobs)) - {worker.index for worker in self._workers})
            worker = _Worker(index, self._environment(index), self._events)
            self._workers.append(worker)
        log = self.results_dir / "logs" / f"{run.run_id}.log"
        worker.start(run, {"words": run.words, "log": log, "extra_dir": self.extra_dir})

    def _environment(self, index: int) -> dict[str, str]:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = {"OMP_NUM_THREADS": str(max(1, cores // self.jobs))}
        visible = {"CUDA_VISIBLE_DEVICES": self.gpus[index % len(self.gpus)]} if self.gpus else {}
        return {**threads, **os.environ, **visible}

    def _next_outcome(self, pending: list[Run], watch: Watch) -> Outcome | None:
        """Wait at most POLL_SECONDS for an answer of a worker; return how its run ended, if it did.

        A run that another sweep began just now is pending again.
        """
        try:
            worker, event = self._events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return None
        run = worker.run
        if event is None:  # it has died
            self._workers.remove(worker)
            worker.wait(time.monotonic() + STOP_SECONDS)
            return None if run is None else Outcome(run.run_id, "failed", worker.cause_of_death())
        assert run is not None, "only a worker with a run answers"
        if "progress" in event:
            watch.progress(run, event["progress"])
            return None
        worker.run = None
        if event["outcome"] == "busy":
            pending.append(run)
            return None
        return Outcome(run.run_id, event["outcome"], event["message"])


class _Worker:
    """One process, and its current run."""

    def __init__(self, index: int, environment: dict[str, str], events: Events) -> None:
        self.index = index
        self.run: Run | None = None
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

    def start(self, run: Run, job: Mapping[str, Any]) -> None:
        self.run = run
        with suppress(BrokenPipeError):  # it has died, which _listen reports
            self._stdin.write(json.dumps(job, default=str) + "\n")
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
