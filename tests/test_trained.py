"""A finished run can be opened without data, and predicts what it recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FIXTURES
from helpers.rows import read_examples

import dp_bench
from dp_bench import config
from dp_bench.config import Experiment
from dp_bench.data.source import split_file
from dp_bench.methods import table
from dp_bench.records import RunRecord
from dp_bench.run import run
from dp_bench.types import Example, UserError

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=3", "trainer.eval_every=1", "trainer.lr=0.3")
KINDS = (
    *("prompt=fixed", "prompt=dynamic", "prompt=random_position", "prompt=adap_ins_len", "prompt=routed"),
    *("prompt=shuffled_route", "prompt=prefix_tuning", "prompt=p_tuning", "prompt=lora", "prompt=zero_shot"),
    *("prompt=bottleneck", "prompt=fixed prompt/adapters=bottleneck"),
    *("prompt=majority", "prompt=linear_probe", "prompt=fixed prompt.init=label_words"),
    *("prompt=adap_pos protocol=authors task.max_length=300 protocol.summary_pad_to=300",),
    *("prompt=dynamic trainer.selection=validation", "prompt=dynamic task=copa", "prompt=fixed task=record"),
    *("prompt=bitfit backbone=bert_tiny_random backbone.head=classifier backbone.answer_cue=null",),
    *("prompt=dynamic backbone=bert_tiny_random backbone.head=classifier backbone.answer_cue=null",),
)


def reported(experiment: Experiment) -> dict[str, list[Example]]:
    return {
        task.name: read_examples(task, split_file(FIXTURES / task.title / "val.jsonl"), "val", None)
        for task in (*experiment.tasks, *experiment.transfer)
    }


def recorded(record: RunRecord, experiment: Experiment) -> pd.DataFrame:
    folder = Path(experiment.settings.results_dir) / "runs" / record.run_id
    return pd.read_parquet(folder / "predictions.parquet")


def same(table: pd.DataFrame, found: Any, words: list[str]) -> None:
    assert table["prediction"].tolist() == found.choices.tolist()
    assert table["position"].tolist() == found.position_M.tolist()
    assert table["length"].tolist() == found.length_M.tolist()
    scores = torch.log_softmax(torch.from_numpy(found.logits_MC).double(), dim=1).numpy()
    names = [f"score_{name}" for name in words or range(scores.shape[1])]
    # The same numbers bit for bit; but how a kernel sums may depend on where its arrays lie in memory.
    np.testing.assert_allclose(table[names].to_numpy(dtype=float), scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("words", KINDS)
def test_an_opened_run_predicts_what_it_recorded(experiment: Build, words: str) -> None:
    if "lora" in words:
        pytest.importorskip("peft", reason="the peft extra is not installed")
    made = experiment(*words.split(), *QUICK)
    record = run(made)
    opened = dp_bench.open_run(Path(made.settings.results_dir) / "runs" / record.run_id)
    assert opened.record.run_id == record.run_id
    assert (opened.model is None) == (table.of(made.settings.prompt.method).fit is not None)
    (examples,) = reported(made).values()
    same(recorded(record, made), opened.predict(record.task, examples), made.tasks[0].words)


@pytest.mark.parametrize("prompt", ["mpt", "multitask", "adap_ins_pos"])
def test_runs_of_several_tasks_open_too(experiment: Build, prompt: str) -> None:
    tasks = ["regime=multitask", "regime.tasks=[rte,cb]", "trainer.selection=heldout"]
    transfer = ["regime.transfer=[wic]"] if prompt == "adap_ins_pos" else []
    made = experiment(f"prompt={prompt}", *tasks, *transfer, *QUICK)
    record = run(made)
    opened = dp_bench.open_run(Path(made.settings.results_dir) / "runs" / record.run_id)
    assert list(opened.tasks)[:2] == ["rte", "cb"]
    table = recorded(record, made)
    for name, examples in reported(made).items():
        same(table[table["task"] == name], opened.predict(name, examples), opened.tasks[name].words)


@pytest.mark.parametrize("prompt", ["fixed", "adap_ins_pos", "random_position"])
def test_a_run_is_tried_on_other_tasks_without_training_again(experiment: Build, prompt: str) -> None:
    tried = experiment(f"prompt={prompt}", "regime.transfer=[wic]", *QUICK)
    expected = recorded(run(tried), tried)
    alone = experiment(f"prompt={prompt}", *QUICK)
    folder = Path(alone.settings.results_dir) / "runs" / run(alone).run_id
    opened = dp_bench.open_run(folder, transfer=["wic"])
    examples = reported(tried)
    same(
        expected[expected["task"] == "wic"], opened.predict("wic", examples["wic"]), opened.tasks["wic"].words
    )
    same(recorded(opened.record, alone), opened.predict("rte", examples["rte"]), opened.tasks["rte"].words)


def test_what_a_run_cannot_be_tried_on_is_refused(experiment: Build) -> None:
    made = experiment("prompt=fixed", *QUICK)
    folder = Path(made.settings.results_dir) / "runs" / run(made).run_id
    for name, message in (("wicc", "Did you mean wic"), ("rte", "is trained and scored")):
        with pytest.raises(UserError, match=message):
            dp_bench.open_run(folder, transfer=[name])


def test_no_data_is_read(experiment: Build, tmp_path: Path) -> None:
    release = shutil.copytree(FIXTURES, tmp_path / "release")
    made = experiment("prompt=dynamic", f"data.dir={release}", *QUICK)
    record = run(made)
    examples = reported(made)["rte"]
    shutil.rmtree(release)
    opened = dp_bench.open_run(Path(made.settings.results_dir) / "runs" / record.run_id)
    same(recorded(record, made), opened.predict("rte", examples), ["yes", "no"])
    assert len(opened.predict("rte", examples[:2]).choices) == 2
    with pytest.raises(UserError, match="has no task 'cb', only rte"):
        opened.predict("cb", examples)


def test_what_cannot_be_opened_says_why(experiment: Build, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no finished run"):
        dp_bench.open_run(tmp_path)
    made = experiment("prompt=fine_tuning", *QUICK)
    folder = Path(made.settings.results_dir) / "runs" / run(made).run_id
    with pytest.raises(UserError, match="did not save them"):
        dp_bench.open_run(folder)


@pytest.mark.parametrize("words", ["prompt=fine_tuning", "prompt=p_tuning prompt.freeze_backbone=false"])
def test_a_tuned_backbone_is_kept_when_asked_for(experiment: Build, words: str) -> None:
    made = experiment(*words.split(), "keep_weights=true", *QUICK)
    record = run(made)
    folder = Path(made.settings.results_dir) / "runs" / record.run_id
    assert record.keeps_backbone and (folder / "backbone.safetensors").is_file()
    (examples,) = reported(made).values()
    same(recorded(record, made), dp_bench.open_run(folder).predict("rte", examples), ["yes", "no"])
    without = experiment(*words.split(), *QUICK, f"results_dir={folder / 'elsewhere'}")
    again = run(without)
    assert again.run_id == record.run_id and again.keeps_backbone is False


def test_a_reopened_experiment_is_the_one_that_ran(experiment: Build) -> None:
    made = experiment("prompt=dynamic", "regime=multitask", "regime.tasks=[rte,cb]", "regime.transfer=[wic]")
    again = config.reopen(made.resolved, Path("elsewhere"))
    assert again.tasks == made.tasks and again.transfer == made.transfer
    assert again.settings.prompt == made.settings.prompt
    assert again.settings.task is None and again.resolved["task"] == made.resolved["task"]
