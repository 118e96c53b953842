"""Compare every estimator of the gradient of a position selector with the exact gradient.

For M examples and each of the J positions, one forward and one backward pass give the loss L[m, j] and its
slope D[m, j, i]: the derivative at layout j with respect to the weight of layout i. The exact gradient of the
expected loss, and every estimator's for any number of draws, are sums of these: J passes in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from dp_bench.evaluation import Split
from dp_bench.model import PromptedModel
from dp_bench.objective import batch_advantage, losses_of
from dp_bench.prompts.estimators import SCORE, draw, forwards, gumbel, noise_columns
from dp_bench.prompts.layout import insert
from dp_bench.settings import Estimator
from dp_bench.types import UserError

CHUNK = 16  # examples in a pass
ESTIMATORS = tuple(e for e in Estimator if e is not Estimator.mixture)  # `mixture` has another loss


@dataclass(frozen=True)
class Quality:
    """How an estimator's gradient of the position selector compares with the exact one."""

    estimator: str
    forwards: int
    cosine_of_mean: float  # of the mean over the draws
    cosine_of_one: float  # of a single draw, on average
    bias: float  # |mean - exact| / |exact|, Monte-Carlo error included
    noise: float  # standard deviation of a draw / |exact|


@dataclass(frozen=True)
class Landscape:
    """Losses and slopes of examples at every position, in float64, and the logits of the selector."""

    loss_MJ: Tensor
    slope_MJJ: Tensor
    logits_MJ: Tensor  # with their graph
    parameters: tuple[Tensor, ...]

    @property
    def linear_MJJ(self) -> Tensor:
        """Return the loss at i less the loss at j, as the slope at j predicts it."""
        return self.slope_MJJ - self.slope_MJJ.diagonal(dim1=1, dim2=2)[..., None]

    @property
    def true_MJJ(self) -> Tensor:
        """Return the loss at i less the loss at j."""
        return self.loss_MJ[:, None, :] - self.loss_MJ[:, :, None]

    @property
    def correlation(self) -> float:
        """Return the correlation of the predicted with the true change of the loss, over all swaps."""
        swap = ~torch.eye(self.loss_MJ.shape[1], dtype=torch.bool)
        both = torch.stack([self.linear_MJJ[:, swap].flatten(), self.true_MJJ[:, swap].flatten()])
        return float(torch.corrcoef(both)[0, 1])

    @property
    def spread(self) -> float:
        """Return the standard deviation of the loss over the positions, averaged over examples."""
        return float(self.loss_MJ.std(1).mean())


def survey(
    model: PromptedModel, split: Split, rows: Sequence[int], advance: Callable[[int], None] = lambda _: None
) -> Landscape:
    """Run these rows of a split with the prompt at every position.

    Raises UserError unless the position, and nothing else, is learned.
    """
    selector = model.prompt.position
    if model.prompt.learned_selectors != ["position"]:
        raise UserError(
            "Gradients of the position need a learned position and a fixed length: use prompt=adap_pos, "
            "adap_ins_pos or dynamic."
        )
    model.eval()
    num_outcomes = selector.num_outcomes
    pad_id = int(model.backbone.tokenizer.pad_token_id)
    loss_MJ = torch.empty(len(rows), num_outcomes, dtype=torch.float64)
    slope_MJJ = torch.empty(len(rows), num_outcomes, num_outcomes, dtype=torch.float64)
    logits = []
    for first in range(0, len(rows), CHUNK):
        chunk = slice(first, first + CHUNK)
        batch = split.batch(np.asarray(rows[chunk]), pad_id, {}).to(model.backbone.device)
        with torch.no_grad():
            summary_BD = model.summarise(batch) if model.prompt.needs_summary else None
            prompt = model.prompt(summary_BD, batch.task_B, {}, 1.0, batch.skill_B)
            x_BTD = model.embed(batch)
        input_BD = model.prompt.transform(summary_BD)
        logits.append(selector.logits(input_BD, batch.task_B).double().cpu())
        for outcome in range(num_outcomes):
            chosen = one_hot(torch.full((len(batch),), outcome), num_outcomes).float().to(x_BTD.device)
            chosen.requires_grad_()
            prompted = insert(x_BTD, batch, replace(prompt, before_BJ=chosen), model.order)
            loss_B = losses_of(model.score(prompted, batch), batch)
            (slope_BJ,) = torch.autograd.grad(loss_B.sum(), chosen)
            loss_MJ[chunk, outcome] = loss_B.detach()
            slope_MJJ[chunk, outcome] = slope_BJ
            advance(1)
    return Landscape(loss_MJ, slope_MJJ, torch.cat(logits), tuple(selector.parameters()))


def judge(landscape: Landscape, *, draws: int, temperature: float = 1.0, seed: int = 0) -> list[Quality]:
    """Return the quality of every estimator over `draws` draws."""
    exact = _parameter_gradient(landscape, _exact(landscape))
    generator = torch.Generator().manual_seed(seed)
    num_outcomes = landscape.loss_MJ.shape[1]
    qualities = []
    for estimator in ESTIMATORS:
        drawn = [
            _parameter_gradient(landscape, _logit_gradient(landscape, estimator, temperature, generator))
            for _ in range(1 if estimator is Estimator.exact else draws)
        ]
        each = torch.stack(drawn)
        mean = each.mean(0)
        qualities.append(
            Quality(
                estimator.value,
                forwards(num_outcomes, estimator),
                float(cosine_similarity(mean, exact, dim=0)),
                float(cosine_similarity(each, exact[None], dim=1).mean()),
                float((mean - exact).norm() / exact.norm()),
                float((each - mean).square().sum(1).mean().sqrt() / exact.norm()),
            )
        )
    return qualities


def _parameter_gradient(landscape: Landscape, gradient_MJ: Tensor) -> Tensor:
    """Return the gradient of the selector's parameters as one vector, given that of the logits."""
    grads = torch.autograd.grad(
        landscape.logits_MJ, landscape.parameters, grad_outputs=gradient_MJ, retain_graph=True
    )
    return torch.cat([grad.double().cpu().flatten() for grad in grads])


def _exact(landscape: Landscape) -> Tensor:
    """Return the gradient of the mean expected loss by the logits: [M,J]."""
    probabilities = landscape.logits_MJ.detach().softmax(1)
    centred = landscape.loss_MJ - (probabilities * landscape.loss_MJ).sum(1, keepdim=True)
    return probabilities * centred / len(probabilities)


def _logit_gradient(
    landscape: Landscape, estimator: Estimator, temperature: float, generator: torch.Generator
) -> Tensor:
    """Return an estimator's gradient by the logits from one draw: [M,J]."""
    if estimator is Estimator.exact:
        return _exact(landscape)
    num_rows, num_outcomes = landscape.loss_MJ.shape
    logits = landscape.logits_MJ.detach().requires_grad_()
    shape = (num_rows, noise_columns(num_outcomes, estimator))
    noise = gumbel(shape, generator, torch.float64)
    if estimator not in SCORE:
        chosen = draw(logits, noise, temperature, estimator)
        slope = (landscape.slope_MJJ * chosen.detach()[..., None]).sum(1)
        (grad,) = torch.autograd.grad((chosen * slope).sum() / num_rows, logits)
        return grad
    parts = noise.reshape(num_rows, -1, num_outcomes).unbind(1)
    halves = [draw(logits, part, temperature, estimator).detach() for part in parts]
    losses = [(landscape.loss_MJ * chosen).sum(1) for chosen in halves]
    if estimator is Estimator.leave_one_out:
        advantages = [(losses[0] - losses[1]) / 2, (losses[1] - losses[0]) / 2]
    else:
        advantages = [batch_advantage(losses[0])]
    log_probs = logits.log_softmax(1)
    goals = [
        (advantage * (log_probs * chosen).sum(1)).mean()
        for advantage, chosen in zip(advantages, halves, strict=True)
    ]
    (grad,) = torch.autograd.grad(goals, logits)
    return grad
