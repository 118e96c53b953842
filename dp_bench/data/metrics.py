"""The metrics of SuperGLUE's classification tasks, in 0..100, as plain functions of numpy arrays.

They agree with scikit-learn when it is given every class by name: a class that is absent from a small split
counts as 0 and does not drop out of the mean. Labels and predictions index the task's choices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.int64]


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    gold, predicted = _checked(labels, predictions)
    return 100.0 * float(np.mean(gold == predicted))


def macro_f1(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> float:
    """Return the mean F1 over all classes; one that is neither gold nor predicted counts as 0."""
    gold, predicted = _checked(labels, predictions)
    return float(np.mean([_f1(gold == index, predicted == index) for index in range(num_classes)]))


def f1a(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return MultiRC's F1a: the F1 of class 1, "this answer is right", over the answers to all questions."""
    gold, predicted = _checked(labels, predictions)
    return _f1(gold == 1, predicted == 1)


def exact_match(labels: ArrayLike, predictions: ArrayLike, groups: Sequence[str]) -> float:
    """Return the share of groups (MultiRC questions) whose every member is predicted right."""
    gold, predicted = _checked(labels, predictions)
    if len(groups) != len(gold):
        raise ValueError(f"{len(groups)} groups for {len(gold)} labels")
    names, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    mistakes = np.bincount(group_of_row, weights=gold != predicted, minlength=len(names))
    return 100.0 * float(np.mean(mistakes == 0))


def score(
    names: Sequence[str], labels: ArrayLike, predictions: ArrayLike, groups: Sequence[str], num_classes: int
) -> dict[str, float]:
    """Return the named metrics, and accuracy always: the paper's tables show it for every task."""
    known = {
        "accuracy": lambda: accuracy(labels, predictions),
        "macro_f1": lambda: macro_f1(labels, predictions, num_classes),
        "f1a": lambda: f1a(labels, predictions),
        "exact_match": lambda: exact_match(labels, predictions, groups),
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"metric {unknown[0]} is unknown: task.metrics takes {', '.join(known)}")
    return {name: known[name]() for name in dict.fromkeys(("accuracy", *names))}


def _checked(labels: ArrayLike, predictions: ArrayLike) -> tuple[Indices, Indices]:
    gold, predicted = np.asarray(labels, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
    if gold.shape != predicted.shape or gold.ndim != 1:
        raise ValueError(f"labels {gold.shape} do not go with predictions {predicted.shape}")
    if not len(gold):
        raise ValueError("no examples to score")
    if np.any(gold < 0):
        raise ValueError(
            f"{np.sum(gold < 0)} of {len(gold)} labels are hidden, as in the official test splits"
        )
    return gold, predicted


def _f1(gold: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    positives = int(gold.sum()) + int(predicted.sum())
    return 200.0 * float(np.sum(gold & predicted)) / positives if positives else 0.0
