"""A backbone, a prompt on it, and its logits."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from dp_bench import config
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone
from dp_bench.backbones.probe import find_sites
from dp_bench.prompts.layout import insert
from dp_bench.prompts.prompt import Prompt
from dp_bench.settings import SplitOrder
from dp_bench.types import Batch
from helpers.backbones import settings_of
from helpers.prompts import build_prompt

P = 4


CPU = torch.device("cpu")


def make(kind: str) -> Backbone:
    return load_backbone(settings_of(kind), device=CPU, dtype=torch.float32, dropout=False)


def build(backbone: Backbone, *overrides: str) -> Prompt:
    words = ["data.dir=.", f"prompt.num_tokens={P}", "prompt.init=uniform", *overrides]
    experiment = config.build(config.compose(words))
    sites = find_sites(backbone) if experiment.settings.prompt.layers else ()
    dims = dataclasses.replace(backbone.dims, sites=sites)
    return build_prompt(experiment, dims, None)


def logits_of(backbone: Backbone, prompt: Prompt, batch: Batch) -> Tensor:
    output = prompt(None, batch.task_B, {}, 1.0)
    prompted = insert(backbone.embed(batch.ids_BT), batch, output, SplitOrder.paper)
    return backbone.word_logits(backbone(prompted), torch.arange(200))
