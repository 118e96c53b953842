"""A model whose position is learned, and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from conftest import make_batch
from torch import Tensor

from dp_bench import config
from dp_bench.backbones.backbone import Backbone
from dp_bench.model import PromptedModel
from dp_bench.objective import objective
from dp_bench.settings import Estimator, SplitOrder, Summary
from dp_bench.types import Batch
from dp_bench.verbalizer import LabelWords
from helpers.prompts import build_prompt

NUM_TOKENS = 2


J = NUM_TOKENS + 1


def make_model(make_backbone: Callable[..., Backbone], estimator: Estimator, prompt: str) -> PromptedModel:
    backbone = make_backbone(torch.float64)
    words = [f"prompt={prompt}", f"prompt.num_tokens={NUM_TOKENS}", f"prompt.estimator={estimator.value}"]
    experiment = config.build(config.compose(["data.dir=.", *words]))
    made = build_prompt(experiment, backbone.dims, backbone.embedding_VD).double()
    with torch.no_grad():
        for parameter in made.position.parameters():
            parameter.mul_(3.0)  # unequal shares
    verbalizer = LabelWords(["no", "yes"], backbone.tokenizer)
    return PromptedModel(backbone, made, [verbalizer], order=SplitOrder.paper, summary=Summary.encoder_mean)


def texts(size: int) -> Batch:
    """Return texts with summaries in float64, which the frozen pass would round to fp32."""
    summaries = torch.randn(3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    return replace(make_batch([7, 5, 9][:size]), summary_BD=summaries[:size])


def gradient(model: PromptedModel, batch: Batch) -> Tensor:
    """Return the gradient of the position selector's parameters, as one vector."""
    parameters = list(model.prompt.position.parameters())
    goal = objective(model, model.prompt, batch, 1.0)
    return torch.cat([g.flatten() for g in torch.autograd.grad(goal.to_minimise, parameters)])


def forced(*outcomes: int) -> Tensor:
    return 1e9 * torch.nn.functional.one_hot(torch.tensor(outcomes), J).double()
