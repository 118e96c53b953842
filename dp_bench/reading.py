"""Read files: any damage becomes one UserError with the file, what is wrong and what to do about it.

Nothing else in the package parses JSON, YAML, safetensors or Parquet that may have been written by others.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from dp_bench.types import UserError

if typing.TYPE_CHECKING:
    from torch import Tensor

AGAIN = "Move it away and run again."
# Bytes of a text that is read whole: the largest of ours has less than a tenth.
LARGEST = 256_000_000
DEEPEST = 200  # levels of lists and mappings in each other
ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a surrogate pair, escaped in JSON
# What parsers raise for damaged files; errors of pyarrow are among the first two or have their base there.
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


@contextmanager
def guarded(path: Path, remedy: str = AGAIN) -> Iterator[None]:
    """Raise UserError, naming `path`, for what is no regular file and for whatever its parser raises."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("it is not a regular file")
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, DAMAGE) and not type(error).__module__.startswith(_PARSERS):
            raise
        raise unreadable(path, error, remedy) from None


_PARSERS = ("yaml", "safetensors", "pyarrow")  # their errors have bases that say nothing: any is of the file


def unreadable(path: Path, why: object, remedy: str = AGAIN) -> UserError:
    """Return the error for a file, with the first line of what is wrong with it."""
    if isinstance(why, RecursionError):
        why = "too many levels in each other"
    elif isinstance(why, OSError) and why.strerror:
        why = why.strerror
    reason = " ".join(str(why).split())[:300].rstrip(".") or type(why).__name__
    reason = reason.encode("utf-8", "backslashreplace").decode()
    return UserError(f"{path} cannot be read ({reason}). {remedy}")


def text(path: Path, remedy: str = AGAIN) -> str:
    """Return the text of a file in UTF-8."""
    with guarded(path, remedy):
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        return path.read_text(encoding="utf-8")


def parsed(content: str) -> Any:
    """Parse JSON; raise ValueError for half a surrogate pair too, which JSON allows and no file can hold."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("too many levels in each other") from None
    if ESCAPED_HALF.search(content):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def json_object(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """Return the object of a JSON file."""
    content = text(path, remedy)
    with guarded(path, remedy):
        value = parsed(content)
        if not isinstance(value, dict):
            raise ValueError("it is not a JSON object")
        return value


def json_lines(path: Path, remedy: str = AGAIN) -> list[dict[str, Any]]:
    """Return the objects of a file with one JSON object a line, without a last line that was cut short."""
    content = text(path, remedy)
    objects = []
    lines = content.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = parsed(line)
            if not isinstance(value, dict):
                raise ValueError("no JSON object")
        except ValueError as error:
            if number == len(lines):  # without an end of line: it was being written
                break
            raise unreadable(path, f"line {number}: {error}", remedy) from None
        objects.append(value)
    return objects


def yaml_mapping(path: Path, remedy: str = "Write it again.") -> dict[str, Any]:
    """Return the mapping of a YAML file, empty for an empty file."""
    import yaml

    content = text(path, remedy)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it
    with guarded(path, remedy):
        value = yaml.load(content, loader)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise ValueError("it is not a mapping, KEY: VALUE")
        _refuse_loops(value)
        return value


def _refuse_loops(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ValueError("it contains itself, or has too many levels in each other")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _refuse_loops(inner, depth + 1)


def tensors(path: Path, remedy: str = AGAIN) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    from safetensors.torch import load_file

    with guarded(path, remedy):
        return load_file(path)


def frame(path: Path, columns: tuple[str, ...] = (), remedy: str = AGAIN) -> Any:
    """Return the data frame of a Parquet file, which must have these columns."""
    import pandas as pd

    with guarded(path, remedy):
        frame = pd.read_parquet(path)
        if missing := [name for name in columns if name not in frame]:
            raise ValueError(f"it has no column {missing[0]}")
        return frame


def is_file(path: Path) -> bool:
    """Say whether something other than a folder is at a path: even what cannot be read as a file."""
    return os.path.lexists(path) and not path.is_dir()


# ------------------------------------------------------------------------------------------ types of values


_EXACT = (str, bool)  # whose every value fits


def misfit(value: Any, hint: Any, name: str) -> str | None:  # noqa: PLR0911 - one line a kind
    """Return how a value differs from a type, or None. Numbers have to be finite, enums are their values, and
    the mapping of a dataclass may lack keys and have more; a dataclass is its fields."""
    if hint is Any or (type(value) is hint and hint in _EXACT):  # most values: tables check thousands of runs
        return None
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        choices = typing.get_args(hint)
        if value is None and types.NoneType in choices:
            return None
        wrong = [misfit(value, choice, name) for choice in choices]
        return None if None in wrong else wrong[0]
    if hasattr(hint, "__dataclass_fields__"):
        return _misfit_of_fields(vars(value) if type(value) is hint else value, hint, name)
    if origin in (dict, list):
        return _misfit_inside(value, origin, typing.get_args(hint), name)
    if isinstance(hint, type) and issubclass(hint, Enum):
        known = [member.value for member in hint]
        fits = isinstance(value, hint) or value in known or value in list(hint.__members__)
        return None if fits else _wrong(name, value, known)
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if is_number and _is_finite(value) else _wrong(name, value, "a finite number")
    if hint is types.NoneType:
        return None if value is None else _wrong(name, value, "null")
    fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if fits and hint is int and abs(value) >= 2**63:
        fits = False
    return (
        None
        if fits
        else _wrong(name, value, {str: "a text", int: "an integer of 64 bits"}.get(hint, hint.__name__))
    )


def _is_finite(value: float) -> bool:
    return -1e300 < value < 1e300 if isinstance(value, int) else math.isfinite(value)


def _misfit_inside(value: Any, origin: Any, args: tuple[Any, ...], name: str) -> str | None:
    if not isinstance(value, origin):
        return _wrong(name, value, "a mapping" if origin is dict else "a list")
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    kind = args[-1] if args else Any
    return next(filter(None, (misfit(each, kind, f"{name}.{key}") for key, each in items)), None)


def _misfit_of_fields(value: Any, hint: Any, name: str) -> str | None:
    if not isinstance(value, Mapping):
        return _wrong(name, value, "a mapping")
    hints, inside = hints_of(hint), f"{name}." if name else ""
    wrong = (misfit(value[key], kind, f"{inside}{key}") for key, kind in hints.items() if key in value)
    return next(filter(None, wrong), None)


@cache
def hints_of(hint: Any) -> dict[str, Any]:
    """Return the types of the fields of a dataclass."""
    hints = typing.get_type_hints(hint)
    return {each.name: hints[each.name] for each in fields(hint)}


def _wrong(name: str, value: Any, expected: object) -> str:
    shown = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a huge number"
    return f"{name} is {shown[:60]} and not {expected}"
