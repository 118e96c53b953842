"""Selectors: choose one of J outcomes for each example, for the position or the length of a prompt.

Paper: dynamic position, `logit = GumbelSoftmax(POS(x), tau)`, one-hot over 0..P. Differences from the
authors' code: without noise a selector takes the arg-max, which is what evaluation does (theirs samples there
too), and no ReLU stands behind the linear layer (it clips logits that are then never trained again) unless
`relu` is set.

Noise is an argument, standard Gumbel, one row an example: a selector holds no generator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_bench.prompts.estimators import draw, noise_columns, one_hot
from dp_bench.settings import Estimator
from dp_bench.types import Dims


class Selector(nn.Module):
    """Base of all selectors. `needs_noise` holds at training, `noise_at_eval` also at evaluation."""

    needs_summary = False
    needs_task = False
    needs_skill = False  # in place of the task
    needs_noise = False
    noise_at_eval = False
    observes = False  # whether it learns from the losses of its choices, with no gradient

    def __init__(self, num_outcomes: int) -> None:
        super().__init__()
        self.num_outcomes = num_outcomes
        self.estimator = Estimator.gumbel_st

    def use(self, estimator: Estimator) -> None:
        """Take this estimator of the choice's gradient."""
        self.estimator = estimator

    @property
    def is_learned(self) -> bool:
        """Say whether the choice is trained: it draws while training and not at evaluation."""
        return self.needs_noise and not self.noise_at_eval

    @property
    def is_per_text(self) -> bool:
        """Say whether it learns to choose for each text, from its summary."""
        return self.is_learned and self.needs_summary

    @property
    def noise_columns(self) -> int:
        """How many Gumbel numbers an example takes."""
        return noise_columns(self.num_outcomes, self.estimator)

    @property
    def fits_itself(self) -> bool:
        """Say whether its parameters are set at present without a gradient."""
        return False

    def begin_update(self, step: int, max_steps: int) -> None:
        """Hear that update `step`, counted from 0, begins."""

    def observe(self, summary_BD: Tensor, chosen_BJ: Tensor, loss_B: Tensor) -> None:
        """Hear to which losses the choices of a micro-batch led."""

    def end_update(self) -> None:
        """Hear that an update is over."""

    def shared(self, noise_NJ: Tensor) -> Tensor:
        """Return the noise of a whole split at evaluation, where several rows may share one draw."""
        return noise_NJ

    def log_prob(self, chosen_BJ: Tensor, summary_BD: Tensor | None, task_B: Tensor) -> Tensor:
        """Return the log-probability of one-hot outcomes: [B]."""
        logits_BJ = self.logits(summary_BD, task_B)
        return (torch.log_softmax(logits_BJ, dim=-1) * chosen_BJ.detach()).sum(-1)

    def logits(self, summary_BD: Tensor | None, task_B: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BJ: Tensor | None, temperature: float
    ) -> Tensor:
        """Return one-hot outcomes [B,J]: a draw where there is noise, else the most likely one."""
        logits_BJ = self.logits(summary_BD, task_B)
        if noise_BJ is None:
            return one_hot(logits_BJ.argmax(-1), logits_BJ)
        return draw(logits_BJ, noise_BJ, temperature, self.estimator)


class Fixed(Selector):
    """The same outcome for every example; nothing is learned."""

    def __init__(self, num_outcomes: int, dims: Dims, *, outcome: int | str = "all") -> None:
        super().__init__(num_outcomes)
        last = num_outcomes - 1
        named = {"all": last, "half": last // 2, "none": 0}
        self.outcome = named[outcome] if isinstance(outcome, str) else outcome
        if not 0 <= self.outcome <= last:
            raise ValueError(f"outcome={outcome} must be all, half, none or a number from 0 to {last}")

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BJ: Tensor | None, temperature: float
    ) -> Tensor:
        onehot_BJ = torch.zeros(len(task_B), self.num_outcomes, device=task_B.device)
        onehot_BJ[:, self.outcome] = 1.0
        return onehot_BJ


class PerTask(Selector):
    """J free logits for each task (paper: adap_pos).

    `shared_draw` uses one draw for a whole micro-batch in training, and one for every `rows_a_draw` rows at
    an evaluation that draws.
    """

    needs_task = True
    needs_noise = True

    def __init__(
        self, num_outcomes: int, dims: Dims, *, shared_draw: bool = False, rows_a_draw: int = 1
    ) -> None:
        super().__init__(num_outcomes)
        self.shared_draw = shared_draw
        self.rows_a_draw = rows_a_draw
        self.logits_NJ = nn.Parameter(torch.rand(dims.num_tasks, num_outcomes) - 0.5)  # as the authors

    def logits(self, summary_BD: Tensor | None, task_B: Tensor) -> Tensor:
        return self.logits_NJ[task_B]

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BJ: Tensor | None, temperature: float
    ) -> Tensor:
        if noise_BJ is not None and self.shared_draw and self.training:
            noise_BJ = noise_BJ[:1].expand_as(noise_BJ)
        return super().forward(summary_BD, task_B, noise_BJ, temperature)

    def shared(self, noise_NJ: Tensor) -> Tensor:
        return noise_NJ[:: self.rows_a_draw].repeat_interleave(self.rows_a_draw, 0)[: len(noise_NJ)]


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
    """Control: an outcome drawn uniformly for each example, at training and at evaluation; nothing is
    learned."""

    needs_noise = True
    noise_at_eval = True

    def __init__(self, num_outcomes: int, dims: Dims) -> None:
        super().__init__(num_outcomes)

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BJ: Tensor | None, temperature: float
    ) -> Tensor:
        assert noise_BJ is not None
        noise_BJ = noise_BJ[:, : self.num_outcomes]
        return one_hot(noise_BJ.argmax(-1), noise_BJ)  # the largest of J independent draws is uniform


class Known(Selector):
    """Control: every text of a group has the same outcome, number `group % J`, as an oracle would route it.

    The group is its `task`, or the `skill` that the data says it takes.
    """

    def __init__(self, num_outcomes: int, dims: Dims, *, group: str) -> None:
        super().__init__(num_outcomes)
        self.needs_task, self.needs_skill = group == "task", group == "skill"

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BJ: Tensor | None, temperature: float
    ) -> Tensor:
        outcome_B = task_B % self.num_outcomes
        return one_hot(outcome_B, torch.zeros(len(task_B), self.num_outcomes, device=task_B.device))
