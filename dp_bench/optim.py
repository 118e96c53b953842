"""The optimizer of a run, and the learning rate and temperature at each update."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dp_bench import guards
from dp_bench.effective import OptimizerUsed, optimizer_of
from dp_bench.settings import OptimizerName, RegimeSettings, RunSettings, Schedule, TemperatureSettings


class TrainPlan:
    """The settings that the training loop reads; the tags are those of docs/protocol.md."""

    def __init__(self, settings: RunSettings, embedding_rms: float) -> None:
        """Collect the plan of a run; `embedding_rms` is the root mean square of its input embeddings."""
        protocol, used = settings.protocol, optimizer_of(settings)
        self.trainer = settings.trainer
        self.regime = settings.regime  # how tasks are mixed and weighted
        # None: nothing is trained by updates.
        self.optimizer = None if used is None else used.absolute(embedding_rms)
        self.order_seed = settings.seed_of("order")  # of the examples
        self.noise_seed = settings.seed_of("gumbel")  # of the selectors' draws, and of dropout
        self.sample_at_eval = protocol.sample_at_eval  # B2
        self.sum_losses = bool(self.trainer.step_each_micro_batch or protocol.sum_losses)  # B19
        self.warmup_from_zero = bool(protocol.warmup_from_zero)
        self.unusual = tuple(guards.before_training(settings, embedding_rms))  # warnings

    def temperature(self, step: int) -> float:
        """Return tau at update `step`, counted from 0."""
        return temperature(self.trainer.temperature, step, self.trainer.max_steps)

    def warm_up(self, step: int, number: int) -> float:
        """Return the share of the learning rate, in 0..1, after micro-batch `number` of update `step`, both
        counted from 0."""
        t, done = self.trainer, step  # steps of the optimizer before this one
        if t.step_each_micro_batch:
            done = step * -(-t.batch_size // (t.micro_batch_size or t.batch_size)) + number
        steps = done if self.warmup_from_zero else done + 1
        return min(1.0, steps / t.warmup_steps) if t.warmup_steps else 1.0


class Reptile:
    """The outer step of Reptile (Nichol et al., 2018, algorithm 1), after every k updates on one task: from
    the start phi of these updates, a share of the way to their end, phi <- phi + rate (theta - phi)."""

    def __init__(self, parameters: Sequence[nn.Parameter], regime: RegimeSettings) -> None:
        self.parameters = parameters if regime.reptile_updates else ()
        self.updates, self.rate = regime.reptile_updates or 1, regime.reptile_rate or 1.0
        self.start = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def end_update(self, step: int) -> None:
        """Make an outer step where update `step`, counted from 0, is the last on its task."""
        if (step + 1) % self.updates == 0:
            for start, parameter in zip(self.start, self.parameters, strict=True):
                parameter.copy_(start.lerp_(parameter, self.rate))

    @torch.no_grad()
    def load(self, start: Sequence[Tensor]) -> None:
        """Go on with the updates that began here."""
        for mine, saved in zip(self.start, start, strict=True):
            mine.copy_(saved)


Groups = Sequence[nn.Parameter] | Sequence[dict[str, Any]]  # with a learning rate a group


def temperature(settings: TemperatureSettings, step: int, max_steps: int) -> float:
    """Return tau at update `step`, counted from 0, of a training of `max_steps`.

    `authors`: after each global step s the authors' code multiplies the *running* tau by
    exp(-3e-5 s / aneal), down to 0.5, so that the exponent is the sum of all s (docs/protocol.md A7).
    """
    if settings.schedule is Schedule.constant:
        return settings.start
    if settings.schedule is Schedule.exponential:
        return settings.start * math.pow(settings.end / settings.start, step / max(1, max_steps - 1))
    return max(settings.end, settings.start * math.exp(-3e-5 / settings.anneal * step * (step + 1) / 2))


def parameter_groups(
    parameters: list[nn.Parameter], *apart: tuple[Collection[nn.Parameter], float | None]
) -> Groups:
    """Put parameters that have a learning rate of their kind into a group each; a rate of None is that of
    the rest."""
    rate_of = {id(parameter): lr for chosen, lr in apart if lr is not None for parameter in chosen}
    rates = dict.fromkeys([None, *(rate_of[id(p)] for p in parameters if id(p) in rate_of)])
    if len(rates) == 1:
        return parameters
    groups: list[dict[str, Any]] = []
    for rate in rates:
        params = [p for p in parameters if rate_of.get(id(p)) == rate]
        groups.append({"params": params} if rate is None else {"params": params, "lr": rate})
    return groups


def make_optimizer(used: OptimizerUsed, parameters: Groups) -> torch.optim.Optimizer:
    """Return AdamW, or Adafactor as Lester et al. (2021) use it, without relative steps or scaling."""
    if used.name == OptimizerName.adamw.value:
        return torch.optim.AdamW(parameters, lr=used.lr, weight_decay=used.weight_decay)
    from transformers.optimization import Adafactor

    optimizer: torch.optim.Optimizer = Adafactor(
        parameters,
        lr=used.lr,
        weight_decay=used.weight_decay,
        relative_step=False,
        scale_parameter=False,
        warmup_init=False,
    )
    return optimizer
