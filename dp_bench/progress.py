"""Progress of a run: a progress bar on a terminal, otherwise one line per evaluation.

A warning is printed once and kept for the run's record. Code without a reporter, such as a cache, calls
`notice`. The package does not use `logging`, which is silenced for the libraries that it calls.
"""

from __future__ import annotations

from contextvars import ContextVar, Token

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dp_bench import ranks
from dp_bench.terminal import make_console

_current: ContextVar[Reporter | None] = ContextVar("dp_bench_reporter", default=None)


def notice(text: str) -> None:
    """Warn through the reporter of the current run, which records it, or on stderr without one."""
    reporter = _current.get()
    if reporter is None:
        make_console(soft_wrap=True, stderr=True).print(f"warning: {text}")
    else:
        reporter.warn(text)


def line(text: str) -> None:
    """Print a line through the reporter of the current run, or on stderr without one."""
    reporter = _current.get()
    if reporter is None:
        make_console(soft_wrap=True, stderr=True).print(text, markup=False)
    else:
        reporter.line(text)


class Reporter:
    """Print lines, collect warnings, and show a progress bar on a terminal.

    A run has one reporter; while it is entered, `notice` warns through it.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or make_console(soft_wrap=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._previous: Token[Reporter | None] | None = None
        self.warnings: list[str] = []  # distinct, in order of their first occurrence
        self.was_skipped = False

    def __enter__(self) -> Reporter:
        self.warnings.clear()
        self._previous = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._previous is not None:
            _current.reset(self._previous)

    def line(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print and keep a warning, unless it is a repeat."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.line(f"  warning: {text}")

    def share_warnings(self) -> list[str]:
        """Return the distinct warnings of all ranks, after merging them on every rank."""
        for warnings in ranks.from_all(list(self.warnings)):
            for text in warnings:
                self.warn(text)
        return list(self.warnings)

    def skipped(self, text: str) -> None:
        """Print that a run was skipped: it is finished, or another process finished it."""
        self.was_skipped = True
        self.line(text)

    def begin(self, description: str, total: int, completed: int = 0) -> None:
        """Start a progress bar, replacing the previous one."""
        self.finish()
        self._bar.start()  # not before: while it runs, stderr is no terminal for the bars of a download
        self._task = self._bar.add_task(description, total=total, completed=completed, note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Advance the bar, if there is one, and set its note."""
        if self._task is not None:
            self._bar.update(self._task, advance=amount, note=note)

    def finish(self) -> None:
        """Remove the bar, if there is one."""
        if self._task is not None:
            self._bar.stop()
            self._bar.remove_task(self._task)
            self._task = None
