"""Synthetic records, as finished runs would have left them."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from functools import cache
from typing import Any

from dp_bench import config, records
from dp_bench.records import RunRecord

DEFAULTS: dict[str, Any] = {
    "status": "done",
    "experiment": None,
    "score": 50.0,
    "select_score": 51.0,
    "metrics": {"accuracy": 50.0},
    "select_metrics": {"accuracy": 51.0},
    "num_examples": {"train": 90, "select": 10, "report": 50},
    "best_step": 40,
    "num_updates": 60,
    "stopped_early": False,
    "trainable_parameters": 1000,
    "frozen_parameters": 100_000,
    "train_seconds": 8.0,
    "eval_seconds": 2.0,
    "total_seconds": 10.0,
    "peak_memory_mb": 100.0,
    "peak_memory_kind": "process",
    "device": "cpu (1 threads)",
    "precision": "float32",
    "data_sha256": "d" * 64,
    "data_files": {"train": {"file": "train.jsonl"}, "validation": {"file": "val.jsonl"}},
    "share_truncated": {"train": 0.0},
    "checkpoint": {"name_or_path": "some/t5", "revision": "main", "commit": None, "fingerprint": "f" * 64},
    "versions": {"dp-bench": "0.1.0"},
    "git": None,
    "command": ["dp-bench", "train"],
    "started": "2025-01-01T00:00:00Z",
}


def make_record(*overrides: str, **changes: Any) -> RunRecord:
    """Return the record that `dp-bench train OVERRIDES` could have left; `changes` replace its fields."""
    seeds = [override for override in overrides if override.startswith("seed=")]
    resolved = copy.deepcopy(_resolved(tuple(override for override in overrides if override not in seeds)))
    for override in seeds:  # composing takes a tenth of a second
        resolved["seed"] = int(override.removeprefix("seed="))
    content = {**DEFAULTS, **copy.deepcopy(changes)}
    run_id, cell_id = records.identify(resolved, content["data_sha256"])
    named = ("task", "backbone", "prompt", "regime", "protocol")
    record = RunRecord(
        **{
            "run_id": run_id,
            "cell_id": cell_id,
            **{group: resolved[group]["name"] for group in named},
            "data": resolved["data"]["title"],
            "seed": resolved["seed"],
            "selection": resolved["trainer"]["selection"],
            "config": resolved,
            **content,
        }
    )
    assert {f.name for f in fields(record)} >= set(changes)
    return record


def random_weights(record: RunRecord) -> RunRecord:
    return replace(record, checkpoint={**record.checkpoint, "name_or_path": None})


@cache
def _resolved(overrides: tuple[str, ...]) -> dict[str, Any]:
    return config.build(config.compose(["trainer=smoke", *overrides])).resolved
