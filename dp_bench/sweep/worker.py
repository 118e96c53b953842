"""A worker of a sweep: a process that runs one run after another and imports torch once.

It reads a JSON list a line from stdin, of the runs to begin (`run_id`, `words`, `extra_dir`, `log`): one, or
several to train in lockstep. It answers on stdout with `progress` and, when they have ended, with `outcome`
and `message` of each. The output of a run goes to its log. When
stdin ends during a run, the sweep has ended, and the worker stops after the current update, which it saves.
"""

from __future__ import annotations

import _thread
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from dp_bench import faults
from dp_bench.progress import Reporter
from dp_bench.records import make_folder
from dp_bench.terminal import make_console
from dp_bench.types import UserError

PROGRESS_SECONDS = 0.5
Job = dict[str, Any]


def send(answers: TextIO, **content: Any) -> None:
    """Write one answer to the sweep, if it has not ended: then stdin ends as well."""
    with suppress(BrokenPipeError):
        answers.write(json.dumps(content) + "\n")
        answers.flush()


class SweepReporter(Reporter):
    """A reporter that sends the progress of a run to the sweep and prints its lines to the log."""

    def __init__(self, answers: TextIO, run_id: str) -> None:
        super().__init__(make_console(soft_wrap=True, force_terminal=False))
        self._answers, self._run_id, self._sent = answers, run_id, 0.0

    def advance(self, amount: int = 1, note: str = "") -> None:
        super().advance(amount, note)
        if time.monotonic() - self._sent > PROGRESS_SECONDS:
            self._sent = time.monotonic()
            for task in self._bar.tasks:
                progress = f"{task.description} {task.completed:.0f}/{task.total:.0f}"
                send(self._answers, run_id=self._run_id, progress=progress)


def main() -> None:
    """Run jobs until stdin ends."""
    # A sweep in the background ignores SIGINT; its workers must not. A run handles SIGTERM (signals.py).
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    from dp_bench.machine import release_memory

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    jobs: queue.Queue[list[Job] | None] = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    try:
        while (together := jobs.get()) is not None:
            ends = _work(together, answers)
            release_memory()
            for end in ends:
                send(answers, **end)
    except KeyboardInterrupt as stop:
        # A library's thread must not keep a stopped worker.
        os._exit(128 + getattr(stop, "number", signal.SIGINT))


def _read(jobs: queue.Queue[list[Job] | None]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    jobs.put(None)
    _thread.interrupt_main(signal.SIGTERM)


def _work(jobs: Sequence[Job], answers: TextIO) -> list[dict[str, str]]:
    """Run one job, or several in lockstep; return how each ended. The log of a failed one is kept."""
    from dp_bench import lockstep

    if len(jobs) == 1:
        return [_end_of(jobs[0], answers, is_alone=True)]
    log = Path(jobs[0]["log"]).with_suffix(".together.log")  # what libraries print
    with suppress(OSError):  # the disk is full, which each run says
        _print_to(log)
    ends = lockstep.together([partial(_end_of, job, answers, is_alone=False) for job in jobs])
    answered = []
    for end in ends:
        if isinstance(end, BaseException):  # KeyboardInterrupt and its kin; `_end_of` returns the others
            raise end
        answered.append(end)
    if all(end["outcome"] != "failed" for end in answered):
        log.unlink(missing_ok=True)
    return answered


def _end_of(job: Job, answers: TextIO, *, is_alone: bool) -> dict[str, str]:
    """Run one job and return how it ended; its log is kept where it failed."""
    from dp_bench import config, records
    from dp_bench.claims import BusyError
    from dp_bench.run import run

    log = Path(job["log"])
    records.typed(job["words"])
    reporter = SweepReporter(answers, job["run_id"])
    try:
        if is_alone:
            _print_to(log)
        else:
            reporter.console.file = _new(log)
        extra_dir = Path(job["extra_dir"]) if job["extra_dir"] else None
        record = run(config.experiment(job["words"], extra_dir), reporter)
        log.unlink(missing_ok=True)
    except BusyError as error:
        outcome, message = "busy", str(error)
    except UserError as error:
        outcome, message = "refused", str(error)
    except Exception as error:
        with suppress(OSError):  # the disk is full
            traceback.print_exc(file=None if is_alone else reporter.console.file)
        outcome = "failed"
        message = faults.of_machine(error) or f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        outcome, message = "elsewhere" if reporter.was_skipped else "done", record.run_id
    return {"run_id": job["run_id"], "outcome": outcome, "message": message}


def _new(path: Path) -> TextIO:
    """Open the log of a run, a new file."""
    make_folder(path.parent)
    return path.open("w", encoding="utf-8", buffering=1)


def _print_to(log: Path) -> None:
    """Send what this process prints from now on to a new file."""
    with _new(log) as file:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the former log is on a full disk
                stream.flush()
            os.dup2(file.fileno(), stream.fileno())


if __name__ == "__main__":
    main()
