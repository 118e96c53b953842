"""What a run shows while it works: a live line on a terminal, one plain line an evaluation elsewhere.

A warning is printed once and kept for the run's record. Code that has no reporter at hand, such as a cache,
calls `notice`. Nothing in the package warns through `logging`, which the libraries around it are told to keep
quiet.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dp_bench import ranks

_in_charge: ContextVar[Reporter | None] = ContextVar("dp_bench_reporter", default=None)


def notice(text: str) -> None:
    """Warn of something that a reader of the result should know, through the reporter of the run under way;
    on stderr where there is none."""
    reporter = _in_charge.get()
    if reporter is None:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"warning: {text}", markup=False)
    else:
        reporter.warn(text)


class Reporter:
    """Print lines, keep warnings, and on a terminal show a progress bar below. A run has one reporter, which
    takes the run's notices while it is entered."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._before: Token[Reporter | None] | None = None
        self.warnings: list[str] = []  # each once, in the order of their first time

    def __enter__(self) -> Reporter:
        self.warnings.clear()
        self._before = _in_charge.set(self)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._before is not None:
            _in_charge.reset(self._before)

    def line(self, text: str) -> None:
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print a warning and keep it, unless it has been given before."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.line(f"  warning: {text}")

    def share_warnings(self) -> list[str]:
        """Return the warnings of all ranks, having told them to each: what one alone has seen is kept too."""
        for own in ranks.from_all(list(self.warnings)):
            for text in own:
                self.warn(text)
        return list(self.warnings)

    def skipped(self, text: str) -> None:
        """Say of a run that another one has made it."""
        self.line(text)

    def begin(self, description: str, total: int, completed: int = 0) -> None:
        """Start a bar in the place of the one before."""
        self.finish()
        self._task = self._bar.add_task(description, total=total, completed=completed, note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        if self._task is not None:
            self._bar.update(self._task, advance=amount, note=note)

    def finish(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
