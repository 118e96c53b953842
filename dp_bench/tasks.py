"""The task files, for tables and checks: order of tasks, released files.

Reads the YAML files only, without composing a configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from dp_bench.reading import guarded
from dp_bench.settings import Scoring, TaskSettings

KEYS = tuple(field.name for field in fields(TaskSettings))


@cache
def known(extra_dir: Path | None = None) -> dict[str, TaskSettings]:
    """Return the tasks of the package and of `extra_dir` by name, in the order of their `order`."""
    from dp_bench.config import option_path, option_settings, options

    tasks = []
    for name in options("task", extra_dir):
        with guarded(option_path("task", name, extra_dir), "`dp-bench new task` writes a sound one."):
            tasks.append(_task(option_settings("task", name, extra_dir)))
    return {task.name: task for task in sorted(tasks, key=_sort_key)}


def in_order(names: Iterable[str]) -> list[str]:
    """Return distinct task names in the order of the shipped files; other tasks last, by name."""
    order = {name: index for index, name in enumerate(known())}
    return sorted(set(names), key=lambda name: (order.get(name, len(order)), name))


def _sort_key(task: TaskSettings) -> tuple[float, str]:
    return (float("inf") if task.order is None else task.order, task.name)


def _task(content: dict[str, Any]) -> TaskSettings:
    settings = {key: value for key, value in content.items() if key in KEYS}
    if settings.get("train_task"):
        settings["train_task"] = _task(settings["train_task"])
    return TaskSettings(**(settings | {"scoring": Scoring(settings["scoring"])}))
