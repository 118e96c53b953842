"""Prompts of experiments, without a run around them."""

from __future__ import annotations

from torch import Tensor

from dp_bench.config import Experiment
from dp_bench.prompts.prompt import Prompt, build
from dp_bench.types import Dims


def build_prompt(experiment: Experiment, dims: Dims, embedding_VD: Tensor | None) -> Prompt:
    settings = experiment.settings
    order, seed = settings.protocol.split_order, settings.seed_of("init")
    return build(settings.prompt, order, seed, dims, embedding_VD)
