"""Estimators of the gradient of a selector's logits from the outcome drawn.

Straight-through estimators give the drawn one-hot a gradient. They extrapolate the loss of other outcomes
from its slope at the drawn one, which is exact only where the loss is linear in the outcome; moving a prompt
shifts every token, so that it is far from linear. Score-function estimators weight the log-probability of a
draw by its advantage over other draws: unbiased, and noisy. `exact` sums over all outcomes.

| estimator | forwards | unbiased |
|---|---|---|
| gumbel_st (the paper), st, reinmax, rao_blackwell | 1 | no |
| reinforce (baseline: the other examples of the micro-batch) | 1 | yes |
| leave_one_out (two draws, each the baseline of the other) | 2 | yes |
| exact | J | exact |
| mixture (another loss: minus the log-likelihood of the mixture of all outcomes) | J | exact |

The draw itself is the same for all: arg-max of logits plus Gumbel noise, a sample of their softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dp_bench.settings import Estimator

REDRAWS = 8  # of rao_blackwell, per draw
ALL_OUTCOMES = (Estimator.exact, Estimator.mixture)
SCORE = (Estimator.reinforce, Estimator.leave_one_out, *ALL_OUTCOMES)


def noise_columns(num_outcomes: int, estimator: Estimator) -> int:
    """Return how many Gumbel numbers an example needs: J per draw."""
    draws = {Estimator.rao_blackwell: 1 + REDRAWS, Estimator.leave_one_out: 2}
    return num_outcomes * draws.get(estimator, 1)


def forwards(num_outcomes: int, estimator: Estimator) -> int:
    """Return how many forward passes an update takes."""
    return {Estimator.leave_one_out: 2, **dict.fromkeys(ALL_OUTCOMES, num_outcomes)}.get(estimator, 1)


def draw(logits_BJ: Tensor, noise_BX: Tensor, temperature: float, estimator: Estimator) -> Tensor:
    """Return one-hot draws [B,J] with the estimator's gradient; none for score-function estimators.

    `noise_BX` has the columns of `noise_columns`; the first J decide the draw.
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
    exponential = torch.empty(shape, dtype=dtype).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(dtype).tiny).log()


def forced(outcome_B: Tensor, num_outcomes: int) -> Tensor:
    """Return noise that outweighs every logit, so that the draw is `outcome_B`: [B,J], fp32."""
    return 1e9 * torch.nn.functional.one_hot(outcome_B, num_outcomes).float()


def one_hot(outcome_B: Tensor, like_BJ: Tensor) -> Tensor:
    """Return outcomes as one-hot rows in the dtype and on the device of `like_BJ`: [B,J]."""
    return torch.zeros_like(like_BJ).scatter_(1, outcome_B[:, None], 1.0)


def _reinmax(logits_BJ: Tensor, hard_BJ: Tensor, temperature: float) -> Tensor:
    """Second-order straight-through (Liu et al., 2023, algorithm 2)."""
    plain_BJ = torch.softmax(logits_BJ, dim=-1)
    half_BJ = (hard_BJ + torch.softmax(logits_BJ / temperature, dim=-1)) / 2
    half_BJ = torch.softmax(_with_gradient_of(logits_BJ, half_BJ.log()), dim=-1)
    return 2 * half_BJ - plain_BJ / 2


def _rao_blackwell(logits_BJ: Tensor, hard_BJ: Tensor, more_BX: Tensor, temperature: float) -> Tensor:
    """The mean of Gumbel straight-through over noise that gives the same draw (Paulus et al., 2021).

    With `E` standard exponential and `Z` the sum of exp(logit), logits plus such noise are
    `-log(E_chosen / Z)` for the outcome drawn and `-log(E_j / exp(logit_j) + E_chosen / Z)` for the others.
    Computed in logarithms: exp(logit) overflows in fp32 above 88.7. X is REDRAWS here.
    """
    with torch.no_grad():
        shape = (len(logits_BJ), -1, logits_BJ.shape[1])
        log_exponential_BXJ = -more_BX.reshape(shape)
        chosen_B1J = hard_BJ[:, None] > 0
        log_chosen_BX1 = log_exponential_BXJ.masked_fill(~chosen_B1J, 0).sum(-1, keepdim=True)
        log_chosen_BX1 = log_chosen_BX1 - logits_BJ.logsumexp(-1)[:, None, None]
        log_others_BXJ = torch.logaddexp(log_exponential_BXJ - logits_BJ[:, None], log_chosen_BX1)
        sums_BXJ = -torch.where(chosen_B1J, log_chosen_BX1, log_others_BXJ)
    return torch.softmax(_with_gradient_of(logits_BJ[:, None], sums_BXJ) / temperature, dim=-1).mean(1)


def _with_gradient_of(logits: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of the logits. The term added is exactly 0: adding and subtracting
    large logits would round the value."""
    return value.detach() + (logits - logits.detach())
