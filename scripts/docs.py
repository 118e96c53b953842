"""Write the pages of the documentation that follow from the code: docs/commands.md and docs/settings.md.

    python scripts/docs.py

A test checks that they are what this writes.
"""

from __future__ import annotations

import enum
import inspect
import io
import os
import re
import tokenize
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from dp_bench import cli, config, settings
from dp_bench.checks.ranges import RANGES
from dp_bench.methods.table import METHODS
from dp_bench.prompts import catalogue

ROOT = Path(__file__).parent.parent
GENERATED = "<!-- Written by scripts/docs.py from the code. Change that, and run it again. -->"
SUBCOMMANDS = {"data": ("data", "data check")}
OMITTED = "== The configuration"  # what `train --help` ends in: docs/settings.md has it


def commands_page() -> str:
    """Return the help of every command as one page."""
    intro = "Each command with its options, as `dp-bench COMMAND --help` prints them."
    sections = [f"# Commands\n\n{GENERATED}\n\n{intro}\n"]
    for command in cli.COMMANDS:
        for words in SUBCOMMANDS.get(command, (command,)):
            text = help_of(*words.split()).split(OMITTED)[0].strip()
            sections.append(f"## `dp-bench {words}`\n\n```text\n{text}\n```\n")
    sections.append("Every KEY of `train` and `sweep`, with its values: [settings](settings.md).\n")
    return "\n".join(sections)


def help_of(*words: str) -> str:
    """Return what `dp-bench WORDS --help` prints on a terminal of 100 columns."""
    text, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with redirect_stdout(text):
            cli.main([*words, "--help"])
    except SystemExit:
        pass
    finally:
        os.environ.pop("COLUMNS")
        os.environ |= {"COLUMNS": columns} if columns else {}
    return text.getvalue()


INTRO = """\
Every KEY of `dp-bench train KEY=VALUE …` and `dp-bench sweep`. A group, such as `trainer`, is chosen as a
whole (`trainer=micro`; `dp-bench list` prints the options) and changed by key (`trainer.max_steps=100`).
Defaults are those of `dp-bench train`: task `boolq`, backbone `t5_base`, prompt `dynamic`, data `superglue`,
trainer `default`. `dp-bench train KEY=VALUE … --cfg job` prints what a command comes to.
"""
PIECES = """\
## Pieces of a prompt

`prompt.position`, `prompt.length`, `prompt.vectors`, `prompt.layers` and `prompt.route` hold the settings of
the chosen piece: `prompt/vectors=pool prompt.vectors.num_prompts=8`. A setting that is not in the piece's
YAML is added with `+`.

| piece | decides | setting | values |
|---|---|---|---|"""


def settings_page() -> str:
    """Return every setting of a run with its values, its default and its meaning as one page."""
    defaults = config.compose([])
    kinds = dict(sections(settings.RunSettings))
    known = {f"{name}.{entry.name}" for name, kind in kinds.items() for entry in fields(kind)}
    lines = [f"# Settings\n\n{GENERATED}\n\n{INTRO}"]
    for name, kind in kinds.items():
        about = as_code(" ".join((kind.__doc__ or "").split()), known)
        lines += [f"## {name or 'A run'}\n", f"{about}\n", *table(name, kind, defaults, known)]
    lines.append(PIECES)
    for piece in catalogue.PIECES:
        for key, setting in piece.settings.items():
            values = as_code(setting.requirement.replace("={p}", ""), known)
            lines.append(f"| {piece.name} | {', '.join(piece.parts)} | `{key}` | {values} |")
    return "\n".join(lines) + "\n"


def sections(kind: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Yield the classes of settings with the key of each, from the outside in."""
    yield prefix, kind
    for key, hint in get_type_hints(kind).items():
        inner = next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)
        if inner is not None and inner is not kind:
            yield from sections(inner, f"{prefix}.{key}".strip("."))


def table(prefix: str, kind: type, defaults: Any, known: set[str]) -> list[str]:
    """Return the lines of a Markdown table of the settings of a class."""
    meanings, hints = comments(kind), get_type_hints(kind)
    ranges = {key: allowed.requirement for allowed, keys in RANGES.items() for key in keys}
    for method in METHODS:
        ranges |= {f"prompt.{key}": allowed.requirement for key, allowed in method.settings.items()}
    lines = ["| setting | values | default | meaning |", "|---|---|---|---|"]
    for entry in fields(kind):
        hint, key = hints[entry.name], f"{prefix}.{entry.name}".strip(".")
        if any(is_dataclass(each) for each in (hint, *get_args(hint))):
            continue
        values, meaning = values_of(hint, ranges.get(key)), as_code(meanings.get(entry.name, ""), known)
        lines.append(f"| `{key}` | {values} | {cell(at(defaults, key))} | {meaning} |")
    return [*lines, ""]


def at(values: Any, key: str) -> Any:
    """Return the value at a dotted key, None where there is none."""
    for word in key.split("."):
        values = None if values is None else values.get(word)
    return values


def cell(value: Any) -> str:
    """Return a default as it is typed."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return f"`{str(value).replace('None', 'null').lower()}`"
    if isinstance(value, int | float):
        return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
    if isinstance(value, str):
        return f"`{value}`" if value else '`""`'
    return "see its YAML" if len(value) else "none"


TYPES = {
    bool: "`true`; `false`",
    int: "integer",
    float: "number",
    str: "text",
    list: "list",
    dict: "mapping",
}


def values_of(hint: Any, requirement: str | None) -> str:
    """Return in words which values a type and a range allow."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = get_args(hint) if is_union else (hint,)
    optional = type(None) in kinds
    words = []
    for kind in kinds:
        if isinstance(kind, enum.EnumMeta):
            about = comments(kind)
            words += [f"`{each.value}` ({about.get(each.name, '')})".removesuffix(" ()") for each in kind]
        elif requirement is not None and kind in (int, float):
            words.append(requirement if kind is float else f"integer, {requirement}")
        elif kind is not type(None):
            words.append(TYPES.get(typing.get_origin(kind) or kind, "text or mapping"))
    text = "; ".join(words)
    return f"{text}; `null`" if optional and "null" not in text else text.replace("null", "`null`")


def comments(kind: type) -> dict[str, str]:
    """Return the comments of a class's fields: those above a field, and those at the end of its lines."""
    found: dict[str, str] = {}
    above: list[str] = []
    name, depth, is_line_open = "", 0, False
    for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc(inspect.getsource(kind))).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if is_line_open:
                found[name] = f"{found.get(name, '')} {text}".strip()
            else:
                above.append(text)
        elif token.type == tokenize.OP and token.string in "([":
            depth += 1
        elif token.type == tokenize.OP and token.string in ")]":
            depth -= 1
        elif token.type == tokenize.NAME and not is_line_open:
            name, is_line_open = token.string, True
            if above:
                found[name], above = " ".join(above), []
        elif token.type == tokenize.NEWLINE and depth == 0:
            is_line_open = False
        elif token.type == tokenize.NL and depth == 0 and not token.line.strip():
            above = []  # a comment on several fields
    return found


def as_code(text: str, known: set[str]) -> str:
    """Return a comment as a cell of a table: null as it is typed, known keys as code."""
    text = re.sub(r"(?<!`)\bNone\b(?!`)", "`null`", text).replace("|", "/")
    return re.sub(r"\b[a-z_]+(\.[a-z_]+)+\b", lambda m: f"`{m[0]}`" if m[0] in known else m[0], text)


PAGES: dict[str, Callable[[], str]] = {"commands.md": commands_page, "settings.md": settings_page}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
