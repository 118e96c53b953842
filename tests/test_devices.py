"""A step on a GPU never waits for it: checked without one, on torch's meta device.

A tensor made on another device than its neighbours, and a value that the processor would have to read, are
errors there.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import PROMPTS, make_batch
from helpers.backbones import batch_of
from helpers.batches import LENGTHS, prompted_model
from helpers.oracles import make

from dp_bench.backbones.load import default_attention
from dp_bench.types import Batch, UserError


@pytest.mark.parametrize("kind", ["t5", "llama", "bert"])
@pytest.mark.parametrize("name", PROMPTS)
def test_a_step_reads_nothing_from_its_device(name: str, kind: str) -> None:
    backbone = make(kind)
    backbone.lm.set_attn_implementation(default_attention("cuda", torch.float32))
    try:
        model = prompted_model(backbone, f"prompt={name}")
    except UserError as refused:
        pytest.skip(str(refused))
    names = model.prompt.noisy_selectors(training=True, sample_at_eval=False)
    noise = model.prompt.draw_noise(len(LENGTHS), torch.Generator().manual_seed(0), selectors=names)
    batch: Batch = make_batch(LENGTHS) if kind == "t5" else batch_of(LENGTHS)
    batch = replace(batch, noise=noise, skill_B=torch.zeros_like(batch.task_B))
    loss = model.to("meta").train()(batch.to("meta")).logits_BC.sum()
    assert loss.device.type == "meta"
    if loss.requires_grad:
        loss.backward()
