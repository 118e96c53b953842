"""A worker of a sweep: a process that runs what it is told, one run after another, importing torch once.

It reads one JSON object a line on stdin (`words`, `extra_dir`, `log`) and answers on stdout with `progress`
and, at the end of each run, `outcome` and `message`. What the runs themselves print goes to their log. When
stdin ends while it is at work, the sweep is gone, and it stops as if it had been interrupted.
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
from pathlib import Path
from typing import Any, TextIO

from dp_bench.progress import Reporter
from dp_bench.terminal import make_console
from dp_bench.types import UserError

PROGRESS_SECONDS = 0.5


class Answers:
    """What is said to the sweep: one JSON object a line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def say(self, **content: Any) -> None:
        try:
            self._file.write(json.dumps(content) + "\n")
            self._file.flush()
        except BrokenPipeError:  # the sweep is gone
            raise KeyboardInterrupt from None


class Told(Reporter):
    """A reporter that tells the sweep how far the run is, and keeps its lines in the log."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(make_console(soft_wrap=True, force_terminal=False))
        self._answers = answers
        self._what, self._completed, self._total, self._told = "", 0, 0, 0.0
        self.was_skipped = False

    def skipped(self, text: str) -> None:
        super().skipped(text)
        self.was_skipped = True

    def begin(self, description: str, total: int, completed: int = 0) -> None:
        super().begin(description, total, completed)
        self._what, self._completed, self._total = description, completed, total

    def advance(self, amount: int = 1, note: str = "") -> None:
        super().advance(amount, note)
        self._completed += amount
        if time.monotonic() - self._told > PROGRESS_SECONDS:
            self._told = time.monotonic()
            self._answers.say(progress=f"{self._what} {self._completed}/{self._total}")


def main() -> None:
    """Work until stdin ends."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a sweep in the background ignores it: we must not
    answers = Answers(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    try:
        while (job := jobs.get()) is not None:
            answers.say(**_work(job, answers))
    except KeyboardInterrupt:
        os._exit(130)  # a library's thread must not keep a stopped worker


def _read(jobs: queue.Queue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    jobs.put(None)
    _thread.interrupt_main()


def _work(job: dict[str, Any], answers: Answers) -> dict[str, str]:
    """Run one job and return how it ended; its log stays where it did not end well."""
    from dp_bench import config
    from dp_bench.claims import BusyError
    from dp_bench.run import run

    log = Path(job["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["dp-bench train", *job["words"]]  # what the record says was typed
    extra_dir = Path(job["extra_dir"]) if job["extra_dir"] else None
    reporter = Told(answers)
    try:
        record = run(config.experiment(job["words"], extra_dir), reporter)
    except BusyError as error:
        return {"outcome": "busy", "message": str(error)}
    except UserError as error:
        return {"outcome": "refused", "message": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"outcome": "failed", "message": f"{type(error).__name__}: {error}".splitlines()[0]}
    log.unlink(missing_ok=True)
    return {"outcome": "elsewhere" if reporter.was_skipped else "done", "message": record.run_id}


if __name__ == "__main__":
    main()
