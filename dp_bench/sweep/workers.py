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
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dp_bench.claims import holder
from dp_bench.records import is_finished
from dp_bench.sweep.plan import Run

POLL_SECONDS = 1.0
STOP_SECONDS = 20.0  # for a worker to stop


@dataclass(frozen=True)
class Outcome:
    """How a run ended: done, failed, refused (wrong input), or elsewhere (another sweep has done it)."""

    run: Run
    kind: str
    message: str
    seconds: float


class Watcher(Protocol):
    """An observer of a sweep: `waiting` gets runs of another sweep, `tick` is called about once a second."""

    def begun(self, run: Run) -> None: ...
    def progress(self, run: Run, text: str) -> None: ...
    def ended(self, outcome: Outcome) -> None: ...
    def waiting(self, runs: Sequence[Run]) -> None: ...
    def tick(self) -> None: ...


class Workers:
    """Up to `jobs` processes, which live until the end of the `with`."""

    def __init__(
        self, jobs: int, results_dir: Path, gpus: Sequence[str] = (), extra_dir: Path | None = None
    ) -> None:
        self.jobs, self.results_dir, self.gpus, self.extra_dir = jobs, results_dir, gpus, extra_dir
        self._events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the workers to end; after an error interrupt them, which leaves checkpoints."""
        for worker in self._workers:
            worker.stop(at_once=kind is not None)
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            worker.wait(deadline)

    def run(self, runs: Sequence[Run], watcher: Watcher) -> list[Outcome]:
        """Start the runs in their order, each once; return how each ended."""
        pending, elsewhere, outcomes = deque(runs), list[Run](), list[Outcome]()
        while pending or elsewhere or any(worker.run for worker in self._workers):
            for worker in self._idle(len(pending)):
                self._hand_out(worker, pending, elsewhere, watcher)
            if elsewhere and not pending:
                watcher.waiting(elsewhere)
                for run in list(elsewhere):
                    if is_finished(self.results_dir / "runs" / run.run_id):
                        outcomes.append(Outcome(run, "elsewhere", "done by another sweep", 0.0))
                        watcher.ended(outcomes[-1])
                        elsewhere.remove(run)
                    elif holder(self.results_dir, run.run_id) is None:
                        pending.append(run)
                        elsewhere.remove(run)
            outcome = self._next_outcome(elsewhere, watcher)
            if outcome is not None:
                outcomes.append(outcome)
                watcher.ended(outcome)
            watcher.tick()
        return outcomes

    def _idle(self, wanted: int) -> list[_Worker]:
        """Return at most `wanted` idle workers, starting new ones up to `jobs`."""
        idle = [worker for worker in self._workers if worker.run is None]
        while len(idle) < wanted and len(self._workers) < self.jobs:
            taken = {worker.index for worker in self._workers}
            index = next(index for index in range(self.jobs) if index not in taken)
            worker = _Worker(index, self._environment(index), self._events)
            self._workers.append(worker)
            idle.append(worker)
        return idle[:wanted]

    def _environment(self, index: int) -> dict[str, str]:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = {"OMP_NUM_THREADS": str(max(1, cores // self.jobs))}
        visible = {"CUDA_VISIBLE_DEVICES": self.gpus[index % len(self.gpus)]} if self.gpus else {}
        return {**threads, **os.environ, **visible}

    def _hand_out(self, worker: _Worker, pending: deque[Run], elsewhere: list[Run], watcher: Watcher) -> None:
        while pending:
            run = pending.popleft()
            if holder(self.results_dir, run.run_id) is not None:
                elsewhere.append(run)
                continue
            log = self.results_dir / "logs" / f"{run.run_id}.log"
            extra_dir = str(self.extra_dir) if self.extra_dir else None
            worker.start(run, {"words": run.words, "log": str(log), "extra_dir": extra_dir})
            watcher.begun(run)
            return

    def _next_outcome(self, elsewhere: list[Run], watcher: Watcher) -> Outcome | None:
        """Wait at most POLL_SECONDS for an answer of a worker; return how its run ended, if it did."""
        try:
            worker, event = self._events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return None
        run = worker.run
        if event is None:  # it has died
            self._workers.remove(worker)
            worker.wait(time.monotonic() + STOP_SECONDS)
            return None if run is None else Outcome(run, "failed", worker.cause_of_death(), worker.seconds)
        assert run is not None, "only a worker with a run answers"
        if "progress" in event:
            watcher.progress(run, event["progress"])
            return None
        worker.run = None
        if event["outcome"] == "busy":
            elsewhere.append(run)
            return None
        return Outcome(run, event["outcome"], event["message"], worker.seconds)


class _Worker:
    """One process, and its current run."""

    def __init__(
        self,
        index: int,
        environment: dict[str, str],
        events: queue.Queue[tuple[_Worker, dict[str, Any] | None]],
    ) -> None:
        self.index = index
        self.run: Run | None = None
        self._began = 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dp_bench.sweep.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the sweep only, which stops its workers
        )
        self._listener = threading.Thread(target=self._listen, args=(events,), daemon=True)
        self._listener.start()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def start(self, run: Run, job: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self.run, self._began = run, time.monotonic()
        with suppress(BrokenPipeError):  # it has died, which _listen reports
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()

    def _listen(self, events: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            events.put((self, json.loads(line)))
        events.put((self, None))

    def cause_of_death(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"its process ended with code {code}"
        hint = ": out of memory, or stopped by someone" if -code == signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-code).name}{hint}"

    def stop(self, *, at_once: bool) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has died
            if at_once:
                self._process.send_signal(signal.SIGINT)
            self._process.stdin.close()

    def wait(self, deadline: float) -> None:
        """Wait for the process to end, kill it at the deadline, and close its pipes."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        with suppress(OSError):  # it died with a job half written
            self._process.stdin.close()
        self._process.stdout.close()
