"""What tables and plots read from the record of one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dp_bench import reading
from dp_bench.records import RunRecord
from dp_bench.tasks import known

REMEDY = "The run's evaluations are left out: train it again with rerun=true."
SeedAndDraw = tuple[int, int]  # seed and few-shot draw (`regime.split_seed`)


def title_of(record: RunRecord) -> str:
    """Return the title of a run's task."""
    return str(record.config["task"]["title"])


def task_run_id(record: RunRecord) -> str:
    """Return an id of one run's result on one task."""
    return f"{record.run_id}/{record.task}"


def seed_and_draw_of(record: RunRecord) -> SeedAndDraw:
    """Return the seed and the seed of the few-shot draw (0 without one), in which runs of a cell differ."""
    regime = record.config["regime"]
    sampled = regime["shots"] is not None and regime.get("split") != "fewglue"
    return record.seed, int(regime.get("split_seed") or 0) if sampled else 0


def value_of(record: RunRecord, metric: str) -> float | None:
    """Return a record's score, select_score or named metric; None if its task has no such metric."""
    if metric in ("score", "select_score"):
        return float(getattr(record, metric))
    return record.metrics.get(metric)


def scored(records: Iterable[RunRecord], metric: str) -> list[RunRecord]:
    """Return the records whose task has a metric, with it as their score."""
    return [replace(r, score=value) for r in records if (value := value_of(r, metric)) is not None]


def search_of(record: RunRecord) -> Mapping[str, Any]:
    """Return the search that chose a run's settings (`hpo`); empty if they were given."""
    hpo: Mapping[str, Any] = record.config.get("hpo") or {}
    return hpo if hpo.get("name") else {}


def data_title(record: RunRecord) -> str:
    """Return the title of a run's data, with its row limit or generated world.

    A user's task is no part of a release, whichever `data` its files were read by.
    """
    data = record.config["data"]
    details = [f"first {data['limit']} rows of each file"] if data["limit"] is not None else []
    if data["difficulty"] is not None:
        details.append(f"{data['difficulty']}, world seed {data['world_seed']}")
    title, released = (
        record.data,
        {task.name for task in known().values() if record.data in (task.files or {})},
    )
    if released and not released & _trained(record):
        hub = task_of(record, record.task).get("hub") or data["hub"]
        title = "local files" if data["dir"] is not None else f"{hub} on the hub"
    return f"{title} ({'; '.join(details)})" if details else title


def _trained(record: RunRecord) -> set[str]:
    """Return the names of the tasks that a run trained on."""
    return set(record.config["task"].get("tasks", {})) or {record.task}


def regime_title(record: RunRecord) -> str:
    """Return the title of a run's regime: how many training examples each task has."""
    regime = record.config["regime"]
    if regime["shots"] is None:
        return "full"
    rows = "FewGLUE's 32 rows" if regime["split"] == "fewglue" else f"{regime['shots']} a class"
    return f"fewshot ({rows})"


def label_of(record: RunRecord, task: str, gold: int) -> str:
    """Return the label with this number, or "any" for a task whose examples have choices."""
    labels = task_of(record, task).get("labels") or []
    return str(labels[gold]) if 0 <= gold < len(labels) else "any"


def task_of(record: RunRecord, task: str) -> Mapping[str, Any]:
    """Return the settings of a task of a run, which may be one of several, or of regime.transfer."""
    config = record.config
    several: Mapping[str, Any] = {**config["task"].get("tasks", {}), **config.get("transfer", {})}
    found: Mapping[str, Any] = several.get(task, config["task"])
    return found


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl, one an evaluation; none where there is no such file."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = reading.json_lines(path, REMEDY)
    with reading.guarded(path, REMEDY):
        if problem := next(filter(None, map(_wrong_evaluation, lines)), None):
            raise ValueError(problem)
    return lines


def _wrong_evaluation(line: Mapping[str, Any]) -> str | None:
    problem = reading.misfit(line["step"], int, "step")
    for key, value in line.items():
        problem = problem or reading.misfit(value, list[float] if key.endswith("_counts") else Any, key)
    return problem
