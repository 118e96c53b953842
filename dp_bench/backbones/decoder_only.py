"""GPT-like models: the answer is read at the last slot of the text, and choices are its continuations.

Vectors behind the text stand before the answer cue ("Answer:"), so that the cue is always what is answered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dp_bench.backbones.attention import attending
from dp_bench.backbones.backbone import Backbone, position_ids
from dp_bench.types import Prompted

TYPES = ("gpt2", "llama", "mistral", "opt", "qwen2", "qwen3")
LEARNED_POSITIONS = ("gpt2", "opt")


class DecoderOnly(Backbone):
    """A causal language model with its tokenizer."""

    continues_texts = True

    @property
    def stacks(self) -> list[nn.Module]:
        return [self._base]

    @property
    def _base(self) -> Any:
        model: Any = self.model
        return getattr(model, model.base_model_prefix)

    @property
    def num_positions(self) -> int | None:
        config: Any = self.model.config
        return int(config.max_position_embeddings) if config.model_type in LEARNED_POSITIONS else None

    @property
    def trained_positions(self) -> int | None:
        config: Any = self.model.config
        return None if config.model_type in LEARNED_POSITIONS else config.max_position_embeddings

    def encode(self, x_BTD: Tensor, mask_BT: Tensor, first_B1: Tensor | int = 0) -> Tensor:
        places_BT = position_ids(mask_BT) + first_B1
        self.refuse_places(places_BT)
        states: Tensor = self._base(
            inputs_embeds=x_BTD,
            attention_mask=mask_BT.long(),
            position_ids=places_BT,
            use_cache=False,
        ).last_hidden_state
        return states

    def forward(self, prompted: Prompted) -> Tensor:
        assert prompted.answer_slot_B is not None
        with attending(prompted.layers):
            first_B1 = 0 if prompted.layers is None else prompted.layers.length_B1
            states_BSD = self.encode(prompted.embeds_BSD, prompted.mask_BS, first_B1)
        rows = torch.arange(len(states_BSD), device=states_BSD.device)
        return states_BSD[rows, prompted.answer_slot_B]

    def word_logits(self, state_BD: Tensor, word_ids_C: Tensor) -> Tensor:
        return nn.functional.linear(state_BD, self._words[word_ids_C])

    def token_logprobs(self, prompted: Prompted, choice_ids_BCA: Tensor) -> Tensor:
        """Choices follow the last slot of all texts of the batch; padding between has no position."""
        assert prompted.answer_slot_B is not None
        num_choices, num_tokens = choice_ids_BCA.shape[1:]
        choices = choice_ids_BCA.flatten(0, 1)  # (B * C, A)
        embeds, mask, answer = (
            part.repeat_interleave(num_choices, 0)
            for part in (prompted.embeds_BSD, prompted.mask_BS, prompted.answer_slot_B)
        )
        num_slots = mask.shape[1]
        first = 0 if prompted.layers is None else prompted.layers.length_B1
        if isinstance(first, Tensor):
            first = first.repeat_interleave(num_choices, 0)
        with attending(prompted.layers):
            states = self.encode(
                torch.cat([embeds, self.embed(choices[:, :-1]).to(embeds.dtype)], dim=1),
                torch.cat([mask, mask.new_ones(len(choices), num_tokens - 1)], dim=1),
                first,
            )
        at_answer = states[torch.arange(len(choices), device=states.device), answer]
        states = torch.cat([at_answer[:, None], states[:, num_slots:]], dim=1)
        logits = nn.functional.linear(states, self._words).float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), choices.flatten(), reduction="none")
        return -loss.view(choice_ids_BCA.shape)

    @property
    def _words(self) -> Tensor:
        """The rows that score words, [V, width of the last state]: OPT-350m's are narrower than its states,
        which its decoder projects back."""
        model: Any = self.model
        weight: Tensor = model.get_output_embeddings().weight
        return weight
