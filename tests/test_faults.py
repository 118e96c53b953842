"""Faults of a machine: too little memory, full and read-only disks, no network."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.records import make_record
from helpers.trainers import make_trainer
from safetensors.torch import save_file

import dp_bench
from dp_bench import checkpoints, cli, faults, hub, records, run
from dp_bench.config import Experiment
from dp_bench.data.cache import cached_folder
from dp_bench.evaluation import predict
from dp_bench.model import PromptedModel
from dp_bench.sweep.plan import State, states
from dp_bench.trainer import Trainer
from dp_bench.types import Batch, Example, RunFailedError

Build = Callable[..., Experiment]
UPDATE = (np.arange(8),)


def small_gpu(patch: pytest.MonkeyPatch, room: int, at: int = 1) -> list[int]:
    """Let passes with more examples than `room` run out of memory, from the `at`-th pass on; return the sizes
    of those that did."""
    whole, passes, refused = PromptedModel.forward, list[int](), list[int]()

    def forward(model: PromptedModel, batch: Batch, *more: Any) -> Any:
        passes.append(len(batch))
        if len(batch) > room and len(passes) >= at:
            refused.append(len(batch))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return whole(model, batch, *more)

    patch.setattr(PromptedModel, "forward", forward)
    return refused


def updated(trainer: Trainer, updates: int = 2) -> dict[str, torch.Tensor]:
    for step in range(updates):
        trainer._update(UPDATE, step)
        trainer.progress.step += 1
    return trainer._state()


@pytest.mark.parametrize(
    "name", ["dynamic", "fixed protocol.frozen_dropout=true", "routed", "ridge_position"]
)
@pytest.mark.parametrize("at", [1, 2])  # before and after gradients and observations of the same update
def test_an_update_without_memory_is_that_of_the_smaller_micro_batch(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    words = (*f"prompt={name}".split(), "trainer.batch_size=8")
    small = updated(make_trainer(experiment(*words, "trainer.micro_batch_size=2"), tmp_path / "small"))
    trainer = make_trainer(experiment(*words, "trainer.micro_batch_size=4"), tmp_path / "halved")
    with trainer.reporter, monkeypatch.context() as patch:
        assert small_gpu(patch, 2, at) == []
        for key, value in updated(trainer).items():
            torch.testing.assert_close(value, small[key], rtol=0, atol=0, equal_nan=True)
    assert trainer.progress.micro_batch_size == 2
    (warning,) = trainer.reporter.warnings
    assert "update 1" in warning and "2 examples" in warning and "trainer.micro_batch_size=2" in warning


def test_a_resumed_run_keeps_the_smaller_micro_batch(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = experiment("prompt=fixed", "trainer.batch_size=8", "trainer.micro_batch_size=4")
    first = make_trainer(composed, tmp_path)
    with monkeypatch.context() as patch:
        small_gpu(patch, 1)
        updated(first, 1)
    first._checkpoint()
    resumed = make_trainer(composed, tmp_path)
    resumed._resume()
    assert asdict(resumed.progress)["micro_batch_size"] == 1


def test_one_example_without_memory_ends_the_run_in_a_line(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(experiment("prompt=fixed"), tmp_path)
    small_gpu(monkeypatch, 0)
    with pytest.raises(RunFailedError, match=r"memory in update 1.*task.max_length"):
        trainer._update(UPDATE, 0)


def test_micro_batches_that_change_the_result_are_not_halved(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("prompt=fixed", "protocol=authors", "trainer.batch_size=8", "trainer.micro_batch_size=4")
    trainer = make_trainer(experiment(*words), tmp_path)
    refused = small_gpu(monkeypatch, 2)
    with pytest.raises(RunFailedError, match=r"type trainer.micro_batch_size=2"):
        trainer._update(UPDATE, 0)
    assert refused == [4]


def test_an_evaluation_without_memory_has_smaller_passes(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(experiment("prompt=dynamic"), tmp_path)
    model, split = trainer.bare_model, trainer.train_splits[0]
    expected = predict(model, split, batch_size=2, seed=0)
    with trainer.reporter:
        refused = small_gpu(monkeypatch, 3)
        found = predict(model, split, batch_size=8, seed=0)
    assert refused == [8, 4]
    np.testing.assert_array_equal(found.logits_MC, expected.logits_MC)
    assert "trainer.eval_batch_size=2" in trainer.reporter.warnings[-1]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 4000000000000 bytes."
        ),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_memory_of_a_cpu_is_a_line_that_says_what_to_type(
    experiment: Build,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    from dp_bench import config
    from dp_bench.commands import train

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(train.config, "build", lambda cfg, composer: None)
    monkeypatch.setattr(run, "run", fails)
    assert train.run_one(None, config.Composer()) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "trainer.micro_batch_size=" in said


def test_a_real_lack_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert faults.is_out_of_memory(caught.value)
    assert not faults.is_out_of_memory(RuntimeError("shapes do not match"))


# --------------------------------------------------------------------------------------------------- disks


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: what a full disk is for those who write, without a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def a_dataset(folder: Path) -> None:
    def rows() -> Iterator[dict[str, list[float]]]:
        yield from ({"a": [float(number)] * 100} for number in range(1000))

    datasets.Dataset.from_generator(rows, cache_dir=str(folder))


def a_checkpoint(folder: Path) -> None:
    state = checkpoints.Checkpoint(checkpoints.Progress(), {}, {}, {"a": torch.zeros(9000)})
    checkpoints.save(state, folder)


WRITERS: dict[str, Callable[[Path], object]] = {
    "json": lambda folder: records.write_json(folder / "a.json", ["a"] * 9000),
    "safetensors": lambda folder: records.replace_file(
        folder / "a", lambda path: save_file({"a": torch.zeros(9000)}, path)
    ),
    "parquet": lambda folder: records.replace_file(
        folder / "a", pd.DataFrame({"a": np.random.default_rng(0).random(9000)}).to_parquet
    ),
    "a cached folder": lambda folder: cached_folder(
        folder / "a", lambda new: save_file({"a": torch.zeros(9000)}, new / "b")
    ),
    "torch": a_checkpoint,
    "datasets": a_dataset,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_recognised_inside_of_libraries(tmp_path: Path, kind: str) -> None:
    with small_files(1000), pytest.raises(Exception) as caught:
        WRITERS[kind](tmp_path)
    fault = faults.of_machine(caught.value)
    assert fault is not None and "make room" in fault and "\n" not in fault
    assert str(tmp_path) in fault or kind == "datasets"
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not left or kind == "datasets", left
    WRITERS[kind](tmp_path)


def test_other_errors_are_no_faults_of_the_machine() -> None:
    try:
        try:
            raise FileExistsError(17, "File exists", "claim")
        except FileExistsError:
            raise ValueError("a bug") from None
    except ValueError as error:
        assert faults.of_machine(error) is None
    assert faults.of_machine(RuntimeError("os errors")) is None


def test_a_sweep_goes_on_with_what_a_full_disk_stopped(
    experiment: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = experiment(
        "prompt=lora", "trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=4"
    )
    run.run(experiment("prompt=majority"))  # fills the cache
    with small_files(9000), pytest.raises(Exception) as caught:
        run.run(composed)
    assert faults.is_of_disk(caught.value)
    results_dir = Path(composed.settings.results_dir)
    (run_id,) = records.statuses(results_dir, unfinished=True)
    assert states(results_dir, [run_id])[run_id] not in (State.failed, State.running)
    assert run.run(composed).status == "done"


@pytest.mark.parametrize("command", ["tables", "plot", "pack", "train", "sweep", "cache"])
@pytest.mark.parametrize("folder", ["a file", "read-only"])
def test_a_folder_that_cannot_be_written_is_one_paragraph(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    folder: str,
) -> None:
    bad, results_dir, record = tmp_path / "bad", tmp_path / "results", make_record("task=rte", "prompt=fixed")
    for where in (results_dir, bad):
        records.save(record, where / "runs" / record.run_id)
    if folder == "a file":
        shutil.rmtree(bad)
        bad.touch()
    else:  # root may write to a folder of any mode
        make = Path.mkdir

        def refuse(path: Path, *more: Any, **options: Any) -> None:
            if bad in path.parents:
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            make(path, *more, **options)

        monkeypatch.setattr(Path, "mkdir", refuse)
        monkeypatch.setattr(Path, "touch", refuse)
    new = ("task=rte", "data=micro", "backbone=t5_micro", "trainer=micro", "prompt=majority")
    words = {
        "tables": ("tables", "--results-dir", str(results_dir), "--out", str(bad / "out")),
        "plot": ("plot", "parameters", "--results-dir", str(results_dir), "--out", str(bad / "out")),
        "pack": ("pack", str(bad)),
        "train": ("train", *new, f"results_dir={bad}"),
        "sweep": ("sweep", *new, f"results_dir={bad}"),
        "cache": ("train", *new, f"results_dir={results_dir}", f"cache_dir={bad}"),
    }[command]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    said = capsys.readouterr()
    assert stop.value.code in (1, 2)
    assert len(said.err.splitlines()) == 1 and str(bad) in said.err
    if command == "tables":
        assert record.prompt in said.out, "printed even where it cannot be written"


# --------------------------------------------------------------------------------------- arguments as names


ODD = ("", "x" * 400, "a\0b", "x[1]*", "../../etc", "*", "\x1b[31m", "\ud83d", "a,b", "'")
NAMING: dict[str, tuple[str, ...]] = {
    "tables --experiment": ("tables", "--experiment", "{}", "--results-dir", "{runs}"),
    "plot --experiment": ("plot", "--experiment", "{}", "--results-dir", "{runs}"),
    "status --experiment": ("status", "--experiment", "{}", "--results-dir", "{runs}"),
    "tables --experiment=": ("tables", "--experiment={}", "--results-dir", "{runs}"),
    "tables --rows": ("tables", "--rows", "{}", "--results-dir", "{runs}"),
    "tables --tasks": ("tables", "--tasks", "{}", "--results-dir", "{runs}"),
    "tables --reference": ("tables", "--reference", "{}", "--results-dir", "{runs}"),
    "tables --metric": ("tables", "--metric", "{}", "--results-dir", "{runs}"),
    "inspect": ("inspect", "{}", "--gradients", "--results-dir", "{runs}"),
    "list": ("list", "{}"),
    "list --config-dir": ("list", "prompts", "--config-dir", "{}"),
    "pack": ("pack", "{}"),
    "pack --drop": ("pack", "{runs}", "--drop", "{}"),
    "train --config-dir": ("train", "--config-dir", "{}", "task=rte", "data.dir=absent", "on_missing=error"),
    "sweep": ("sweep", "experiment={}", "--dry-run"),
}


@pytest.mark.parametrize("where", NAMING)
@pytest.mark.parametrize("odd", ODD)
def test_odd_names_are_answered_by_a_paragraph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str, odd: str
) -> None:
    monkeypatch.chdir(tmp_path)
    record = make_record("task=rte", "prompt=fixed")
    records.save(record, tmp_path / "results" / "runs" / record.run_id)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        cli.main([word.replace("{runs}", "results").replace("{}", odd) for word in NAMING[where]])
    said = capsys.readouterr()
    assert stop.value.code in (1, 2)  # 1: the system says that the name is too long
    assert said.err.startswith("dp-bench:") and len(said.err.splitlines()) <= 2
    assert "\x1b" not in said.err and "\0" not in said.err
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


# ------------------------------------------------------------------------------------------------- offline


BLOCKED = """
import socket

def refuse(*where, **_):
    with open({log!r}, "a") as log:
        print(where[-1], file=log)
    raise OSError(101, "Network is unreachable")

socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = socket.getaddrinfo = refuse
"""


def test_nothing_that_is_here_asks_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, site = tmp_path / "attempts", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCKED.format(log=str(log)))  # of the worker
    path = os.pathsep.join([str(site), str(Path(dp_bench.__file__).parents[1])])
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, None, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    exec(BLOCKED.format(log=str(log)))
    results_dir = tmp_path / "results"
    short = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=4", "data.limit=16")
    new = ("task=rte", "data=micro", "backbone=t5_micro", "trainer=micro", *short)
    for words in (
        ("train", *new, "prompt=fixed", f"results_dir={results_dir}", "on_missing=error"),
        ("sweep", *new, "prompt=fixed,majority", f"results_dir={results_dir}"),
        ("tables", "--results-dir", str(results_dir)),
        ("status", "--results-dir", str(results_dir)),
        ("list", "backbones"),
        ("data", "check"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == (2 if words[0] == "data" else 0), capsys.readouterr()
    (folder,) = (results_dir / "runs").glob("*fixed*")
    texts = {"premise": "the cat is red.", "hypothesis": "the cat is blue."}
    examples = [Example("a", texts, ("yes", "no"), None, "a", "a")]
    assert len(dp_bench.open_run(folder).predict("rte", examples).choices) == 1
    assert not log.exists(), log.read_text()
    hub.hub_reachable.cache_clear()
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])  # asks whether the hub answers, and goes on
    assert stop.value.code == 0 and "cannot be reached" in capsys.readouterr().out
    assert log.exists(), "the test sees attempts"
    hub.hub_reachable.cache_clear()
