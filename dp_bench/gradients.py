"""Is a position learned, or only moved? Every estimator of its gradient against the exact one.

For n examples and each of the J positions, one forward and one backward pass give the loss L[n, j] and its
slope D[n, j, i]: how the loss would change with the weight of layout i, by the straight line at layout j. The
exact gradient of the expected loss, and what any estimator makes of any number of draws, are sums of these: J
passes in all, whatever the number of draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from dp_bench.evaluation import Split
from dp_bench.model import PromptedModel
from dp_bench.objective import less_the_others, losses_of
from dp_bench.prompts.estimators import SCORE, draw, forwards, gumbel, noise_columns
from dp_bench.prompts.layout import insert
from dp_bench.settings import Estimator
from dp_bench.types import UserError

CHUNK = 16  # examples in a pass
ESTIMATORS = tuple(e for e in Estimator if e is not Estimator.mixture)  # that is of another loss


@dataclass(frozen=True)
class Quality:
    """One estimator's gradient of the position selector, against the exact one."""

    estimator: str
    forwards: int
    cosine_of_mean: float  # of the mean over the draws
    cosine_of_one: float  # of a single draw, on average
    bias: float  # |mean - exact| / |exact|; Monte-Carlo error included
    noise: float  # standard deviation of a draw / |exact|


@dataclass(frozen=True)
class Landscape:
    """What the passes gave: losses, slopes, and the selector's logits."""

    loss_NJ: Tensor
    slope_NJJ: Tensor
    logits_NJ: Tensor  # with their graph
    parameters: tuple[Tensor, ...]

    @property
    def linear_NJJ(self) -> Tensor:
        """What the slope at j predicts for the loss at i, less the loss at j."""
        own = self.slope_NJJ.diagonal(dim1=1, dim2=2)[..., None]
        return self.slope_NJJ - own

    @property
    def true_NJJ(self) -> Tensor:
        return self.loss_NJ[:, None, :] - self.loss_NJ[:, :, None]

    @property
    def correlation(self) -> float:
        """Return the correlation of the predicted with the true change of the loss, over all swaps."""
        swap = ~torch.eye(self.loss_NJ.shape[1], dtype=torch.bool)
        both = torch.stack([self.linear_NJJ[:, swap].flatten(), self.true_NJJ[:, swap].flatten()])
        return float(torch.corrcoef(both)[0, 1])

    @property
    def spread(self) -> float:
        """Return how much the loss depends on the position: its standard deviation over j, on average."""
        return float(self.loss_NJ.std(1).mean())


def survey(
    model: PromptedModel, split: Split, rows: Sequence[int], advance: Callable[[int], None] = lambda _: None
) -> Landscape:
    """Run these examples of a split with the prompt at every position."""
    selector = model.prompt.position
    if model.prompt.learned_selectors != ["position"]:
        raise UserError(
            "Gradients of the position are about a learned position and a fixed length: prompt=adap_pos, "
            "adap_ins_pos or dynamic."
        )
    model.eval()
    number = selector.num_outcomes
    pad_id = int(model.backbone.tokenizer.pad_token_id)
    losses, slopes, logits = [], [], []
    for first in range(0, len(rows), CHUNK):
        places = torch.tensor(list(rows[first : first + CHUNK])).numpy()
        batch = split.batch(places, pad_id, {}).to(model.backbone.device)
        with torch.no_grad():
            summary_BD = model.summarise(batch) if model.prompt.needs_summary else None
            decided = model.prompt(summary_BD, batch.task_B, {}, 1.0, batch.skill_B)
            x_BTD = model.backbone.embed(batch.ids_BT)
        seen_BD = model.prompt.look_at(summary_BD)
        logits.append(selector.logits(seen_BD, batch.task_B).double().cpu())
        of_chunk = []
        for outcome in range(number):
            chosen = one_hot(torch.full((len(batch),), outcome), number).float().to(x_BTD.device)
            chosen.requires_grad_()
            prompted = insert(x_BTD, batch, replace(decided, before_BJ=chosen), model.order)
            loss_B = losses_of(model.score(prompted, batch), batch)
            (slope_BJ,) = torch.autograd.grad(loss_B.sum(), chosen)
            of_chunk.append((loss_B.detach().double().cpu(), slope_BJ.double().cpu()))
            advance(1)
        losses.append(torch.stack([loss for loss, _ in of_chunk], dim=1))
        slopes.append(torch.stack([slope for _, slope in of_chunk], dim=1))
    parameters = tuple(selector.parameters())
    return Landscape(torch.cat(losses), torch.cat(slopes), torch.cat(logits), parameters)


def judge(landscape: Landscape, *, draws: int, temperature: float = 1.0, seed: int = 0) -> list[Quality]:
    """Return the quality of every estimator over so many draws."""
    exact = _of_parameters(landscape, _exact(landscape))
    generator = torch.Generator().manual_seed(seed)
    number = landscape.loss_NJ.shape[1]
    found = []
    for estimator in ESTIMATORS:
        many = 1 if estimator is Estimator.exact else draws
        each = torch.stack(
            [
                _of_parameters(landscape, _drawn(landscape, estimator, temperature, generator))
                for _ in range(many)
            ]
        )
        mean = each.mean(0)
        found.append(
            Quality(
                estimator.value,
                forwards(number, estimator),
                float(cosine_similarity(mean, exact, dim=0)),
                float(cosine_similarity(each, exact[None], dim=1).mean()),
                float((mean - exact).norm() / exact.norm()),
                float((each - mean).square().sum(1).mean().sqrt() / exact.norm()),
            )
        )
    return found


def _of_parameters(landscape: Landscape, of_logits_NJ: Tensor) -> Tensor:
    """Carry a gradient from the logits to the selector's parameters, as one vector."""
    grads = torch.autograd.grad(
        landscape.logits_NJ, landscape.parameters, grad_outputs=of_logits_NJ, retain_graph=True
    )
    return torch.cat([grad.double().cpu().flatten() for grad in grads])


def _exact(landscape: Landscape) -> Tensor:
    """Return the gradient of the mean expected loss for the logits: [N,J]."""
    shares = landscape.logits_NJ.detach().softmax(1)
    centred = landscape.loss_NJ - (shares * landscape.loss_NJ).sum(1, keepdim=True)
    return shares * centred / len(shares)


def _drawn(
    landscape: Landscape, estimator: Estimator, temperature: float, generator: torch.Generator
) -> Tensor:
    """Return what one draw of an estimator says the gradient for the logits is: [N,J]."""
    if estimator is Estimator.exact:
        return _exact(landscape)
    number, outcomes = landscape.loss_NJ.shape
    logits = landscape.logits_NJ.detach().requires_grad_()
    shape = (number, noise_columns(outcomes, estimator))
    noise = gumbel(shape, generator, torch.float64)
    if estimator not in SCORE:
        chosen = draw(logits, noise, temperature, estimator)
        slope = (landscape.slope_NJJ * chosen.detach()[..., None]).sum(1)
        (grad,) = torch.autograd.grad((chosen * slope).sum() / number, logits)
        return grad
    parts = noise.reshape(number, -1, outcomes).unbind(1)
    halves = [draw(logits, part, temperature, estimator).detach() for part in parts]
    losses = [(landscape.loss_NJ * chosen).sum(1) for chosen in halves]
    if estimator is Estimator.leave_one_out:
        advantages = [(losses[0] - losses[1]) / 2, (losses[1] - losses[0]) / 2]
    else:
        advantages = [less_the_others(losses[0])]
    log_probs = logits.log_softmax(1)
    goal = sum(
        (advantage * (log_probs * chosen).sum(1)).mean()
        for advantage, chosen in zip(advantages, halves, strict=True)
    )
    assert isinstance(goal, Tensor)
    (grad,) = torch.autograd.grad(goal, logits)
    return grad
