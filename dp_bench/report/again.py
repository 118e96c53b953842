"""A run and its repetition: the numbers, predictions and circumstances that differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dp_bench import records
from dp_bench.report.pair import (
    PREFIX,
    Section,
    differences,
    environment,
    flips_of,
    predictions_in,
    record_in,
    used,
)

if TYPE_CHECKING:
    import pandas as pd

CHOSEN = ("prediction", "position", "length", "route")  # of an example; log-probabilities may differ by bits


def compare_again(old: Path, new: Path) -> tuple[list[Section], bool]:
    """Return the sections of the comparison of a run (A) with its repetition (B), and whether the numbers of
    its record and what it chose for each example are equal.

    Raises UserError where a record or predictions.parquet cannot be read.
    """
    a, b = record_in(old), record_in(new)
    numbers = differences("Numbers that differ", records.results_of(a), records.results_of(b))
    notes: list[str] = []
    frames_a, frames_b = predictions_in(old, a, "A", notes), predictions_in(new, b, "B", notes)
    names = ("choice", "position", "length", "route")
    columns = ("task", "n", *(f"other {name}" for name in names), "log-probability, by at most")
    each = Section("Predictions that differ", columns, [], [note.partition(":")[0] for note in notes])
    flips = Section("Answers that differ", ("id", "gold", "A", "p(A)", "B", "p(B)"), [])
    is_equal = not numbers.rows
    for task in {**frames_a, **frames_b} if frames_a and frames_b else ():
        if task not in frames_a or task not in frames_b:
            each.notes.append(f"{task} is in one of them only")
            is_equal = False
            continue
        part_a, part_b = frames_a[task].set_index("id"), frames_b[task].set_index("id")
        if not part_a.index.is_unique or not part_a.index.equals(part_b.index):
            each.notes.append(f"{task}: they have different examples")
            is_equal = False
            continue
        row = _differing(part_a, part_b)
        is_equal = is_equal and not any(row[: len(CHOSEN)])
        flips.rows.extend(flips_of(a, task, part_a, part_b))
        if any(row):
            each.rows.append((task, len(part_a), *row))
        else:
            each.notes.append(f"{task}: none of {len(part_a)}, to the last bit")
    around = differences("Environment that differs", environment(a), environment(b))
    settings = differences("Settings that differ", used(a), used(b))
    return [numbers, each, *([flips] if flips.rows else []), settings, around], is_equal


def _differing(a: pd.DataFrame, b: pd.DataFrame) -> tuple[Any, ...]:
    """Return how many examples differ in each of CHOSEN, and the largest difference of a log-probability."""
    counts = [
        int((~(a[name].eq(b[name]) | (a[name].isna() & b[name].isna()))).sum())
        if name in a and name in b
        else len(a) * (name in a or name in b)
        for name in CHOSEN
    ]
    names = [name for name in a if str(name).startswith(PREFIX) and name in b]
    apart = np.abs(a[names].to_numpy(dtype=float) - b[names].to_numpy(dtype=float))
    return (*counts, float(np.nanmax(apart, initial=0.0)) if apart.size else 0.0)
