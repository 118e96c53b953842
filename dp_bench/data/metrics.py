"""The metrics of SuperGLUE in 0..100, as plain functions of numpy arrays and strings.

They equal scikit-learn's with `labels=` all classes: a class that is absent from a small split counts as 0
and stays in the mean. Labels and predictions are indices of the task's labels, or of an example's choices.
Functions raise ValueError for inputs of different length, without examples, or with hidden labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp_bench.data.normalise import normalised
from dp_bench.types import UserError

Indices = NDArray[np.int64]


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the share of examples that are predicted right."""
    gold, predicted = _checked(labels, predictions)
    return 100.0 * float(np.mean(gold == predicted))


def macro_f1(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> float:
    """Return the mean F1 over all classes; one that is neither gold nor predicted counts as 0."""
    gold, predicted = _checked(labels, predictions)
    return float(np.mean([_f1(gold == index, predicted == index) for index in range(num_classes)]))


def macro_f1_of_present(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the mean F1 over the classes that occur, gold or predicted.

    This is the default of scikit-learn and of `evaluate`'s `super_glue` module; it exceeds `macro_f1` on a
    small split without one of its classes.
    """
    gold, predicted = _checked(labels, predictions)
    return float(np.mean([_f1(gold == index, predicted == index) for index in np.union1d(gold, predicted)]))


def f1a(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return MultiRC's F1a: the F1 of class 1, "this answer is right", over the answers to all questions."""
    gold, predicted = _checked(labels, predictions)
    return _f1(gold == 1, predicted == 1)


def exact_match(labels: ArrayLike, predictions: ArrayLike, groups: Sequence[str]) -> float:
    """Return the share of groups (MultiRC questions) whose members are all predicted right."""
    gold, predicted = _checked(labels, predictions)
    if len(groups) != len(gold):
        raise ValueError(f"{len(groups)} groups for {len(gold)} labels")
    names, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    mistakes = np.bincount(group_of_row, weights=gold != predicted, minlength=len(names))
    return 100.0 * float(np.mean(mistakes == 0))


def matthews(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the Matthews correlation of two classes, in -100..100; 0 if either side has only one class."""
    gold, predicted = _checked(labels, predictions)
    counts = np.bincount(2 * gold + predicted, minlength=4).astype(float)
    if len(counts) > 4 or predicted.min() < 0:
        raise ValueError("the Matthews correlation is of two classes, 0 and 1")
    true_negative, false_positive, false_negative, true_positive = counts
    margins = (gold == 1).mean() * (gold == 0).mean() * (predicted == 1).mean() * (predicted == 0).mean()
    if margins == 0:
        return 0.0
    covariance = (true_positive * true_negative - false_positive * false_negative) / len(gold) ** 2
    return 100.0 * float(covariance / np.sqrt(margins))


def gender_parity(predictions: ArrayLike, groups: Sequence[str]) -> float:
    """Return the share of groups (AX-g's pairs) whose members have the same prediction, right or wrong.

    A row without its partner does not count, as in the benchmark's scorer, jiant's GenderParity.
    """
    predicted = np.asarray(predictions, dtype=np.int64)
    if len(groups) != len(predicted) or not len(groups):
        raise ValueError(f"{len(groups)} groups for {len(predicted)} predictions")
    _, first, group_of_row = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    is_pair = np.bincount(group_of_row) > 1
    if not is_pair.any():
        raise ValueError(f"none of {len(groups)} predictions has its partner, the other gender's")
    unlike = np.bincount(group_of_row, weights=predicted != predicted[first][group_of_row])
    return 100.0 * float(np.mean(unlike[is_pair] == 0))


def token_f1(predictions: Sequence[str], golds: Sequence[Sequence[str]]) -> float:
    """Return ReCoRD's F1: the mean over queries of the word F1 of a prediction with its nearest gold.

    A query without gold counts as 0.
    """
    return _mean_of_best(_shared_words, predictions, golds)


def token_em(predictions: Sequence[str], golds: Sequence[Sequence[str]]) -> float:
    """Return ReCoRD's EM: the share of queries whose normalised prediction is a normalised gold."""
    return _mean_of_best(lambda text, gold: float(normalised(text) == normalised(gold)), predictions, golds)


@dataclass(frozen=True)
class Answers:
    """The labels and predictions of a split, as metrics read them: one entry an example."""

    labels: ArrayLike
    predictions: ArrayLike
    groups: Sequence[str]
    num_classes: int
    # Of examples with choices: their texts, and the indices of the right ones. Any right one counts; an
    # example without one is never right.
    choices: Sequence[Sequence[str]] = ()
    golds: Sequence[Sequence[int]] = ()

    @property
    def chosen(self) -> list[int]:
        """The predicted index of each example."""
        return list(np.asarray(self.predictions, dtype=np.int64).tolist())

    @property
    def texts(self) -> tuple[list[str], list[list[str]]]:
        """The chosen text of each example and the right ones."""
        if not self.choices:
            raise ValueError("token_f1 and token_em need examples with choices, as in ReCoRD")
        texts = [choices[index] for choices, index in zip(self.choices, self.chosen, strict=True)]
        golds = [[choices[i] for i in right] for choices, right in zip(self.choices, self.golds, strict=True)]
        return texts, golds


def _any_accuracy(answers: Answers) -> float:
    if not answers.golds:
        return accuracy(answers.labels, answers.predictions)
    _checked_golds(answers.chosen, answers.golds)
    is_right = [index in right for index, right in zip(answers.chosen, answers.golds, strict=True)]
    return 100.0 * float(np.mean(is_right))


class Metric(NamedTuple):
    """A metric and its description in `dp-bench list metrics`."""

    of: Callable[[Answers], float]
    description: str


METRICS = {  # the names in task.metrics
    "accuracy": Metric(_any_accuracy, "Share of examples that are predicted right; shown for every task."),
    "macro_f1": Metric(
        lambda a: macro_f1(a.labels, a.predictions, a.num_classes), "Mean F1 over all classes (CB)."
    ),
    "f1a": Metric(lambda a: f1a(a.labels, a.predictions), "F1 of class 1 over all answers (MultiRC)."),
    "exact_match": Metric(
        lambda a: exact_match(a.labels, a.predictions, a.groups),
        "Share of groups, such as MultiRC's questions, whose members are all right.",
    ),
    "token_f1": Metric(lambda a: token_f1(*a.texts), "Words shared with the nearest right answer (ReCoRD)."),
    "token_em": Metric(
        lambda a: token_em(*a.texts), "Share of predictions that are a right answer, normalised (ReCoRD)."
    ),
    "matthews": Metric(
        lambda a: matthews(a.labels, a.predictions), "Matthews correlation of two classes (AX-b)."
    ),
    "gender_parity": Metric(
        lambda a: gender_parity(a.predictions, a.groups), "Share of pairs with equal predictions (AX-g)."
    ),
}
EVALUATE = "evaluate:"


def described() -> list[tuple[str, str]]:
    """Return the name and the description of each metric, the user's modules included."""
    module = "A module of the evaluate library in your FOLDER: the number it returns, times 100."
    return [*((name, metric.description) for name, metric in METRICS.items()), (f"{EVALUATE}FOLDER", module)]


def problem(name: object) -> str | None:
    """Return what is wrong with a name in task.metrics; None if it is known."""
    if str(name).startswith(EVALUATE):
        folder = _folder(str(name))
        module = folder / f"{folder.name}.py"
        if module.is_file():
            return None
        return (
            f"task.metrics names {name}, but there is no {module}: give the folder of a module of the "
            "evaluate library, with a file of the same name in it."
        )
    if name in METRICS:
        return None
    return f"task.metrics names '{name}', which is unknown: use {', '.join(METRICS)} or {EVALUATE}FOLDER."


def score(names: Sequence[str], answers: Answers) -> dict[str, float]:
    """Return the named metrics, and accuracy, which the paper's tables show for every task.

    Raises UserError for an unknown name.
    """
    return {name: _metric(name)(answers) for name in dict.fromkeys(("accuracy", *names))}


def _metric(name: str) -> Callable[[Answers], float]:
    if wrong := problem(name):
        raise UserError(wrong)
    return METRICS[name].of if name in METRICS else partial(_evaluated, name)


def _evaluated(name: str, answers: Answers) -> float:
    """Return the one value that a module of the `evaluate` library computes in 0..1, times 100."""
    predictions, references = answers.chosen, np.asarray(answers.labels).tolist()
    values = _module(_folder(name)).compute(predictions=predictions, references=references)
    if len(values) != 1:
        raise UserError(f"{name} returns {', '.join(values) or 'nothing'}: a metric must return one number.")
    return 100.0 * float(next(iter(values.values())))


@cache
def _module(folder: Path) -> Any:
    """Load a module of the `evaluate` library, once for all evaluations of a run."""
    import evaluate  # takes seconds

    return evaluate.load(str(folder))


def _folder(name: str) -> Path:
    return Path(name.removeprefix(EVALUATE)).expanduser().resolve()


def task_score(names: Sequence[str], values: Mapping[str, float]) -> float:
    """Return the mean of the metrics of a task, as the leaderboard does."""
    return float(np.mean([values[name] for name in names]))


def _checked(labels: ArrayLike, predictions: ArrayLike) -> tuple[Indices, Indices]:
    gold, predicted = np.asarray(labels, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
    if gold.shape != predicted.shape or gold.ndim != 1:
        raise ValueError(f"labels {gold.shape} and predictions {predicted.shape} differ in shape")
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


def _mean_of_best(
    similarity: Callable[[str, str], float], predictions: Sequence[str], golds: Sequence[Sequence[str]]
) -> float:
    _checked_golds(predictions, golds)
    best = [
        max((similarity(text, gold) for gold in right), default=0.0)
        for text, right in zip(predictions, golds, strict=True)
    ]
    return 100.0 * float(np.mean(best))


def _checked_golds(predictions: Sequence[object], golds: Sequence[Sequence[object]]) -> None:
    if len(predictions) != len(golds):
        raise ValueError(f"{len(golds)} lists of golds for {len(predictions)} predictions")
    if not len(predictions):
        raise ValueError("no examples to score")
    if not any(golds):
        raise ValueError(f"the golds of all {len(golds)} examples are hidden, as in the official test splits")


def _shared_words(prediction: str, gold: str) -> float:
    """Return the F1 of the words of two normalised texts, counting repetitions."""
    predicted, right = normalised(prediction).split(), normalised(gold).split()
    num_shared = (Counter(predicted) & Counter(right)).total()
    return 2.0 * num_shared / (len(predicted) + len(right)) if num_shared else 0.0
