"""Numbers that are not finite end a run as failed: the arg-max of NaN is class 0, but no prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dp_bench.data.encoded import EncodedSplit
from dp_bench.types import RunFailedError

if TYPE_CHECKING:
    from dp_bench.objective import Objective


class NotFiniteError(RunFailedError, FloatingPointError):
    """A loss, a logit, a gradient or a trained parameter is NaN or infinite."""


def refuse_rows(
    encoded: EncodedSplit, finite_M: NDArray[np.bool_], what: str, where: str, model: nn.Module
) -> None:
    """Raise NotFiniteError with the first bad example unless `finite_M` is true for every row of the split.

    The message begins with `what`, such as "The logits are", and says `where`, such as "of rte".
    """
    if finite_M.all():
        return
    first = encoded.ids[int(np.flatnonzero(~finite_M)[0])]
    raise NotFiniteError(
        f"{what} not finite for {np.count_nonzero(~finite_M)} of {len(finite_M)} examples {where}, first for "
        f"{first}. {likely_cause(model)}"
    )


def refuse_update(
    loss: float, norm: float, update: int, model: nn.Module, alone: Iterable[tuple[str, Objective]]
) -> None:
    """Raise NotFiniteError with the first bad example unless the loss and the gradient norm are finite.

    `alone` yields the id and the objective of each example of the update; it is read only in that case.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = f"The norm of the gradients is {norm}" if math.isfinite(loss) else f"The loss is {loss}"
    first = next((example for example, goal in alone if _is_broken(model, goal)), None)
    where = "though that of each single example is finite" if first is None else f"first for example {first}"
    raise NotFiniteError(f"{what} at update {update}, {where}. {likely_cause(model)}")


def _is_broken(model: nn.Module, goal: Objective) -> bool:
    if not math.isfinite(float(goal.loss)):
        return True
    model.zero_grad()
    goal.to_minimise.backward()  # type: ignore[no-untyped-call]
    return not all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def refuse_trained(model: nn.Module, update: int) -> None:
    """Raise NotFiniteError unless all trained parameters are finite."""
    if not all(bool(p.detach().isfinite().all()) for p in model.parameters() if p.requires_grad):
        raise NotFiniteError(
            f"Trained parameters are not finite after update {update}. {likely_cause(model)}"
        )


def likely_cause(model: nn.Module) -> str:
    """Return the likely cause of numbers that are not finite, judged by the weights, and what to try."""
    for name, weight in model.named_parameters():
        broken = int((~weight.detach().isfinite()).sum())
        if broken and weight.requires_grad:
            return (
                f"{name}, which is trained, has {broken} values that are not finite: the training has "
                "diverged. Lower trainer.lr (or prompt.lr), or trainer.max_grad_norm."
            )
        if broken:
            return (
                f"{name} of the frozen backbone has {broken} values that are not finite: its checkpoint is "
                "damaged. Download or convert it again."
            )
    dtype = next(model.parameters()).dtype
    tries = ["trainer.precision=fp32"] if dtype.itemsize < 4 else []
    if any(weight.requires_grad for weight in model.parameters()):
        tries.append("a lower trainer.lr (or prompt.lr)")
    return (
        f"All weights are finite, so an activation overflows in {str(dtype).removeprefix('torch.')}. Try "
        f"{', or '.join(tries) or 'another checkpoint'}."
    )
