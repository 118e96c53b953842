"""The console that every command prints to, without markup and without control characters of a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment

from dp_bench.printing import visible

WIDEST = 10_000  # columns of a table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `cli.main`, for which a reader that has seen enough is no failure."""
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            is_text = not segment.control
            yield Segment(visible(segment.text), segment.style) if is_text else segment


def make_console(**options: Any) -> Console:
    """Return a console that prints brackets and colons as they are. Coloured text is a `rich.text.Text`."""
    return _Console(**{"markup": False, "emoji": False, "highlight": False, **options})


def print_whole(console: Console, table: RenderableType) -> None:
    """Print a table as wide as it is: a narrow terminal wraps its lines, and a file has all of them."""
    usual = console.width
    console.width = WIDEST
    try:
        console.width = max(usual, Measurement.get(console, console.options, table).maximum)
        console.print(table, crop=False)
    finally:
        console.width = usual
