"""What is held out to select on: whole sources, about so many rows, with the labels in their shares."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dp_bench.data.grouping import components
from dp_bench.data.split import held_out, number_held_out
from dp_bench.settings import TrainerSettings
from dp_bench.types import UserError


def singles(num_rows: int) -> list[str]:
    return [f"s{row}" for row in range(num_rows)]


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_divided_and_ascending(seed: int) -> None:
    train, held = held_out(singles(100), [0, 1] * 50, 10, seed)
    assert sorted([*train, *held]) == list(range(100))
    assert len(held) == 10
    assert list(train) == sorted(train)
    assert list(held) == sorted(held)


@pytest.mark.parametrize("seed", range(5))
def test_a_source_stays_on_one_side(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sources = [f"s{number}" for number in generator.integers(0, 40, 300)]
    train, held = held_out(sources, list(generator.integers(0, 2, 300)), 60, seed)
    assert not {sources[row] for row in train} & {sources[row] for row in held}
    largest = max(Counter(sources).values())
    assert 60 <= len(held) < 60 + largest


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_share_a_text_through_others_stay_on_one_side(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pairs = generator.integers(0, 400, (200, 2))  # two sentences a row, as in WiC
    train, held = held_out([f"s{a} s{b}" for a, b in pairs], [0, 1] * 100, 20, seed)
    assert len(held)
    assert not set(pairs[train].ravel()) & set(pairs[held].ravel())


@pytest.mark.parametrize("seed", range(5))
def test_what_connects_most_rows_is_trained_on(seed: int) -> None:
    train, held = held_out(["big"] * 70 + singles(30), [0, 1] * 50, 10, seed)
    assert set(range(70)) <= set(train)
    assert len(held) == 10


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_the_graph(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = [set(generator.integers(0, 60, generator.integers(1, 4)).tolist()) for _ in range(40)]
    shared = coo_matrix([[bool(a & b) for a in rows] for b in rows])
    _, labels = connected_components(shared)
    found = components([" ".join(f"t{text}" for text in row) for row in rows])
    assert [[a == b for a in found] for b in found] == [[a == b for a in labels] for b in labels]


def test_labels_keep_their_shares() -> None:
    labels = [0] * 115 + [1] * 119 + [2] * 16  # CB
    for seed in range(20):
        _, held = held_out(singles(250), labels, 25, seed)
        counts = Counter(labels[row] for row in held)
        assert counts[2] in (1, 2)
        assert abs(counts[0] - counts[1]) <= 2


def test_maximum_and_minimum() -> None:
    def number(num_rows: int, **settings: object) -> int:
        trainer = TrainerSettings(**{"heldout_fraction": 0.1, "heldout_max": 500, **settings})
        return number_held_out(num_rows, trainer)

    assert number(250) == 25 and number(9427) == 500 and number(3, heldout_fraction=0.01) == 1
    assert number(250, heldout_min=100) == 100 and number(9427, heldout_min=100) == 500
    assert number(60, heldout_min=100) == 30  # at most half of the rows


def test_the_draw_is_the_seeds() -> None:
    first, again, other = (held_out(singles(100), [0, 1] * 50, 10, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("seed", range(5))
def test_something_is_left_to_train_on(seed: int) -> None:
    train, held = held_out(["a"] * 99 + ["b"], [0] * 100, 50, seed)
    assert len(train)
    assert len(held)


def test_one_text_cannot_be_divided() -> None:
    with pytest.raises(UserError, match=r"all 8 training examples share one text.*data\.limit"):
        held_out(["a"] * 8, [0, 1] * 4, 1, 0)
