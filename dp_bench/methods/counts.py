"""How many numbers a prompt or a baseline trains on a T5, as a formula and as a number; no torch, so that
listing is fast. A prompt's formula is the sum of its pieces' (catalogue.py).

S attentions of inner width W, r the rank of LoRA, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dp_bench.methods import table
from dp_bench.prompts import catalogue
from dp_bench.prompts.catalogue import SITES, Sizes


@dataclass(frozen=True)
class Widths:
    """The dimensions of a T5 1.1 that the formulas read."""

    d_model: int
    inner: int  # heads times head width
    encoder_layers: int
    decoder_layers: int

    @property
    def sites(self) -> tuple[int, int, int]:
        """Attentions of the encoder, of the decoder to itself, and of the decoder to the encoder."""
        return self.encoder_layers, self.decoder_layers, self.decoder_layers


T5 = {
    "small": Widths(512, 384, 8, 8),
    "base": Widths(768, 768, 12, 12),
    "large": Widths(1024, 1024, 24, 24),
    "xl": Widths(2048, 2048, 24, 24),
}


def formula(prompt: Mapping[str, Any]) -> str:
    """Return the formula of the number of trained numbers of a method."""
    method = table.of(prompt["method"])
    return catalogue.formula(prompt) if method.has_prompt else method.formula


def trained(prompt: Mapping[str, Any], widths: Widths, num_tasks: int, num_labels: int = 2) -> int | None:
    """Return how many numbers a method trains; None where only the model tells."""
    sites = dict(zip(SITES, widths.sites, strict=True))
    sizes = Sizes(prompt["num_tokens"], widths.d_model, 0, num_tasks, sites, widths.inner, num_labels)
    return table.of(prompt["method"]).count(prompt, sizes)
