"""Estimators of a selector's gradient: how what was drawn tells the logits what to become.

Straight-through estimators give the drawn one-hot a gradient. They read the loss of other outcomes off its
slope at the drawn one, which is right where the loss is linear in the outcome; moving a prompt shifts every
token, and the line fails long before the swap. Score-function estimators weigh the log-probability of a draw
by how much better it did than others did: right in expectation, and noisy. `exact` sums over all outcomes.

| estimator | forwards | unbiased |
|---|---|---|
| gumbel_st (the paper), st, reinmax, rao_blackwell | 1 | no |
| reinforce (baseline: the other examples of the micro-batch) | 1 | yes |
| leave_one_out (two draws, each the other's baseline) | 2 | yes |
| exact | J | exact |
| mixture (another loss: minus the log-likelihood of a mixture of the outcomes) | J | exact |

The draw itself is the same for all: arg-max of logits plus Gumbel noise, a sample of their softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dp_bench.settings import Estimator

REDRAWS = 8  # of rao_blackwell, for each draw
ALL_OUTCOMES = (Estimator.exact, Estimator.mixture)
SCORE = (Estimator.reinforce, Estimator.leave_one_out, *ALL_OUTCOMES)


def noise_columns(num_outcomes: int, estimator: Estimator) -> int:
    """Return how many Gumbel numbers an example takes: J for a draw, and those of further draws."""
    draws = {Estimator.rao_blackwell: 1 + REDRAWS, Estimator.leave_one_out: 2}
    return num_outcomes * draws.get(estimator, 1)


def forwards(num_outcomes: int, estimator: Estimator) -> int:
    """Return how many forward passes an update takes."""
    return {Estimator.leave_one_out: 2, **dict.fromkeys(ALL_OUTCOMES, num_outcomes)}.get(estimator, 1)


def draw(logits_BJ: Tensor, noise_BX: Tensor, temperature: float, estimator: Estimator) -> Tensor:
    """Return one-hot draws [B,J] with the estimator's gradient; those of score functions have none.

    `noise_BX` has the columns of `noise_columns`, the first J of which decide the draw.
    """
    num_outcomes = logits_BJ.shape[1]
    noise_BJ, more_BX = noise_BX[:, :num_outcomes], noise_BX[:, num_outcomes:]
    hard_BJ = one_hot((logits_BJ + noise_BJ).argmax(-1), logits_BJ)
    if estimator in SCORE:
        return hard_BJ
    if estimator is Estimator.gumbel_st:
        soft_BJ = torch.softmax((logits_BJ + noise_BJ) / temperature, dim=-1)
    elif estimator is Estimator.st:
        soft_BJ = torch.softmax(logits_BJ, dim=-1)
    elif estimator is Estimator.reinmax:
        soft_BJ = _reinmax(logits_BJ, hard_BJ, temperature)
    else:
        soft_BJ = _rao_blackwell(logits_BJ, hard_BJ, more_BX, temperature)
    return hard_BJ + (soft_BJ - soft_BJ.detach())  # the bracket is exactly 0, so the value is exactly one-hot


def gumbel(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return standard Gumbel noise: added to logits, its arg-max is a draw from their softmax."""
    return -torch.empty(shape, dtype=dtype).exponential_(generator=generator).log()


def forced(outcome_B: Tensor, num_outcomes: int) -> Tensor:
    """Return noise that outweighs every logit, so that the draw is what is asked for: [B,J]."""
    return 1e9 * torch.nn.functional.one_hot(outcome_B, num_outcomes).float()


def one_hot(outcome_B: Tensor, like_BJ: Tensor) -> Tensor:
    return torch.zeros_like(like_BJ).scatter_(1, outcome_B[:, None], 1.0)


def _reinmax(logits_BJ: Tensor, hard_BJ: Tensor, temperature: float) -> Tensor:
    """Second order in place of first (Liu et al., 2023, algorithm 2)."""
    plain_BJ = torch.softmax(logits_BJ, dim=-1)
    half_BJ = (hard_BJ + torch.softmax(logits_BJ / temperature, dim=-1)) / 2
    half_BJ = torch.softmax((half_BJ.log() - logits_BJ).detach() + logits_BJ, dim=-1)
    return 2 * half_BJ - plain_BJ / 2


def _rao_blackwell(logits_BJ: Tensor, hard_BJ: Tensor, more_BX: Tensor, temperature: float) -> Tensor:
    """The mean of Gumbel straight-through over noise that gives the same draw (Paulus et al., 2021)."""
    with torch.no_grad():
        shape = (len(logits_BJ), -1, logits_BJ.shape[1])
        waits_BKJ = (-more_BX.reshape(shape)).exp()  # standard exponential
        theta_B1J = logits_BJ[:, None]
        chosen_B1J = hard_BJ[:, None]
        first_BK1 = (waits_BKJ * chosen_B1J).sum(-1, keepdim=True) / theta_B1J.exp().sum(-1, keepdim=True)
        sums_BKJ = -torch.where(chosen_B1J > 0, first_BK1, waits_BKJ / theta_B1J.exp() + first_BK1).log()
        noise_BKJ = sums_BKJ - theta_B1J
    return torch.softmax((logits_BJ[:, None] + noise_BKJ) / temperature, dim=-1).mean(1)
