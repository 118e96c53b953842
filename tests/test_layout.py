"""Placement: permutations, both index rules, and the gradient of the naive sum over all layouts."""

from __future__ import annotations

import pytest
import torch
from conftest import ORDERS, make_batch
from helpers.layouts import naive
from torch import Tensor

from dp_bench.prompts.estimators import draw
from dp_bench.prompts.layout import insert
from dp_bench.settings import Estimator, SplitOrder
from dp_bench.types import PromptOutput

P, D = 5, 7
LENGTHS = [4, 9, 2, 6]  # a text of 2 tokens has a body of one before </s>


def one_hot(outcomes: list[int], num_tokens: int = P, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(outcomes), num_tokens + 1).to(dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_placement_equals_the_naive_sum_in_value_and_gradient(
    order: SplitOrder, start: int, seed: int
) -> None:
    torch.manual_seed(seed)
    batch = make_batch([length + start for length in LENGTHS], start=start)
    shape = batch.ids_BT.shape
    weight = torch.randn(shape[0], shape[1] + P, D, dtype=torch.float64)
    noise = -torch.empty(shape[0], P + 1, dtype=torch.float64).exponential_().log()
    grads = []
    for place in ("insert", "naive"):
        torch.manual_seed(seed + 100)
        x = torch.randn(*shape, D, dtype=torch.float64, requires_grad=True)
        vectors = torch.randn(shape[0], P, D, dtype=torch.float64, requires_grad=True)
        logits = torch.randn(shape[0], P + 1, dtype=torch.float64, requires_grad=True)
        choice = draw(logits, noise, 0.7, Estimator.gumbel_st)
        choice.retain_grad()
        if place == "insert":
            embeds = insert(x, batch, PromptOutput(vectors, choice), order).embeds_BSD
        else:
            embeds = naive(choice, vectors, x, batch, order)
        (torch.tanh(embeds) * weight).sum().backward()
        grads.append((embeds.detach(), choice.grad, logits.grad, vectors.grad, x.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("outcome", range(P + 1))
def test_every_outcome_is_a_permutation_of_the_slots(order: SplitOrder, outcome: int) -> None:
    batch = make_batch(LENGTHS)
    num_slots = batch.ids_BT.shape[1] + P
    # Every source row carries its own number, so that the result shows where each went.
    x = torch.arange(P, num_slots, dtype=torch.float64)[None, :, None].expand(len(LENGTHS), -1, 1)
    vectors = torch.arange(P, dtype=torch.float64)[None, :, None].expand(len(LENGTHS), -1, 1)
    prompted = insert(x, batch, PromptOutput(vectors, one_hot([outcome] * len(LENGTHS))), order)
    found = prompted.embeds_BSD[..., 0].long()
    assert torch.equal(found.sort(1).values, torch.arange(num_slots).expand_as(found))
    text = torch.arange(P, num_slots).expand(len(LENGTHS), -1)
    assert torch.equal(found.gather(1, prompted.slot_of_text_BT), text), "slot_of_text finds each text token"
    before = (found < P).long().cumsum(1).gather(1, prompted.slot_of_text_BT[:, :1])[:, 0]
    expected = outcome if order is SplitOrder.paper else P - outcome
    assert before.tolist() == [expected] * len(LENGTHS)


@pytest.mark.parametrize("order", ORDERS)
def test_end_token_stays_last_and_padding_is_never_attended(order: SplitOrder) -> None:
    batch = make_batch(LENGTHS)
    x = batch.ids_BT[..., None].double()
    vectors = torch.full((len(LENGTHS), P, 1), 77.0, dtype=torch.float64)
    prompted = insert(x, batch, PromptOutput(vectors, one_hot([0, 2, P, 3])), order)
    for row, length in enumerate(LENGTHS):
        real = prompted.embeds_BSD[row, prompted.mask_BS[row], 0]
        assert len(real) == length + P == int(prompted.mask_BS[row].sum())
        assert real[-1] == 1 and (real[:-1] != 0).all(), "</s> last, no padding among what is attended"
        assert bool(prompted.mask_BS[row, : length + P].all()), "no hole in the mask"


def test_outcome_p_is_prefix_and_outcome_0_is_postfix() -> None:
    batch = make_batch([4])
    x = torch.tensor([[[1.0], [2.0], [3.0], [9.0]]])
    vectors = torch.tensor([[[-1.0], [-2.0]]])
    placed = {
        j: insert(x, batch, PromptOutput(vectors, one_hot([j], 2)), SplitOrder.paper)
        .embeds_BSD[0, :, 0]
        .tolist()
        for j in (0, 1, 2)
    }
    assert placed == {2: [-1, -2, 1, 2, 3, 9], 1: [-1, 1, 2, 3, -2, 9], 0: [1, 2, 3, -1, -2, 9]}


def test_authors_rule_puts_the_first_j_behind_the_text() -> None:
    batch = make_batch([4])
    x = torch.tensor([[[1.0], [2.0], [3.0], [9.0]]])
    vectors = torch.tensor([[[-1.0], [-2.0], [-3.0]]])
    prompted = insert(x, batch, PromptOutput(vectors, one_hot([1], 3)), SplitOrder.code)
    assert prompted.embeds_BSD[0, :, 0].tolist() == [-2, -3, 1, 2, 3, -1, 9]


@pytest.mark.parametrize("order", ORDERS)
def test_dropped_vectors_are_zero_and_masked(order: SplitOrder) -> None:
    batch = make_batch(LENGTHS)
    x = torch.ones(*batch.ids_BT.shape, 1, dtype=torch.float64)
    vectors = torch.full((len(LENGTHS), P, 1), 5.0, dtype=torch.float64)
    kept = torch.tensor([[1.0] * k + [0.0] * (P - k) for k in (0, 1, 3, P)], dtype=torch.float64)
    prompted = insert(x, batch, PromptOutput(vectors, one_hot([0, 2, 4, P]), kept), order)
    attended = prompted.embeds_BSD[..., 0] * prompted.mask_BS
    assert (attended == 5).sum(1).tolist() == [0, 1, 3, P]
    assert prompted.mask_BS.sum(1).tolist() == [n + k for n, k in zip(LENGTHS, (0, 1, 3, P), strict=True)]
    assert not prompted.embeds_BSD[0, :, 0].eq(5).any()


def test_text_dtype_decides_and_the_choice_gradient_is_fp32() -> None:
    batch = make_batch(LENGTHS)
    x = torch.randn(*batch.ids_BT.shape, D, dtype=torch.bfloat16)
    vectors = torch.randn(len(LENGTHS), P, D, requires_grad=True)
    choice = one_hot([0, 1, 2, 3], dtype=torch.float32).requires_grad_()
    prompted = insert(x, batch, PromptOutput(vectors, choice), SplitOrder.paper)
    assert prompted.embeds_BSD.dtype is torch.bfloat16
    prompted.embeds_BSD.float().pow(2).sum().backward()
    assert choice.grad is not None and choice.grad.dtype is torch.float32
    assert vectors.grad is not None and vectors.grad.dtype is torch.float32
