"""Lists of words are words: what YAML reads otherwise is refused, and so is what cannot be scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import task_settings

from dp_bench import config
from dp_bench.config import Experiment
from dp_bench.objective import losses_of
from dp_bench.run import run
from dp_bench.types import Batch, UserError
from dp_bench.verbalizer import label_word_ids

Build = Callable[..., Experiment]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("task.words=[false,true]", "task.words has false"),
        ("task.words=[yes,null]", "task.words has null"),
        ("task.labels=[0,1]", "task.labels has 0, which is a number"),
        ("task.fields=[premise,1.5]", "task.fields has 1.5"),
        ("regime.task_settings={rte:{words:[true,false]}}", "regime.task_settings.rte.words has true"),
    ],
)
def test_what_is_typed_and_is_no_word_is_refused(typed: str, said: str) -> None:
    for check in (config.check, config.compose):
        with pytest.raises(UserError, match="quote the words") as caught:
            check([typed])
        assert said in str(caught.value)


def test_quoted_words_are_words() -> None:
    for typed in ('task.words=["true","no"]', "task.words=['1','2']", "task.words=[oui,non]"):
        config.check([typed])
    assert config.compose(['task.words=["true","no"]']).task.words == ["true", "no"]


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("task", "defaults: [rte, _self_]\nname: mine\nwords: [yes, no]\n"),
        ("task", "defaults: [rte, _self_]\nname: mine\nlabels: [on, off]\n"),
        ("experiment", "# @package _global_\ntask:\n  words: [yes, no]\n"),
        ("task", "defaults: [rte@train_task, _self_]\nname: mine\ntrain_task: {words: [yes, no]}\n"),
    ],
)
def test_a_file_of_a_user_with_unquoted_words_is_refused(tmp_path: Path, group: str, text: str) -> None:
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(text, "utf-8")
    (tmp_path / group / "child.yaml").write_text("defaults: [mine, _self_]\n", "utf-8")
    for name in ("mine", "child") if group == "task" and "train_task" not in text else ("mine",):
        with pytest.raises(UserError, match=r"true \(or yes, or on\), which is a boolean to YAML"):
            config.check([f"{group}={name}"], tmp_path)


def test_empty_words_and_labels_that_differ_in_case_alone_are_refused() -> None:
    for typed, said in (
        ("task.words=['',no]", "has an empty word"),
        ("task.labels=[Yes,yes]", "repeats a label"),
    ):
        with pytest.raises(UserError, match=said):
            config.check(["task=rte", typed])


def test_a_word_of_which_nothing_is_scored_is_refused(shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "t5-tokenizer")
    assert len(label_word_ids(["yes", "no"], tokenizer)) == 2
    with pytest.raises(UserError, match="no more than that a word begins"):
        label_word_ids(["否", "yes"], tokenizer)


def test_labels_are_read_whatever_their_case(experiment: Build, tmp_path: Path) -> None:
    lower = run(experiment("prompt=majority"))
    upper = run(experiment("prompt=majority", "task.labels=[Entailment,NOT_ENTAILMENT]"))
    assert upper.score == lower.score


def batch(gold: list[list[bool]] | None) -> Batch:
    nothing: Any = torch.zeros(2, 1, dtype=torch.long)
    one = torch.zeros(2, dtype=torch.long)
    return Batch(
        nothing,
        nothing.bool(),
        one,
        one,
        torch.tensor([0, 1]),
        one,
        one,
        gold_BC=None if gold is None else torch.tensor(gold),
    )


def test_the_loss_of_several_right_choices_is_that_of_their_sum() -> None:
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [0.3, -1.0, 0.5]], dtype=torch.float64)
    several = losses_of(logits, batch([[True, True, False], [False, True, True]]))
    p = torch.softmax(logits, 1)
    expected = -torch.log(torch.stack([p[0, 0] + p[0, 1], p[1, 1] + p[1, 2]]))
    torch.testing.assert_close(several, expected, atol=1e-12, rtol=0)
    one = losses_of(logits, batch([[True, False, False], [False, True, False]]))
    torch.testing.assert_close(one, losses_of(logits, batch(None)), atol=1e-12, rtol=0)


def test_record_runs_train_on_all_right_entities_and_have_another_id() -> None:
    assert task_settings("record").revision == 2
    assert all(task_settings(name).revision is None for name in config.options("task") if name != "record")
