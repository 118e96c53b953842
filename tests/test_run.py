"""A whole run on real rows and a tiny real model: what it leaves, skipping, failing, resuming, reloading."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FIXTURES, SHARED
from helpers.trainers import make_trainer
from safetensors import safe_open
from safetensors.torch import load_file

from dp_bench import machine, records, run
from dp_bench.config import Experiment
from dp_bench.evaluation import Split, predict
from dp_bench.report.build import build_tables
from dp_bench.trainer import Trainer
from dp_bench.types import UserError

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=5")


def folder(record: records.RunRecord, experiment: Experiment) -> Path:
    return Path(experiment.settings.results_dir) / "runs" / record.run_id


def test_a_run_leaves_what_the_contract_says(experiment: Build) -> None:
    composed = experiment("task=multirc", "prompt=dynamic", *QUICK)
    record = run.run(composed)
    directory = folder(record, composed)
    assert sorted(path.name for path in directory.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "predictions.parquet",
        "prompt.safetensors",
        "record.json",
        "status.json",
    ]
    content = json.loads((directory / "record.json").read_text(encoding="utf-8"))
    assert content["status"] == "done" and content["task"] == "multirc" and content["prompt"] == "dynamic"
    assert 0 <= content["score"] <= 100
    assert content["score"] == pytest.approx(
        (content["metrics"]["f1a"] + content["metrics"]["exact_match"]) / 2
    )
    assert set(content["metrics"]) == {"accuracy", "f1a", "exact_match"}
    assert content["data_sha256"] and content["checkpoint"]["fingerprint"] and content["versions"]["torch"]
    assert set(content["data_files"]) == {"train", "validation"}
    assert content["trainable_parameters"] == 4 * 5 * 64 + 4 * 65 + 6 * 65
    assert content["num_updates"] == 4 and content["total_seconds"] > 0 and content["peak_memory_mb"] > 0
    assert len((directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    table = pd.read_parquet(directory / "predictions.parquet")
    assert len(table) == content["num_examples"]["report"]
    assert 100 * (table["gold"] == table["prediction"]).mean() == pytest.approx(
        content["metrics"]["accuracy"]
    )
    scores = table[["score_no", "score_yes"]].to_numpy()
    np.testing.assert_allclose(np.exp(scores).sum(1), 1.0)
    assert (scores.argmax(1) == table["prediction"]).all()
    assert table["position"].between(0, 5).all() and (table["length"] == 5).all()


def test_a_finished_run_is_skipped_and_rerun_runs_it_again(
    experiment: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    composed = experiment("prompt=fixed", *QUICK)
    first = run.run(composed)
    calls: list[object] = []
    real = run._run
    monkeypatch.setattr(run, "_run", lambda *args: calls.append(args) or real(*args))
    assert run.run(experiment("prompt=fixed", "device=auto", *QUICK)) == first and not calls, (
        "device is volatile"
    )
    assert "skipped" in capsys.readouterr().out
    again = run.run(experiment("prompt=fixed", "rerun=true", *QUICK))
    assert len(calls) == 1 and again.run_id == first.run_id
    assert again.metrics == first.metrics, "the same run gives the same numbers"
    assert run.run(experiment("prompt=fixed", "seed=1", *QUICK)).run_id != first.run_id


def test_a_failed_run_is_recorded_and_goes_on_from_its_checkpoint(
    experiment: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    composed = experiment("prompt=dynamic", *QUICK)
    update = Trainer._update

    def fail(self: Trainer, places: Any, step: int) -> float:
        if step == 3:
            raise RuntimeError("out of something")
        return update(self, places, step)

    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        broken.setattr(Trainer, "_update", fail)
        run.run(composed)
    (directory,) = (Path(composed.settings.results_dir) / "runs").iterdir()
    status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
    assert status["status"] == "failed" and "out of something" in status["traceback"]
    assert records.load_all(Path(composed.settings.results_dir)) == []
    resumed = run.run(composed)
    assert "resuming after update 2" in capsys.readouterr().out
    undisturbed = run.run(experiment("prompt=dynamic", *QUICK, f"results_dir={directory}/elsewhere"))
    assert resumed.metrics == undisturbed.metrics and resumed.run_id == undisturbed.run_id
    assert not (directory / "checkpoint").exists()
    one, other = (
        load_file(folder(r, e) / "prompt.safetensors")
        for r, e in ((resumed, composed), (undisturbed, experiment(f"results_dir={directory}/elsewhere")))
    )
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_saved_prompt_gives_the_recorded_predictions_again(experiment: Build, tmp_path: Path) -> None:
    own = experiment("prompt=dynamic", "task=cb", *QUICK)
    record = run.run(own)
    path = folder(record, own) / "prompt.safetensors"
    with safe_open(path, "pt") as file:
        assert file.metadata()["run_id"] == record.run_id
    trainer = make_trainer(own, tmp_path)
    trainer.prompt.load_state_dict(load_file(path))
    from dp_bench.backbones.load import load_tokenizer
    from dp_bench.data.prepare import prepare
    from dp_bench.data.source import locate

    task, tokenizer = own.settings.task, load_tokenizer(own.settings.backbone)
    data = prepare(own.settings, task, locate(task, own.settings.data), tokenizer)
    model = trainer.accelerator.unwrap_model(trainer.model)
    predictions = predict(
        model, Split("report", task, data.report, None), batch_size=64, seed=own.settings.seed
    )
    table = pd.read_parquet(folder(record, own) / "predictions.parquet")
    assert np.array_equal(predictions.choices, table["prediction"])
    assert np.array_equal(predictions.position_M, table["position"])
    assert data.report.ids == table["id"].tolist()


@pytest.mark.parametrize(
    "task", ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "axb", "axg"]
)
def test_every_task_runs_under_the_authors_protocol(experiment: Build, task: str) -> None:
    composed = experiment(
        f"task={task}", "prompt=adap_ins_vec_pos", "protocol=authors", "protocol.summary_pad_to=300", *QUICK
    )
    record = run.run(composed)
    assert record.selection == "validation" and record.num_examples["select"] == record.num_examples["report"]
    assert record.score == record.metrics["accuracy"], "the paper's tables show plain accuracy"
    assert record.score == record.select_score, "selected and reported on the same rows"


def test_a_diagnostic_is_reported_with_the_prompt_that_rte_selects(experiment: Build) -> None:
    rte = experiment("task=rte", "prompt=fixed", *QUICK)
    trained = run.run(rte)
    prompt = load_file(folder(trained, rte) / "prompt.safetensors")
    for name, metrics in (("axb", {"accuracy", "matthews"}), ("axg", {"accuracy", "gender_parity"})):
        composed = experiment(f"task={name}", "prompt=fixed", *QUICK)
        record = run.run(composed)
        assert set(record.metrics) == metrics
        assert record.select_score == trained.select_score
        assert record.num_examples == {**trained.num_examples, "report": 12}
        saved = load_file(folder(record, composed) / "prompt.safetensors")
        assert all(torch.equal(value, prompt[key]) for key, value in saved.items())
        table = pd.read_parquet(folder(record, composed) / "predictions.parquet")
        assert table["id"].tolist() == [f"{name}/test/{row}" for row in range(12)]


def test_queries_without_gold_are_not_trained_on_and_count_as_wrong(
    experiment: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = shutil.copytree(FIXTURES / "ReCoRD", tmp_path / "release" / "ReCoRD").parent
    for stem in ("train", "val"):
        path = release / "ReCoRD" / f"{stem}.jsonl"
        first, *others = path.read_text("utf-8").splitlines()
        changed = json.loads(first)
        changed["qas"][0]["answers"] = [{"start": 0, "end": 2, "text": "The"}]
        path.write_text("\n".join([json.dumps(changed), *others]), "utf-8")
    composed = experiment("task=record", "prompt=fixed", f"data.dir={release}", *QUICK)
    record = run.run(composed)
    told = [text for text in record.warnings if "none of the choices is right in 1 of 12 examples" in text]
    assert len(told) == 1 and told[0] in capsys.readouterr().out
    assert record.num_examples["train"] + record.num_examples["select"] == 11
    table = pd.read_parquet(folder(record, composed) / "predictions.parquet")
    assert (len(table), table["gold"].tolist().count(-1)) == (6, 1)
    assert record.metrics["token_em"] <= 100 * 5 / 6
    assert record.score == pytest.approx((record.metrics["token_f1"] + record.metrics["token_em"]) / 2)


def test_selection_holds_out_rows_that_are_never_trained_on(experiment: Build, tmp_path: Path) -> None:
    trainer = make_trainer(experiment("task=multirc"), tmp_path)
    train, select = trainer.train_splits[0].encoded, trainer.select_splits[0].encoded
    assert not set(train.ids) & set(select.ids)
    assert not set(train.sources) & set(select.sources), "answers to one passage stay on one side"


def test_different_seeds_and_prompts_stand_in_one_table(experiment: Build) -> None:
    own = [
        experiment(f"prompt={p}", f"seed={s}", *QUICK) for p in ("fixed", "random_position") for s in (0, 1)
    ]
    found = [run.run(e) for e in own]
    (table,) = build_tables(records.load_all(Path(own[0].settings.results_dir)))
    assert [(row.label, row.cells["rte"].n) for row in table.rows] == [("fixed", 2), ("random_position", 2)]
    assert table.rows[0].cells["rte"].mean == pytest.approx((found[0].score + found[1].score) / 2)
    assert table.header.random_weights


def test_missing_data_is_the_users_mistake(experiment: Build, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RTE"):
        run.run(experiment(f"data.dir={tmp_path}"))
    assert not (tmp_path / "results").exists(), "nothing is left of a run that could not start"


def test_official_rows_and_the_t5_vocabulary(experiment: Build, shared: Path) -> None:
    composed = experiment(
        "task=cb",
        "prompt=dynamic",
        f"data.dir={SHARED / 'superglue'}",
        f"backbone.tokenizer={SHARED / 't5-tokenizer'}",
        *QUICK,
    )
    record = run.run(composed)
    assert record.num_examples == {"train": 225, "select": 25, "report": 56}
    assert set(record.share_truncated.values()) == {0.0}


def test_a_profile_names_every_stage_and_changes_no_result(experiment: Build) -> None:
    plain, profiled = (
        experiment("prompt=dynamic", *QUICK, f"trainer.profile={value}", "rerun=true")
        for value in ("null", "true")
    )
    first, second = run.run(plain), run.run(profiled)
    assert (first.run_id, first.score, first.select_score) == (
        second.run_id,
        second.score,
        second.select_score,
    )
    profile = folder(second, profiled) / "profile"
    text = (profile / "summary.txt").read_text()
    for name in ("data", "prompt", "assembly", "backbone forward", "backward", "optimizer"):
        milliseconds = float(
            next(line for line in text.splitlines() if line.startswith(name)).split("ms")[0].split()[-1]
        )
        assert milliseconds > 0, name
    events = json.loads((profile / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "optimizer" for event in events) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_memory_that_a_run_has_used_is_given_back() -> None:
    import psutil

    process = psutil.Process()
    used = [bytearray(100_000) for _ in range(2_000)]  # below the size that glibc maps by itself: 200 MB
    high = process.memory_info().rss
    keep = used[::50]  # freed memory lies between what is in use
    del used
    machine.release_memory()
    assert process.memory_info().rss < high - 100 * 2**20
    assert len(keep) == 40
