"""Verbalizers: from a prompted text to one logit per choice, by words or by a classifier head.

Paper: a label has one word, scored by its first token; logits of the label words only. Choices that differ by
example (COPA, ReCoRD) are scored whole, by the mean log-probability of their tokens or by the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dp_bench import lockstep
from dp_bench.backbones.backbone import Backbone, at_least_fp32
from dp_bench.data.tokens import word_prefix
from dp_bench.progress import notice
from dp_bench.prompts.layout import joined, padded
from dp_bench.randomness import fork
from dp_bench.settings import Head, Scoring, TaskSettings
from dp_bench.types import Batch, Prompted, UserError


def label_word_ids(words: Sequence[str], tokenizer: Any) -> list[int]:
    """Return the id of the first token of each label word.

    Raises UserError for words that this tokenizer does not know or cannot distinguish.
    """
    prefix = word_prefix(tokenizer)
    pieces_of = {word: tokenizer(prefix + word, add_special_tokens=False).input_ids for word in words}
    marks = [word for word, ids in pieces_of.items() if not _is_visible(tokenizer.decode(ids[:1]))]
    if marks:
        raise UserError(
            f"The label words {', '.join(map(repr, marks))} have no piece in this backbone's vocabulary, or "
            "their first piece, which is scored, says no more than that a word begins or is a part of a "
            "character: change task.words, or use another backbone."
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


def _is_visible(piece: str) -> bool:
    """Return whether a piece has a whole character; a part of one is decoded to the replacement character."""
    return bool(piece.replace("\ufffd", "").strip())


def warn_of_first_pieces(words: Sequence[str], tokenizer: Any) -> None:
    """Warn of label words with several pieces, of which the first is scored."""
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
    """Base of all verbalizers. `read` is a forward pass of the backbone, which several may share."""

    def forward(self, backbone: Backbone, prompted: Prompted, batch: Batch) -> Tensor:
        """Return the logits of the choices: [B,C], fp32 or finer, -inf for choices an example does not
        have."""
        return self.logits(backbone, lockstep.read(self, backbone, prompted, batch), batch)

    def read(self, backbone: Backbone, prompted: Prompted, batch: Batch) -> Tensor:
        """Return what the logits are computed from; a row an example."""
        state_BD: Tensor = backbone(prompted)
        return state_BD

    def read_together(
        self, backbone: Backbone, inputs: Sequence[Prompted], batches: Sequence[Batch]
    ) -> list[Tensor]:
        """Return what verbalizers of this one's class read of their inputs, by one forward pass.

        Raises ValueError for layer prompts, of which a forward pass has one.
        """
        if len(inputs) == 1:
            return [self.read(backbone, inputs[0], batches[0])]
        batch, choices = batches[0], [batch.choice_ids_BCA for batch in batches]
        if batch.choice_ids_BCA is not None:
            batch = replace(batch, choice_ids_BCA=padded([ids for ids in choices if ids is not None]))
        parts = torch.split(self.read(backbone, joined(inputs), batch), list(map(len, batches)))
        shapes = [() if ids is None else tuple(map(slice, ids.shape)) for ids in choices]
        return [part[within] for part, within in zip(parts, shapes, strict=True)]

    def logits(self, backbone: Backbone, read: Tensor, batch: Batch) -> Tensor:
        """Return the logits from what was read."""
        raise NotImplementedError


class LabelWords(Verbalizer):
    """Score each label by the logit of its word at the answer step.

    Raises UserError for words that cannot be scored: `label_word_ids`.
    """

    def __init__(self, words: Sequence[str], tokenizer: Any) -> None:
        super().__init__()
        self.register_buffer("word_ids_C", torch.tensor(label_word_ids(words, tokenizer)), persistent=False)

    def logits(self, backbone: Backbone, read: Tensor, batch: Batch) -> Tensor:
        return at_least_fp32(backbone.word_logits(read, self.get_buffer("word_ids_C")))


class WholeChoices(Verbalizer):
    """Score each choice of an example by the mean log-probability of its tokens, or by their sum; a T5
    encodes the text once."""

    def __init__(self, *, by_sum: bool = False) -> None:
        super().__init__()
        self.by_sum = by_sum

    def read(self, backbone: Backbone, prompted: Prompted, batch: Batch) -> Tensor:
        assert batch.choice_ids_BCA is not None
        return backbone.token_logprobs(prompted, batch.choice_ids_BCA)

    def logits(self, backbone: Backbone, read: Tensor, batch: Batch) -> Tensor:
        mask_BCA = batch.choice_mask_BCA
        assert mask_BCA is not None
        logprob_BCA = read.masked_fill(~mask_BCA, 0.0)
        num_tokens_BC = mask_BCA.sum(-1)
        score_BC = logprob_BCA.sum(-1)
        if not self.by_sum:
            score_BC = score_BC / num_tokens_BC.clamp(min=1)
        return score_BC.masked_fill(num_tokens_BC == 0, float("-inf"))


class Classifier(Verbalizer):
    """A trained linear layer from the pooled state to the labels (P-tuning v2)."""

    def __init__(self, width: int, num_labels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_labels)

    def read(self, backbone: Backbone, prompted: Prompted, batch: Batch) -> Tensor:
        return backbone.pooled(prompted)

    def logits(self, backbone: Backbone, read: Tensor, batch: Batch) -> Tensor:
        logits_BC: Tensor = self.linear(read.to(self.linear.weight.dtype))
        return logits_BC


def make_verbalizer(task: TaskSettings, backbone: Backbone, head: Head, seed: int) -> Verbalizer:
    """Return the verbalizer of a task; `seed` initialises a classifier head.

    Raises UserError where the backbone cannot score whole choices, or cannot score the label words.
    """
    if head is Head.classifier:
        with fork(seed, "head", task.training.name):
            return Classifier(backbone.state_width, len(task.labels)).to(backbone.device)
    if task.scoring.is_whole:
        if not backbone.scores_choices:
            raise UserError(
                f"task={task.name} scores whole choices, which {type(backbone.model).__name__} cannot: it "
                "has no decoder. Use label words: task.scoring=words 'task.words=[first,second]' with a "
                "task.template that shows both choices."
            )
        return WholeChoices(by_sum=task.scoring is Scoring.choices_sum)
    return LabelWords(task.words, backbone.tokenizer).to(backbone.device)
