"""Baselines that train a few of the backbone's own numbers: LoRA, through the peft package, and BitFit.

What is trained is held in fp32, whatever the precision of the frozen weights.
"""

from __future__ import annotations

from typing import Any

from dp_bench.backbones.backbone import Backbone
from dp_bench.randomness import fork
from dp_bench.settings import RunSettings
from dp_bench.types import UserError

# The query and value projections of each family, which Hu et al. (2022), section 4.2, adapt.
QUERY_AND_VALUE = {
    **dict.fromkeys(("t5", "mt5", "umt5"), ("q", "v")),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "albert"), ("query", "value")),
    **dict.fromkeys(("llama", "mistral", "opt", "qwen2", "qwen3"), ("q_proj", "v_proj")),
    "gpt2": ("c_attn",),  # one matrix for query, key and value
}


def add_lora(backbone: Backbone, settings: RunSettings) -> None:
    """Add trained rank-r factors beside the query and value matrices of every attention."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError('prompt=lora needs the peft package: pip install "dp-bench[peft]".') from None
    model: Any = backbone.model
    kind = model.config.model_type
    config = LoraConfig(
        r=settings.prompt.rank,
        lora_alpha=settings.prompt.alpha,
        target_modules=list(QUERY_AND_VALUE[kind]),
        fan_in_fan_out=kind == "gpt2",
    )
    with fork(settings.seed_of("init"), "lora"):
        inject_adapter_in_model(config, model)
    backbone.to(backbone.device)
    _keep_in_fp32(backbone)


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
