"""How many numbers a prompt or a baseline trains on a T5, as a formula and as a number; no torch, so that
listing is fast. A prompt's formula is the sum of its pieces' (catalogue.py).

S attentions of inner width W in L layers, E of them in the first stack, r the rank of LoRA, h the size of an
adapter, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dp_bench.methods import table
from dp_bench.prompts import catalogue
from dp_bench.prompts.catalogue import SITES, Sizes


def _t5(width: int, inner: int, layers: int) -> Sizes:
    """Return the sizes of a T5 1.1, whose encoder and decoder have as many layers."""
    return Sizes(0, width, sites=dict.fromkeys(SITES, layers), inner=inner)


T5 = {
    "small": _t5(512, 384, 8),
    "base": _t5(768, 768, 12),
    "large": _t5(1024, 1024, 24),
    "xl": _t5(2048, 2048, 24),
}


def formula(prompt: Mapping[str, Any]) -> str:
    """Return the formula of the number of trained numbers of a method."""
    method = table.of(prompt["method"])
    if not method.has_prompt:
        return method.formula
    beside = table.adapters_of(prompt)
    return catalogue.formula(prompt) + (f" + {beside.formula}" if beside else "")


def trained(prompt: Mapping[str, Any], backbone: Sizes, num_tasks: int, num_labels: int = 2) -> int | None:
    """Return how many numbers a method trains; None where only the model tells."""
    sizes = replace(backbone, num_tokens=prompt["num_tokens"], num_tasks=num_tasks, num_labels=num_labels)
    return table.of(prompt["method"]).count(prompt, sizes)
