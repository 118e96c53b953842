"""A layout, written down as loops."""

from __future__ import annotations

import torch
from torch import Tensor

from dp_bench.settings import SplitOrder
from dp_bench.types import Batch


def layout_by_hand(
    x_TD: Tensor, vectors_PD: Tensor, j: int, start: int, end: int, order: SplitOrder
) -> Tensor:
    """Concatenate one layout as the paper's formula, or the authors' loop, writes it."""
    first, last = vectors_PD[:j], vectors_PD[j:]
    before, after = (first, last) if order is SplitOrder.paper else (last, first)
    return torch.cat([x_TD[:start], before, x_TD[start:end], after, x_TD[end:]])


def naive(choice_BJ: Tensor, vectors_BPD: Tensor, x_BTD: Tensor, batch: Batch, order: SplitOrder) -> Tensor:
    """Return the sum over all J layouts weighted by the choice, one example and one layout at a time."""
    rows = []
    for b in range(len(batch)):
        start, end = int(batch.body_start_B[b]), int(batch.body_end_B[b])
        layouts = [
            layout_by_hand(x_BTD[b], vectors_BPD[b], j, start, end, order) for j in range(choice_BJ.shape[1])
        ]
        rows.append(sum(choice_BJ[b, j] * layout for j, layout in enumerate(layouts)))
    return torch.stack(rows)  # type: ignore[arg-type]
