"""What installed packages add: pieces of prompts, methods, columns of tables, by entry-point group."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TypeVar

from dp_bench.types import UserError

T = TypeVar("T")


def added(group: str, kind: type[T]) -> Iterator[T]:
    """Yield what the entry points of a group name: each one object of that kind, or a list of them.

    Raises UserError naming the entry point that does not load, or that names something else.
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


def by_key(shipped: dict[str, T], group: str, kind: type[T], key: str) -> dict[str, T]:
    """Return what is shipped and what packages add, by an attribute; raise UserError where two have one."""
    found = dict(shipped)
    for each in added(group, kind):
        name = str(getattr(each, key))
        if name in found:
            raise UserError(f"Two entries of {group} are called '{name}': uninstall one of their packages.")
        found[name] = each
    return found
