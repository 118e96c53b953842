"""BERT-like models: the answer is read at the mask token, or a classifier head reads the pooled text.

Position ids run over the whole sequence of text and prompt. If text tokens kept theirs, a model that knows
order from position ids alone would not notice where a prompt stands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dp_bench.backbones.backbone import Backbone
from dp_bench.pooling import state_of
from dp_bench.settings import Pooling
from dp_bench.types import Prompted


class EncoderOnly(Backbone):
    """A masked language model, or its encoder alone, with its tokenizer."""

    answers_at_mask = True

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, pooling: Pooling = Pooling.first, dropout: bool = False
    ) -> None:
        super().__init__(model, tokenizer, dropout=dropout)
        self.pooling = pooling

    @property
    def stacks(self) -> list[nn.Module]:
        return [self.lm.base_model]

    def reads(self, prompted: Prompted, *, pooled: bool = False) -> Tensor:
        if not pooled:
            return super().reads(prompted)
        slots_BT = (
            prompted.slot_of_text_BT[:, :1] if self.pooling is Pooling.first else prompted.slot_of_text_BT
        )
        mask_BT = prompted.mask_BS.gather(1, slots_BT).double()
        shares_BS = torch.zeros(prompted.mask_BS.shape, dtype=torch.float64, device=mask_BT.device)
        return shares_BS.scatter_(1, slots_BT, mask_BT / mask_BT.sum(1, keepdim=True))

    def pooled(self, prompted: Prompted) -> Tensor:
        """Return the state of the first text token, or the mean over text tokens: [B,D], in `dtype`."""
        states_BSD, slots_BT = self.states(prompted), prompted.slot_of_text_BT
        text_BTD = states_BSD.gather(1, slots_BT[..., None].expand(-1, -1, states_BSD.shape[-1]))
        if self.pooling is Pooling.first:
            return text_BTD[:, 0]
        return state_of(text_BTD, prompted.mask_BS.gather(1, slots_BT), "mean")
