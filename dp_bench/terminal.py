"""The console that every command prints to, without markup."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def make_console(**options: Any) -> Console:
    """Return a console that prints brackets and colons as they are. Coloured text is a `rich.text.Text`."""
    return Console(**{"markup": False, "emoji": False, "highlight": False, **options})
