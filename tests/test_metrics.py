"""Metrics agree with scikit-learn and with values computed by hand."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from dp_bench.data import metrics
from dp_bench.data.metrics import (
    Answers,
    accuracy,
    exact_match,
    f1a,
    gender_parity,
    macro_f1,
    matthews,
    normalised,
    score,
    task_score,
    token_em,
    token_f1,
)


def answers(
    labels: ArrayLike, predictions: ArrayLike, groups: Sequence[str] = (), classes: int | None = None
) -> Answers:
    known = None if classes is None else range(classes)
    return Answers(np.asarray(labels, dtype=int), np.asarray(predictions, dtype=int), groups, known)


def parity(predictions: ArrayLike, groups: Sequence[str]) -> float:
    return gender_parity(answers(np.zeros_like(predictions), predictions, groups))


def chosen(texts: Sequence[str], golds: Sequence[Sequence[str]]) -> Answers:
    """Answers to queries of which these texts were chosen, and these were right."""
    choices = [[text, *right] for text, right in zip(texts, golds, strict=True)]
    zeros = np.zeros(len(texts), dtype=int)
    return Answers(zeros, zeros, choices=choices, golds=[range(1, len(each)) for each in choices])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_classes", [2, 3])
def test_metrics_agree_with_scikit_learn(seed: int, num_classes: int) -> None:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, num_classes, (2, 40))
    found = answers(labels, predictions, classes=num_classes)
    assert accuracy(found) == pytest.approx(100 * accuracy_score(labels, predictions))
    expected = f1_score(labels, predictions, average="macro", labels=list(range(num_classes)))
    assert macro_f1(found) == pytest.approx(100 * expected)
    present = f1_score(labels[:4], predictions[:4], average="macro")
    assert macro_f1(answers(labels[:4], predictions[:4])) == pytest.approx(100 * present)
    if num_classes == 2:
        assert matthews(found) == pytest.approx(100 * matthews_corrcoef(labels, predictions))
        assert f1a(found) == pytest.approx(100 * f1_score(labels, predictions))


def test_values_computed_by_hand() -> None:
    found = answers([1, 1, 0, 0, 1], [1, 0, 0, 1, 1], ["p/0", "p/0", "p/1", "p/2", "p/2"], 2)
    assert accuracy(found) == pytest.approx(60)
    assert f1a(found) == pytest.approx(100 * 4 / 6)  # 2 hits of 3 gold, 3 predicted
    assert macro_f1(found) == pytest.approx(50 * (4 / 6 + 2 / 4))
    assert exact_match(found) == pytest.approx(100 / 3)


def test_an_absent_class_counts_as_zero() -> None:
    assert macro_f1(answers([0, 1], [0, 1], classes=3)) == pytest.approx(200 / 3)


def test_no_right_answer_and_none_predicted_is_zero() -> None:
    assert f1a(answers([0, 0], [0, 0])) == 0.0
    assert accuracy(answers([0, 0], [0, 0])) == 100.0


def test_groups_need_not_stand_together() -> None:
    assert exact_match(answers([1, 1, 1], [1, 1, 0], ["a", "b", "a"])) == 50.0


def test_score_always_has_accuracy() -> None:
    values = score(["f1a", "exact_match"], answers([1, 0], [1, 1], ["q", "q"]))
    assert list(values) == ["accuracy", "f1a", "exact_match"]
    assert values == pytest.approx({"accuracy": 50, "f1a": 200 / 3, "exact_match": 0})
    assert score(["accuracy"], answers([1], [1], ["q"])) == {"accuracy": 100.0}


def test_wrong_input_is_refused() -> None:
    assert "'bleu', which is unknown: use accuracy" in str(metrics.problem("bleu"))
    with pytest.raises(ValueError, match="no examples"):
        answers([], [])
    with pytest.raises(ValueError, match="labels are hidden"):
        answers([0, -1], [0, 0])


def test_every_metric_is_described() -> None:
    assert all(name and text.endswith(".") for name, text in metrics.described())


# ---------------------------------------------------------------------------------------------- diagnostics


def test_matthews_by_hand() -> None:
    # tp 2, tn 1, fp 1, fn 1: (2·1 - 1·1) / sqrt(3·3·2·2)
    assert matthews(answers([1, 1, 1, 0, 0], [1, 1, 0, 0, 1])) == pytest.approx(100 / 6)
    assert matthews(answers([0, 1], [0, 1])) == pytest.approx(100)
    assert matthews(answers([0, 1], [1, 0])) == pytest.approx(-100)


def test_one_class_alone_has_no_correlation() -> None:
    assert matthews(answers([1, 1], [0, 1])) == 0.0
    assert matthews(answers([0, 1], [1, 1])) == 0.0
    assert matthews(answers([0, 0], [0, 0])) == 0.0
    with pytest.raises(ValueError, match="of two classes"):
        matthews(answers([0, 1, 2], [0, 1, 2]))


def test_gender_parity_asks_for_likeness_not_for_truth() -> None:
    pairs = ["a", "a", "b", "b", "c", "c"]
    assert parity([0, 0, 1, 0, 1, 1], pairs) == pytest.approx(200 / 3)
    assert parity([1, 1, 1], ["a", "b", "a"]) == 100.0
    assert parity([0, 1, 0, 1], ["a", "b", "a", "b"]) == 100.0


def test_gender_parity_is_that_of_the_benchmarks_scorer_and_a_pair_of_one_is_none() -> None:
    """jiant's GenderParity, transcribed: rows 2i and 2i + 1 of a file, and a last row alone is left out."""
    generator = np.random.default_rng(0)
    for size in (2, 7, 40, 41):
        predicted = generator.integers(0, 2, size)
        same = sum(int(predicted[2 * i] == predicted[2 * i + 1]) for i in range(size // 2))
        groups = [f"pair{row // 2}" for row in range(size)]
        assert parity(predicted, groups) == pytest.approx(100 * same / (size // 2), abs=1e-12)
    assert parity([0, 1, 1], ["a", "a", "b"]) == 0.0
    with pytest.raises(ValueError, match="no prediction has its partner"):
        parity([1, 1], ["a", "b"])


# ---------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  U.S. Senate's", "us senates"),
        ("An apple, a day", "apple day"),
        ("theatre", "theatre"),
        ("A.", ""),  # the stop goes first, what is left is an article
        ("...", ""),
        ("“Ann”", "“ann”"),  # ASCII punctuation only, as officially
    ],
)
def test_texts_are_compared_without_case_punctuation_and_articles(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_the_nearest_gold_counts() -> None:
    golds = [["Diego Costa", "Costa"]]
    assert token_f1(chosen(["costa!"], golds)) == token_em(chosen(["costa!"], golds)) == 100.0
    assert token_f1(chosen(["Diego"], golds)) == pytest.approx(200 / 3)  # 1 of 1 and 1 of 2 words
    assert token_em(chosen(["Diego"], golds)) == 0.0
    assert token_f1(chosen(["Diego Costa Costa"], [["Costa Costa"]])) == pytest.approx(100 * 4 / 5)


def test_texts_without_words_share_none() -> None:
    found = chosen(["the"], [["a"]])
    assert (token_em(found), token_f1(found)) == (100.0, 0.0)  # as officially
    found = chosen([""], [["Ann"]])
    assert token_f1(found) == token_em(found) == 0.0


def test_a_query_without_gold_counts_as_wrong_but_not_all_may_be_without() -> None:
    found = chosen(["Ann", "Bob"], [["Ann"], []])
    assert token_f1(found) == token_em(found) == 50.0
    with pytest.raises(ValueError, match="labels are hidden"):
        chosen(["Ann", "Bob"], [[], []])


def test_any_gold_is_right() -> None:
    choices = [("Ann Lee", "Lee", "Bob"), ("Eva", "Max")]
    names = ["token_f1", "token_em"]
    found = replace(answers([0, 1], [1, 1]), choices=choices, golds=[(0, 1), (1,)])
    assert score(names, found) == {"accuracy": 100.0, "token_f1": 100.0, "token_em": 100.0}
    values = score(names, replace(found, labels=np.array([0, -1]), golds=[(0,), ()]))
    assert values == pytest.approx({"accuracy": 0, "token_f1": 100 / 3, "token_em": 0})
    with pytest.raises(ValueError, match="need examples with choices"):
        score(["token_f1"], answers([0], [0]))


# ---------------------------------------------------------------------------------------------- benchmark


def test_a_task_scores_the_mean_of_its_metrics() -> None:
    assert task_score(["f1a", "exact_match"], {"accuracy": 1.0, "f1a": 70.0, "exact_match": 30.0}) == 50.0


# ---------------------------------------------------------------------------------------------- evaluate

MULTIRC = [
    ((0, 0, 0), 1, 1),
    ((0, 0, 1), 0, 1),
    ((0, 1, 0), 0, 0),
    ((3, 0, 0), 1, 1),
]  # idx, prediction, gold
EVALUATED: dict[str, dict[str, float]] = {
    **{subset: {"accuracy": 3 / 4} for subset in ("boolq", "copa", "rte", "wic", "wsc", "wsc.fixed")},
    "cb": {"accuracy": 3 / 4, "f1": (2 / 3 + 4 / 5) / 2},  # the third class does not occur
    "axb": {"matthews_correlation": 1 / 3**0.5},
    "axg": {"accuracy": 3 / 4, "gender_parity": 1 / 2},
    # f1_m: question 0 has (0 + 2/3) / 2, the others 1
    "multirc": {"f1_a": 4 / 5, "exact_match": 2 / 3, "f1_m": (1 / 3 + 1 + 1) / 3},
    "record": {"exact_match": 1 / 2, "f1": (1 + 2 / 3) / 2},
}


def evaluated(subset: str) -> dict[str, list[object]]:
    if subset == "multirc":
        names = ("paragraph", "question", "answer")
        answers = [{"idx": dict(zip(names, idx, strict=True)), "prediction": p} for idx, p, _ in MULTIRC]
        return {"predictions": answers, "references": [gold for _, _, gold in MULTIRC]}
    if subset == "record":
        first, second = {"passage": 0, "query": 0}, {"passage": 0, "query": 1}
        return {
            "predictions": [
                {"idx": second, "prediction_text": "Diego"},
                {"idx": first, "prediction_text": "the answer!"},
            ],
            "references": [
                {"idx": first, "answers": ["other", "answer"]},
                {"idx": second, "answers": ["Diego Costa"]},
            ],
        }
    return {"predictions": [0, 1, 1, 1], "references": [0, 1, 0, 1]}


@pytest.mark.slow
def test_the_evaluate_module_computes_every_subset_without_a_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One test for all: importing `evaluate` takes seconds."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
    import evaluate

    from dp_bench.evaluate_superglue import DIRECTORY

    for subset, expected in EVALUATED.items():
        module = evaluate.load(DIRECTORY, subset, cache_dir=str(tmp_path))
        assert module.compute(**evaluated(subset)) == pytest.approx(expected), subset
    with pytest.raises(KeyError, match="no subset 'glue'"):
        evaluate.load(DIRECTORY, "glue", cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="odd number"):
        evaluate.load(DIRECTORY, "axg", cache_dir=str(tmp_path)).compute(predictions=[1], references=[1])


def test_evaluate_is_not_imported_by_the_package() -> None:
    code = "import sys, dp_bench.run, dp_bench.evaluation, dp_bench.evaluate_superglue\n"
    code += "print('evaluate' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


MODULE = """
import datasets
import evaluate

class Wrong(evaluate.Metric):
    def _info(self):
        value = datasets.Value("int64")
        features = datasets.Features({"predictions": value, "references": value})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"wrong": sum(p != r for p, r in zip(predictions, references)) / len(references)}
"""


@pytest.mark.slow
def test_a_metric_of_the_users_own_is_loaded_by_evaluate(tmp_path: Path) -> None:
    name = f"evaluate:{tmp_path / 'wrong'}"
    assert "there is no" in str(metrics.problem(name))
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "wrong.py").write_text(MODULE, "utf-8")
    assert metrics.problem(name) is None
    values = score([name], answers([0, 1, 1, 1], [0, 1, 1, 0]))
    assert values == {"accuracy": 75.0, name: 25.0}
