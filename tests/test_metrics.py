"""Metrics agree with scikit-learn and with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dp_bench.data.metrics import accuracy, exact_match, f1a, macro_f1, score


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_classes", [2, 3])
def test_metrics_agree_with_scikit_learn(seed: int, num_classes: int) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, num_classes, (2, 40))
    assert accuracy(labels, predictions) == pytest.approx(100 * accuracy_score(labels, predictions))
    expected = f1_score(labels, predictions, average="macro", labels=list(range(num_classes)))
    assert macro_f1(labels, predictions, num_classes) == pytest.approx(100 * expected)
    if num_classes == 2:
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
    values = score(["f1a", "exact_match"], [1, 0], [1, 1], ["q", "q"], 2)
    assert list(values) == ["accuracy", "f1a", "exact_match"]
    assert values == pytest.approx({"accuracy": 50, "f1a": 200 / 3, "exact_match": 0})
    assert score(["accuracy"], [1], [1], ["q"], 2) == {"accuracy": 100.0}


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"metric bleu is unknown: task\.metrics takes accuracy"):
        score(["bleu"], [1], [1], ["q"], 2)
    with pytest.raises(ValueError, match="no examples"):
        accuracy([], [])
    with pytest.raises(ValueError, match="1 of 2 labels are hidden"):
        accuracy([0, -1], [0, 0])
    with pytest.raises(ValueError, match="do not go with"):
        accuracy([0, 1], [0])
    with pytest.raises(ValueError, match="2 groups for 1 labels"):
        exact_match([1], [1], ["a", "b"])
