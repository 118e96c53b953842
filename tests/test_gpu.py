"""The same on a CUDA device: `make test-gpu`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import PROMPTS, make_batch
from helpers.batches import LENGTHS, prompted_model

from dp_bench import run
from dp_bench.backbones.backbone import Backbone
from dp_bench.config import Experiment
from dp_bench.types import Batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.mark.parametrize("name", PROMPTS)
def test_a_gpu_gives_the_logits_of_the_cpu(make_backbone: Callable[..., Backbone], name: str) -> None:
    model = prompted_model(make_backbone(), f"prompt={name}")
    names = model.prompt.noisy_selectors(training=True, sample_at_eval=False)
    noise = model.prompt.draw_noise(len(LENGTHS), torch.Generator().manual_seed(0), selectors=names)
    batch: Batch = replace(make_batch(LENGTHS), noise=noise)
    here = model(batch).logits_BC
    there = model.to("cuda")(batch.to("cuda")).logits_BC
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_on_a_gpu_leaves_its_record(experiment: Callable[..., Experiment], precision: str) -> None:
    quick = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.micro_batch_size=4")
    record = run.run(experiment("prompt=dynamic", "device=cuda", f"trainer.precision={precision}", *quick))
    assert record.status == "done" and record.peak_memory_kind == "cuda" and record.peak_memory_mb > 0
    assert record.device == torch.cuda.get_device_name(0)
    assert np.isfinite(record.score)
