"""Layout: the only module that moves tokens.

Outcome `j` of a position selector splits a prompt of P vectors around the body of a text. `order=paper` puts
the first j vectors before it (`X' = [P_1..P_j; X; P_j+1..P_l]`); `order=code`, as the authors' code, puts the
first j *behind* it and the others before, `[P_j+1..P_l; X; P_1..P_j]`. Tokens before the body (BOS) and
behind it (`</s>`, padding) stay there, so `</s>` remains last. Every outcome is a permutation of the
S = P + T slots.

With `PromptOutput.is_inside` all vectors stand together inside the text: outcome j of J is the
boundary `floor(j (n + 1) / J)` of the n + 1 of its n tokens: the first in the j-th of J equal parts. With
J > n every boundary is some outcome, and uniform outcomes are about uniform boundaries.

The value is one gather. The gradient is exactly that of the sum over all J layouts weighted by the one-hot
outcome: with G = dloss/d(embeds), entry j of the outcome receives <G, layout j>, computed by shifted products
of G with the text and two small [P,P] products with the vectors, instead of J copies of the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dp_bench.profiling import stage
from dp_bench.settings import SplitOrder
from dp_bench.types import Batch, DeepPrompt, Prompted, PromptOutput


@dataclass(frozen=True)
class _Splits:
    """Where vectors go for each outcome: `offset_JP` counts from the start or the end of the body."""

    is_before_JP: Tensor
    offset_JP: Tensor
    num_before_J: Tensor  # slots by which the body moves to the right

    def slots_of_vectors(self, outcome_B: Tensor, batch: Batch, num_tokens: int) -> Tensor:
        """Return the slot of each vector: [B,P]."""
        anchor_BP = torch.where(
            self.is_before_JP[outcome_B], batch.body_start_B[:, None], batch.body_end_B[:, None]
        )
        return anchor_BP + self.offset_JP[outcome_B]

    def slots_of_text(self, outcome_B: Tensor, batch: Batch, num_tokens: int, num_text: int) -> Tensor:
        """Return the slot of each token: [B,T]."""
        t = torch.arange(num_text, device=outcome_B.device)[None, :]
        shift_B = self.num_before_J[outcome_B]
        in_body_BT = (t >= batch.body_start_B[:, None]) & (t < batch.body_end_B[:, None])
        shift_BT = torch.where(in_body_BT, shift_B[:, None], 0)
        return t + torch.where(t >= batch.body_end_B[:, None], num_tokens, shift_BT)

    def outcome_gradient(self, grad_BSD: Tensor, vectors_BPD: Tensor, x_BTD: Tensor, batch: Batch) -> Tensor:
        """Return <grad, layout j> for every outcome j, of tensors in at least fp32: [B,J]."""
        num_tokens, num_text = vectors_BPD.shape[1], x_BTD.shape[1]
        t = torch.arange(num_text, device=x_BTD.device)[None, :]
        is_tail_BT = t >= batch.body_end_B[:, None]
        in_body_BT = (t >= batch.body_start_B[:, None]) & ~is_tail_BT
        body_BTD = x_BTD * in_body_BT[..., None]
        fixed_BTD = torch.where(is_tail_BT[..., None], grad_BSD[:, num_tokens:], grad_BSD[:, :num_text])
        fixed_B = (fixed_BTD * (x_BTD - body_BTD)).sum((1, 2))  # the same in every layout
        # In layout j the body is num_before_J[j] slots further right: one shifted dot product each.
        moved_by_shift = torch.stack(
            [
                torch.linalg.vecdot(grad_BSD[:, s : s + num_text].flatten(1), body_BTD.flatten(1))
                for s in range(num_tokens + 1)
            ],
            dim=1,
        )
        text_BJ = fixed_B[:, None] + moved_by_shift[:, self.num_before_J]

        p = torch.arange(num_tokens, device=x_BTD.device)[None, :]
        vectors_BDP = vectors_BPD.transpose(1, 2)
        front_BPP = _rows(grad_BSD, batch.body_start_B[:, None] + p) @ vectors_BDP  # [slot, vector]
        behind_BPP = _rows(grad_BSD, batch.body_end_B[:, None] + p) @ vectors_BDP
        vector_JP = p.expand_as(self.offset_JP)
        front_BJP = front_BPP[:, self.offset_JP, vector_JP]
        behind_BJP = behind_BPP[:, self.offset_JP, vector_JP]
        vectors_BJ: Tensor = torch.where(self.is_before_JP, front_BJP, behind_BJP).sum(-1)
        return text_BJ + vectors_BJ


@dataclass(frozen=True)
class _Inside:
    """All vectors together before the token `start_BJ` of an example, for each outcome."""

    start_BJ: Tensor

    @classmethod
    def of(cls, num_outcomes: int, batch: Batch) -> _Inside:
        """Return the places of J outcomes in the bodies of a batch."""
        j = torch.arange(num_outcomes, device=batch.body_start_B.device)[None, :]
        num_boundaries_B1 = (batch.body_end_B - batch.body_start_B + 1)[:, None]
        return cls(batch.body_start_B[:, None] + j * num_boundaries_B1 // num_outcomes)

    def slots_of_vectors(self, outcome_B: Tensor, batch: Batch, num_tokens: int) -> Tensor:
        """Return the slot of each vector: [B,P]."""
        return self.start_BJ.gather(1, outcome_B[:, None]) + torch.arange(num_tokens, device=outcome_B.device)

    def slots_of_text(self, outcome_B: Tensor, batch: Batch, num_tokens: int, num_text: int) -> Tensor:
        """Return the slot of each token: [B,T]."""
        t = torch.arange(num_text, device=outcome_B.device)[None, :]
        start_B1 = self.start_BJ.gather(1, outcome_B[:, None])
        return t + torch.where(t >= start_B1, num_tokens, 0)

    def outcome_gradient(self, grad_BSD: Tensor, vectors_BPD: Tensor, x_BTD: Tensor, batch: Batch) -> Tensor:
        """Return <grad, layout j> for every outcome j, of tensors in at least fp32: [B,J]."""
        num_tokens, num_text = vectors_BPD.shape[1], x_BTD.shape[1]
        unmoved_BT = torch.linalg.vecdot(grad_BSD[:, :num_text], x_BTD)
        moved_BT = torch.linalg.vecdot(grad_BSD[:, num_tokens:], x_BTD)
        # Of the T + 1 places: tokens before it are not moved, those from it on are.
        before_BX = torch.nn.functional.pad(unmoved_BT.cumsum(1), (1, 0))
        behind_BX = moved_BT.sum(1, keepdim=True) - torch.nn.functional.pad(moved_BT.cumsum(1), (1, 0))
        vectors_BX = torch.zeros_like(before_BX)
        for p in range(num_tokens):
            vectors_BX += (grad_BSD[:, p : p + num_text + 1] @ vectors_BPD[:, p, :, None])[..., 0]
        of_place_BX: Tensor = before_BX + behind_BX + vectors_BX
        return of_place_BX.gather(1, self.start_BJ)


@lru_cache(maxsize=64)
def _splits(num_tokens: int, order: SplitOrder, device: torch.device) -> _Splits:
    j = torch.arange(num_tokens + 1, device=device)[:, None]
    i = torch.arange(num_tokens, device=device)[None, :]
    if order is SplitOrder.paper:
        is_before_JP = i < j
        # Behind the body, which moved by j: i - j further, that is i from its old end.
        offset_JP = i.expand_as(is_before_JP)
        num_before_J = j[:, 0]
    else:
        is_before_JP = i >= j
        offset_JP = torch.where(is_before_JP, i - j, num_tokens - j + i)
        num_before_J = num_tokens - j[:, 0]
    return _Splits(is_before_JP, offset_JP, num_before_J)


@stage("assembly")
def insert(x_BTD: Tensor, batch: Batch, prompt: PromptOutput, order: SplitOrder) -> Prompted:
    """Insert the vectors of each example around the body of its text, in the dtype of the text.

    Vectors dropped by the length selector keep their slots, as zero vectors that are masked.
    """
    vectors_BPD = prompt.vectors_BPD
    keep_BP = prompt.keep_BP
    if keep_BP is not None:
        vectors_BPD = vectors_BPD * keep_BP[..., None]
    num_tokens, num_text = vectors_BPD.shape[1], x_BTD.shape[1]
    places: _Splits | _Inside = (
        _Inside.of(prompt.before_BJ.shape[1], batch)
        if prompt.is_inside
        else _splits(num_tokens, order, x_BTD.device)
    )
    outcome_B = prompt.before_BJ.detach().argmax(-1)

    slot_of_vector_BP = places.slots_of_vectors(outcome_B, batch, num_tokens)
    slot_of_text_BT = places.slots_of_text(outcome_B, batch, num_tokens, num_text)
    slots_BS = torch.cat([slot_of_vector_BP, slot_of_text_BT], dim=1)
    source_of_slot_BS = torch.empty_like(slots_BS).scatter_(
        1, slots_BS, torch.arange(slots_BS.shape[1], device=slots_BS.device).expand_as(slots_BS)
    )
    vector_mask_BP = (
        torch.ones_like(slot_of_vector_BP, dtype=torch.bool) if keep_BP is None else keep_BP.detach() > 0.5
    )
    mask_BS = torch.cat([vector_mask_BP, batch.mask_BT], dim=1).gather(1, source_of_slot_BS)
    embeds_BSD = _Assemble.apply(  # type: ignore[no-untyped-call]
        prompt.before_BJ, vectors_BPD.to(x_BTD.dtype), x_BTD, source_of_slot_BS, slots_BS, places, batch
    )
    answer_slot_B = None
    if batch.answer_B is not None:
        answer_slot_B = slot_of_text_BT.gather(1, batch.answer_B[:, None])[:, 0]
    layers = prompt.layers
    if isinstance(layers, DeepPrompt):
        is_text_BS = torch.cat([torch.zeros_like(vector_mask_BP), batch.mask_BT], dim=1)
        layers = replace(
            layers,
            slot_of_vector_BP=slot_of_vector_BP,
            text_mask_BS=is_text_BS.gather(1, source_of_slot_BS),
        )
    return Prompted(embeds_BSD, mask_BS, slot_of_text_BT, answer_slot_B, layers, slot_of_vector_BP)


def joined(parts: Sequence[Prompted]) -> Prompted:
    """Return the rows of several batches as one, padded to the longest. Raises ValueError for layer
    prompts."""
    if any(part.layers is not None for part in parts):
        raise ValueError("layer prompts cannot share a forward pass")
    slots = [part.answer_slot_B for part in parts if part.answer_slot_B is not None]
    return Prompted(
        padded([part.embeds_BSD for part in parts]),
        padded([part.mask_BS for part in parts]),
        padded([part.slot_of_text_BT for part in parts]),
        torch.cat(slots) if slots else None,
    )


def padded(parts: Sequence[Tensor]) -> Tensor:
    """Return the rows of tensors with equally many axes, each axis padded with zeros to the longest."""
    shape = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
    whole = parts[0].new_zeros(sum(map(len, parts)), *shape)
    first = 0
    for part in parts:
        whole[(slice(first, first + len(part)), *(slice(size) for size in part.shape[1:]))] = part
        first += len(part)
    return whole


class _Assemble(torch.autograd.Function):
    """Gather [vectors; text] into slots; see the module docstring for the gradient of the outcome."""

    @staticmethod
    def forward(
        ctx: Any,
        before_BJ: Tensor,
        vectors_BPD: Tensor,
        x_BTD: Tensor,
        source_of_slot_BS: Tensor,
        slots_BS: Tensor,
        places: _Splits | _Inside,
        batch: Batch,
    ) -> Tensor:
        ctx.save_for_backward(vectors_BPD, x_BTD, slots_BS)
        ctx.places, ctx.batch, ctx.outcome_dtype = places, batch, before_BJ.dtype
        return _rows(torch.cat([vectors_BPD, x_BTD], dim=1), source_of_slot_BS)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_BSD,) = grads
        vectors_BPD, x_BTD, slots_BS = ctx.saved_tensors
        num_tokens = vectors_BPD.shape[1]
        grad_outcome = grad_vectors = grad_text = None
        if ctx.needs_input_grad[0]:
            dtype = torch.promote_types(grad_BSD.dtype, torch.float32)
            tensors = [each.to(dtype) for each in (grad_BSD, vectors_BPD, x_BTD)]
            grad_outcome = ctx.places.outcome_gradient(*tensors, ctx.batch).to(ctx.outcome_dtype)
        if ctx.needs_input_grad[1]:
            grad_vectors = _rows(grad_BSD, slots_BS[:, :num_tokens])
        if ctx.needs_input_grad[2]:
            grad_text = _rows(grad_BSD, slots_BS[:, num_tokens:])
        return grad_outcome, grad_vectors, grad_text, None, None, None, None


def _rows(source_BXD: Tensor, index_BY: Tensor) -> Tensor:
    return source_BXD.gather(1, index_BY[..., None].expand(-1, -1, source_BXD.shape[-1]))
