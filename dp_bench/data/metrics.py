"""The metrics of SuperGLUE in 0..100, as functions of the answers to a split.

They equal scikit-learn's with `labels=` all classes: a class that is absent from a small split counts as 0
and stays in the mean. The first line of a metric's docstring is its description in `dp-bench list metrics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_bench.data.normalise import normalised
from dp_bench.types import UserError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """The labels and predictions of a split, as metrics read them: one entry an example.

    Both are indices of the task's labels, or of an example's choices. Raises ValueError for a split without
    examples, or with hidden labels.
    """

    labels: Indices
    predictions: Indices
    groups: Sequence[str] = ()
    classes: Sequence[int] | None = None  # None: those that occur, as scikit-learn has it by default
    # Of examples with choices: their texts, and the indices of the right ones. Any right one counts; an
    # example without one is never right.
    choices: Sequence[Sequence[str]] = ()
    golds: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        if not len(self.predictions):
            raise ValueError("no examples to score")
        if not any(self.golds) if self.golds else (self.labels < 0).any():
            raise ValueError("labels are hidden, as in the official test splits")

    @property
    def rows_of_groups(self) -> list[list[int]]:
        """The rows of each group: of the answers to a question, of a pair."""
        rows_of: dict[str, list[int]] = {}
        for row, group in enumerate(self.groups):
            rows_of.setdefault(group, []).append(row)
        return list(rows_of.values())


def accuracy(answers: Answers) -> float:
    """Share of examples that are predicted right; shown for every task."""
    if not answers.golds:
        return _percent(answers.predictions == answers.labels)
    return _percent([index in right for index, right in zip(answers.predictions, answers.golds, strict=True)])


def macro_f1(answers: Answers) -> float:
    """Mean F1 over all classes (CB).

    A class that is neither gold nor predicted counts as 0. Over the classes that occur, which is the default
    of scikit-learn and of `evaluate`'s `super_glue` module, the mean is higher on a split without one.
    """
    classes = answers.classes
    if classes is None:
        classes = np.union1d(answers.labels, answers.predictions).tolist()
    return float(np.mean([_f1(answers, index) for index in classes]))


def f1a(answers: Answers) -> float:
    """F1 of class 1 over all answers (MultiRC)."""
    return _f1(answers, 1)


def exact_match(answers: Answers) -> float:
    """Share of groups, such as MultiRC's questions, whose members are all right."""
    is_right = answers.predictions == answers.labels
    return _percent([is_right[rows].all() for rows in answers.rows_of_groups])


def token_f1(answers: Answers) -> float:
    """Words shared with the nearest right answer (ReCoRD)."""
    return _mean_of_best(answers, _shared_words)


def token_em(answers: Answers) -> float:
    """Share of predictions that are a right answer, normalised (ReCoRD)."""
    return _mean_of_best(answers, lambda text, gold: normalised(text) == normalised(gold))


def matthews(answers: Answers) -> float:
    """Matthews correlation of two classes (AX-b).

    In -100..100; 0 if labels or predictions have only one class. Raises ValueError for a third class.
    """
    gold, predicted = answers.labels, answers.predictions
    counts = np.bincount(2 * gold + predicted, minlength=4).astype(float)
    if len(counts) > 4:
        raise ValueError("the Matthews correlation is of two classes, 0 and 1")
    true_negative, false_positive, false_negative, true_positive = counts
    margins = (gold == 1).mean() * (gold == 0).mean() * (predicted == 1).mean() * (predicted == 0).mean()
    if margins == 0:
        return 0.0
    covariance = (true_positive * true_negative - false_positive * false_negative) / len(gold) ** 2
    return 100.0 * float(covariance / np.sqrt(margins))


def gender_parity(answers: Answers) -> float:
    """Share of pairs with equal predictions (AX-g).

    A row without its partner does not count, as in the benchmark's scorer, jiant's GenderParity. Raises
    ValueError if none has one.
    """
    pairs = [answers.predictions[rows] for rows in answers.rows_of_groups if len(rows) > 1]
    if not pairs:
        raise ValueError("no prediction has its partner, the other gender's")
    return _percent([(pair == pair[0]).all() for pair in pairs])


Metric = Callable[[Answers], float]
METRICS: dict[str, Metric] = {  # by the names in task.metrics
    metric.__name__: metric
    for metric in (accuracy, macro_f1, f1a, exact_match, token_f1, token_em, matthews, gender_parity)
}
EVALUATE = "evaluate:"


def described() -> list[tuple[str, str]]:
    """Return the name and the description of each metric, the user's modules included."""
    module = "A module of the evaluate library in your FOLDER: the number it returns, times 100."
    known = [(name, str(metric.__doc__).splitlines()[0]) for name, metric in METRICS.items()]
    return [*known, (f"{EVALUATE}FOLDER", module)]


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

    `names` are those that `problem` accepts.
    """
    return {
        name: METRICS[name](answers) if name in METRICS else _evaluated(name, answers)
        for name in dict.fromkeys(("accuracy", *names))
    }


def _evaluated(name: str, answers: Answers) -> float:
    """Return the one value that a module of the `evaluate` library computes in 0..1, times 100."""
    predictions, references = answers.predictions.tolist(), answers.labels.tolist()
    values = _module(name).compute(predictions=predictions, references=references)
    if len(values) != 1:
        raise UserError(f"{name} returns {', '.join(values) or 'nothing'}: a metric must return one number.")
    return 100.0 * float(next(iter(values.values())))


@cache
def _module(name: str) -> Any:
    """Load a module of the `evaluate` library, once for all evaluations of a run."""
    import evaluate  # takes seconds

    return evaluate.load(str(_folder(name)))


def _folder(name: str) -> Path:
    return Path(name.removeprefix(EVALUATE)).expanduser().resolve()


def task_score(names: Sequence[str], values: Mapping[str, float]) -> float:
    """Return the mean of the metrics of a task, as the leaderboard does."""
    return float(np.mean([values[name] for name in names]))


def _percent(values: NDArray[np.bool_] | Sequence[Any]) -> float:
    return 100.0 * float(np.mean(values))


def _f1(answers: Answers, index: int) -> float:
    gold, predicted = answers.labels == index, answers.predictions == index
    positives = int(gold.sum()) + int(predicted.sum())
    return 200.0 * float(np.sum(gold & predicted)) / positives if positives else 0.0


def _mean_of_best(answers: Answers, similarity: Callable[[str, str], float]) -> float:
    """Return the mean over queries of the similarity of the chosen text with its nearest gold.

    A query without gold counts as 0.
    """
    if not answers.choices:
        raise ValueError("token_f1 and token_em need examples with choices, as in ReCoRD")
    rows = zip(answers.choices, answers.predictions, answers.golds, strict=True)
    return _percent(
        [max((similarity(texts[i], texts[gold]) for gold in golds), default=0.0) for texts, i, golds in rows]
    )


def _shared_words(prediction: str, gold: str) -> float:
    """Return the F1 of the words of two normalised texts, counting repetitions."""
    predicted, right = normalised(prediction).split(), normalised(gold).split()
    num_shared = (Counter(predicted) & Counter(right)).total()
    return 2.0 * num_shared / (len(predicted) + len(right)) if num_shared else 0.0
