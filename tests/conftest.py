"""What all tests share: one thread, a cache of their own, and tiny real models."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # two test processes share two cores, also in the processes they start
import torch

from dp_bench import config
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone
from dp_bench.config import Experiment
from dp_bench.settings import BackboneSettings, SplitOrder, TaskSettings
from dp_bench.types import Batch

FIXTURES = Path(__file__).parent / "fixtures" / "superglue"
SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@cache
def _task(name: str) -> TaskSettings:
    return config.build(config.compose([f"task={name}"])).settings.task


def task_settings(name: str) -> TaskSettings:
    """Return the settings of a task as its file has them, the caller's own."""
    return deepcopy(_task(name))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DP_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "dp-bench-cache"))


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the official SuperGLUE files are not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def make_backbone() -> Callable[..., Backbone]:
    """Build a tiny random T5 in eager fp32, or as asked."""

    def build(
        dtype: torch.dtype = torch.float32, *, dropout: bool = False, seed: int = 0, **dims: object
    ) -> Backbone:
        settings = config.build(config.compose(["backbone=t5_tiny_random", "data.dir=."])).settings.backbone
        sized: BackboneSettings = dataclasses.replace(
            settings, init_seed=seed, random_init={**(settings.random_init or {}), **dims}
        )
        return load_backbone(sized, device=torch.device("cpu"), dtype=dtype, dropout=dropout)

    return build


@pytest.fixture(scope="session")
def backbone(make_backbone: Callable[..., Backbone]) -> Backbone:
    return make_backbone()


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Experiment]:
    """Compose an experiment on the fixtures' rows and a tiny random T5."""

    def build(*overrides: str) -> Experiment:
        base = [
            "task=rte",
            "backbone=t5_tiny_random",
            "trainer=smoke",
            "trainer.precision=fp32",
            "device=cpu",
            f"data.dir={FIXTURES}",
            f"results_dir={tmp_path / 'results'}",
        ]
        return config.build(config.compose([*base, *overrides]))

    return build


def make_batch(
    lengths: list[int], *, start: int = 0, vocab: int = 200, seed: int = 0, width: int = 0
) -> Batch:
    """Return ragged texts that end in `</s>`, with `start` tokens before the body."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(*lengths, width)
    ids_BT = torch.zeros(len(lengths), longest, dtype=torch.long)
    mask_BT = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        ids_BT[row, :length] = torch.randint(3, vocab, (length,), generator=generator)
        ids_BT[row, length - 1] = 1
        mask_BT[row, :length] = True
    num = len(lengths)
    return Batch(
        ids_BT,
        mask_BT,
        body_start_B=torch.full((num,), start),
        body_end_B=torch.tensor(lengths) - 1,
        label_B=torch.arange(num) % 2,
        row_B=torch.arange(num),
        task_B=torch.zeros(num, dtype=torch.long),
        skill_B=torch.arange(num) % 2,
    )


ORDERS = tuple(SplitOrder)
BASELINES = {
    *("majority", "zero_shot", "calibrated", "in_context", "best_template"),
    *("linear_probe", "fine_tuning", "lora", "bottleneck", "bitfit"),
}
# Those that need no finished run; xprompt does (test_pruned.py).
PROMPTS = [name for name in config.options("prompt") if name not in {*BASELINES, "xprompt"}]
