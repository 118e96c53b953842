"""A selector without a gradient: a ridge regression of the losses of its outcomes.

Every few updates, for each outcome j, the losses of the last examples that had j are regressed on the input
of the selector. An example then draws by a softmax of its predicted gains, whose rising sharpness turns
exploration into a decision:

    gain_j(x) = -mean_j - (x - center_j) w_j,    logits = sharpness * gain / sd(gain)

With one draw per example (bandit feedback) only the loss of the outcome drawn is known, for one forward pass;
`prompt.estimator=exact` gives those of all outcomes. `balanced` leaves out the means of the outcomes, so that
each has about as many examples: right for members of a pool, which specialise in what they are trained on,
wrong for positions, one of which may be best for every example.

After the share `fit_until` of the updates the regression ends, and the weights are trained by gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dp_bench import ranks
from dp_bench.prompts.estimators import forwards, one_hot
from dp_bench.prompts.selectors import Selector
from dp_bench.settings import Estimator
from dp_bench.types import Dims


class Ridge(Selector):
    """Choose by predicted losses; a fit uses the last `window` examples.

    These are part of the state, so that a resumed run equals one that was never interrupted.
    """

    needs_summary = True
    needs_noise = True
    observes = True
    inputs_ND: Tensor
    outcomes_N: Tensor
    losses_N: Tensor  # NaN where nothing has been observed yet
    number_seen: Tensor

    def __init__(
        self,
        num_outcomes: int,
        dims: Dims,
        *,
        balanced: bool = True,
        ridge: float = 0.3,
        window: int = 640,
        refit_every: int = 5,
        explore: float = 0.1,
        sharpness: Sequence[float] = (1.0, 6.0),
        sharpen_until: float = 0.5,
        fit_until: float = 1.0,
    ) -> None:
        super().__init__(num_outcomes)
        self.balanced, self.ridge, self.refit_every, self.explore = balanced, ridge, refit_every, explore
        self.first_sharpness, self.last_sharpness = sharpness
        self.sharpen_until, self.fit_until = sharpen_until, fit_until
        self.step, self.share_done = 0, 0.0
        self.weight_JD = nn.Parameter(torch.zeros(num_outcomes, dims.summary_width))
        self.bias_J = nn.Parameter(torch.zeros(num_outcomes))
        self.window = window
        self.register_buffer("number_seen", torch.zeros((), dtype=torch.long))
        self.use(self.estimator)
        self._new: list[tuple[Tensor, Tensor, Tensor]] = []  # of this update

    def use(self, estimator: Estimator) -> None:
        super().use(estimator)
        rows = self.window * forwards(self.num_outcomes, estimator)  # as many losses as an example has
        self.register_buffer("inputs_ND", torch.zeros(rows, self.weight_JD.shape[1]))
        self.register_buffer("outcomes_N", torch.zeros(rows, dtype=torch.long))
        self.register_buffer("losses_N", torch.full((rows,), torch.nan))

    @property
    def closed_form(self) -> bool:
        return self.share_done < self.fit_until

    def logits(self, summary_BD: Tensor | None, task_B: Tensor) -> Tensor:
        assert summary_BD is not None
        logits_BJ = nn.functional.linear(summary_BD, self.weight_JD, self.bias_J)
        return logits_BJ.detach() if self.closed_form else logits_BJ

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BX: Tensor | None, temperature: float
    ) -> Tensor:
        if noise_BX is None or not self.closed_form:
            return super().forward(summary_BD, task_B, noise_BX, temperature)
        # A share of uniform draws, so that no outcome is dropped unseen.
        shares_BJ = self.logits(summary_BD, task_B).softmax(-1)
        shares_BJ = (1 - self.explore) * shares_BJ + self.explore / self.num_outcomes
        return one_hot((shares_BJ.log() + noise_BX[:, : self.num_outcomes]).argmax(-1), shares_BJ)

    def begin_update(self, step: int, max_steps: int) -> None:
        self.step, self.share_done, self._new = step, step / max_steps, []

    def observe(self, summary_BD: Tensor, chosen_BJ: Tensor, loss_B: Tensor) -> None:
        self._new.append((summary_BD.detach(), chosen_BJ.detach().argmax(-1), loss_B.detach()))

    @torch.no_grad()
    def end_update(self) -> None:
        new, self._new = self._new, []
        if not self.closed_form:
            return
        if ranks.size() > 1:
            here = [tuple(value.cpu() for value in part) for part in new]
            new = [part for parts in ranks.from_all(here) for part in parts]  # type: ignore[misc]
        for part in new:
            self._keep(*part)
        if (self.step + 1) % self.refit_every == 0:
            self.refit()

    def _keep(self, summary_BD: Tensor, outcome_B: Tensor, loss_B: Tensor) -> None:
        """Overwrite the oldest observations."""
        rows = len(self.losses_N)
        summary_BD, outcome_B, loss_B = (new[-rows:] for new in (summary_BD, outcome_B, loss_B))
        row_B = (self.number_seen + torch.arange(len(loss_B), device=self.number_seen.device)) % rows
        self.inputs_ND[row_B] = summary_BD.to(self.inputs_ND)
        self.outcomes_N[row_B] = outcome_B.to(self.outcomes_N)
        self.losses_N[row_B] = loss_B.to(self.losses_N)
        self.number_seen += len(loss_B)

    @torch.no_grad()
    def refit(self) -> None:
        """Solve for the weights by the observations of the window, in float64."""
        seen_M = ~self.losses_N.isnan()
        if not seen_M.any():
            return
        x_MD, loss_M = self.inputs_ND[seen_M].double(), self.losses_N[seen_M].double()
        outcome_M = self.outcomes_N[seen_M]
        weight_JD = x_MD.new_zeros(self.weight_JD.shape)
        bias_J = -loss_M.mean().expand(self.num_outcomes).clone()
        eye_DD = torch.eye(x_MD.shape[1], dtype=x_MD.dtype, device=x_MD.device)
        for outcome in range(self.num_outcomes):
            has_M = outcome_M == outcome
            if not has_M.any():
                continue  # unobserved: its prediction is the mean loss
            center_D, level = x_MD[has_M].mean(0), loss_M[has_M].mean()
            centred_MD = x_MD[has_M] - center_D
            gram_DD = centred_MD.T @ centred_MD
            # In units of the mean square of the input, so that the penalty does not depend on its scale.
            penalty = self.ridge * gram_DD.trace() / len(eye_DD) + 1e-12
            gain_D = torch.linalg.solve(gram_DD + penalty * eye_DD, centred_MD.T @ (level - loss_M[has_M]))
            weight_JD[outcome], bias_J[outcome] = gain_D, -level - center_D @ gain_D
        gain_MJ = torch.nn.functional.linear(x_MD, weight_JD, bias_J)
        bias_J = bias_J - (gain_MJ.mean(0) if self.balanced else gain_MJ.mean())
        weight_JD, bias_J = weight_JD - weight_JD.mean(0), bias_J - bias_J.mean()
        gain_MJ = torch.nn.functional.linear(x_MD, weight_JD, bias_J)
        scale = self._sharpness() / (gain_MJ.std(correction=0) + 1e-6)
        self.weight_JD.copy_(scale * weight_JD)
        self.bias_J.copy_(scale * bias_J)

    def _sharpness(self) -> float:
        progress = min(1.0, self.share_done / self.sharpen_until)
        return self.first_sharpness + (self.last_sharpness - self.first_sharpness) * progress
