"""The head of any language model, applied to states alone: the model's forward pass, with given states where
its last stack would compute them. Whatever an architecture does between states and words (a transform, a
scale, a cap, a bias) is done by the code of that architecture.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


class _Computed(BaseModelOutputWithPastAndCrossAttentions):  # type: ignore[misc]
    """What a stack returns; of what only some architectures ask for (`router_logits`), nothing."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class WordHead:
    """The head over words of a model, behind `stack`, its last."""

    def __init__(self, model: Any, stack: nn.Module) -> None:
        paths = {id(module): path for path, module in model.named_modules()}
        words = model.get_output_embeddings()
        self.model = model
        self.stack = paths[id(stack)]
        self.num_words: int = model.get_input_embeddings().weight.shape[0]
        # DeBERTa names a part of its head here that is no matrix of words.
        has_rows = words is not None and words.weight.shape[0] == self.num_words
        self.words = paths[id(words)] if has_rows else None

    def __call__(self, states_BAD: Tensor, word_ids_C: Tensor | None = None) -> Tensor:
        """Return the logits of all words [B,A,V], or of some [B,A,C] without computing the others."""
        computed = _Computed(last_hidden_state=states_BAD)
        head = _with(self.model, self.stack, lambda stack: _returning(stack, computed))
        by_rows = word_ids_C is not None and self.words is not None
        if by_rows:
            head = _with(head, self.words, lambda words: _rows(words, word_ids_C))
            # BART has a further bias beside its layers.
            head._buffers = {
                name: bias if bias is None or bias.shape[-1:] != (self.num_words,) else bias[..., word_ids_C]
                for name, bias in head._buffers.items()
            }
        if self.model.config.is_encoder_decoder:
            read = {"encoder_outputs": computed, "decoder_inputs_embeds": states_BAD, "use_cache": False}
        else:
            read = {"inputs_embeds": states_BAD}
        found: Tensor = head(**read).logits
        return found if word_ids_C is None or by_rows else found[..., word_ids_C]


def _with(module: Any, path: Any, change: Any) -> Any:
    """Return a module with one of its parts changed; the two share everything else."""
    first, _, rest = path.partition(".")
    part = module._modules[first]
    changed = copy.copy(module)
    changed._modules = {**module._modules, first: _with(part, rest, change) if rest else change(part)}
    return changed


def _returning(stack: Any, computed: _Computed) -> Any:
    changed = copy.copy(stack)  # heads may read what else the stack has, such as its embeddings
    changed.forward = lambda *_, **__: computed
    changed._forward_pre_hooks = changed._forward_hooks = {}  # of those who watch the stack itself
    return changed


def _rows(words: Any, word_ids_C: Any) -> Any:
    changed = copy.copy(words)
    changed._parameters = {n: None if p is None else p[word_ids_C] for n, p in words._parameters.items()}
    return changed
