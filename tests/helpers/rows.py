"""Rows of raw records."""

from __future__ import annotations

from typing import Any


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
