"""What others add: pieces of prompts, methods, columns of tables.

They come from installed packages, by entry-point group, and from one Python file that the user names on the
command line with `--code FILE`. No configuration and no record can name code.
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
CODE = "DP_BENCH_CODE"  # the environment variable by which the processes of a sweep know the file of --code


def added(group: str, kind: type[T]) -> Iterator[T]:
    """Yield what the entry points of a group name, each one object of that kind or a list of them; then the
    objects of that kind in the user's file.

    Raises UserError naming the entry point or the file that does not load, or that names something else.
    """
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        try:
            found = entry.load()
        except Exception as error:
            raise UserError(
                f"The entry point {entry.name} ({entry.value}) of the group {group} does not load "
                f"({error!r}). Mend or uninstall its package."
            ) from error
        for each in found if isinstance(found, list | tuple) else [found]:
            if not isinstance(each, kind):
                raise UserError(
                    f"The entry point {entry.name} ({entry.value}) of the group {group} must name a "
                    f"{kind.__module__}.{kind.__name__}, or a list of such: mend or uninstall its package."
                )
            yield each
    if file := os.environ.get(CODE):
        yield from (value for value in vars(_module(Path(file))).values() if isinstance(value, kind))


def use(file: Path) -> None:
    """Take what a Python file defines, in this process and in those that it starts."""
    _module(file.resolve())
    os.environ[CODE] = str(file.resolve())


def code_sha256(modules: Iterable[str]) -> str | None:
    """Return the digest of the user's file where it is one of these modules."""
    file = os.environ.get(CODE)
    return sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).stem in set(modules) else None


@cache
def _module(file: Path) -> ModuleType:
    if not file.is_file() or file.suffix != ".py":
        raise UserError(
            f"--code {file} is no Python file. Give one with pieces, methods or columns of yours."
        )
    if importlib.util.find_spec(file.stem) is not None:
        raise UserError(
            f"--code {file}: there is a module '{file.stem}' already. Give the file another name."
        )
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
    """Return what is shipped and what packages add, by an attribute; raise UserError where two have one."""
    found = dict(shipped)
    for each in added(group, kind):
        name = str(getattr(each, key))
        if name in found:
            raise UserError(f"Two entries of {group} are called '{name}': uninstall one of their packages.")
        found[name] = each
    return found
