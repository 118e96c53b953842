"""The T5 family: the prompt enters through the encoder's `inputs_embeds`, the answer is read in the decoder.

The decoder reads `<pad>` and the answer prefix (`<extra_id_0>` for span-corruption T5, as the paper's wrapper
does) and stops there: what would follow the answer step cannot change it. Logits are computed for the label
words only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dp_bench.backbones.attention import attending
from dp_bench.backbones.backbone import Backbone
from dp_bench.types import Prompted, UserError

TYPES = ("mt5", "t5", "umt5")


class EncoderDecoder(Backbone):
    """A T5ForConditionalGeneration with its tokenizer."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, answer_prefix: str = "", dropout: bool = False
    ) -> None:
        super().__init__(model, tokenizer, dropout=dropout)
        self.use_own_attention()  # which adds the bias of positions to the mask once and not in every layer
        config: Any = model.config
        prefix_ids = tokenizer(answer_prefix, add_special_tokens=False).input_ids if answer_prefix else []
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in prefix_ids:
            raise UserError(
                f"backbone.answer_prefix='{answer_prefix}' is not in the vocabulary of this tokenizer: "
                "use one of its tokens, or backbone.answer_prefix='' to read the first decoder step."
            )
        ids = torch.tensor([config.decoder_start_token_id, *prefix_ids])
        self.register_buffer("decoder_ids_A", ids, persistent=False)
        # T5 1.0 ties its head to the embedding and scales for it; T5 1.1 does neither.
        scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        self.head_scale = config.d_model**-0.5 if scaled else 1.0

    @property
    def stacks(self) -> list[nn.Module]:
        model: Any = self.model
        return [model.encoder, model.decoder]

    def encode(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        model: Any = self.model
        states: Tensor = model.encoder(inputs_embeds=x_BTD, attention_mask=mask_BT).last_hidden_state
        return states

    def forward(self, prompted: Prompted) -> Tensor:
        with attending(prompted.layers):
            encoded_BSD = self.encode(prompted.embeds_BSD, prompted.mask_BS)
            prefix = self.get_buffer("decoder_ids_A").expand(len(encoded_BSD), -1)
            return self._decode(prefix, encoded_BSD, prompted.mask_BS)[:, -1]

    def _decode(self, decoder_ids: Tensor, encoded_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Return the decoder's state at each of its tokens."""
        model: Any = self.model
        decoded = model.decoder(
            input_ids=decoder_ids,
            encoder_hidden_states=encoded_BSD,
            encoder_attention_mask=mask_BS,
            use_cache=False,
        )
        states: Tensor = decoded.last_hidden_state
        return states

    def token_logprobs(self, prompted: Prompted, choice_ids_BCA: Tensor) -> Tensor:
        model: Any = self.model
        num_choices, num_tokens = choice_ids_BCA.shape[1:]
        prefix = self.get_buffer("decoder_ids_A")
        choices = choice_ids_BCA.flatten(0, 1)  # (B * C, A)
        decoder_ids = torch.cat([prefix.expand(len(choices), -1), choices[:, :-1]], dim=1)
        with attending(prompted.layers):
            encoded_BSD = self.encode(prompted.embeds_BSD, prompted.mask_BS)
            states = self._decode(
                decoder_ids,
                encoded_BSD.repeat_interleave(num_choices, 0),
                prompted.mask_BS.repeat_interleave(num_choices, 0),
            )[:, -num_tokens:]
        logits = torch.nn.functional.linear(states * self.head_scale, model.lm_head.weight).float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), choices.flatten(), reduction="none")
        return -loss.view(choice_ids_BCA.shape)

    def word_logits(self, state_BD: Tensor, word_ids_C: Tensor) -> Tensor:
        model: Any = self.model
        return torch.nn.functional.linear(state_BD * self.head_scale, model.lm_head.weight[word_ids_C])
