"""T5-like models: the prompt is in the encoder's `inputs_embeds`, the answer is read in the decoder.

The decoder reads its start token and the answer prefix (`<extra_id_0>` for span-corruption T5, as in the
paper), and nothing after the answer step. Logits are computed for the label words only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dp_bench.backbones.attention import attending
from dp_bench.backbones.backbone import Backbone
from dp_bench.types import Prompted, UserError


class EncoderDecoder(Backbone):
    """A sequence-to-sequence language model with its tokenizer.

    Raises UserError where the tokenizer lacks the answer prefix or the model a start token.
    """

    scores_choices = True
    answers_in_text = False

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, answer_prefix: str = "", dropout: bool = False
    ) -> None:
        super().__init__(model, tokenizer, dropout=dropout)
        self.use_prompt_attention()  # it adds the position bias to the mask once, not in every layer
        ids = torch.tensor([_start(self.lm), *_prefix_ids(answer_prefix, tokenizer)])
        self.register_buffer("decoder_ids_A", ids, persistent=False)

    @property
    def stacks(self) -> list[nn.Module]:
        return [self.lm.get_encoder(), self.lm.get_decoder()]

    def site_kinds(self, num_text: int) -> dict[tuple[int, int], str]:
        num_ids = len(self.get_buffer("decoder_ids_A"))
        return {(num_ids, num_ids): "decoder", (num_ids, num_text): "cross"}

    def forward(self, prompted: Prompted) -> Tensor:
        """Return the decoder's state at the answer step: [B,D], in `dtype`. Raises UserError as `encode`
        does."""
        with attending(prompted.layers):
            encoded_BSD, mask_BS = self._encoded(prompted)
            prefix = self.get_buffer("decoder_ids_A").expand(len(encoded_BSD), -1)
            return self._decode(prefix, encoded_BSD, mask_BS)[:, -1]

    def reads(self, prompted: Prompted, *, pooled: bool = False) -> Tensor:
        num_steps = len(self.get_buffer("decoder_ids_A"))
        shares_BA = prompted.mask_BS.new_zeros(len(prompted.mask_BS), num_steps, dtype=torch.float64)
        shares_BA[:, -1] = 1
        return shares_BA

    def _encoded(self, prompted: Prompted) -> tuple[Tensor, Tensor]:
        """Return the states and the mask that the decoder reads; the vectors of a late prompt are in them."""
        encoded_BSD = self.encode(prompted.embeds_BSD, prompted.mask_BS, prompted.layers)
        return encoded_BSD, self.wide_mask(prompted.mask_BS, prompted.layers)

    def _decode(self, decoder_ids: Tensor, encoded_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Return the decoder's state at each of its tokens: [rows, tokens, D]."""
        decoded = self.stacks[1](
            input_ids=decoder_ids,
            encoder_hidden_states=encoded_BSD,
            encoder_attention_mask=mask_BS.long(),
            use_cache=False,
        )
        states: Tensor = decoded.last_hidden_state
        return states

    def token_logprobs(self, prompted: Prompted, choice_ids_BCA: Tensor) -> Tensor:
        num_choices, num_tokens = choice_ids_BCA.shape[1:]
        prefix = self.get_buffer("decoder_ids_A")
        choices = choice_ids_BCA.flatten(0, 1)  # (B * C, A)
        decoder_ids = torch.cat([prefix.expand(len(choices), -1), choices[:, :-1]], dim=1)
        with attending(prompted.layers):
            encoded_BSD, mask_BS = self._encoded(prompted)
            states = self._decode(
                decoder_ids,
                encoded_BSD.repeat_interleave(num_choices, 0),
                mask_BS.repeat_interleave(num_choices, 0),
            )[:, -num_tokens:]
        return self.logprobs(states, choice_ids_BCA)


def _start(model: Any) -> int:
    """Return the first token of the decoder; raise UserError where the model does not say it."""
    holders = (model.config, getattr(model, "generation_config", None))
    names = ("decoder_start_token_id", "bos_token_id")
    starts = [getattr(holder, name, None) for name in names for holder in holders]
    start = next((start for start in starts if start is not None), None)
    if start is None:
        raise UserError(
            f"The config.json of this {type(model).__name__} does not say which token its decoder begins "
            "with: add decoder_start_token_id to it."
        )
    return int(start)


def _prefix_ids(prefix: str, tokenizer: Any) -> list[int]:
    """Return the token ids of an answer prefix; raise UserError where the vocabulary lacks it."""
    ids: list[int] = tokenizer(prefix, add_special_tokens=False).input_ids if prefix else []
    one_token = prefix.startswith("<") and prefix.endswith(">") and " " not in prefix
    if tokenizer.unk_token_id in ids or (one_token and len(ids) > 1 and prefix.count("<") == 1):
        raise UserError(
            f"backbone.answer_prefix='{prefix}' is not in the vocabulary of this tokenizer: "
            "use one of its tokens, or backbone.answer_prefix='' to read the first decoder step."
        )
    return ids
