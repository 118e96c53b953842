"""Which training rows stay on one side of a split, and what of that enters a run's id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import SplitFile
from dp_bench.settings import TaskSettings

_digests: dict[str, str | None] = {}  # kept for the process: a sweep computes the ids of many runs


def components(sources: Sequence[str]) -> list[int]:
    """Return for each row the first row of its connected component.

    A source lists the digests of the row's texts, separated by spaces; rows with a common text are connected.
    """
    first_with: dict[str, int] = {}
    parent = list(range(len(sources)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for row, source in enumerate(sources):
        for text in source.split():
            a, b = root(row), root(first_with.setdefault(text, row))
            parent[max(a, b)] = min(a, b)
    return [root(row) for row in range(len(sources))]


def grouping(task: TaskSettings, file: SplitFile, limit: int | None) -> str | None:
    """Return a digest of which rows of a training file `task.together` keeps together.

    None if they are the same as by the field `task.shorten` alone, which versions before `task.together`
    used: such a run computes the same numbers as then, and keeps its id.
    """
    if task.together is None or task.together == [task.shorten]:
        return None
    key = json.dumps([repr(task), file.sha256, file.split, limit])
    if key not in _digests:
        now, before = (
            components([example.source for example in ExampleFile(variant, file, limit)])
            for variant in (task, replace(task, together=None))
        )
        _digests[key] = None if now == before else sha256(json.dumps(now).encode()).hexdigest()
    return _digests[key]
