"""The console that every command prints to, without markup and without control characters of a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from dp_bench.printing import visible


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
