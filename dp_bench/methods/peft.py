"""Baselines that train a few weights of the backbone: LoRA, with the peft package, and BitFit.

Trained weights are fp32, whatever the precision of the frozen weights.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from dp_bench import extras
from dp_bench.backbones.backbone import Backbone
from dp_bench.randomness import fork
from dp_bench.settings import RunSettings
from dp_bench.types import UserError

# Names of an attention's matrices: one each for query and value, which Hu et al. (2022), section 4.2, adapt,
# or one for query, key and value together. Those of one attention have the same ending: q_proj and v_proj.
QUERY = re.compile(r"w?(?:q|query)(_[a-z]+)?", re.IGNORECASE)
VALUE = re.compile(r"w?(?:v|value)(_[a-z]+)?", re.IGNORECASE)
FUSED = re.compile(r"c_attn|query_key_value|(w?qkv)(_proj)?", re.IGNORECASE)


def add_lora(backbone: Backbone, settings: RunSettings) -> None:
    """Add trained rank-r factors to the query and value matrices of every attention, or to those that
    prompt.target_modules names. Raises UserError where there are none, or without the peft package."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise extras.absent("peft", "prompt=lora") from None
    from transformers.pytorch_utils import Conv1D

    model: Any = backbone.model
    found = matrices(model)
    adapted = _adapted(found, settings.prompt.target_modules, model.config.model_type)
    config = LoraConfig(
        r=settings.prompt.rank,
        lora_alpha=settings.prompt.alpha,
        target_modules=adapted,
        fan_in_fan_out=isinstance(found[adapted[0]], Conv1D),  # GPT-2 stores its weights transposed
    )
    with fork(settings.seed_of("init"), "lora"):
        inject_adapter_in_model(config, model)
    backbone.to(backbone.device)
    _keep_in_fp32(backbone)


def matrices(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear modules by name, without the vocabulary head, which is never called as a module."""
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        name: module
        for name, module in model.named_modules()
        if module is not head and isinstance(module, nn.Linear | Conv1D)
    }


def _adapted(matrices: dict[str, nn.Module], named: list[str] | None, model_type: str) -> list[str]:
    """Return the names of the matrices that LoRA adapts; raise UserError where there are none."""
    available = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in matrices}))
    if named is None:
        adapted = _query_and_value(matrices)
        if not adapted:
            raise UserError(
                f"prompt=lora adapts the query and value matrices of a model, and no matrix of this "
                f"'{model_type}' model has one of the usual names. Choose among those that it has, such as "
                f"'prompt.target_modules=[q_proj,v_proj]': {available}."
            )
        return adapted
    absent = [ending for ending in named if not any(_ends_in(name, ending) for name in matrices)]
    if absent:
        raise UserError(
            f"prompt.target_modules names {', '.join(absent)}, and this '{model_type}' model has no such "
            f"matrix. It has {available}."
        )
    return [name for name in matrices if any(_ends_in(name, ending) for ending in named)]


def _ends_in(name: str, ending: str) -> bool:
    return f".{name}".endswith(f".{ending}")


def _query_and_value(matrices: dict[str, nn.Module]) -> list[str]:
    """Return the names of the query and value matrices of each attention, or else of those fused with key."""
    fused = []
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for name in matrices:
        attention, _, ending = name.rpartition(".")
        for kind, pattern in (("query", QUERY), ("value", VALUE)):
            if matched := pattern.fullmatch(ending):
                pairs.setdefault((attention, matched[1] or ""), {})[kind] = name
        if FUSED.fullmatch(ending):
            fused.append(name)
    return [name for pair in pairs.values() if len(pair) == 2 for name in pair.values()] or fused


def thaw_biases(backbone: Backbone, settings: RunSettings) -> None:
    """Make the bias terms of the backbone trainable; raise UserError where it has none."""
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
