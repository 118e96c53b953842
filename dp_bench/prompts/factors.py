"""One soft prompt, parameterised by factors: of low rank, or as directions and lengths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_bench.prompts.init import Initialiser
from dp_bench.prompts.vectors import PromptVectors, Vectors
from dp_bench.types import Dims


class LowRank(Vectors):
    """A prompt of rank r, `P = U V` with U [P,r] and V [r,D] (LoPT-1 of Guo et al., 2024).

    It starts as the matrix of rank r that is nearest to the usual first vectors, halved between the factors.
    """

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, rank: int) -> None:
        super().__init__(num_tokens)
        left, sizes, right = torch.linalg.svd(init(num_tokens), full_matrices=False)
        root = sizes[:rank].sqrt()
        self.left = nn.Parameter((left[:, :rank] * root).contiguous())
        self.right = nn.Parameter((root[:, None] * right[:rank]).contiguous())

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        return PromptVectors((self.left @ self.right).expand(len(task_B), -1, -1))


class Normalised(Vectors):
    """A prompt whose vectors have directions and trained lengths, `v_i = g_i p_i / |p_i|` (weight
    normalisation: Salimans and Kingma, 2016). Without `trained_length` all lengths stay what they were."""

    length_P: Tensor

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, trained_length: bool) -> None:
        super().__init__(num_tokens)
        self.prompt_PD = nn.Parameter(init(num_tokens))
        length_P = self.prompt_PD.detach().norm(dim=1)
        if trained_length:
            self.length_P = nn.Parameter(length_P)
        else:
            self.register_buffer("length_P", length_P)

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        vectors_PD = self.length_P[:, None] * nn.functional.normalize(self.prompt_PD)
        return PromptVectors(vectors_PD.expand(len(task_B), -1, -1))
