"""Lists of words are words: what YAML reads otherwise is refused, and so is what cannot be scored."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import task_settings
from helpers.rows import read_examples
from helpers.tokenizers import byte_level_tokenizer, metaspace_tokenizer, word_piece_tokenizer

from dp_bench import config
from dp_bench.config import Experiment
from dp_bench.data.source import split_file
from dp_bench.objective import losses_of
from dp_bench.run import run
from dp_bench.types import Batch, UserError
from dp_bench.verbalizer import label_word_ids

Build = Callable[..., Experiment]


def configurations(folder: Path) -> Path:
    """Write a user's files, each with `words` as somebody would type them."""
    mine = (config.config_dir() / "task" / "boolq.yaml").read_text("utf-8")
    files = {
        "task/mine": mine.replace('["no", "yes"]', "[no, yes]"),
        "task/inherits": "defaults: [mine, _self_]\nname: inherits\n",
        "task/labels": mine.replace('["false", "true"]', "[False, True]"),
        "task/fields": mine.replace("fields: [question, passage]", "fields: [question, passage, on]"),
        "task/nothing": mine.replace('["no", "yes"]', "[null, full]"),
        "task/numbers": mine.replace('["no", "yes"]', "[0, 1]"),
        "task/powers": mine.replace('["no", "yes"]', "[1e3, 1e4]"),
        "experiment/chooses": "# @package _global_\ndefaults: [{override /task: mine}]\n",
        "experiment/sets": "# @package _global_\ntask: {words: [no, yes]}\n",
        "regime/several": "defaults: [multitask, _self_]\ntasks: [boolq, rte]\n"
        "task_settings: {boolq: {words: [no, yes]}}\n",
        "task/quoted": mine.replace('["no", "yes"]', '["no", "null"]').replace(
            '["false", "true"]', '["0", "1"]'
        ),
    }
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task=mine"], "task.words=[False, True]"),
        (["task=inherits"], "task.words=[False, True]"),
        (["task=labels"], "task.labels=[False, True]"),
        (["task=fields"], "task.fields=['question', 'passage', True]"),
        (["task=nothing"], "task.words=[None, 'full']"),
        (["task=numbers"], "task.words=[0, 1]"),
        (["task=powers"], "task.words=[1000.0, 10000.0]"),
        (["experiment=chooses"], "task.words=[False, True]"),
        (["experiment=sets", "task=boolq"], "task.words=[False, True]"),
        (["regime=several"], "task.words=[False, True] of task=boolq"),
        (["regime=multitask", "regime.tasks=[mine,rte]"], "task.words=[False, True] of task=boolq"),
        (["task=boolq", "task.words=[false,true]"], "task.words=[False, True]"),
        (["task=boolq", "task.words=[a,b],[false,true]"], "task.words=[False, True]"),
        (["task=copa", "task.choices=[choice1,1]"], "task.choices=['choice1', 1]"),
        (["task=axb", "task.train_task.labels=[true,false]"], "task.train_task.labels=[True, False]"),
        (
            [
                "regime=multitask",
                "regime.tasks=[boolq,rte]",
                "regime.task_settings={boolq:{words:[false,true]}}",
            ],
            "task.words=[False, True] of task=boolq",
        ),
    ],
)
def test_words_that_yaml_reads_otherwise_are_refused(words: list[str], told: str, tmp_path: Path) -> None:
    folder = configurations(tmp_path)
    with pytest.raises(UserError) as error:
        config.check([*words, "data.dir=."], config.Composer(folder))
        config.experiment([*words, "data.dir=."], folder)  # the tasks of regime.tasks
    assert told in str(error.value) and "Quote them" in str(error.value)


def test_a_shipped_file_is_read_as_strictly_as_a_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = shutil.copytree(config.config_dir(), tmp_path / "configs")
    path = changed / "task" / "boolq.yaml"
    path.write_text(path.read_text("utf-8").replace('["no", "yes"]', "[no, yes]"), "utf-8")
    monkeypatch.setenv("DP_BENCH_CONFIGS", str(changed))
    with pytest.raises(UserError, match=r"task\.words=\[False, True\]"):
        config.check(["task=boolq", "data.dir=."])


def test_quoted_words_are_words(tmp_path: Path) -> None:
    folder = configurations(tmp_path)
    typed = ["task=quoted", "data.dir=.", 'task.words=["false","2"]']
    config.check(typed, config.Composer(folder))
    from_file, overridden = (config.experiment(w, folder) for w in (typed[:2], typed))
    assert (from_file.settings.task.words, from_file.settings.task.labels) == (["no", "null"], ["0", "1"])
    assert overridden.settings.task.words == overridden.resolved["task"]["words"] == ["false", "2"]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ('task.words=["",yep]', "task.words=['', 'yep'] of task=boolq has an empty word"),
        ('task.labels=[" ",true_]', "task.labels=[' ', 'true_'] of task=boolq has an empty word"),
        ('task.labels=["Yes","yes"]', "repeats a label"),
        ('task.words=[" no","yes"]', "has spaces around a word"),
    ],
)
def test_empty_words_and_labels_that_differ_in_case_alone_are_refused(setting: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        config.check(["task=boolq", setting, "data.dir=."])
    assert told in str(error.value)


def test_a_word_of_which_nothing_is_scored_is_refused(shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "t5-tokenizer")
    assert len(label_word_ids(["yes", "no"], tokenizer)) == 2
    with pytest.raises(UserError, match="no more than that a word begins"):
        label_word_ids(["否", "yes"], tokenizer)


@pytest.mark.parametrize("make", [word_piece_tokenizer, metaspace_tokenizer, byte_level_tokenizer])
@pytest.mark.parametrize("word", ["\u200b", "\u5426", "\u0301", "\u2003"])
def test_a_word_is_scored_by_a_piece_of_its_own_or_refused(make: Callable[[], Any], word: str) -> None:
    tokenizer = make()
    try:
        (first,) = label_word_ids([word], tokenizer)
    except UserError as error:
        assert "change task.words" in str(error)
    else:
        assert first != tokenizer.unk_token_id and tokenizer.decode([first]).strip(" \ufffd")


def test_labels_are_read_whatever_their_case(experiment: Build, tmp_path: Path) -> None:
    lower = run(experiment("prompt=majority"))
    upper = run(experiment("prompt=majority", "task.labels=[Entailment,NOT_ENTAILMENT]"))
    assert upper.score == lower.score


@pytest.mark.parametrize(
    "setting", ["backbone.answer_prefix=false", "backbone.answer_cue=true", "prompt.init_text=7"]
)
def test_a_text_that_yaml_reads_otherwise_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match="Quote them"):
        config.check(["task=boolq", "data.dir=.", "prompt=fixed", "prompt.init=text", setting])
    key, value = setting.split("=")
    quoted = config.compose(["task=boolq", "data.dir=.", f'{key}="{value}"'])
    group, name = key.split(".")
    assert quoted[group][name] == value


@pytest.mark.parametrize(
    ("labels", "raw", "places"),
    [
        (["1", "2", "3"], [1, 2, 3, "3"], [0, 1, 2, 2]),
        (["1", "0"], [0, 1], [1, 0]),
        (["-1", "1"], [-1, 1], [0, 1]),
        (["0", "1"], [0, 1, "1"], [0, 1, 1]),
        (["no", "yes"], [0, 1, "YES"], [0, 1, 1]),
    ],
)
def test_a_number_is_the_label_of_that_name_before_it_is_a_place(
    labels: list[str], raw: list[Any], places: list[int], tmp_path: Path
) -> None:
    task = dataclasses.replace(task_settings("rte"), labels=labels, words=labels)
    rows = [{"premise": "a", "hypothesis": "b", "idx": n, "label": label} for n, label in enumerate(raw)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [example.label for example in read_examples(task, split_file(path), "train", None)] == places


def test_a_place_is_no_label_where_labels_are_numbers(tmp_path: Path) -> None:
    task = dataclasses.replace(task_settings("rte"), labels=["1", "2"], words=["one", "two"])
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"premise": "a", "hypothesis": "b", "idx": 0, "label": 0}), encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1: field label is 0; allowed are 1, 2\.$"):
        read_examples(task, split_file(path), "train", None)


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
