"""BERT and its kin: the answer is read at the mask token, or a classifier head reads the whole text.

Order is known from position ids alone, so they run over the whole assembled sequence. If text tokens kept
their own, moving the prompt would change nothing, and several methods would silently be one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dp_bench.backbones.attention import attending
from dp_bench.backbones.backbone import Backbone, position_ids
from dp_bench.settings import Pooling
from dp_bench.types import Prompted

TYPES = ("albert", "bert", "roberta", "xlm-roberta")


class EncoderOnly(Backbone):
    """A masked language model, or its encoder alone, with its tokenizer."""

    scores_choices = False

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, pooling: Pooling = Pooling.first, dropout: bool = False
    ) -> None:
        super().__init__(model, tokenizer, dropout=dropout)
        self.pooling = pooling
        config: Any = model.config
        # RoBERTa keeps the positions up to that of padding for itself.
        self.first_position = config.pad_token_id + 1 if "roberta" in config.model_type else 0

    @property
    def num_positions(self) -> int:
        config: Any = self.model.config
        return int(config.max_position_embeddings) - self.first_position

    @property
    def stacks(self) -> list[nn.Module]:
        return [self._base]

    @property
    def _base(self) -> Any:
        model: Any = self.model
        return getattr(model, model.base_model_prefix, model)

    def encode(self, x_BTD: Tensor, mask_BT: Tensor, first_B1: Tensor | int = 0) -> Tensor:
        places_BT = position_ids(mask_BT) + first_B1
        self.refuse_places(places_BT)
        states: Tensor = self._base(
            inputs_embeds=x_BTD,
            attention_mask=mask_BT.long(),
            position_ids=places_BT + self.first_position,
        ).last_hidden_state
        return states

    def forward(self, prompted: Prompted) -> Tensor:
        assert prompted.answer_slot_B is not None
        rows = torch.arange(len(prompted.mask_BS), device=prompted.mask_BS.device)
        return self._states(prompted)[rows, prompted.answer_slot_B]

    def pooled(self, prompted: Prompted) -> Tensor:
        states_BSD, slots_BT = self._states(prompted), prompted.slot_of_text_BT
        text_BTD = states_BSD.gather(1, slots_BT[..., None].expand(-1, -1, states_BSD.shape[-1]))
        if self.pooling is Pooling.first:
            return text_BTD[:, 0]
        mask_BT = prompted.mask_BS.gather(1, slots_BT)
        weights_BT = mask_BT.to(text_BTD.dtype) / mask_BT.sum(1, keepdim=True)
        return torch.einsum("bt,btd->bd", weights_BT, text_BTD)

    def _states(self, prompted: Prompted) -> Tensor:
        with attending(prompted.layers):
            first_B1 = 0 if prompted.layers is None else prompted.layers.length_B1
            return self.encode(prompted.embeds_BSD, prompted.mask_BS, first_B1)

    def word_logits(self, state_BD: Tensor, word_ids_C: Tensor) -> Tensor:
        model: Any = self.model
        decoder = model.get_output_embeddings()
        state_BD = self._before_decoder(state_BD)
        return nn.functional.linear(state_BD, decoder.weight[word_ids_C], decoder.bias[word_ids_C])

    def _before_decoder(self, state_BD: Tensor) -> Tensor:
        """Apply what the masked-LM head of the family does before its words."""
        model: Any = self.model
        if model.config.model_type == "bert":
            transformed: Tensor = model.cls.predictions.transform(state_BD)
        elif model.config.model_type == "albert":
            head = model.predictions
            transformed = head.LayerNorm(head.activation(head.dense(state_BD)))
        else:
            head = model.lm_head
            transformed = head.layer_norm(nn.functional.gelu(head.dense(state_BD)))
        return transformed
