"""Faults of a machine: too little memory, full and read-only disks, no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.trainers import make_trainer

from dp_bench import faults
from dp_bench.config import Experiment
from dp_bench.evaluation import predict
from dp_bench.model import PromptedModel
from dp_bench.trainer import Trainer
from dp_bench.types import Batch, RunFailedError

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
    from dp_bench import config, run
    from dp_bench.commands import train

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(train.config, "build", lambda cfg, composer: None)
    monkeypatch.setattr(run, "run", fails)
    assert train._run_one(None, config.Composer()) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "trainer.micro_batch_size=" in said


def test_a_real_lack_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert faults.is_out_of_memory(caught.value)
    assert not faults.is_out_of_memory(RuntimeError("shapes do not match"))
