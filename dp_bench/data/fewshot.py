"""Reproducible few-shot training sets: FewGLUE's published rows, or k rows a class drawn by a seed.

A sampled draw depends on the example ids and the seed only, not on the order of the file, on Python or on
numpy: examples are sorted by a hash of seed and id, and each text is used once. The first k of a class are
trained on, the next k are used to select, so that a larger draw contains the training rows of a smaller one.
`draws.json` has the ids of the draws from the official files and a digest of their rows; `draw` refuses other
rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from dp_bench.data.grouping import components
from dp_bench.data.notes import DEGENERATE
from dp_bench.settings import FewShotSplit, RegimeSettings, TaskSettings
from dp_bench.types import Example, UserError

DRAWS = Path(__file__).with_name("draws.json")
SHOTS = (2, 4, 8, 16, 32, 64)
SEEDS = (0, 1, 2, 3, 4)  # of the draws in draws.json


@dataclass(frozen=True)
class Draw:
    """The examples to train on and to select on; `notes` say which class has too few."""

    train: list[Example]
    select: list[Example]
    notes: tuple[str, ...] = ()


def draw(
    regime: RegimeSettings,
    task: TaskSettings,
    examples: Sequence[Example],
    where: str,
    *,
    official: bool,
    whole_classes: bool = False,
) -> Draw:
    """Draw few-shot rows from a training set; `where` is its name in messages.

    With `whole_classes`, a class with too few rows is trained on completely and has none to select on.
    Raises UserError if the rows differ from those of the shipped draw; for sampled draws only if the data are
    the `official` release.
    """
    assert regime.shots is not None
    if regime.split is FewShotSplit.fewglue:
        drawn = fewglue(task.name, examples, where)
        shipped = _shipped()["fewglue"][task.name]["sha256"]
    else:
        drawn = sampled(examples, regime.shots, regime.split_seed)
        known = _shipped()["sampled"].get(task.name, {}) if official else {}
        shipped = known.get(f"{regime.shots}/{regime.split_seed}")
    found = digest([*drawn.train, *drawn.select])
    if shipped not in (None, found):
        raise UserError(
            f"The few-shot rows of {task.title} in {where} are not those of the official release: their "
            f"digest is {found[:12]}, not {shipped[:12]}. Find the file with `dp-bench data check`."
        )
    if whole_classes and regime.split is FewShotSplit.sampled:
        return sampled(examples, regime.shots, regime.split_seed, whole_classes=True)
    return drawn


def sampled(examples: Sequence[Example], shots: int, seed: int, *, whole_classes: bool = False) -> Draw:
    """Draw `shots` examples a class to train on and as many to select on.

    A class with too few is halved, or with `whole_classes` trained on completely. Raises UserError if no
    example is left to train on.
    """
    train: list[Example] = []
    select: list[Example] = []
    notes = []
    for label, rows in ordered(examples, seed).items():
        number = min(shots, len(rows) if whole_classes else len(rows) // 2)
        to_select = rows[number : 2 * number]
        if len(to_select) < shots:
            notes.append(
                f"class {label} has {len(rows)} rows to draw from, not {2 * shots}: "
                f"{number} and {len(to_select)}"
            )
        train += rows[:number]
        select += to_select
    if not train:
        raise UserError(f"The training set has too few rows to draw regime.shots={shots} a class from it.")
    return Draw(train, select, tuple(notes))


def ordered(examples: Sequence[Example], seed: int) -> dict[int, list[Example]]:
    """Return the examples of each class in the order of the draw, and one for each shared text."""
    labels = {example.label for example in examples if example.label is not None}
    by_class: dict[int, list[Example]] = {label: [] for label in sorted(labels)}
    used: set[int] = set()
    rows = zip(examples, components([example.source for example in examples]), strict=True)
    for example, component in sorted(rows, key=lambda row: sha256(f"{seed}/{row[0].id}".encode()).digest()):
        if example.label is not None and component not in used:
            used.add(component)
            by_class[example.label].append(example)
    return by_class


def fewglue(task: str, examples: Sequence[Example], where: str) -> Draw:
    """Return FewGLUE's 32 training rows and the 32 of its development set (Schick and Schütze, 2021).

    Raises UserError if FewGLUE lacks the task, or `examples` lack some of its rows.
    """
    known = _shipped()["fewglue"]
    if task not in known:
        raise UserError(f"FewGLUE has no '{task}': use regime.split=sampled, or one of {', '.join(known)}.")
    by_id = {example.id: example for example in examples}
    missing = [name for part in ("train", "select") for name in known[task][part] if name not in by_id]
    if missing:
        raise UserError(
            f"{len(missing)} rows of FewGLUE ({missing[0]}, …) are not in {where}: FewGLUE is drawn from the "
            "official training sets. Set data.dir to those, or use regime.split=sampled."
        )
    train, select = ([by_id[name] for name in known[task][part]] for part in ("train", "select"))
    return Draw(train, select)


def degenerate(train: Sequence[Example], task: TaskSettings) -> tuple[str, ...]:
    """Return a note on the labels with less than half of an even share of the training rows, if any.

    FewGLUE's 32 rows of WSC are all True, and only 3 of CB's are neutral.
    """
    counts = Counter(example.label for example in train)
    scarce = [
        f"{counts[label]} {name}"
        for label, name in enumerate(task.labels)
        if counts[label] < len(train) / len(task.labels) / 2
    ]
    if not scarce:
        return ()
    return (f"{DEGENERATE}: of the {len(train)} training rows of {task.title}, {', '.join(scarce)}",)


def digest(examples: Sequence[Example]) -> str:
    """Return a sha256 over ids, labels and texts; the order of the examples has no effect."""
    rows = sorted(json.dumps([e.id, e.label, dict(e.fields)], sort_keys=True) for e in examples)
    return sha256("\n".join(rows).encode()).hexdigest()


@cache
def _shipped() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(DRAWS.read_text(encoding="utf-8"))
    return content
