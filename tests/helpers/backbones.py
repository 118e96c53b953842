"""Backbones of every family, and batches for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.probe import find_sites
from dp_bench.prompts.layout import insert
from dp_bench.settings import BackboneSettings, SplitOrder
from dp_bench.types import Batch, LayerPrompt, PromptOutput

ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


ROTARY = {**ENCODER, "num_key_value_heads": 2}


DIMS: dict[str, dict[str, Any]] = {
    "t5": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "tie_word_embeddings": False,
    },
    "bert": {**ENCODER, "max_position_embeddings": 64},
    "roberta": {**ENCODER, "max_position_embeddings": 64},
    "albert": {**ENCODER, "embedding_size": 16, "max_position_embeddings": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 64,
    },
    "llama": {**ROTARY, "max_position_embeddings": 64},
    "qwen2": {**ROTARY, "max_position_embeddings": 64},
    "qwen3": {**ROTARY, "head_dim": 8, "max_position_embeddings": 64},
}


ENCODERS, DECODERS = ("bert", "roberta", "albert"), ("gpt2", "opt", "llama", "qwen2", "qwen3")


CPU = torch.device("cpu")


def settings_of(kind: str, **changes: Any) -> BackboneSettings:
    settings = {
        "family": None,
        "answer_cue": None if kind == "t5" else " Answer: {mask}" if kind in ENCODERS else " A:",
    }
    base = BackboneSettings(name=kind, random_init={"model_type": kind, **DIMS[kind]})
    return dataclasses.replace(base, **{**settings, **changes})


def batch_of(lengths: list[int], seed: int = 0) -> Batch:
    """Texts with a token before the body and two behind it, the first of which is the answer's."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids_BT = torch.randint(3, 200, (len(lengths), width), generator=generator)
    mask_BT = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids_BT = ids_BT.masked_fill(~mask_BT, 0)
    end_B = torch.tensor(lengths) - 2
    zeros = torch.zeros(len(lengths), dtype=torch.long)
    return Batch(ids_BT, mask_BT, zeros + 1, end_B, zeros, torch.arange(len(lengths)), zeros, answer_B=end_B)


def output(batch: Batch, vectors_PD: Tensor, before: int, **more: Any) -> PromptOutput:
    num = len(vectors_PD)
    before_BJ = torch.nn.functional.one_hot(torch.full((len(batch),), before), num + 1).float()
    return PromptOutput(vectors_PD.expand(len(batch), -1, -1), before_BJ, **more)


def answers(backbone: Backbone, batch: Batch, prompt: PromptOutput) -> Tensor:
    prompted = insert(backbone.embed(batch.ids_BT), batch, prompt, SplitOrder.paper)
    return backbone.word_logits(backbone(prompted), torch.arange(200))


def nothing(backbone: Backbone, batch: Batch) -> PromptOutput:
    return output(batch, torch.zeros(0, backbone.dims.width), 0)


def layer_prompt(
    backbone: Backbone, num_rows: int, num_tokens: int, keep_BP: Tensor | None = None
) -> LayerPrompt:
    generator = torch.Generator().manual_seed(3)
    sites = find_sites(backbone)

    def draw(site: Any) -> Tensor:
        shape = (1, site.num_heads, num_tokens, site.head_width)
        return torch.randn(shape, generator=generator).expand(num_rows, -1, -1, -1).clone().requires_grad_()

    return LayerPrompt(tuple(map(draw, sites)), tuple(map(draw, sites)), keep_BP)
