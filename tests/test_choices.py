"""Whole-choice scoring: the mean log-probability that transformers itself gives each choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from conftest import make_batch
from helpers.batches import take

from dp_bench.backbones.backbone import Backbone
from dp_bench.prompts.layout import insert
from dp_bench.settings import SplitOrder
from dp_bench.types import Batch, PromptOutput
from dp_bench.verbalizer import WholeChoices

LENGTHS = [6, 11, 4]
CHOICES = [
    [[10, 20, 1], [30, 1]],
    [[40, 41, 42, 43, 1], [10, 1], [77, 78, 1]],
    [[9, 1]],
]  # 2, 3 and 1 choices


def batch_with(choices: list[list[list[int]]], lengths: list[int]) -> Batch:
    num_choices = max(map(len, choices))
    num_tokens = max(len(choice) for own in choices for choice in own)
    ids = torch.zeros(len(choices), num_choices, num_tokens, dtype=torch.long)
    mask = torch.zeros(len(choices), num_choices, num_tokens, dtype=torch.bool)
    for row, own in enumerate(choices):
        for column, choice in enumerate(own):
            ids[row, column, : len(choice)] = torch.tensor(choice)
            mask[row, column, : len(choice)] = True
    return dataclasses.replace(make_batch(lengths), choice_ids_BCA=ids, choice_mask_BCA=mask)


def score(backbone: Backbone, batch: Batch) -> torch.Tensor:
    nothing = PromptOutput(torch.zeros(len(batch), 0, 64), torch.ones(len(batch), 1))
    prompted = insert(backbone.embed(batch.ids_BT), batch, nothing, SplitOrder.paper)
    return WholeChoices()(backbone, prompted, batch)


@pytest.mark.parametrize("tied", [False, True])
def test_a_choice_scores_as_transformers_own_loss(make_backbone: Callable[..., Backbone], tied: bool) -> None:
    backbone = make_backbone(tie_word_embeddings=tied, scale_decoder_outputs=tied)
    batch = batch_with(CHOICES, LENGTHS)
    found = score(backbone, batch)
    prefix = backbone.get_buffer("decoder_ids_A")
    for row, own in enumerate(CHOICES):
        text = batch.ids_BT[row : row + 1, : LENGTHS[row]]
        for column, choice in enumerate(own):
            # The prefix after the start token is given, not scored: -100 leaves it out of the loss.
            labels = torch.tensor([[-100] * (len(prefix) - 1) + choice])
            decoder_ids = torch.cat([prefix, torch.tensor(choice[:-1])])[None].long()
            loss = backbone.model(input_ids=text, decoder_input_ids=decoder_ids, labels=labels).loss
            torch.testing.assert_close(found[row, column], -loss, atol=1e-5, rtol=1e-5)


def test_a_choice_that_an_example_has_not_is_never_taken(backbone: Backbone) -> None:
    found = score(backbone, batch_with(CHOICES, LENGTHS))
    assert found.isneginf().tolist() == [[False, False, True], [False] * 3, [False, True, True]]
    loss = torch.nn.functional.cross_entropy(found, torch.tensor([1, 2, 0]))
    assert loss.isfinite()


def test_batch_mates_change_no_score(backbone: Backbone) -> None:
    batch = batch_with(CHOICES, LENGTHS)
    together = score(backbone, batch)
    for row, length in enumerate(LENGTHS):
        one = slice(row, row + 1)
        alone = dataclasses.replace(
            take(batch, row, length),
            choice_ids_BCA=batch.choice_ids_BCA[one],  # type: ignore[index]
            choice_mask_BCA=batch.choice_mask_BCA[one],  # type: ignore[index]
        )
        torch.testing.assert_close(score(backbone, alone)[0], together[row], atol=1e-5, rtol=1e-5)
