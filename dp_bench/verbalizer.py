"""Verbalizer: from a prompted text to one logit a choice; or a classifier head in its place.

Paper: a label is named by one word, read as its first piece; logits of the label words only.
Tasks whose examples bring choices of their own (COPA, ReCoRD) are scored whole: mean log-probability of the
choice's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dp_bench.backbones.backbone import Backbone, at_least_fp32
from dp_bench.data.tokens import word_prefix
from dp_bench.progress import notice
from dp_bench.randomness import fork
from dp_bench.settings import Head, Scoring, TaskSettings
from dp_bench.types import Batch, Prompted, UserError


def label_word_ids(words: Sequence[str], tokenizer: Any) -> list[int]:
    """Return the first piece of each label word; refuse words that this tokenizer cannot tell apart."""
    prefix = word_prefix(tokenizer)
    pieces_of = {word: tokenizer(prefix + word, add_special_tokens=False).input_ids for word in words}
    marks = [word for word, own in pieces_of.items() if not _says(tokenizer.decode(own[:1]))]
    if marks:
        raise UserError(
            f"The label words {', '.join(map(repr, marks))} have no piece in this backbone's vocabulary, or "
            "begin with one that says no more than that a word begins, or is a part of a character, and that "
            "piece is what is scored: "
            "change task.words, or use another backbone."
        )
    ids = [pieces_of[word][0] for word in words]
    none = tokenizer.unk_token_id
    unknown = [word for word, i in zip(words, ids, strict=True) if i == none and none is not None]
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


def _says(piece: str) -> bool:
    """Say whether there is a character in a piece; a byte of one is decoded to a replacement."""
    return bool(piece.replace("\ufffd", "").strip())


def tell_of_pieces(words: Sequence[str], tokenizer: Any) -> None:
    """Warn of label words that are scored by the first of several pieces."""
    prefix = word_prefix(tokenizer)
    for word in words:
        ids = tokenizer(prefix + word, add_special_tokens=False).input_ids
        if len(ids) > 1:
            first = tokenizer.convert_ids_to_tokens(ids[0])
            notice(
                f"the label word '{word}' has {len(ids)} pieces under this tokenizer and is scored by the "
                f"first, {first!r}"
            )


class Verbalizer(nn.Module):
    """Base of both: forward returns logits [B,C], -inf for a choice that an example has not."""

    def forward(self, backbone: Backbone, prompted: Prompted, batch: Batch) -> Tensor:
        raise NotImplementedError


class LabelWords(Verbalizer):
    """Score each label by the logit of its word at the answer step."""

    def __init__(self, words: Sequence[str], tokenizer: Any) -> None:
        super().__init__()
        self.register_buffer("word_ids_C", torch.tensor(label_word_ids(words, tokenizer)), persistent=False)

    def forward(self, backbone: Backbone, prompted: Prompted, batch: Batch) -> Tensor:
        return at_least_fp32(backbone.word_logits(backbone(prompted), self.get_buffer("word_ids_C")))


class WholeChoices(Verbalizer):
    """Score each choice of an example by the mean log-probability of its tokens: the text is encoded once."""

    def forward(self, backbone: Backbone, prompted: Prompted, batch: Batch) -> Tensor:
        assert batch.choice_ids_BCA is not None and batch.choice_mask_BCA is not None
        mask_BCA = batch.choice_mask_BCA
        logprob_BCA = backbone.token_logprobs(prompted, batch.choice_ids_BCA).masked_fill(~mask_BCA, 0.0)
        num_tokens_BC = mask_BCA.sum(-1)
        mean_BC = logprob_BCA.sum(-1) / num_tokens_BC.clamp(min=1)
        return mean_BC.masked_fill(num_tokens_BC == 0, float("-inf"))


class Classifier(Verbalizer):
    """A trained linear layer over the labels, on what the backbone pools of the text (P-tuning v2)."""

    def __init__(self, width: int, num_labels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_labels)

    def forward(self, backbone: Backbone, prompted: Prompted, batch: Batch) -> Tensor:
        logits_BC: Tensor = self.linear(backbone.pooled(prompted).to(self.linear.weight.dtype))
        return logits_BC


def make_verbalizer(task: TaskSettings, backbone: Backbone, head: Head, seed: int) -> Verbalizer:
    """Return what scores the choices of a task; a classifier head starts from a draw by `seed`."""
    if head is Head.classifier:
        with fork(seed, "head", task.training.name):
            return Classifier(backbone.pooled_width, len(task.labels)).to(backbone.device)
    if task.scoring is Scoring.choices:
        if not backbone.scores_choices:
            raise UserError(
                f"task={task.name} scores whole choices, which {type(backbone.model).__name__} cannot: it "
                "has no "
                "decoder. Let label words name them: task.scoring=words 'task.words=[first,second]' with a "
                "task.template that shows both choices."
            )
        return WholeChoices()
    return LabelWords(task.words, backbone.tokenizer).to(backbone.device)
