"""What the task files say beside what a run needs: their order in lists and tables, the released files.

Reads the YAML files alone, so that a table or a check is made without composing a configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from dp_bench.settings import Scoring, TaskSettings

KEYS = tuple(field.name for field in fields(TaskSettings))


@cache
def known(extra_dir: Path | None = None) -> dict[str, TaskSettings]:
    """Return the tasks of the shipped and the user's files by name, in their order."""
    from dp_bench.config import options

    tasks = [_task(_content(name, extra_dir)) for name in options("task", extra_dir)]
    return {task.name: task for task in sorted(tasks, key=_place)}


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of tasks, each once, in the order of the shipped files; other tasks last, by name."""
    order = {name: place for place, name in enumerate(known())}
    return sorted(set(names), key=lambda name: (order.get(name, len(order)), name))


def _place(task: TaskSettings) -> tuple[float, str]:
    return (float("inf") if task.order is None else task.order, task.name)


def _content(name: str, extra_dir: Path | None) -> dict[str, Any]:
    """Return a task's settings with those of the files that it starts from, as Hydra merges them."""
    from dp_bench.config import option_file

    content = dict(option_file("task", name, extra_dir))
    defaults = content.pop("defaults", ["_self_"])
    merged: dict[str, Any] = {}
    for default in [*defaults, *([] if "_self_" in defaults else ["_self_"])]:
        if default == "_self_":
            merged |= content
            continue
        other, _, key = str(default).partition("@")
        found = _content(other, extra_dir)
        merged |= {key: found} if key not in ("", "_here_") else found
    return merged


def _task(content: dict[str, Any]) -> TaskSettings:
    own = {key: value for key, value in content.items() if key in KEYS}
    if own.get("train_task"):
        own["train_task"] = _task(own["train_task"])
    return TaskSettings(**(own | {"scoring": Scoring(own["scoring"])}))
