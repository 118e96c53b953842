"""Two finished runs side by side: settings, scores, examples that flipped, cost and environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dp_bench import effective, reading, records
from dp_bench.randomness import derive
from dp_bench.records import RunRecord, flatten
from dp_bench.report.choices import name_of
from dp_bench.report.columns import forwards
from dp_bench.report.examples import results_by_task
from dp_bench.report.stats import over_examples
from dp_bench.types import UserError

if TYPE_CHECKING:
    import pandas as pd

COSTS = ("trainable_parameters", "train_seconds", "eval_seconds", "peak_memory_mb", "peak_memory_kind")
PREDICTIONS = "predictions.parquet"
FLIPS = "Flipped examples, the most confident first"
PREFIX = "score_"  # of the columns of log-probabilities


@dataclass(frozen=True)
class Section:
    """A titled table of a comparison, with notes on what is missing."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    notes: list[str] = field(default_factory=list)


def compare_runs(folder_a: Path, folder_b: Path) -> list[Section]:
    """Return the sections of a comparison of two finished runs.

    Raises UserError where a record or predictions.parquet cannot be read.
    """
    a, b = record_in(folder_a), record_in(folder_b)
    notes: list[str] = []
    frames = predictions_in(folder_a, a, "A", notes), predictions_in(folder_b, b, "B", notes)
    scores = Section("Scores", ("task", "A", "B"), _scores(a, b))
    tests, flips = _tests(a, b, *frames)
    for section in (tests, flips):
        section.notes.extend(notes)
    return [
        Section("Runs", ("run", "id"), [("A", a.run_id), ("B", b.run_id)]),
        differences("Settings that differ", used(a), used(b)),
        scores,
        tests,
        flips,
        _sides("Cost", _cost(a), _cost(b)),
        differences("Environment that differs", environment(a), environment(b)),
    ]


def record_in(folder: Path) -> RunRecord:
    """Return the record of a finished run; raise UserError where there is none."""
    record = records.load(folder)
    if record is None:
        raise UserError(f"{folder} has no finished run; dp-bench list runs lists finished runs.")
    return record


def used(record: RunRecord) -> dict[str, Any]:
    """Return the settings on which the run's result depends, by dotted name."""
    unread = effective.unread(record.config)
    settings = flatten(record.config).items()
    kept = {k: v for k, v in settings if k not in unread and not records.is_volatile(k) and v is not None}
    return {
        key.removesuffix("._target_"): str(value).rsplit(".", 1)[-1] if key.endswith("._target_") else value
        for key, value in kept.items()
    }


def _cost(record: RunRecord) -> dict[str, Any]:
    return {**{name: getattr(record, name) for name in COSTS}, "forwards_per_update": forwards(record)}


def environment(record: RunRecord) -> dict[str, Any]:
    """Return device, precision, versions, commit and weights of a run."""
    parts = {"versions": record.versions, "git": record.git or {}, "backbone": record.checkpoint}
    return {"device": record.device, "precision": record.precision, **flatten(parts)}


def _sides(title: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Section:
    return Section(title, ("name", "A", "B"), [(name, a.get(name), b.get(name)) for name in {**a, **b}])


def differences(title: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Section:
    """Return a section with the names whose values differ."""
    section = _sides(title, a, b)
    rows = [row for row in section.rows if row[1] != row[2]]
    return Section(title, section.columns, rows, [] if rows else ["none"])


def predictions_in(folder: Path, record: RunRecord, side: str, notes: list[str]) -> dict[str, pd.DataFrame]:
    """Return the predictions of a run by task; without its file, none and a note."""
    path = folder / PREDICTIONS
    if not path.is_file():
        notes.append(f"{side} has no {PREDICTIONS} (a packed run?): no test over examples, no flips.")
        return {}
    frame = reading.frame(path, ("id", "gold", "prediction"))
    if "task" in frame:
        return {str(task): part for task, part in frame.groupby("task", sort=False)}
    return {record.task: frame}


def _task_scores(record: RunRecord) -> dict[str, float]:
    several = {name: entry["score"] for name, entry in record.by_task.items()}
    others = {name: entry["score"] for name, entry in record.transfer.items()}
    return {**(several or {record.task: record.score}), **others}


def _scores(a: RunRecord, b: RunRecord) -> list[tuple[Any, ...]]:
    scores_a, scores_b = _task_scores(a), _task_scores(b)
    return [(task, scores_a.get(task), scores_b.get(task)) for task in {**scores_a, **scores_b}]


def _tests(
    a: RunRecord, b: RunRecord, frames_a: dict[str, pd.DataFrame], frames_b: dict[str, pd.DataFrame]
) -> tuple[Section, Section]:
    """Return the tests over examples, and the examples that flipped."""
    columns = ("task", "n", "A", "B", "A-B", "low", "high", "p bootstrap", "p McNemar")
    tests = Section("Accuracy on the same examples: A less B, 95 % interval", columns, [])
    flips = Section(FLIPS, ("id", "gold", "A", "p(A)", "B", "p(B)"), [])
    flipped: list[tuple[Any, ...]] = []
    for task in (task for task in frames_a if task in frames_b):
        part_a, part_b = frames_a[task].set_index("id"), frames_b[task].set_index("id")
        if set(part_a.index) != set(part_b.index) or not part_a.index.is_unique or not len(part_a):
            tests.notes.append(f"{task}: A and B report different examples; they are not paired.")
        elif not part_a["gold"].equals(part_b["gold"].reindex(part_a.index)):
            tests.notes.append(f"{task}: the gold labels of A and B differ; they are not paired.")
        else:
            tests.rows.append((task, *_tested(a, b, task, frames_a[task], frames_b[task])))
            flipped += flips_of(a, task, part_a, part_b.reindex(part_a.index))
    flips.rows.extend(sorted(flipped, key=_confidence, reverse=True))
    if not flipped:
        flips.notes.append("none among the examples that can be paired")
    return tests, flips


def _tested(a: RunRecord, b: RunRecord, task: str, *frames: pd.DataFrame) -> tuple[Any, ...]:
    (of_a,), (of_b,) = (results_by_task(f.drop(columns="task", errors="ignore")).values() for f in frames)
    right = [of["correct"].to_numpy(dtype=np.bool_)[None] for of in (of_a, of_b)]
    seed = derive(0, "bootstrap", a.run_id, b.run_id, task)
    test = over_examples(right[0], right[1], seed, of_a["source"].tolist())
    accuracies = [100 * float(of_run.mean()) for of_run in right]
    gain = accuracies[0] - accuracies[1]
    return test.num_examples, *accuracies, gain, test.low, test.high, test.p_bootstrap, test.p_mcnemar


def flips_of(record: RunRecord, task: str, a: pd.DataFrame, b: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Return the examples that two runs answer differently, with the names of their labels."""
    flipped = np.flatnonzero(a["prediction"].to_numpy() != b["prediction"].to_numpy())

    def named(frame: pd.DataFrame, column: str, row: int) -> str:
        return name_of(record, task, int(frame[column].iloc[row]))

    return [
        (
            *(str(a.index[row]), named(a, "gold", row)),
            *(named(a, "prediction", row), _chance(a, row), named(b, "prediction", row), _chance(b, row)),
        )
        for row in map(int, flipped)
    ]


def _chance(frame: pd.DataFrame, row: int) -> float | None:
    """Return the probability of the predicted choice, the likeliest; None without log-probabilities."""
    names = [name for name in frame if str(name).startswith(PREFIX)]
    values = frame[names].iloc[row].to_numpy(dtype=float)
    values = values[~np.isnan(values)]
    return float(np.exp(values.max())) if values.size else None


def _confidence(flip: tuple[Any, ...]) -> float:
    """Return how sure the less sure of two runs is of its answer."""
    return min(flip[3] or 0.0, flip[5] or 0.0)
