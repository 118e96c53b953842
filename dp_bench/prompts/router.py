"""The router of SMoP (Choi et al., EMNLP 2023): one of K short prompts, weighted by its probability."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_bench.prompts.estimators import one_hot
from dp_bench.prompts.selectors import Selector
from dp_bench.types import Dims


class Router(Selector):
    """The most probable member, multiplied by its probability, by which the router learns (section 2.2).

    In training the logits are perturbed by Gaussian noise in proportion to them (section 2.3),
    `l (1 + sigma z)`, z standard normal, so that members share the texts. `balance` weights the auxiliary
    loss `K sum_k f_k p_k` of sparse mixtures, f_k the share of texts that have member k and p_k its mean
    probability; the paper does without.

    Outcomes are not one-hot but the probability of the member chosen. The noise has 2 K columns: the first K
    are not used, and alone they force an outcome.
    """

    needs_summary = True
    needs_noise = True

    def __init__(self, num_outcomes: int, dims: Dims, *, sigma: float, balance: float) -> None:
        super().__init__(num_outcomes)
        self.linear = nn.Linear(dims.summary_width, num_outcomes, bias=False)
        nn.init.orthogonal_(self.linear.weight)
        self.sigma, self.balance = sigma, balance

    @property
    def noise_columns(self) -> int:
        return 2 * self.num_outcomes

    def logits(self, summary_BD: Tensor | None, task_B: Tensor) -> Tensor:
        assert summary_BD is not None
        logits_BJ: Tensor = self.linear(summary_BD)
        return logits_BJ

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BX: Tensor | None, temperature: float
    ) -> Tensor:
        shares_BJ = self._probabilities(summary_BD, task_B, noise_BX)
        forced_BJ = noise_BX if noise_BX is not None and noise_BX.shape[1] == self.num_outcomes else 0.0
        return one_hot((shares_BJ + forced_BJ).argmax(-1), shares_BJ) * shares_BJ

    def added_loss(
        self, chosen_BJ: Tensor, summary_BD: Tensor | None, task_B: Tensor, noise_BX: Tensor | None
    ) -> Tensor | None:
        if not self.balance:
            return None
        shares_J = self._probabilities(summary_BD, task_B, noise_BX).mean(0)
        chosen_J = (chosen_BJ.detach() > 0).to(shares_J.dtype).mean(0)
        return self.balance * self.num_outcomes * (chosen_J * shares_J).sum()

    def _probabilities(self, summary_BD: Tensor | None, task_B: Tensor, noise_BX: Tensor | None) -> Tensor:
        logits_BJ = self.logits(summary_BD, task_B)
        if noise_BX is not None and noise_BX.shape[1] > self.num_outcomes:
            normal_BJ = normal(noise_BX[:, self.num_outcomes :]).to(logits_BJ)
            logits_BJ = logits_BJ + self.sigma * normal_BJ * logits_BJ.detach()
        return torch.softmax(logits_BJ, dim=-1)


def normal(gumbel: Tensor) -> Tensor:
    """Turn standard Gumbel noise into standard normal noise, in float64."""
    shares = (-(-gumbel.double()).exp()).exp()
    quantiles: Tensor = torch.special.ndtri(shares.clamp(1e-15, 1 - 1e-15))
    return quantiles
