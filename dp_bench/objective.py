"""What an update minimises: the loss of the draws, and where an estimator needs it what teaches the selector.

The vectors learn from the loss of the draws in every case. With `prompt.estimator=reinforce` and its kin the
choice itself has no gradient; a term whose value means nothing, `advantage x log-probability`, has the right
one in expectation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    """`loss` is the task's mean loss over the draws, `to_minimise` what the backward pass starts from, and
    `added` what the prompt adds of its own, which no task weight is for."""

    loss: Tensor
    to_minimise: Tensor
    added: Tensor | None


Model = Callable[[Batch, float], Answer]


def objective(model: Model, prompt: Prompt, batch: Batch, temperature: float) -> Objective:
    """Run a micro-batch forward, as often as the prompt's estimator needs."""
    if prompt.estimator is Estimator.leave_one_out and batch.noise:
        return _leave_one_out(model, prompt, batch, temperature)
    if prompt.estimator in ALL_OUTCOMES and batch.noise:
        return _all_outcomes(model, prompt, batch, temperature)
    answer = model(batch, temperature)
    if answer.prompt.log_prob_B is None and not answer.prompt.seen and batch.gold_BC is None:
        loss = cross_entropy(answer.logits_BC, batch.label_B)
        return Objective(loss.detach(), loss, answer.prompt.loss)
    loss_B = _losses(answer, batch)
    prompt.observe(answer.prompt, loss_B)
    if answer.prompt.log_prob_B is None:
        return Objective(loss_B.mean().detach(), loss_B.mean(), answer.prompt.loss)
    return _with_scores(loss_B, less_the_others(loss_B), answer.prompt.log_prob_B, answer.prompt.loss)


def _losses(answer: Answer, batch: Batch) -> Tensor:
    return losses_of(answer.logits_BC, batch)


def losses_of(logits_BC: Tensor, batch: Batch) -> Tensor:
    """Return minus the log-probability of what is right, for each example: of its label, or where several
    choices are right of all of them together."""
    if batch.gold_BC is None:
        return cross_entropy(logits_BC, batch.label_B, reduction="none")
    return -logits_BC.log_softmax(1).masked_fill(~batch.gold_BC, -torch.inf).logsumexp(1)


def less_the_others(loss_B: Tensor) -> Tensor:
    """Return each loss less the mean of the other examples': a baseline that its own draw has no part in."""
    others = len(loss_B) - 1
    return loss_B - (loss_B.sum() - loss_B) / others if others else loss_B


def _with_scores(loss_X: Tensor, advantage_X: Tensor, log_prob_X: Tensor, added: Tensor | None) -> Objective:
    mean = loss_X.mean()
    return Objective(mean.detach(), mean + (advantage_X.detach() * log_prob_X).mean(), added)


def _leave_one_out(model: Model, prompt: Prompt, batch: Batch, temperature: float) -> Objective:
    """Two draws for each example; each is the other's baseline (Kool et al., 2019)."""
    halves = [{name: own.chunk(2, dim=1)[draw] for name, own in batch.noise.items()} for draw in (0, 1)]
    answers = [model(batch.with_(noise=noise), temperature) for noise in halves]
    losses = torch.stack([_losses(answer, batch) for answer in answers])
    for answer, loss_B in zip(answers, losses, strict=True):
        prompt.observe(answer.prompt, loss_B)
    scores = [answer.prompt.log_prob_B for answer in answers]
    if scores[0] is None or scores[1] is None:  # a random control: nothing learns from its draws
        return Objective(losses.mean().detach(), losses.mean(), answers[0].prompt.loss)
    log_probs = torch.stack([scores[0], scores[1]])
    return _with_scores(losses, losses - losses.flip(0), log_probs, answers[0].prompt.loss)


def _all_outcomes(model: Model, prompt: Prompt, batch: Batch, temperature: float) -> Objective:
    """The mean over all outcomes, weighed by their probabilities: J forward passes.

    `mixture` minimises `-log sum_j p_j exp(-loss_j)` in place of `sum_j p_j loss_j`, once the probabilities
    have a gradient: while a selector fits itself the prompts see only what it can predict.
    """
    (name,) = prompt.learned_selectors
    number = prompt.selectors[name].num_outcomes
    losses, log_probs = [], []
    added: list[Tensor] = []
    for outcome in range(number):
        asked = forced(torch.full((len(batch),), outcome), number).to(batch.noise[name])
        answer = model(batch.with_(noise={**batch.noise, name: asked}), temperature)
        assert answer.prompt.log_prob_B is not None
        losses.append(_losses(answer, batch))
        log_probs.append(answer.prompt.log_prob_B)
        prompt.observe(answer.prompt, losses[-1])
        added += [] if answer.prompt.loss is None else [answer.prompt.loss]
    loss_JB, log_prob_JB = torch.stack(losses), torch.stack(log_probs)
    expected = (log_prob_JB.exp() * loss_JB).sum(0).mean()
    goal = expected
    if prompt.estimator is Estimator.mixture and log_prob_JB.requires_grad:
        goal = -torch.logsumexp(log_prob_JB - loss_JB, dim=0).mean()
    return Objective(expected.detach(), goal, torch.stack(added).mean() if added else None)
