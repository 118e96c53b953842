"""A step on a GPU never waits for it: checked without one, on torch's meta device.

A tensor made on another device than its neighbours, and a value that the processor would have to read, are
errors there.
"""

from __future__ import annotations

import pytest
import torch
from conftest import PROMPTS
from helpers.batches import noisy_batch, prompted_model
from helpers.oracles import make

from dp_bench.backbones.load import default_attention
from dp_bench.types import UserError


@pytest.mark.parametrize("kind", ["t5", "llama", "bert"])
@pytest.mark.parametrize("name", PROMPTS)
def test_a_step_reads_nothing_from_its_device(name: str, kind: str) -> None:
    backbone = make(kind)
    backbone.lm.set_attn_implementation(default_attention("cuda", torch.float32))
    try:
        model = prompted_model(backbone, f"prompt={name}")
    except UserError as refused:
        pytest.skip(str(refused))
    batch = noisy_batch(model, kind)
    loss = model.to("meta").train()(batch.to("meta")).logits_BC.sum()
    assert loss.device.type == "meta"
    if loss.requires_grad:
        loss.backward()
