"""Vectors: which P rows make up the prompt of each example."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dp_bench.prompts.init import Initialiser
from dp_bench.types import Dims


class Made(NamedTuple):
    """The rows of a batch; of a pool also the weights of its members, and what training is to add to the
    loss."""

    vectors_BPD: Tensor
    weights_BK: Tensor | None = None
    loss: Tensor | None = None


class Vectors(nn.Module):
    """Base of all vectors. `needs_summary` and `needs_task` tell what the rows of an example depend on."""

    needs_summary = False
    needs_task = False
    num_tokens: int
    num_prompts = 1  # K, of pools
    is_routed = False  # whether each example has one member more than others, which is its route

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> Made:
        raise NotImplementedError

    def choosing(self) -> list[nn.Parameter]:
        """Return the parameters that decide which rows an example gets, and are none themselves."""
        return []


class NoVectors(Vectors):
    """Nothing in the input: for prompts that live in the layers alone."""

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser) -> None:
        super().__init__(0)
        self.width = dims.width

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> Made:
        return Made(torch.zeros(len(task_B), 0, self.width, device=task_B.device))


class Single(Vectors):
    """One soft prompt for every example (Lester et al., 2021)."""

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser) -> None:
        super().__init__(num_tokens)
        self.prompt_PD = nn.Parameter(init(num_tokens))

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> Made:
        return Made(self.prompt_PD.expand(len(task_B), -1, -1))


class Reparameterised(Vectors):
    """One soft prompt out of an encoder: P rows through a bidirectional LSTM and an MLP (P-tuning, Liu et
    al., 2021). Each direction of the LSTM is half as wide as the rows unless `hidden` says otherwise, and the
    MLP between as wide as both directions unless `mlp_hidden` does: docs/deviations.md."""

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

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> Made:
        vectors_PD = self.mlp(self.lstm(self.prompt_PD[None])[0])[0]
        return Made(vectors_PD.expand(len(task_B), -1, -1))


class Pool(Vectors):
    """A mixture of K prompts: `P_new = sum_k beta_k P_k`, `beta = softmax(PO(x))` (paper, dynamic vectors).

    `tanh` before the softmax is what the authors' code does for the pool alone and not in combinations; it
    keeps every weight away from 0 and 1 (for K = 4 between .043 and .711).
    """

    needs_summary = True
    is_routed = True

    def __init__(
        self, num_tokens: int, dims: Dims, init: Initialiser, *, num_prompts: int, tanh: bool = False
    ) -> None:
        super().__init__(num_tokens)
        self.prompts_KPD = nn.Parameter(members(num_prompts, num_tokens, init))
        self.linear = nn.Linear(dims.summary_width, num_prompts)
        self.num_prompts = num_prompts
        self.tanh = tanh

    def choosing(self) -> list[nn.Parameter]:
        return list(self.linear.parameters())

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> Made:
        logits_BK = self.linear(summary_BD)
        weights_BK = torch.softmax(logits_BK.tanh() if self.tanh else logits_BK, dim=-1)
        return mixture(weights_BK, self.prompts_KPD)


class UniformPool(Vectors):
    """Control: a pool whose members always weigh the same, so that nothing is chosen."""

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, num_prompts: int) -> None:
        super().__init__(num_tokens)
        self.prompts_KPD = nn.Parameter(members(num_prompts, num_tokens, init))

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> Made:
        num_prompts = len(self.prompts_KPD)
        weights_BK = self.prompts_KPD.new_full((len(task_B), num_prompts), 1 / num_prompts)
        return mixture(weights_BK, self.prompts_KPD)


class SimilarityPool(Vectors):
    """A mixture whose weights are the members' own products with the text: `alpha = softmax(E(x)^T P)`,
    `E(x) = tanh(W x + b)`. A member of several rows is compared by their mean."""

    needs_summary = True
    is_routed = True

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, num_prompts: int) -> None:
        super().__init__(num_tokens)
        self.prompts_KPD = nn.Parameter(members(num_prompts, num_tokens, init))
        self.linear = nn.Linear(dims.summary_width, dims.width)
        self.num_prompts = num_prompts

    def choosing(self) -> list[nn.Parameter]:
        return list(self.linear.parameters())

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> Made:
        text_BD = torch.tanh(self.linear(summary_BD))
        weights_BK = torch.softmax(text_BD @ self.prompts_KPD.mean(1).T, dim=-1)
        return mixture(weights_BK, self.prompts_KPD)


class KeyedPool(Vectors):
    """The N members whose keys are nearest to the text, one behind the other (L2P, Wang et al., 2022, section
    4). Each has P / N rows; training draws the chosen keys towards their texts with `key_weight`.

    The query is the frozen summary itself. Which members are chosen has no gradient. Keys start in U(-1, 1),
    or with `positive_keys` in U(0, 1), whose directions are those of the authors' code: docs/deviations.md.
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
        super().__init__(num_tokens)
        if num_tokens % num_chosen or num_chosen > num_prompts:
            raise ValueError(
                f"num_chosen={num_chosen} must divide prompt.num_tokens={num_tokens} and not exceed "
                f"num_prompts={num_prompts}"
            )
        self.prompts_KPD = nn.Parameter(members(num_prompts, num_tokens // num_chosen, init))
        keys_KD = torch.rand(num_prompts, dims.summary_width)
        self.keys_KD = nn.Parameter(keys_KD if positive_keys else keys_KD * 2 - 1)
        self.num_chosen = num_chosen
        self.key_weight = key_weight

    def choosing(self) -> list[nn.Parameter]:
        return [self.keys_KD]

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> Made:
        assert summary_BD is not None
        similarity_BK = nn.functional.normalize(summary_BD, dim=-1) @ nn.functional.normalize(self.keys_KD).T
        chosen_BN = similarity_BK.topk(self.num_chosen, dim=-1).indices
        nearness_BN = similarity_BK.gather(1, chosen_BN)
        weights_BK = torch.zeros_like(similarity_BK).scatter_(1, chosen_BN, 1 / self.num_chosen)
        loss = self.key_weight * (1 - nearness_BN).sum(1).mean()
        return Made(self.prompts_KPD[chosen_BN].flatten(1, 2), weights_BK, loss)


class TaskPool(Vectors):
    """One pool for all tasks, mixed by a selector of each task: `S_t(x) = softmax(W_t E(x) + b_t)`."""

    needs_summary = True
    is_routed = True
    needs_task = True

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, num_prompts: int) -> None:
        super().__init__(num_tokens)
        self.prompts_KPD = nn.Parameter(members(num_prompts, num_tokens, init))
        bound = 1 / math.sqrt(dims.summary_width)  # that of a linear layer
        shape = (dims.num_tasks, num_prompts, dims.summary_width)
        self.weight_NKD = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias_NK = nn.Parameter(torch.empty(shape[:2]).uniform_(-bound, bound))
        self.num_prompts = num_prompts

    def choosing(self) -> list[nn.Parameter]:
        return [self.weight_NKD, self.bias_NK]

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> Made:
        assert summary_BD is not None
        logits_BK = torch.einsum("bd,bkd->bk", summary_BD, self.weight_NKD[task_B]) + self.bias_NK[task_B]
        return mixture(torch.softmax(logits_BK, dim=-1), self.prompts_KPD)


class Routed(Vectors):
    """K prompts of which each example has one, whole. Which one is for the prompt's route to say: a selector
    of K outcomes, as others choose a position."""

    is_routed = True

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, num_prompts: int) -> None:
        super().__init__(num_tokens)
        self.prompts_KPD = nn.Parameter(members(num_prompts, num_tokens, init))
        self.num_prompts = num_prompts

    def along(self, route_BK: Tensor) -> Made:
        """Return the members that a route names, one-hot."""
        return mixture(route_BK, self.prompts_KPD)


class TaskFactor(Vectors):
    """A shared prompt times a rank-one factor of each task, `P_t = P o (u_t v_t^T)` (MPT, Wang et al., 2023,
    section 3.1), trained without the paper's distillation from single-task teachers. Factors start at 1, so
    that every task starts from the shared prompt."""

    needs_task = True

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser) -> None:
        super().__init__(num_tokens)
        self.prompt_PD = nn.Parameter(init(num_tokens))
        self.u_NP = nn.Parameter(torch.ones(dims.num_tasks, num_tokens))
        self.v_ND = nn.Parameter(torch.ones(dims.num_tasks, dims.width))

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> Made:
        factor_BPD = self.u_NP[task_B][:, :, None] * self.v_ND[task_B][:, None]
        return Made(self.prompt_PD * factor_BPD)


def members(num_prompts: int, num_tokens: int, init: Initialiser) -> Tensor:
    """Return the first value of K prompts: [K,P,D]."""
    return init(num_prompts * num_tokens).view(num_prompts, num_tokens, -1)


def mixture(weights_BK: Tensor, prompts_KPD: Tensor) -> Made:
    return Made(torch.einsum("bk,kpd->bpd", weights_BK, prompts_KPD), weights_BK)
