"""The same on a CUDA device: `make test-gpu`. DP_BENCH_TEST_DEVICE=cpu tries these tests without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROMPTS
from helpers.backbones import DIMS, settings_of
from helpers.batches import noisy_batch, prompted_model
from helpers.trainers import KilledError
from safetensors.torch import load_file

from dp_bench import run
from dp_bench.backbones.load import load_backbone
from dp_bench.config import Experiment
from dp_bench.sweep.plan import State, states
from dp_bench.trainer import Trainer

DEVICE = os.environ.get("DP_BENCH_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="this machine has no CUDA device"
    ),
]
Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=6", "trainer.eval_every=2", "trainer.micro_batch_size=4")


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("kind", ["t5", "bert", "llama"])
@pytest.mark.parametrize("name", PROMPTS)
def test_a_gpu_gives_the_logits_of_the_cpu(name: str, kind: str) -> None:
    here, there = (
        prompted_model(
            load_backbone(settings_of(kind), device=torch.device(device), dtype=torch.float32, dropout=False),
            f"prompt={name}",
        )
        for device in ("cpu", DEVICE)
    )
    there.load_state_dict(here.state_dict())
    there.to(DEVICE)
    batch = noisy_batch(here, kind)
    expected, found = here(batch).logits_BC, there(batch.to(DEVICE)).logits_BC
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", sorted(DIMS))
def test_every_family_gives_the_logits_of_the_cpu(kind: str) -> None:
    test_a_gpu_gives_the_logits_of_the_cpu("dynamic", kind)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_leaves_its_record(experiment: Build, precision: str) -> None:
    record = run.run(
        experiment("prompt=dynamic", f"device={DEVICE}", f"trainer.precision={precision}", *QUICK)
    )
    assert record.status == "done" and record.peak_memory_mb > 0
    assert np.isfinite(record.score)
    if DEVICE == "cuda":
        assert record.peak_memory_kind == "cuda"
        assert record.device == torch.cuda.get_device_name(0)


def test_a_run_that_is_killed_ends_as_one_that_was_not(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("prompt=dynamic", f"device={DEVICE}", *QUICK)
    whole = run.run(experiment(*words, f"results_dir={tmp_path / 'whole'}"))
    update = Trainer._update

    def killed(trainer: Trainer, *args: Any) -> float:
        if trainer.progress.step == 3:
            raise KilledError
        return update(trainer, *args)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Trainer, "_update", killed)
        run.run(experiment(*words))
    resumed = run.run(experiment(*words))
    assert resumed.score == pytest.approx(whole.score, abs=1e-6)
    prompts = [next(tmp_path.glob(f"{folder}/runs/*/prompt.safetensors")) for folder in ("whole", "results")]
    expected, found = map(load_file, prompts)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-3)


def test_a_sweep_uses_all_gpus(tmp_path: Path) -> None:
    results = tmp_path / "swept"
    spread = ["--gpus", "all"] if DEVICE == "cuda" and shutil.which("nvidia-smi") else ["--jobs", "2"]
    words = ["task=rte", "prompt=fixed,dynamic", "seed=0,1", "backbone=t5_micro", "data=micro"]
    settings = ["trainer=micro", "trainer.max_steps=4", "trainer.eval_every=2", "data.limit=64"]
    command = (sys.executable, "-m", "dp_bench", "sweep")
    done = subprocess.run(
        [*command, *words, *settings, *spread, f"device={DEVICE}", f"results_dir={results}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    names = [path.name for path in (results / "runs").iterdir()]
    assert len(names) == 4 and set(states(results, names).values()) == {State.done}


def test_an_update_waits_for_the_device_once(experiment: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passing examples forward and backward reads nothing back; the loss and the norm are read together."""
    accumulate = Trainer._accumulate

    @contextmanager
    def refusing() -> Iterator[None]:
        if DEVICE != "cuda":
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def watched(trainer: Trainer, *args: Any) -> Any:
        if trainer.progress.step == 0:  # allocates
            return accumulate(trainer, *args)
        with refusing():
            return accumulate(trainer, *args)

    monkeypatch.setattr(Trainer, "_accumulate", watched)
    record = run.run(experiment("prompt=dynamic", f"device={DEVICE}", *QUICK))
    assert record.status == "done"


def test_memory_is_given_back_between_runs(experiment: Build) -> None:
    peaks = [
        run.run(experiment("prompt=fixed", f"device={DEVICE}", f"seed={seed}", *QUICK)).peak_memory_mb
        for seed in range(3)
    ]
    assert peaks[2] <= 1.05 * peaks[0] or DEVICE != "cuda"
