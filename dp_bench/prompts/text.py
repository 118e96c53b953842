"""What a prompt changes of the embeddings of the text itself: DePT (Shi and Lipani, ICLR 2024)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dp_bench.types import Dims


class Text(nn.Module):
    """Base of all changes of a text. `max_length` is the length of the longest text that it can change."""

    max_length: int

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the changed embeddings of a text, in the dtype of `x_BTD`."""
        raise NotImplementedError


class LowRankUpdate(Text):
    """A matrix of rank r that is added to the embeddings by position, `E' = E + (alpha / sqrt(r)) A B`, A
    [T,r] and B [r,D] (section 2.2; the scale is that of the authors' code).

    B starts at 0, so that the text starts unchanged. Token t of a text has row t of A, wherever a prompt
    stands.
    """

    def __init__(self, dims: Dims, *, rank: int, max_length: int, alpha: float) -> None:
        super().__init__()
        self.max_length = max_length
        self.left = nn.Parameter(torch.empty(max_length, rank))
        self.right = nn.Parameter(torch.zeros(rank, dims.width))
        nn.init.kaiming_uniform_(self.left, a=math.sqrt(5))
        self.scale = alpha / math.sqrt(rank)

    def forward(self, x_BTD: Tensor) -> Tensor:
        update_TD = self.scale * self.left[: x_BTD.shape[1]] @ self.right
        return x_BTD + update_TD.to(x_BTD.dtype)
