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
    # A generator may return 0, whose logarithm would be an infinite draw and its gradient NaN.
    waits = torch.empty(shape, dtype=dtype).exponential_(generator=generator)
    return -waits.clamp(min=torch.finfo(dtype).tiny).log()


def forced(outcome_B: Tensor, num_outcomes: int) -> Tensor:
    """Return noise that outweighs every logit, so that the draw is what is asked for: [B,J]."""
    return 1e9 * torch.nn.functional.one_hot(outcome_B, num_outcomes).float()


def one_hot(outcome_B: Tensor, like_BJ: Tensor) -> Tensor:
    return torch.zeros_like(like_BJ).scatter_(1, outcome_B[:, None], 1.0)


def _reinmax(logits_BJ: Tensor, hard_BJ: Tensor, temperature: float) -> Tensor:
    """Second order in place of first (Liu et al., 2023, algorithm 2)."""
    plain_BJ = torch.softmax(logits_BJ, dim=-1)
    half_BJ = (hard_BJ + torch.softmax(logits_BJ / temperature, dim=-1)) / 2
    half_BJ = torch.softmax(_with_gradient_of(logits_BJ, half_BJ.log()), dim=-1)
    return 2 * half_BJ - plain_BJ / 2


def _rao_blackwell(logits_BJ: Tensor, hard_BJ: Tensor, more_BX: Tensor, temperature: float) -> Tensor:
    """The mean of Gumbel straight-through over noise that gives the same draw (Paulus et al., 2021).

    With `E` standard exponential, logits plus such noise are `-log(E_chosen / Z)` for what is drawn and
    `-log(E_j / exp(logit_j) + E_chosen / Z)` for the others, `Z` the sum of exp(logit). In logarithms
    throughout: exp(logit) overflows in fp32 from 88.7 on.
    """
    with torch.no_grad():
        shape = (len(logits_BJ), -1, logits_BJ.shape[1])
        log_waits_BKJ = -more_BX.reshape(shape)  # of standard exponentials
        chosen_B1J = hard_BJ[:, None] > 0
        log_first_BK1 = log_waits_BKJ.masked_fill(~chosen_B1J, 0).sum(-1, keepdim=True)
        log_first_BK1 = log_first_BK1 - logits_BJ.logsumexp(-1)[:, None, None]
        log_others_BKJ = torch.logaddexp(log_waits_BKJ - logits_BJ[:, None], log_first_BK1)
        sums_BKJ = -torch.where(chosen_B1J, log_first_BK1, log_others_BKJ)
    return torch.softmax(_with_gradient_of(logits_BJ[:, None], sums_BKJ) / temperature, dim=-1).mean(1)


def _with_gradient_of(logits: Tensor, value: Tensor) -> Tensor:
    """Return `value`, with the gradient of the logits. Their difference is exactly 0, where subtracting large
    logits from a value and adding them again would round it."""
    return value.detach() + (logits - logits.detach())
