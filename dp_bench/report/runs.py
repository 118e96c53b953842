"""What tables and plots read out of the record of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dp_bench.records import RunRecord

Place = tuple[int, int]  # seed and few-shot draw (`regime.split_seed`)


def title_of(record: RunRecord) -> str:
    """Return what the task of a run is called."""
    return str(record.config["task"]["title"])


def entry_of(record: RunRecord) -> str:
    """Name what one run says of one task."""
    return f"{record.run_id}/{record.task}"


def draw_of(record: RunRecord) -> Place:
    """Return what tells the runs of a cell apart: the seed, and that of the few-shot rows."""
    regime = record.config["regime"]
    sampled = regime["shots"] is not None and regime.get("split") != "fewglue"
    return record.seed, int(regime.get("split_seed") or 0) if sampled else 0


def value_of(record: RunRecord, metric: str) -> float | None:
    """Return a record's score, select_score, or named metric; None where its task has no such metric."""
    if metric in ("score", "select_score"):
        return float(getattr(record, metric))
    return record.metrics.get(metric)


def search_of(record: RunRecord) -> Mapping[str, Any]:
    """Return the search that a run's settings come from (`hpo`); nothing for settings that were given."""
    hpo: Mapping[str, Any] = record.config.get("hpo") or {}
    return hpo if hpo.get("name") else {}


def data_title(record: RunRecord) -> str:
    """Return what a run's data are called, with what part or which world of them it had."""
    data = record.config["data"]
    own = [f"first {data['limit']} rows of each file"] if data["limit"] is not None else []
    if data["difficulty"] is not None:
        own.append(f"{data['difficulty']}, world seed {data['world_seed']}")
    return f"{record.data} ({'; '.join(own)})" if own else record.data


def regime_title(record: RunRecord) -> str:
    """Return how much data each task has; one prompt for several tasks is a row beside the others."""
    regime = record.config["regime"]
    if regime["shots"] is None:
        return "full"
    own = "FewGLUE's 32 rows" if regime["split"] == "fewglue" else f"{regime['shots']} a class"
    return f"fewshot ({own})"
