"""Few-shot draws: the same rows everywhere, disjoint, balanced where data allow, refused on other data."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.rows import read_examples

from dp_bench import config
from dp_bench.data import fewshot
from dp_bench.data.fewshot import SEEDS, SHOTS, digest, draw, ordered, sampled
from dp_bench.data.source import split_file
from dp_bench.settings import FewShotSplit, RegimeSettings, TaskSettings
from dp_bench.types import Example, UserError

OFFICIAL = ("boolq", "cb", "copa", "multirc", "rte", "wic", "wsc")


def examples_of(counts: dict[int, int], *, per_source: int = 1) -> list[Example]:
    labels = [label for label, number in counts.items() for _ in range(number)]
    return [
        Example(
            f"x/train/{i}", {"text": f"text {i}"}, ("no", "yes"), label, f"x/train/{i}", f"s{i // per_source}"
        )
        for i, label in enumerate(labels)
    ]


def task_of(name: str) -> TaskSettings:
    return config.build(config.compose([f"task={name}", "data.dir=."])).settings.task


def regime(**changes: Any) -> RegimeSettings:
    return dataclasses.replace(RegimeSettings(name="fewshot", shots=4), **changes)


def ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


@pytest.mark.parametrize("shots", SHOTS)
def test_a_draw_is_balanced_and_its_parts_share_no_text(shots: int) -> None:
    found = sampled(examples_of({0: 400, 1: 300}), shots, 0)
    for part in (found.train, found.select):
        assert Counter(e.label for e in part) == {0: shots, 1: shots}
    assert not {e.source for e in found.train} & {e.source for e in found.select}
    assert not found.notes


def test_a_draw_does_not_depend_on_the_order_of_the_file() -> None:
    examples = examples_of({0: 50, 1: 50})
    shuffled = random.Random(0).sample(examples, len(examples))
    assert ids(sampled(examples, 4, 3).train) == ids(sampled(shuffled, 4, 3).train)


def test_seeds_draw_differently_and_a_larger_draw_contains_a_smaller_one() -> None:
    examples = examples_of({0: 200, 1: 200})
    assert len({tuple(ids(sampled(examples, 8, seed).train)) for seed in SEEDS}) == len(SEEDS)
    smaller, larger = (set(ids(sampled(examples, shots, 1).train)) for shots in (4, 16))
    assert smaller < larger


def test_each_text_is_used_once() -> None:
    examples = examples_of({0: 60, 1: 60}, per_source=6)
    drawn = [example.source for own in ordered(examples, 0).values() for example in own]
    assert len(drawn) == len(set(drawn)) == 20


def test_a_class_with_too_few_rows_is_said_and_not_padded() -> None:
    found = sampled(examples_of({0: 100, 1: 7}), 8, 0)
    assert Counter(e.label for e in found.train) == {0: 8, 1: 3} == Counter(e.label for e in found.select)
    assert found.notes == ("class 1 has 7 rows to draw from, not 16: 3 and 3",)


def test_too_little_data_for_any_draw_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="too few rows"):
        sampled(examples_of({0: 1, 1: 1}), 2, 0)


def test_fewglue_on_other_data_is_refused_by_name() -> None:
    with pytest.raises(
        UserError, match=r"64 rows of FewGLUE \(rte/train/.*not in FILE.*regime.split=sampled"
    ):
        draw(regime(split=FewShotSplit.fewglue), task_of("rte"), examples_of({0: 9}), "FILE", official=True)


def test_data_that_claim_to_be_official_and_are_not_are_refused_by_name() -> None:
    other = [dataclasses.replace(e, id=e.id.replace("x", "rte")) for e in examples_of({0: 2000, 1: 490})]
    with pytest.raises(UserError, match="few-shot rows of RTE in FILE are not those of the official release"):
        draw(regime(), task_of("rte"), other, "FILE", official=True)
    assert len(draw(regime(), task_of("rte"), other, "FILE", official=False).train) == 8


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_shipped_draws_are_those_of_the_official_files(shared: Path, name: str) -> None:
    task = task_of(name)
    examples = read_examples(
        task, split_file(shared / "superglue" / task.title / "train.jsonl"), "train", None
    )
    shipped = fewshot._shipped()
    assert len(shipped["sampled"][name]) == len(SHOTS) * len(SEEDS)
    for split in FewShotSplit:
        found = draw(regime(shots=32, split=split), task, examples, "FILE", official=True)
        assert not set(ids(found.train)) & set(ids(found.select))
    for seed in SEEDS:
        for label, own in ordered(examples, seed).items():
            assert (
                " ".join(i.removeprefix(f"{name}/train/") for i in ids(own)[:128])
                == shipped["order"][name][str(seed)][str(label)]
            )
    changed = [dataclasses.replace(e, fields={**e.fields, "extra": "?"}) for e in examples]
    with pytest.raises(UserError, match="not those of the official release"):
        draw(regime(shots=2), task, changed, "FILE", official=True)


def test_fewglues_known_degeneracies_are_what_its_files_hold(shared: Path) -> None:
    """WSC's 32 training rows are all True; CB's hold three neutral ones."""
    for name, expected in (("wsc", {1: 32}), ("cb", {0: 15, 1: 14, 2: 3})):
        task = task_of(name)
        examples = read_examples(
            task, split_file(shared / "superglue" / task.title / "train.jsonl"), "train", None
        )
        found = draw(regime(split=FewShotSplit.fewglue), task, examples, "FILE", official=True)
        assert len(found.train) == 32
        if name == "wsc":
            assert Counter(e.label for e in found.train) == expected
        else:
            assert Counter(e.label for e in found.train)[2] == expected[2]


def test_the_digest_covers_ids_labels_and_texts_but_not_their_order() -> None:
    examples = examples_of({0: 3, 1: 3})
    assert digest(examples) == digest(examples[::-1])
    for change in ({"id": "other"}, {"label": 1}, {"fields": {"text": "other"}}):
        assert digest([dataclasses.replace(examples[0], **change), *examples[1:]]) != digest(examples)
