"""Metrics agree with scikit-learn and with values computed by hand."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dp_bench.data.metrics import (
    Answers,
    accuracy,
    exact_match,
    f1a,
    gender_parity,
    macro_f1,
    macro_f1_of_present,
    matthews,
    normalised,
    score,
    task_score,
    token_em,
    token_f1,
)
from dp_bench.types import UserError


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_classes", [2, 3])
def test_metrics_agree_with_scikit_learn(seed: int, num_classes: int) -> None:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, num_classes, (2, 40))
    assert accuracy(labels, predictions) == pytest.approx(100 * accuracy_score(labels, predictions))
    expected = f1_score(labels, predictions, average="macro", labels=list(range(num_classes)))
    assert macro_f1(labels, predictions, num_classes) == pytest.approx(100 * expected)
    present = f1_score(labels[:4], predictions[:4], average="macro")
    assert macro_f1_of_present(labels[:4], predictions[:4]) == pytest.approx(100 * present)
    if num_classes == 2:
        assert matthews(labels, predictions) == pytest.approx(100 * matthews_corrcoef(labels, predictions))
        assert f1a(labels, predictions) == pytest.approx(100 * f1_score(labels, predictions))


def test_values_computed_by_hand() -> None:
    labels, predictions = [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]
    groups = ["p/0", "p/0", "p/1", "p/2", "p/2"]
    assert accuracy(labels, predictions) == pytest.approx(60)
    assert f1a(labels, predictions) == pytest.approx(100 * 4 / 6)  # 2 hits of 3 gold, 3 predicted
    assert macro_f1(labels, predictions, 2) == pytest.approx(50 * (4 / 6 + 2 / 4))
    assert exact_match(labels, predictions, groups) == pytest.approx(100 / 3)


def test_an_absent_class_counts_as_zero() -> None:
    assert macro_f1([0, 1], [0, 1], 3) == pytest.approx(200 / 3)


def test_no_right_answer_and_none_predicted_is_zero() -> None:
    assert f1a([0, 0], [0, 0]) == 0.0
    assert accuracy([0, 0], [0, 0]) == 100.0


def test_groups_need_not_stand_together() -> None:
    assert exact_match([1, 1, 1], [1, 1, 0], ["a", "b", "a"]) == 50.0


def test_score_always_has_accuracy() -> None:
    values = score(["f1a", "exact_match"], Answers([1, 0], [1, 1], ["q", "q"], 2))
    assert list(values) == ["accuracy", "f1a", "exact_match"]
    assert values == pytest.approx({"accuracy": 50, "f1a": 200 / 3, "exact_match": 0})
    assert score(["accuracy"], Answers([1], [1], ["q"], 2)) == {"accuracy": 100.0}


def test_wrong_input_is_refused() -> None:
    with pytest.raises(UserError, match=r"'bleu', which is unknown: use accuracy"):
        score(["bleu"], Answers([1], [1], ["q"], 2))
    with pytest.raises(ValueError, match="no examples"):
        accuracy([], [])
    with pytest.raises(ValueError, match="1 of 2 labels are hidden"):
        accuracy([0, -1], [0, 0])
    with pytest.raises(ValueError, match="differ in shape"):
        accuracy([0, 1], [0])
    with pytest.raises(ValueError, match="2 groups for 1 labels"):
        exact_match([1], [1], ["a", "b"])


# ---------------------------------------------------------------------------------------------- diagnostics


def test_matthews_by_hand() -> None:
    # tp 2, tn 1, fp 1, fn 1: (2·1 - 1·1) / sqrt(3·3·2·2)
    assert matthews([1, 1, 1, 0, 0], [1, 1, 0, 0, 1]) == pytest.approx(100 / 6)
    assert matthews([0, 1], [0, 1]) == pytest.approx(100)
    assert matthews([0, 1], [1, 0]) == pytest.approx(-100)


def test_one_class_alone_has_no_correlation() -> None:
    assert matthews([1, 1], [0, 1]) == 0.0
    assert matthews([0, 1], [1, 1]) == 0.0
    assert matthews([0, 0], [0, 0]) == 0.0
    with pytest.raises(ValueError, match="of two classes"):
        matthews([0, 1, 2], [0, 1, 2])


def test_gender_parity_asks_for_likeness_not_for_truth() -> None:
    pairs = ["a", "a", "b", "b", "c", "c"]
    assert gender_parity([0, 0, 1, 0, 1, 1], pairs) == pytest.approx(200 / 3)
    assert gender_parity([1, 1, 1], ["a", "b", "a"]) == 100.0
    assert gender_parity([0, 1, 0, 1], ["a", "b", "a", "b"]) == 100.0
    with pytest.raises(ValueError, match="0 groups for 0"):
        gender_parity([], [])


def test_gender_parity_is_that_of_the_benchmarks_scorer_and_a_pair_of_one_is_none() -> None:
    """jiant's GenderParity, transcribed: rows 2i and 2i + 1 of a file, and a last row alone is left out."""
    generator = np.random.default_rng(0)
    for size in (2, 7, 40, 41):
        predicted = generator.integers(0, 2, size)
        same = sum(int(predicted[2 * i] == predicted[2 * i + 1]) for i in range(size // 2))
        groups = [f"pair{row // 2}" for row in range(size)]
        assert gender_parity(predicted, groups) == pytest.approx(100 * same / (size // 2), abs=1e-12)
    assert gender_parity([0, 1, 1], ["a", "a", "b"]) == 0.0
    with pytest.raises(ValueError, match="none of 2 predictions has its partner"):
        gender_parity([1, 1], ["a", "b"])


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
    assert token_f1(["costa!"], golds) == token_em(["costa!"], golds) == 100.0
    assert token_f1(["Diego"], golds) == pytest.approx(200 / 3)  # 1 of 1 and 1 of 2 words
    assert token_em(["Diego"], golds) == 0.0
    assert token_f1(["Diego Costa Costa"], [["Costa Costa"]]) == pytest.approx(100 * 4 / 5)


def test_texts_without_words_share_none() -> None:
    assert (token_em(["the"], [["a"]]), token_f1(["the"], [["a"]])) == (100.0, 0.0)  # as officially
    assert token_f1([""], [["Ann"]]) == token_em([""], [["Ann"]]) == 0.0


def test_a_query_without_gold_counts_as_wrong_but_not_all_may_be_without() -> None:
    assert token_f1(["Ann", "Bob"], [["Ann"], []]) == token_em(["Ann", "Bob"], [["Ann"], []]) == 50.0
    with pytest.raises(ValueError, match="golds of all 2 examples are hidden"):
        token_em(["Ann", "Bob"], [[], []])
    with pytest.raises(ValueError, match="1 lists of golds for 2"):
        token_f1(["Ann", "Bob"], [["Ann"]])
    with pytest.raises(ValueError, match="no examples"):
        token_f1([], [])


def test_any_gold_is_right() -> None:
    choices = [("Ann Lee", "Lee", "Bob"), ("Eva", "Max")]
    names = ["token_f1", "token_em"]
    groups = ["q", "r"]
    values = score(names, Answers([0, 1], [1, 1], groups, 0, choices=choices, golds=[(0, 1), (1,)]))
    assert values == {"accuracy": 100.0, "token_f1": 100.0, "token_em": 100.0}
    values = score(names, Answers([0, -1], [1, 1], groups, 0, choices=choices, golds=[(0,), ()]))
    assert values == pytest.approx({"accuracy": 0, "token_f1": 100 / 3, "token_em": 0})
    with pytest.raises(ValueError, match="need examples with choices"):
        score(["token_f1"], Answers([0], [0], ["q"], 2))


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
    with pytest.raises(UserError, match="there is no"):
        score([name], Answers([1], [1], ["q"], 2))
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "wrong.py").write_text(MODULE, "utf-8")
    values = score([name], Answers([0, 1, 1, 1], [0, 1, 1, 0], list("abcd"), 2))
    assert values == {"accuracy": 75.0, name: 25.0}
