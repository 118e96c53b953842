"""Texts that come from data and records, as they are printed and written: nothing in them acts."""

from __future__ import annotations

import sys
from typing import Any, TextIO

# Escape sequences set titles, write to the clipboard and overprint; direction marks reorder what is read.
_KEPT = "\t\n"
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
VISIBLE = {
    code: chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"
    for code in _CONTROLS
    if chr(code) not in _KEPT
}


def visible(text: str) -> str:
    """Return text with control characters, which a terminal would obey, as visible ones."""
    return text.translate(VISIBLE)


def say(text: str = "", *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print text that may come from data."""
    print(visible(text), end=end, file=file or sys.stdout)


def counted(number: int, thing: str) -> str:
    """Return a number and a noun in its form: "1 line", "2 lines"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def csv_cell(value: Any) -> Any:
    """Return a cell of a CSV file that no spreadsheet takes for a formula: an apostrophe precedes it."""
    if not isinstance(value, str) or not value.lstrip().startswith(("=", "+", "-", "@")):
        return visible(value) if isinstance(value, str) else value
    try:
        float(value)
    except ValueError:
        return value if value == "-" else f"'{visible(value)}"
    return value
