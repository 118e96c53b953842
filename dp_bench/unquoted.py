"""Words that are none to YAML: `words: [yes, no]` are two booleans, of which composing makes text."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from dp_bench.settings import RunSettings, TaskSettings

BY_TASK = "regime.task_settings"  # a mapping from tasks to their settings


def problems(key: str, value: Any, where: str | None) -> Iterator[str]:
    """Yield a sentence for each entry of a list of words that was not typed as one.

    `key` is the dotted key of `value`, which may be a mapping of further ones; `where` names the file, if it
    stands in one.
    """
    if key.startswith(BY_TASK) and isinstance(value, Mapping):
        for task, own in value.items():
            yield from _walk(TaskSettings, f"{key}.{task}.", own, where)
        return
    kind: Any = RunSettings
    for name in key.strip(".").split(".") if key.strip(".") else ():
        kind = _hints(kind).get(name) if isinstance(kind, type) and is_dataclass(kind) else None
    if is_dataclass(kind):
        yield from _walk(kind, f"{key.strip('.')}." if key.strip(".") else "", value, where)
    elif _is_words(kind):
        yield from _in_list(key, value, where)


def _walk(kind: Any, prefix: str, value: Any, where: str | None) -> Iterator[str]:
    for name, own in value.items() if isinstance(value, Mapping) else ():
        hint = _hints(kind).get(str(name))
        if is_dataclass(hint):
            yield from _walk(hint, f"{prefix}{name}.", own, where)
        elif _is_words(hint):
            yield from _in_list(f"{prefix}{name}", own, where)
        elif f"{prefix}{name}" == BY_TASK:
            yield from problems(BY_TASK, own, where)


def _in_list(key: str, value: Any, where: str | None) -> Iterator[str]:
    entries = value if isinstance(value, list | tuple) else []
    wrong = next(
        (entry for entry in entries if not isinstance(entry, str) and not hasattr(entry, "quote")), ""
    )
    if wrong == "" and entries.count("") == 0:
        return
    if wrong == "":
        return  # an empty word is answered with the others
    kinds = {bool: "a boolean", int: "a number", float: "a number", type(None): "nothing at all"}
    quoted = ", ".join(f'"{str(own).lower() if isinstance(own, bool) else own}"' for own in entries)
    there = f" in {where}" if where else ""
    how = f"{key.rpartition('.')[2]}: [{quoted}]" if where else f"'{key}=[{quoted}]'"
    yield (
        f"{key}{there} has {_shown(wrong)}, which is {kinds.get(type(wrong), 'no word')} to YAML and not a "
        f"word: quote the words as you mean them, as in {how}."
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true (or yes, or on)" if value else "false (or no, or off)"
    return "null" if value is None else str(value)


def _is_words(hint: Any) -> bool:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return any(get_origin(option) is list and get_args(option) == (str,) for option in options)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    found = {}
    for name, hint in get_type_hints(kind).items():
        options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        found[name] = next((option for option in options if is_dataclass(option)), hint)
    return found
