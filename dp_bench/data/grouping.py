"""Which training rows belong together, so that no split parts them, and what of that enters a run's id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import SplitFile
from dp_bench.settings import TaskSettings

_digests: dict[str, str | None] = {}  # of this process: a sweep asks once a run


def components(sources: Sequence[str]) -> list[int]:
    """Return for each row the first row of its connected component.

    A source names the texts of a row, separated by spaces; rows that name a common text are connected.
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
            one, other = root(row), root(first_with.setdefault(text, row))
            parent[max(one, other)] = min(one, other)
    return [root(row) for row in range(len(sources))]


def grouping(task: TaskSettings, file: SplitFile, limit: int | None) -> str | None:
    """Return a digest of which rows of a training file `task.together` keeps together; None where they are
    those that `task.shorten` alone keeps together.

    Versions before `task.together` looked at that one field. A run whose rows are parted as they were then
    has the numbers that it had then, and keeps its id.
    """
    if task.together is None or task.together == [task.shorten]:
        return None
    key = json.dumps([repr(task), file.sha256, file.split, limit])
    if key not in _digests:
        now, before = (
            components([example.source for example in ExampleFile(asked, file, file.split, limit)])
            for asked in (task, replace(task, together=None))
        )
        _digests[key] = None if now == before else sha256(json.dumps(now).encode()).hexdigest()
    return _digests[key]
