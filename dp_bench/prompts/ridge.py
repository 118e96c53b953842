"""A selector that no gradient trains: a ridge regression of the losses that its choices led to.

Every few updates, for each outcome j, the losses of the last texts that j was chosen for are regressed on
what the selector looks at. A text then chooses by a softmax of the gains that are predicted for it, which a
rising sharpness turns from a lottery into a decision:

    gain_j(x) = -mean_j - (x - center_j) w_j,    logits = sharpness * gain / sd(gain)

With one draw a text (bandit feedback) only the loss of what was drawn is known, at the cost of one forward
pass; with `prompt.estimator=exact` those of all outcomes are. `balanced` leaves the means of the outcomes
out, so that they share the texts about equally: right for members of a pool, which become what they are
trained on, and wrong for positions, of which one may be best for every text.

After `fit_until` of the updates the fit ends, and the weights are trained by gradient from where it left
them.
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
    """Choose by predicted losses; `window` is the number of texts that a fit looks back on.

    What it has seen is part of its state: a run that is resumed goes on as if it had never stopped.
    """

    needs_summary = True
    needs_noise = True
    observes = True
    inputs_ND: Tensor
    outcomes_N: Tensor
    losses_N: Tensor  # NaN where nothing has been seen yet
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
        rows = self.window * forwards(self.num_outcomes, estimator)  # as many losses as a text has
        self.register_buffer("inputs_ND", torch.zeros(rows, self.weight_JD.shape[1]))
        self.register_buffer("outcomes_N", torch.zeros(rows, dtype=torch.long))
        self.register_buffer("losses_N", torch.full((rows,), torch.nan))

    @property
    def fits_itself(self) -> bool:
        return self.share_done < self.fit_until

    def logits(self, summary_BD: Tensor | None, task_B: Tensor) -> Tensor:
        assert summary_BD is not None
        logits_BJ = nn.functional.linear(summary_BD, self.weight_JD, self.bias_J)
        return logits_BJ.detach() if self.fits_itself else logits_BJ

    def forward(
        self, summary_BD: Tensor | None, task_B: Tensor, noise_BJ: Tensor | None, temperature: float
    ) -> Tensor:
        if noise_BJ is None or not self.fits_itself:
            return super().forward(summary_BD, task_B, noise_BJ, temperature)
        # Now and then any outcome at all, so that none is given up unseen.
        shares_BJ = self.logits(summary_BD, task_B).softmax(-1)
        shares_BJ = (1 - self.explore) * shares_BJ + self.explore / self.num_outcomes
        return one_hot((shares_BJ.log() + noise_BJ[:, : self.num_outcomes]).argmax(-1), shares_BJ)

    def begin_update(self, step: int, max_steps: int) -> None:
        self.step, self.share_done = step, step / max_steps

    def observe(self, summary_BD: Tensor, chosen_BJ: Tensor, loss_B: Tensor) -> None:
        self._new.append((summary_BD.detach(), chosen_BJ.detach().argmax(-1), loss_B.detach()))

    @torch.no_grad()
    def end_update(self) -> None:
        new, self._new = self._new, []
        if not self.fits_itself:
            return
        if ranks.size() > 1:
            own = [tuple(value.cpu() for value in part) for part in new]
            new = [part for parts in ranks.from_all(own) for part in parts]  # type: ignore[misc]
        for part in new:
            self._keep(*part)
        if (self.step + 1) % self.refit_every == 0:
            self.refit()

    def _keep(self, summary_BD: Tensor, outcome_B: Tensor, loss_B: Tensor) -> None:
        """Put what was seen in the place of what was seen longest ago."""
        rows = len(self.losses_N)
        summary_BD, outcome_B, loss_B = (own[-rows:] for own in (summary_BD, outcome_B, loss_B))
        number = len(loss_B)
        at_B = (self.number_seen + torch.arange(number, device=self.number_seen.device)) % rows
        self.inputs_ND[at_B] = summary_BD.to(self.inputs_ND)
        self.outcomes_N[at_B] = outcome_B.to(self.outcomes_N)
        self.losses_N[at_B] = loss_B.to(self.losses_N)
        self.number_seen += number

    @torch.no_grad()
    def refit(self) -> None:
        """Solve for the weights from what is in the window, in float64."""
        seen_N = ~self.losses_N.isnan()
        if not seen_N.any():
            return
        x_ND, loss_N, outcome_N = (
            own[seen_N] for own in (self.inputs_ND.double(), self.losses_N.double(), self.outcomes_N)
        )
        weight_JD = x_ND.new_zeros(self.weight_JD.shape)
        bias_J = -loss_N.mean().expand(self.num_outcomes).clone()
        eye_DD = torch.eye(x_ND.shape[1], dtype=x_ND.dtype, device=x_ND.device)
        for outcome in range(self.num_outcomes):
            own_N = outcome_N == outcome
            if not own_N.any():
                continue  # nothing is known of it: it promises what an average choice does
            center_D, level = x_ND[own_N].mean(0), loss_N[own_N].mean()
            centred_ND = x_ND[own_N] - center_D
            gram_DD = centred_ND.T @ centred_ND
            # In units of an input's mean square: the penalty means the same at any scale.
            penalty = self.ridge * gram_DD.trace() / len(eye_DD) + 1e-12
            gain_D = torch.linalg.solve(gram_DD + penalty * eye_DD, centred_ND.T @ (level - loss_N[own_N]))
            weight_JD[outcome], bias_J[outcome] = gain_D, -level - center_D @ gain_D
        gain_NJ = torch.nn.functional.linear(x_ND, weight_JD, bias_J)
        bias_J = bias_J - (gain_NJ.mean(0) if self.balanced else gain_NJ.mean())
        weight_JD, bias_J = weight_JD - weight_JD.mean(0), bias_J - bias_J.mean()
        gain_NJ = torch.nn.functional.linear(x_ND, weight_JD, bias_J)
        scale = self._sharpness() / (gain_NJ.std(correction=0) + 1e-6)
        self.weight_JD.copy_(scale * weight_JD)
        self.bias_J.copy_(scale * bias_J)

    def _sharpness(self) -> float:
        way = min(1.0, self.share_done / self.sharpen_until)
        return self.first_sharpness + (self.last_sharpness - self.first_sharpness) * way
