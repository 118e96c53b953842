"""Baselines that train a few of the backbone's own numbers: LoRA, through the peft package, and BitFit.

What is trained is held in fp32, whatever the precision of the frozen weights.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from dp_bench.backbones.backbone import Backbone
from dp_bench.randomness import fork
from dp_bench.settings import RunSettings
from dp_bench.types import UserError

# How the matrices of an attention are called: one each for query and value, which Hu et al. (2022), section
# 4.2, adapt, or one for query, key and value together. Those of one attention end alike: q_proj and v_proj.
QUERY = re.compile(r"w?(?:q|query)(_[a-z]+)?", re.IGNORECASE)
VALUE = re.compile(r"w?(?:v|value)(_[a-z]+)?", re.IGNORECASE)
TOGETHER = re.compile(r"c_attn|query_key_value|(w?qkv)(_proj)?", re.IGNORECASE)


def add_lora(backbone: Backbone, settings: RunSettings) -> None:
    """Add trained rank-r factors beside the query and value matrices of every attention, or beside what
    prompt.target_modules names. Raises UserError where there is nothing of that kind."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError('prompt=lora needs the peft package: pip install "dp-bench[peft]".') from None
    from transformers.pytorch_utils import Conv1D

    model: Any = backbone.model
    matrices = _matrices(model)
    adapted = _adapted(matrices, settings.prompt.target_modules, model.config.model_type)
    config = LoraConfig(
        r=settings.prompt.rank,
        lora_alpha=settings.prompt.alpha,
        target_modules=adapted,
        fan_in_fan_out=isinstance(matrices[adapted[0]], Conv1D),  # GPT-2's keep their weights transposed
    )
    with fork(settings.seed_of("init"), "lora"):
        inject_adapter_in_model(config, model)
    backbone.to(backbone.device)
    _keep_in_fp32(backbone)


def _matrices(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that multiply by a matrix, by name. Not the head over the vocabulary, whose rows are
    read without calling it."""
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    own = {name: module for name, module in model.named_modules() if module is not head}
    return {name: module for name, module in own.items() if isinstance(module, nn.Linear | Conv1D)}


def _adapted(matrices: dict[str, nn.Module], named: list[str] | None, model_type: str) -> list[str]:
    """Return the names of the matrices that LoRA adapts; raise UserError where there are none."""
    there = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in matrices}))
    if named is None:
        found = _query_and_value(matrices)
        if not found:
            raise UserError(
                f"prompt=lora adapts the query and value matrices of a model, and no matrix of this "
                f"'{model_type}' model has one of the usual names. Choose some of those that it has, as in "
                f"'prompt.target_modules=[q_proj,v_proj]': {there}."
            )
        return found
    absent = [own for own in named if not any(_ends_in(name, own) for name in matrices)]
    if absent:
        raise UserError(
            f"prompt.target_modules names {', '.join(absent)}, and this '{model_type}' model has no such "
            f"matrix. It has {there}."
        )
    return [name for name in matrices if any(_ends_in(name, own) for own in named)]


def _ends_in(name: str, own: str) -> bool:
    return f".{name}".endswith(f".{own}")


def _query_and_value(matrices: dict[str, nn.Module]) -> list[str]:
    """Return the names of the matrices for query and value that are of one attention, or of those that make
    query, key and value at once."""
    together = []
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name in matrices:
        attention, _, own = name.rpartition(".")
        for kind, pattern in (("query", QUERY), ("value", VALUE)):
            if matched := pattern.fullmatch(own):
                found.setdefault((attention, matched[1] or ""), {})[kind] = name
        if TOGETHER.fullmatch(own):
            together.append(name)
    return [name for pair in found.values() if len(pair) == 2 for name in pair.values()] or together


def thaw_biases(backbone: Backbone, settings: RunSettings) -> None:
    """Train the bias terms of the backbone and nothing else of it."""
    biases = [p for name, p in backbone.model.named_parameters() if name.endswith("bias") and p.ndim == 1]
    if not biases:
        raise UserError(
            f"prompt=bitfit trains bias terms, of which backbone={settings.backbone.name} has none (T5 and "
            "LLaMA are built without): use prompt=lora, or a backbone such as bert_base."
        )
    for bias in biases:
        bias.requires_grad_(True)
    _keep_in_fp32(backbone)


def _keep_in_fp32(backbone: Backbone) -> None:
    for parameter in backbone.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
