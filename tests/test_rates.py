"""The rate of a trainer that was made for T5, on other models."""

from __future__ import annotations

import pytest

from dp_bench import config
from dp_bench.types import UserError


def rate(*words: str) -> tuple[float, str | None]:
    trainer = config.experiment(["task=rte", *words]).settings.trainer
    return trainer.lr, None if trainer.lr_unit is None else trainer.lr_unit.value


@pytest.mark.parametrize("backbone", ["gpt2", "bert_base", "smollm2", "minilm"])
def test_the_papers_rate_is_not_used_for_other_models(backbone: str) -> None:
    assert rate(f"backbone={backbone}") == (0.02, "embedding")
    assert rate("backbone=t5_base") == (0.3, None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.lr=0.01"], (0.01, None)),
        (["trainer.lr_unit=absolute"], (0.3, "absolute")),
        (["trainer=minilm"], (0.005, None)),
        (["trainer=smollm2", "trainer.lr=0.1"], (0.1, "embedding")),
    ],
)
def test_what_is_typed_or_in_another_trainer_stays(
    words: list[str], expected: tuple[float, str | None]
) -> None:
    assert rate("backbone=gpt2", *words) == expected


def test_the_rate_is_part_of_the_identity_and_its_origin_is_not() -> None:
    resolved = config.experiment(["task=rte", "backbone=gpt2"]).resolved
    assert resolved["trainer"]["lr_unit"] == "embedding"
    assert resolved["backbone"]["trainer"] is None


def test_a_mapping_can_be_typed_where_there_is_none() -> None:
    words = ["task=rte", "backbone=t5_base", "backbone.trainer={lr: 0.7}"]
    assert config.experiment(words).settings.trainer.lr == 0.7
    with pytest.raises(UserError, match=r"no trainer\.rate"):
        config.experiment(["task=rte", "backbone=t5_base", "backbone.trainer={rate: 0.7}"])
