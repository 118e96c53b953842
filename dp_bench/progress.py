"""What a run shows while it works: a live line on a terminal, one plain line an evaluation elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dp_bench.terminal import make_console


class Reporter:
    """Print lines, and on a terminal keep a progress bar below them."""

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

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def line(self, text: str) -> None:
        self.console.print(text, markup=False)

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
