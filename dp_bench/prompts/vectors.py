"""Vectors: the P vectors of each example's prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dp_bench.prompts.init import Initialiser
from dp_bench.types import Dims


class PromptVectors(NamedTuple):
    """The vectors of a batch; of a pool also the weights of its members; a scalar that training adds to the
    task's loss; and which vectors are used. All are fp32."""

    vectors_BPD: Tensor
    weights_BK: Tensor | None = None
    loss: Tensor | None = None
    keep_BP: Tensor | None = None  # 1 for a vector that is used and 0 for one that is masked; None: all are


class Vectors(nn.Module):
    """Base of all vectors. `needs_summary` and `needs_task` say what the vectors of an example depend on."""

    needs_summary = False
    needs_task = False
    num_tokens: int
    num_prompts = 1  # K of a pool
    is_routed = False  # whether the member with the largest weight is the example's route

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        """Return the vectors of each example, on the device of the parameters.

        `summary_BD` is fp32 or finer and may be None unless `needs_summary`; `task_B` is int64.
        Raises NotImplementedError for `Routed`, which is called by `select`.
        """
        raise NotImplementedError

    def selector_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that only decide which vectors an example gets."""
        return []

    def network_parameters(self) -> list[nn.Parameter]:
        """Return the weights of a network that makes vectors, which are in no space of vectors."""
        return []

    def by_name(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Return the vectors [P,D] of each task or member, or the only ones as ""; nothing where every text
        has others."""
        if self.needs_summary:
            return {}
        names = list(tasks) if self.needs_task else [""]
        task_N = torch.arange(len(names), device=next(self.parameters()).device)
        return dict(zip(names, self(None, task_N).vectors_BPD, strict=True))


class NoVectors(Vectors):
    """No vectors in the input: for prompts in the layers alone."""

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser) -> None:
        super().__init__(0)
        self.width = dims.width

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        return PromptVectors(torch.zeros(len(task_B), 0, self.width, device=task_B.device))

    def by_name(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        return {}


class Single(Vectors):
    """One soft prompt for every example (Lester et al., 2021)."""

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser) -> None:
        super().__init__(num_tokens)
        self.prompt_PD = nn.Parameter(init(num_tokens))

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        return PromptVectors(self.prompt_PD.expand(len(task_B), -1, -1))


class Reparameterised(Vectors):
    """One soft prompt from an encoder: P rows through a bidirectional LSTM and an MLP (P-tuning, Liu et al.,
    2021). By default each direction of the LSTM is half as wide as the rows (`hidden`), and the hidden layer
    of the MLP as wide as both directions (`mlp_hidden`): docs/deviations.md."""

    def __init__(
        self,
        num_tokens: int,
        dims: Dims,
        init: Initialiser,
        *,
        hidden: int | None = None,
        mlp_hidden: int | None = None,
        num_layers: int = 2,
    ) -> None:
        super().__init__(num_tokens)
        hidden = hidden or dims.width // 2
        mlp_hidden = mlp_hidden or 2 * hidden
        self.prompt_PD = nn.Parameter(init(num_tokens))
        self.lstm = nn.LSTM(dims.width, hidden, num_layers, bidirectional=True, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(2 * hidden, mlp_hidden), nn.ReLU(), nn.Linear(mlp_hidden, dims.width)
        )

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        vectors_PD = self.mlp(self.lstm(self.prompt_PD[None])[0])[0]
        return PromptVectors(vectors_PD.expand(len(task_B), -1, -1))


def first_prompts(init: Initialiser, num_prompts: int, num_tokens: int) -> Tensor:
    """Return the first values of K prompts: [K,P,D]."""
    return init(num_prompts * num_tokens).view(num_prompts, num_tokens, -1)


def mixed(weights_BK: Tensor, prompts_KPD: Tensor) -> Tensor:
    """Return the weighted sums of K prompts: [B,P,D]."""
    return torch.einsum("bk,kpd->bpd", weights_BK, prompts_KPD)


class Members(Vectors):
    """Base of all pools: K prompts; every other parameter only decides which of them an example gets."""

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, num_prompts: int) -> None:
        super().__init__(num_tokens)
        self.prompts_KPD = nn.Parameter(first_prompts(init, num_prompts, num_tokens))
        self.num_prompts = num_prompts

    def selector_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p is not self.prompts_KPD]

    def by_name(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        return {f"member {number}": vectors_PD for number, vectors_PD in enumerate(self.prompts_KPD)}

    def mixture(self, weights_BK: Tensor) -> PromptVectors:
        """Return the weighted sums of the K prompts, with their weights."""
        return PromptVectors(mixed(weights_BK, self.prompts_KPD), weights_BK)


class Pool(Members):
    """A mixture of K prompts: `P_new = sum_k beta_k P_k`, `beta = softmax(PO(x))` (paper, dynamic vectors).

    `tanh` before the softmax is in the authors' code for the pool alone, not in combinations; it keeps every
    weight away from 0 and 1 (for K = 4 between .043 and .711).
    """

    needs_summary = True
    is_routed = True

    def __init__(
        self, num_tokens: int, dims: Dims, init: Initialiser, *, num_prompts: int, tanh: bool = False
    ) -> None:
        super().__init__(num_tokens, dims, init, num_prompts=num_prompts)
        self.linear = nn.Linear(dims.summary_width, num_prompts)
        self.tanh = tanh

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        logits_BK = self.linear(summary_BD)
        return self.mixture(torch.softmax(logits_BK.tanh() if self.tanh else logits_BK, dim=-1))


class UniformPool(Members):
    """Control: a pool whose members always have equal weights."""

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        shape = len(task_B), self.num_prompts
        return self.mixture(self.prompts_KPD.new_full(shape, 1 / self.num_prompts))


class SimilarityPool(Members):
    """A mixture weighted by the products of members and text: `alpha = softmax(E(x)^T P)`,
    `E(x) = tanh(W x + b)`. A member of several vectors is compared by their mean."""

    needs_summary = True
    is_routed = True

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, num_prompts: int) -> None:
        super().__init__(num_tokens, dims, init, num_prompts=num_prompts)
        self.linear = nn.Linear(dims.summary_width, dims.width)

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        text_BD = torch.tanh(self.linear(summary_BD))
        return self.mixture(torch.softmax(text_BD @ self.prompts_KPD.mean(1).T, dim=-1))


class KeyedPool(Members):
    """The L members whose keys are nearest to the text, concatenated (L2P, Wang et al., 2022, section 4).
    Each has P / L vectors; training pulls the chosen keys towards their texts with weight `key_weight`.

    The query is the frozen summary. The choice of members has no gradient. Keys start in U(-1, 1), or with
    `positive_keys` in U(0, 1), whose directions are those of the authors' code: docs/deviations.md.
    `num_chosen` divides `num_tokens` and does not exceed `num_prompts`: the catalogue checks it.
    """

    needs_summary = True

    def __init__(
        self,
        num_tokens: int,
        dims: Dims,
        init: Initialiser,
        *,
        num_prompts: int,
        num_chosen: int,
        key_weight: float,
        positive_keys: bool = False,
    ) -> None:
        super().__init__(num_tokens // num_chosen, dims, init, num_prompts=num_prompts)
        self.num_tokens = num_tokens
        keys_KD = torch.rand(num_prompts, dims.summary_width)
        self.keys_KD = nn.Parameter(keys_KD if positive_keys else keys_KD * 2 - 1)
        self.num_chosen = num_chosen
        self.key_weight = key_weight

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        assert summary_BD is not None
        similarity_BK = nn.functional.normalize(summary_BD, dim=-1) @ nn.functional.normalize(self.keys_KD).T
        chosen_BL = similarity_BK.topk(self.num_chosen, dim=-1).indices
        nearness_BL = similarity_BK.gather(1, chosen_BL)
        weights_BK = torch.zeros_like(similarity_BK).scatter_(1, chosen_BL, 1 / self.num_chosen)
        loss = self.key_weight * (1 - nearness_BL).sum(1).mean()
        return PromptVectors(self.prompts_KPD[chosen_BL].flatten(1, 2), weights_BK, loss)


class TaskPool(Members):
    """One pool for all tasks with a selector per task: `S_t(x) = softmax(W_t E(x) + b_t)`."""

    needs_summary = True
    is_routed = True
    needs_task = True

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, num_prompts: int) -> None:
        super().__init__(num_tokens, dims, init, num_prompts=num_prompts)
        bound = 1 / math.sqrt(dims.summary_width)  # as in a linear layer
        shape = (dims.num_tasks, num_prompts, dims.summary_width)
        self.weight_NKD = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias_NK = nn.Parameter(torch.empty(shape[:2]).uniform_(-bound, bound))

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        assert summary_BD is not None
        logits_BK = torch.einsum("bd,bkd->bk", summary_BD, self.weight_NKD[task_B]) + self.bias_NK[task_B]
        return self.mixture(torch.softmax(logits_BK, dim=-1))


class Routed(Members):
    """K prompts, of which each example has one; `prompt.route`, a selector of K outcomes, chooses which."""

    is_routed = True

    def select(self, route_BK: Tensor) -> PromptVectors:
        """Return the member of each example that the one-hot `route_BK` selects."""
        return self.mixture(route_BK)


class TaskFactor(Vectors):
    """A shared prompt times a rank-one factor per task, `P_t = P o (u_t v_t^T)` (MPT, Wang et al., 2023,
    section 3.1), without the paper's distillation from single-task teachers. Factors start at 1: every task
    starts from the shared prompt."""

    needs_task = True

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser) -> None:
        super().__init__(num_tokens)
        self.prompt_PD = nn.Parameter(init(num_tokens))
        self.u_NP = nn.Parameter(torch.ones(dims.num_tasks, num_tokens))
        self.v_ND = nn.Parameter(torch.ones(dims.num_tasks, dims.width))

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        factor_BPD = self.u_NP[task_B][:, :, None] * self.v_ND[task_B][:, None]
        return PromptVectors(self.prompt_PD * factor_BPD)
