"""Pieces of prompts, methods and columns of tables that other packages or the user add.

Packages add them by entry points, the user by one Python file named on the command line with `--code FILE`.
Configurations and records cannot name code.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from dp_bench.types import UserError

T = TypeVar("T")
CODE = "DP_BENCH_CODE"  # environment variable that passes the file of --code to the processes of a sweep


def added(group: str, kind: type[T]) -> Iterator[T]:
    """Yield the objects of the entry points of a group, then those of type `kind` in the user's file.

    An entry point names an object or a list of them. Raises UserError for an entry point or file that does
    not load, or an object that is not of `kind`.
    """
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        try:
            loaded = entry.load()
        except Exception as error:
            raise UserError(
                f"The entry point {entry.name} ({entry.value}) of the group {group} does not load "
                f"({error!r}). Fix or uninstall its package."
            ) from error
        for item in loaded if isinstance(loaded, list | tuple) else [loaded]:
            if not isinstance(item, kind):
                raise UserError(
                    f"The entry point {entry.name} ({entry.value}) of the group {group} must name a "
                    f"{kind.__module__}.{kind.__name__}, or a list of them: fix or uninstall its package."
                )
            yield item
    if file := os.environ.get(CODE):
        yield from (value for value in vars(_module(Path(file))).values() if isinstance(value, kind))


def use(file: Path) -> None:
    """Load the objects of a Python file, in this process and in those that it starts. Raises UserError."""
    _module(file.resolve())
    os.environ[CODE] = str(file.resolve())


def flags() -> list[str]:
    """Return `--code FILE` as it was typed for this command, or nothing."""
    return ["--code", file] if (file := os.environ.get(CODE)) else []


def code_sha256(modules: Iterable[str]) -> str | None:
    """Return the digest of the user's file if it is one of these modules, else None."""
    file = os.environ.get(CODE)
    return sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).stem in set(modules) else None


@cache
def _module(file: Path) -> ModuleType:
    if not file.is_file() or file.suffix != ".py":
        raise UserError(f"--code {file} is not a Python file. Give one with your pieces, methods or columns.")
    if importlib.util.find_spec(file.stem) is not None:
        raise UserError(f"--code {file}: a module '{file.stem}' exists already. Rename the file.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[file.stem]
        raise UserError(f"--code {file} does not load: {error!r}.") from error
    return module


def by_key(shipped: dict[str, T], group: str, kind: type[T], key: str) -> dict[str, T]:
    """Return shipped and added objects by their attribute `key`. Raises UserError for duplicates."""
    by_name = dict(shipped)
    for item in added(group, kind):
        name = str(getattr(item, key))
        if name in by_name:
            raise UserError(f"Two entries of {group} are called '{name}': uninstall one of their packages.")
        by_name[name] = item
    return by_name
