"""Verbalizer: from the state at the answer step to one logit a choice.

Paper (PAPER.md C): a label is named by one word, read as its first piece; logits of the label words only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dp_bench.backbones.backbone import Backbone
from dp_bench.types import UserError


def label_word_ids(words: Sequence[str], tokenizer: Any) -> list[int]:
    """Return the first piece of each label word; refuse words that this tokenizer cannot tell apart."""
    ids = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in words]
    unknown = [word for word, i in zip(words, ids, strict=True) if i == tokenizer.unk_token_id]
    if unknown:
        raise UserError(
            f"The label words {', '.join(unknown)} are not in this backbone's vocabulary: change task.words."
        )
    if len(set(ids)) != len(ids):
        pieces = ", ".join(
            f"{w}→{p!r}" for w, p in zip(words, tokenizer.convert_ids_to_tokens(ids), strict=True)
        )
        raise UserError(
            f"Label words begin with the same piece under this tokenizer ({pieces}): change task.words."
        )
    return ids


class LabelWords(nn.Module):
    """Score each label by the logit of its word."""

    def __init__(self, words: Sequence[str], tokenizer: Any) -> None:
        super().__init__()
        self.register_buffer("word_ids_C", torch.tensor(label_word_ids(words, tokenizer)), persistent=False)

    def forward(self, backbone: Backbone, state_BD: Tensor) -> Tensor:
        return backbone.word_logits(state_BD, self.get_buffer("word_ids_C")).float()
