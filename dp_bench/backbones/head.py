"""The language-model head of any architecture, applied to given states: the model's forward pass, with the
states in place of the output of its last stack. What an architecture does between states and logits (a
transform, a scale, a cap, a bias) is done by its code.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


class _Computed(BaseModelOutputWithPastAndCrossAttentions):  # type: ignore[misc]
    """The output of a stack, with None for fields of some architectures only (`router_logits`)."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class WordHead:
    """The language-model head of a model, after `stack`, its last."""

    def __init__(self, model: Any, stack: nn.Module) -> None:
        paths = {id(module): path for path, module in model.named_modules()}
        words = model.get_output_embeddings()
        self.model = model
        self.stack = paths[id(stack)]
        self.num_words: int = model.get_input_embeddings().weight.shape[0]
        # DeBERTa names a part of its head here that is no matrix over the vocabulary.
        has_rows = words is not None and words.weight.shape[0] == self.num_words
        self.words = paths[id(words)] if has_rows else None

    def __call__(self, states_BAD: Tensor, word_ids_C: Tensor | None = None) -> Tensor:
        """Return the logits of all tokens [B,A,V], or of some [B,A,C] without computing the others.

        The dtype is the one in which the architecture returns logits.
        """
        computed = _Computed(last_hidden_state=states_BAD)
        head = _with(self.model, self.stack, lambda stack: _returning(stack, computed))
        by_rows = word_ids_C is not None and self.words is not None
        if by_rows:
            head = _with(head, self.words, lambda words: _rows(words, word_ids_C))
            # BART has a further bias as a buffer of the model.
            head._buffers = {
                name: bias if bias is None or bias.shape[-1:] != (self.num_words,) else bias[..., word_ids_C]
                for name, bias in head._buffers.items()
            }
        if self.model.config.is_encoder_decoder:
            inputs = {"encoder_outputs": computed, "decoder_inputs_embeds": states_BAD, "use_cache": False}
        else:
            inputs = {"inputs_embeds": states_BAD}
        logits: Tensor = head(**inputs).logits
        return logits if word_ids_C is None or by_rows else logits[..., word_ids_C]


def _with(module: Any, path: Any, change: Any) -> Any:
    """Return a module with one submodule changed; the two share everything else."""
    first, _, rest = path.partition(".")
    part = module._modules[first]
    changed = copy.copy(module)
    changed._modules = {**module._modules, first: _with(part, rest, change) if rest else change(part)}
    return changed


def _returning(stack: Any, computed: _Computed) -> Any:
    changed = copy.copy(stack)  # heads may read its other attributes, such as embeddings
    changed.forward = lambda *_, **__: computed
    changed._forward_pre_hooks = changed._forward_hooks = {}  # which observe the stack itself
    return changed


def _rows(words: Any, word_ids_C: Any) -> Any:
    changed = copy.copy(words)
    changed._parameters = {n: None if p is None else p[word_ids_C] for n, p in words._parameters.items()}
    return changed
