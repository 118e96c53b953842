"""Vectors that a small network makes, of each text or of trained vectors.

`Generated` is IDPG (Wu et al., NAACL 2022), `Residual` the residual reparameterisation of Razdaibiedina et
al. (ACL 2023). What each leaves out or does otherwise is in docs/later-methods.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_bench.prompts.init import Initialiser
from dp_bench.prompts.vectors import PromptVectors, Vectors
from dp_bench.types import Dims, UserError


class Kronecker(nn.Module):
    """The sum of n Kronecker products, `W = sum_i A_i (x) B_i`, of rules A_i, n by n, and weights B_i
    (Zhang et al., ICLR 2021). The rules are an argument, so that layers may share them."""

    def __init__(self, inputs: int, outputs: int, rules: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.05 * torch.randn(rules, inputs // rules, outputs // rules))

    def forward(self, x_BX: Tensor, rules: Tensor) -> Tensor:
        """Return `x W`: [B,outputs]. No matrix W is made."""
        x = x_BX.view(len(x_BX), len(rules), -1)
        return torch.einsum("bpu,ipq,iuv->bqv", x, rules, self.weight).flatten(1)


class Generated(Vectors):
    """A prompt generated from the text, plus a prompt of the task (IDPG, sections 3.2 and 3.3):

        P(x) = W_2 gelu(W_1 M(x) + b_1) + P_task,   M(x) the summary of the text

    With `phm` = n, W_1 and W_2 are sums of n Kronecker products whose n rules both layers share. Raises
    UserError where n does not divide the width of the summary.
    """

    needs_summary = True

    def __init__(
        self, num_tokens: int, dims: Dims, init: Initialiser, *, hidden: int, phm: int | None
    ) -> None:
        super().__init__(num_tokens)
        self.task_PD = nn.Parameter(init(num_tokens))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.down: nn.Module
        self.up: nn.Module
        inputs, outputs = dims.summary_width, num_tokens * dims.width
        if phm is None:
            self.down, self.up = (
                nn.Linear(*sizes, bias=False) for sizes in ((inputs, hidden), (hidden, outputs))
            )
            for weight in (*self.down.parameters(), *self.up.parameters()):
                nn.init.normal_(weight, std=0.02)
            return
        if inputs % phm or outputs % phm:
            raise UserError(
                f"prompt.vectors.phm={phm} must divide the width of summaries, {inputs}, and the numbers "
                f"of a prompt, {outputs}: use a divisor of both, such as 4."
            )
        self.rules = nn.Parameter(0.05 * torch.randn(phm, phm, phm))
        self.down, self.up = Kronecker(inputs, hidden, phm), Kronecker(hidden, outputs, phm)

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        shared = (self.rules,) if isinstance(self.down, Kronecker) else ()
        hidden = nn.functional.gelu(self.down(summary_BD, *shared) + self.bias)
        made = self.up(hidden, *shared).unflatten(1, self.task_PD.shape)
        return PromptVectors(made + self.task_PD)

    def network_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p is not self.task_PD]


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
