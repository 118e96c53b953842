"""GPT-like models: the answer is read at the last slot of the text, and choices are its continuations.

Vectors behind the text stand before the answer cue ("Answer:"), so that the answer always follows the cue.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_bench.backbones.attention import attending
from dp_bench.backbones.backbone import Backbone
from dp_bench.types import Prompted


class DecoderOnly(Backbone):
    """A causal language model with its tokenizer."""

    scores_choices = True
    continues_texts = True

    @property
    def stacks(self) -> list[nn.Module]:
        return [self.lm.get_decoder()]

    def site_kinds(self, num_text: int) -> dict[tuple[int, int], str]:
        return {(num_text, num_text): "decoder"}

    def token_logprobs(self, prompted: Prompted, choice_ids_BCA: Tensor) -> Tensor:
        """See `Backbone.token_logprobs`. Choices follow the longest text of the batch; padding has no
        position."""
        assert prompted.answer_slot_B is not None
        num_choices, num_tokens = choice_ids_BCA.shape[1:]
        choices = choice_ids_BCA.flatten(0, 1)  # (B * C, A)
        embeds, mask, answer = (
            part.repeat_interleave(num_choices, 0)
            for part in (prompted.embeds_BSD, prompted.mask_BS, prompted.answer_slot_B)
        )
        num_slots = mask.shape[1]
        with attending(prompted.layers):
            states = self.encode(
                torch.cat([embeds, self.embed(choices[:, :-1]).to(embeds.dtype)], dim=1),
                torch.cat([mask, mask.new_ones(len(choices), num_tokens - 1)], dim=1),
                prompted.layers,
                prompted.mask_BS,
            )
        states = states[:, 1 - num_slots - num_tokens :]  # without those of a late prompt
        at_answer = states[torch.arange(len(choices), device=states.device), answer]
        states = torch.cat([at_answer[:, None], states[:, num_slots:]], dim=1)
        return self.logprobs(states, choice_ids_BCA)
