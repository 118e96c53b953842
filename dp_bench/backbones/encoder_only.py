"""BERT and its kin: the answer is read at the mask token, or a classifier head reads the whole text.

Where order is known from position ids alone, they run over the whole assembled sequence. If text tokens kept
their own, moving the prompt would change nothing, and several methods would silently be one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dp_bench.backbones.backbone import Backbone
from dp_bench.settings import Pooling
from dp_bench.types import Prompted


class EncoderOnly(Backbone):
    """A masked language model, or its encoder alone, with its tokenizer."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, pooling: Pooling = Pooling.first, dropout: bool = False
    ) -> None:
        super().__init__(model, tokenizer, dropout=dropout)
        self.pooling = pooling

    @property
    def stacks(self) -> list[nn.Module]:
        return [self.lm.base_model]

    def pooled(self, prompted: Prompted) -> Tensor:
        states_BSD, slots_BT = self.states(prompted), prompted.slot_of_text_BT
        text_BTD = states_BSD.gather(1, slots_BT[..., None].expand(-1, -1, states_BSD.shape[-1]))
        if self.pooling is Pooling.first:
            return text_BTD[:, 0]
        mask_BT = prompted.mask_BS.gather(1, slots_BT)
        weights_BT = mask_BT.to(text_BTD.dtype) / mask_BT.sum(1, keepdim=True)
        return torch.einsum("bt,btd->bd", weights_BT, text_BTD)
