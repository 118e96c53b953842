"""What an update minimises: the loss of the outcomes drawn and, for some estimators, a term for the selector.

The vectors always learn from the loss of the outcomes drawn. With score-function estimators such as
`prompt.estimator=reinforce` the outcome has no gradient; the term `advantage x log-probability`, whose value
is meaningless, has the right gradient in expectation. X is the number of examples, or draws and examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dp_bench.model import Answer
from dp_bench.prompts.estimators import ALL_OUTCOMES, forced
from dp_bench.prompts.prompt import Prompt
from dp_bench.settings import Estimator
from dp_bench.types import Batch


@dataclass(frozen=True)
class Objective:
    """Scalars: `loss` is the mean loss of the task over the draws, `to_minimise` the start of the backward
    pass, and `added` the loss of the prompt itself, to which no task weight applies."""

    loss: Tensor
    to_minimise: Tensor
    added: Tensor | None


Model = Callable[[Batch, float], Answer]


def objective(model: Model, prompt: Prompt, batch: Batch, temperature: float) -> Objective:
    """Return the objective of a micro-batch, by as many forward passes as the estimator needs."""
    if prompt.estimator is Estimator.leave_one_out and batch.noise:
        return _leave_one_out(model, prompt, batch, temperature)
    if prompt.estimator in ALL_OUTCOMES and batch.noise:
        return _all_outcomes(model, prompt, batch, temperature)
    answer = model(batch, temperature)
    if answer.prompt.log_prob_B is None and not answer.prompt.seen and batch.gold_BC is None:
        loss = cross_entropy(answer.logits_BC, batch.label_B)
        return Objective(loss.detach(), loss, answer.prompt.loss)
    loss_B = losses_of(answer.logits_BC, batch)
    prompt.observe(answer.prompt, loss_B)
    if answer.prompt.log_prob_B is None:
        return Objective(loss_B.mean().detach(), loss_B.mean(), answer.prompt.loss)
    return _with_scores(loss_B, batch_advantage(loss_B), answer.prompt.log_prob_B, answer.prompt.loss)


def losses_of(logits_BC: Tensor, batch: Batch) -> Tensor:
    """Return minus the log-probability of the right answer, or of all right choices together: [B], in the
    dtype of the logits."""
    if batch.gold_BC is None:
        return cross_entropy(logits_BC, batch.label_B, reduction="none")
    return -logits_BC.log_softmax(1).masked_fill(~batch.gold_BC, -torch.inf).logsumexp(1)


def batch_advantage(loss_B: Tensor) -> Tensor:
    """Return each loss less the mean loss of the other examples, a baseline independent of its draw: [B]."""
    others = len(loss_B) - 1
    return loss_B - (loss_B.sum() - loss_B) / others if others else loss_B


def _with_scores(loss_X: Tensor, advantage_X: Tensor, log_prob_X: Tensor, added: Tensor | None) -> Objective:
    mean = loss_X.mean()
    return Objective(mean.detach(), mean + (advantage_X.detach() * log_prob_X).mean(), added)


def _leave_one_out(model: Model, prompt: Prompt, batch: Batch, temperature: float) -> Objective:
    """Two draws per example, each the baseline of the other (Kool et al., 2019)."""
    halves = [{name: noise.chunk(2, dim=1)[draw] for name, noise in batch.noise.items()} for draw in (0, 1)]
    answers = [model(replace(batch, noise=noise), temperature) for noise in halves]
    losses = torch.stack([losses_of(answer.logits_BC, batch) for answer in answers])
    for answer, loss_B in zip(answers, losses, strict=True):
        prompt.observe(answer.prompt, loss_B)
    scores = [answer.prompt.log_prob_B for answer in answers]
    if scores[0] is None or scores[1] is None:  # a random control, which does not learn
        return Objective(losses.mean().detach(), losses.mean(), answers[0].prompt.loss)
    log_probs = torch.stack([scores[0], scores[1]])
    return _with_scores(losses, losses - losses.flip(0), log_probs, answers[0].prompt.loss)


def _all_outcomes(model: Model, prompt: Prompt, batch: Batch, temperature: float) -> Objective:
    """The mean over all outcomes, weighted by their probabilities: J forward passes.

    `mixture` minimises `-log sum_j p_j exp(-loss_j)` instead of `sum_j p_j loss_j` once the probabilities
    have a gradient: while a selector is solved in closed form, the prompts train on what it can predict.
    """
    (name,) = prompt.learned_selectors
    num_outcomes = prompt.selectors[name].num_outcomes
    losses, log_probs = [], []
    added: list[Tensor] = []
    for outcome in range(num_outcomes):
        noise = forced(torch.full((len(batch),), outcome), num_outcomes).to(batch.noise[name])
        answer = model(replace(batch, noise={**batch.noise, name: noise}), temperature)
        assert answer.prompt.log_prob_B is not None
        losses.append(losses_of(answer.logits_BC, batch))
        log_probs.append(answer.prompt.log_prob_B)
        prompt.observe(answer.prompt, losses[-1])
        added += [] if answer.prompt.loss is None else [answer.prompt.loss]
    loss_JB, log_prob_JB = torch.stack(losses), torch.stack(log_probs)
    expected = (log_prob_JB.exp() * loss_JB).sum(0).mean()
    goal = expected
    if prompt.estimator is Estimator.mixture and log_prob_JB.requires_grad:
        goal = -torch.logsumexp(log_prob_JB - loss_JB, dim=0).mean()
    return Objective(expected.detach(), goal, torch.stack(added).mean() if added else None)
