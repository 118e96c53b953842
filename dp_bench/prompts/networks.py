"""Vectors that a small network makes, of each text or of trained vectors.

`Generator` is IDPG (Wu et al., NAACL 2022), `Residual` the residual reparameterisation of Razdaibiedina et
al. (ACL 2023). What each leaves out or does otherwise is in docs/later-methods.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_bench.prompts.init import Initialiser
from dp_bench.prompts.vectors import PromptVectors, Vectors
from dp_bench.types import Dims, UserError


class Generator(Vectors):
    """Base of prompts that are generated from the text, plus a prompt of the task (IDPG, section 3):

    P(x) = W_2 gelu(W_1 M(x) + b_1) + P_task,   M(x) the summary of the text
    """

    needs_summary = True

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, hidden: int) -> None:
        super().__init__(num_tokens)
        self.task_PD = nn.Parameter(init(num_tokens))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def first(self, x_BX: Tensor) -> Tensor:
        """Return W_1 x."""
        raise NotImplementedError

    def second(self, x_BX: Tensor) -> Tensor:
        """Return W_2 x."""
        raise NotImplementedError

    def generate(self, x_BX: Tensor) -> Tensor:
        """Return `W_2 gelu(W_1 x + b_1)`, a prompt [B,P,D] without that of the task."""
        made = self.second(nn.functional.gelu(self.first(x_BX) + self.bias))
        return made.view(len(made), *self.task_PD.shape)

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        assert summary_BD is not None
        return PromptVectors(self.generate(summary_BD) + self.task_PD)

    def network_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p is not self.task_PD]


class Generated(Generator):
    """W_1 and W_2 are full matrices."""

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, hidden: int) -> None:
        super().__init__(num_tokens, dims, init, hidden)
        self.down = nn.Linear(dims.summary_width, hidden, bias=False)
        self.up = nn.Linear(hidden, num_tokens * dims.width, bias=False)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=0.02)

    def first(self, x_BX: Tensor) -> Tensor:
        return torch.as_tensor(self.down(x_BX))

    def second(self, x_BX: Tensor) -> Tensor:
        return torch.as_tensor(self.up(x_BX))


class GeneratedPhm(Generator):
    """W_1 and W_2 are sums of n Kronecker products, `W = sum_i A_i (x) B_i`, of rules A_i [n,n], which both
    share, and weights B_i (parameterised hypercomplex multiplication: Zhang et al., ICLR 2021).

    Raises UserError where n, `rules`, does not divide the width of the summary or P D.
    """

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, hidden: int, rules: int) -> None:
        super().__init__(num_tokens, dims, init, hidden)
        n, inputs, outputs = rules, dims.summary_width, num_tokens * dims.width
        if inputs % n or outputs % n:
            raise UserError(
                f"prompt.vectors.rules={n} must divide the width of summaries, {inputs}, and the numbers "
                f"of a prompt, {outputs}: use a divisor of both, such as 4."
            )
        self.rules = nn.Parameter(0.05 * torch.randn(n, n, n))
        self.down = nn.Parameter(0.05 * torch.randn(n, inputs // n, hidden // n))
        self.up = nn.Parameter(0.05 * torch.randn(n, hidden // n, outputs // n))

    def first(self, x_BX: Tensor) -> Tensor:
        return self._product(x_BX, self.down)

    def second(self, x_BX: Tensor) -> Tensor:
        return self._product(x_BX, self.up)

    def _product(self, x_BX: Tensor, weights: Tensor) -> Tensor:
        """Return `x W`, without making the matrix W."""
        x = x_BX.view(len(x_BX), len(self.rules), -1)
        return torch.einsum("bpu,ipq,iuv->bqv", x, self.rules, weights).flatten(1)


class Residual(Vectors):
    """One soft prompt, each vector of which is passed through one shared bottleneck (section 3 of the paper):

    v_i = p_i + LayerNorm(W_2 relu(W_1 p_i + b_1) + b_2)
    """

    def __init__(self, num_tokens: int, dims: Dims, init: Initialiser, *, hidden: int) -> None:
        super().__init__(num_tokens)
        self.prompt_PD = nn.Parameter(init(num_tokens))
        self.mlp = nn.Sequential(
            nn.Linear(dims.width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, dims.width),
            nn.LayerNorm(dims.width),
        )

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        vectors_PD = self.prompt_PD + self.mlp(self.prompt_PD)
        return PromptVectors(vectors_PD.expand(len(task_B), -1, -1))

    def network_parameters(self) -> list[nn.Parameter]:
        return list(self.mlp.parameters())
