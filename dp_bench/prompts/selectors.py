"""Selectors: choose one of J outcomes for each example: the position, length or route of a prompt.

Paper: dynamic position, `logit = GumbelSoftmax(POS(x), tau)`, one-hot over 0..P. Differences from the
authors' code: without noise, as at evaluation, a selector takes the arg-max (theirs samples there too), and
the linear layer has no ReLU, which clips logits that then get no gradient, unless `relu` is set.

Noise is an argument, standard Gumbel, one row per example: a selector holds no generator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_bench.prompts.estimators import draw, noise_columns, one_hot
from dp_bench.settings import Estimator
from dp_bench.types import Dims


class Selector(nn.Module):
    """Base of all selectors. `needs_noise` is about training, `noise_at_eval` about evaluation as well."""

    needs_summary = False
    needs_task = False
    needs_skill = False  # instead of the task
    needs_noise = False
    noise_at_eval = False
    observes = False  # whether it learns from the losses of its outcomes, without a gradient

    def __init__(self, num_outcomes: int) -> None:
        super().__init__()
        self.num_outcomes = num_outcomes
        self.estimator = Estimator.gumbel_st

    def use(self, estimator: Estimator) -> None:
        """Set the estimator of the outcome's gradient."""
        self.estimator = estimator

    @property
    def is_learned(self) -> bool:
        """Return whether the choice is trained: it draws in training and not at evaluation."""
        return self.needs_noise and not self.noise_at_eval

    @property
    def is_per_example(self) -> bool:
        """Return whether it learns to choose for each example, by its summary."""
        return self.is_learned and self.needs_summary

    @property
    def noise_columns(self) -> int:
        """Return how many Gumbel numbers an example needs."""
        return noise_columns(self.num_outcomes, self.estimator)

    @property
    def closed_form(self) -> bool:
        """Return whether its parameters are at present solved for and not trained by gradient."""
        return False

    def begin_update(self, step: int, max_steps: int) -> None:
        """Prepare for update `step`, counted from 0."""

    def observe(self, summary_BD: Tensor, chosen_BJ: Tensor, loss_B: Tensor) -> None:
        """Note the inputs, one-hot outcomes and losses of a micro-batch."""

    def end_update(self) -> None:
        """Learn from the losses observed during an update."""

    def share_draws(self, noise_MX: Tensor) -> Tensor:
        """Return the noise of a split at evaluation, where several rows may share one draw: [M,X]."""
        return noise_MX

    def added_loss(
        self, chosen_BJ: Tensor, summary_BD: Tensor | None, task_B: Tensor, noise_BX: Tensor | None
    ) -> Tensor | None:
        """Return a scalar that training adds to the task's loss, of a batch's outcomes; None for none."""
        return None

    def log_prob(self, chosen_BJ: Tensor, summary_BD: Tensor | None, task_B: Tensor) -> Tensor:
        """Return the log-probability of one-hot outcomes, with the gradient of the logits: [B], fp32."""
        logits_BJ = self.logits(summary_BD, task_B)
        return (torch.log_softmax(logits_BJ, dim=-1) * chosen_BJ.detach()).sum(-1)

    def logits(self, summary_BD: Tensor | None, task_B: Tensor) -> Tensor:
        """Return the logits of the outcomes: [B,J], fp32.

        `summary_BD` may be None unless `needs_summary`; `task_B` is int64.
        Raises NotImplementedError for selectors without logits: `Fixed`, `Random` and `Known`.
        """
        raise NotImplementedError

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BX: Tensor | None, temperature: float
    ) -> Tensor:
        """Return one-hot outcomes [B,J], fp32: a draw where there is noise, else the most likely one.

        `noise_BX` has the columns of `noise_columns`; the first J decide the draw.
        """
        logits_BJ = self.logits(summary_BD, task_B)
        if noise_BX is None:
            return one_hot(logits_BJ.argmax(-1), logits_BJ)
        return draw(logits_BJ, noise_BX, temperature, self.estimator)


class Fixed(Selector):
    """The same outcome for every example; nothing is learned.

    Raises ValueError where `outcome` is neither a name nor an outcome.
    """

    def __init__(self, num_outcomes: int, dims: Dims, *, outcome: int | str = "all") -> None:
        super().__init__(num_outcomes)
        last = num_outcomes - 1
        named = {"all": last, "half": last // 2, "none": 0}
        self.outcome = named[outcome] if isinstance(outcome, str) else outcome
        if not 0 <= self.outcome <= last:
            raise ValueError(f"outcome={outcome} must be all, half, none or a number from 0 to {last}")

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BX: Tensor | None, temperature: float
    ) -> Tensor:
        onehot_BJ = torch.zeros(len(task_B), self.num_outcomes, device=task_B.device)
        onehot_BJ[:, self.outcome] = 1.0
        return onehot_BJ


class PerTask(Selector):
    """J free logits per task (paper: adap_pos).

    `shared_draw` uses one draw for a micro-batch in training; an evaluation that draws uses one for every
    `rows_a_draw` rows.
    """

    needs_task = True
    needs_noise = True

    def __init__(
        self, num_outcomes: int, dims: Dims, *, shared_draw: bool = False, rows_a_draw: int = 1
    ) -> None:
        super().__init__(num_outcomes)
        self.shared_draw = shared_draw
        self.rows_a_draw = rows_a_draw
        self.logits_NJ = nn.Parameter(torch.rand(dims.num_tasks, num_outcomes) - 0.5)  # as the authors'

    def logits(self, summary_BD: Tensor | None, task_B: Tensor) -> Tensor:
        return self.logits_NJ[task_B]

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BX: Tensor | None, temperature: float
    ) -> Tensor:
        if noise_BX is not None and self.shared_draw and self.training:
            noise_BX = noise_BX[:1].expand_as(noise_BX)
        return super().forward(summary_BD, task_B, noise_BX, temperature)

    def share_draws(self, noise_MX: Tensor) -> Tensor:
        return noise_MX[:: self.rows_a_draw].repeat_interleave(self.rows_a_draw, 0)[: len(noise_MX)]


class PerInstance(Selector):
    """One linear layer on the example's frozen summary (paper: adap_ins_pos)."""

    needs_summary = True
    needs_noise = True

    def __init__(self, num_outcomes: int, dims: Dims, *, relu: bool = False) -> None:
        super().__init__(num_outcomes)
        self.linear = nn.Linear(dims.summary_width, num_outcomes)
        self.relu = relu

    def logits(self, summary_BD: Tensor | None, task_B: Tensor) -> Tensor:
        assert summary_BD is not None
        logits_BJ: Tensor = self.linear(summary_BD)
        return logits_BJ.relu() if self.relu else logits_BJ


class Random(Selector):
    """Control: an outcome drawn uniformly for each example, in training and at evaluation."""

    needs_noise = True
    noise_at_eval = True

    def __init__(self, num_outcomes: int, dims: Dims) -> None:
        super().__init__(num_outcomes)

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BX: Tensor | None, temperature: float
    ) -> Tensor:
        assert noise_BX is not None
        noise_BJ = noise_BX[:, : self.num_outcomes]
        return one_hot(noise_BJ.argmax(-1), noise_BJ)  # the largest of J independent draws is uniform


class Known(Selector):
    """Control, an oracle: all examples of a group have the same outcome, `group % J`.

    The group is the `task`, or the `skill` that the data says the example needs.
    """

    def __init__(self, num_outcomes: int, dims: Dims, *, group: str) -> None:
        super().__init__(num_outcomes)
        self.needs_task, self.needs_skill = group == "task", group == "skill"

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BX: Tensor | None, temperature: float
    ) -> Tensor:
        outcome_B = task_B % self.num_outcomes
        return one_hot(outcome_B, torch.zeros(len(task_B), self.num_outcomes, device=task_B.device))
