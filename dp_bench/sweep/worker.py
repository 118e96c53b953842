"""A worker of a sweep: a process that runs one run after another and imports torch once.

It reads one JSON object a line from stdin (`words`, `extra_dir`, `log`) and answers on stdout with `progress`
and, at the end of each run, `outcome` and `message`. The output of a run goes to its log. When stdin ends
during a run, the sweep has ended, and the worker stops after the current update, which it saves.
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
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from dp_bench import faults
from dp_bench.progress import Reporter
from dp_bench.records import make_folder
from dp_bench.terminal import make_console
from dp_bench.types import UserError

PROGRESS_SECONDS = 0.5


def send(answers: TextIO, **content: Any) -> None:
    """Write one answer to the sweep, if it has not ended: then stdin ends as well."""
    with suppress(BrokenPipeError):
        answers.write(json.dumps(content) + "\n")
        answers.flush()


class SweepReporter(Reporter):
    """A reporter that sends the progress of a run to the sweep and prints its lines to the log."""

    def __init__(self, answers: TextIO) -> None:
        super().__init__(make_console(soft_wrap=True, force_terminal=False))
        self._answers, self._sent = answers, 0.0

    def advance(self, amount: int = 1, note: str = "") -> None:
        super().advance(amount, note)
        if time.monotonic() - self._sent > PROGRESS_SECONDS:
            self._sent = time.monotonic()
            for task in self._bar.tasks:
                send(self._answers, progress=f"{task.description} {task.completed:.0f}/{task.total:.0f}")


def main() -> None:
    """Run jobs until stdin ends."""
    # A sweep in the background ignores SIGINT; its workers must not. A run handles SIGTERM (signals.py).
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    from dp_bench.machine import release_memory

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    try:
        while (job := jobs.get()) is not None:
            outcome = _work(job, answers)
            release_memory()
            send(answers, **outcome)
    except KeyboardInterrupt as stop:
        # A library's thread must not keep a stopped worker.
        os._exit(128 + getattr(stop, "number", signal.SIGINT))


def _read(jobs: queue.Queue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    jobs.put(None)
    _thread.interrupt_main(signal.SIGTERM)


def _work(job: dict[str, Any], answers: TextIO) -> dict[str, str]:
    """Run one job and return how it ended; its log is kept where it failed."""
    from dp_bench import config
    from dp_bench.claims import BusyError
    from dp_bench.run import run

    log = Path(job["log"])
    sys.argv = ["dp-bench train", *job["words"]]  # the record's `command`
    reporter = SweepReporter(answers)
    try:
        _print_to(log)
        extra_dir = Path(job["extra_dir"]) if job["extra_dir"] else None
        record = run(config.experiment(job["words"], extra_dir), reporter)
        log.unlink(missing_ok=True)
    except BusyError as error:
        return {"outcome": "busy", "message": str(error)}
    except UserError as error:
        return {"outcome": "refused", "message": str(error)}
    except Exception as error:
        with suppress(OSError):  # the disk is full
            traceback.print_exc()
        fault = faults.of_machine(error) or f"{type(error).__name__}: {error}".splitlines()[0]
        return {"outcome": "failed", "message": fault}
    return {"outcome": "elsewhere" if reporter.was_skipped else "done", "message": record.run_id}


def _print_to(log: Path) -> None:
    """Send what this process prints from now on to a new file."""
    make_folder(log.parent)
    with log.open("w", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the former log is on a full disk
                stream.flush()
            os.dup2(file.fileno(), stream.fileno())


if __name__ == "__main__":
    main()
