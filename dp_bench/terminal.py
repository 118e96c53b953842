"""The console that every command prints to: text is shown as it is, whatever stands in it."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def make_console(**options: Any) -> Console:
    """Return a console that reads no markup and no emoji names: labels, paths and messages have brackets and
    colons of their own. What is to have a colour is a `rich.text.Text`."""
    return Console(**{"markup": False, "emoji": False, "highlight": False, **options})
