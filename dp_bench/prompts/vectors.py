"""Vectors: which P rows make up the prompt of each example."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_bench.prompts.init import Initialiser
from dp_bench.types import Dims


class Vectors(nn.Module):
    """Base of all vectors: forward returns [B,P,D] and, for a pool, its weights [B,K]."""

    needs_summary = False
    needs_task = False

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


class Single(Vectors):
    """One soft prompt for every example (Lester et al., 2021)."""

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser) -> None:
        super().__init__()
        self.prompt_PD = nn.Parameter(init(num_tokens))

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.prompt_PD.expand(len(task_B), -1, -1), None


class Pool(Vectors):
    """A mixture of K prompts: `P_new = sum_k beta_k P_k`, `beta = softmax(PO(x))` (paper, dynamic vectors).

    `tanh` before the softmax is what the authors' code does for the pool alone and not in combinations; it
    keeps every weight away from 0 and 1 (for K = 4 between .043 and .711).
    """

    needs_summary = True

    def __init__(
        self, num_tokens: int, dims: Dims, init: Initialiser, *, num_prompts: int, tanh: bool = False
    ) -> None:
        super().__init__()
        self.prompts_KPD = nn.Parameter(
            init(num_prompts * num_tokens).view(num_prompts, num_tokens, dims.width)
        )
        self.linear = nn.Linear(dims.width, num_prompts)
        self.tanh = tanh

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> tuple[Tensor, Tensor | None]:
        logits_BK = self.linear(summary_BD)
        weights_BK = torch.softmax(logits_BK.tanh() if self.tanh else logits_BK, dim=-1)
        return torch.einsum("bk,kpd->bpd", weights_BK, self.prompts_KPD), weights_BK
