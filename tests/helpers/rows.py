"""Rows of raw records, and the examples that are read from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import SplitFile
from dp_bench.settings import TaskSettings
from dp_bench.types import Example


def read_examples(task: TaskSettings, file: SplitFile, split: str, limit: int | None) -> list[Example]:
    """Read examples of a file as those of a split."""
    return list(ExampleFile(task, replace(file, split=split), limit))


def record_row(**changes: Any) -> dict[str, Any]:
    entities = [{"start": 0, "end": 2}, {"start": 9, "end": 11}]
    query = {"query": "@placeholder ran.", "answers": [{"start": 0, "end": 2, "text": "Ann"}], "idx": 7}
    passage = {"text": "Ann beat Bob.", "entities": entities}
    return {
        "source": "x",
        "passage": {**passage, **changes.pop("passage", {})},
        "qas": [{**query, **changes}],
        "idx": 3,
    }
