"""Numbers that are not finite end a run as failed: a NaN is no prediction, though arg-max would call it class
0."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dp_bench.data.encode import EncodedSplit
from dp_bench.types import RunFailedError

if TYPE_CHECKING:
    from dp_bench.objective import Objective


class NotFiniteError(RunFailedError, FloatingPointError):
    """A loss, a logit, a gradient or a trained number is NaN or infinite."""


def refuse_rows(
    encoded: EncodedSplit, finite_N: NDArray[np.bool_], what: str, where: str, model: nn.Module
) -> None:
    """Raise NotFiniteError, naming the first example, unless what was computed for every row is finite."""
    if finite_N.all():
        return
    first = encoded.ids[int(np.flatnonzero(~finite_N)[0])]
    raise NotFiniteError(
        f"{what} not finite for {np.count_nonzero(~finite_N)} of {len(finite_N)} examples {where}, the first "
        f"of them {first}. {likely_cause(model)}"
    )


def refuse_score(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise NotFiniteError(f"{what} is {value}, which is no score.")


def refuse_update(
    loss: float, norm: float, update: int, model: nn.Module, alone: Iterable[tuple[str, Objective]]
) -> None:
    """Raise NotFiniteError unless loss and norm of the gradients are finite, naming the first example that
    makes them so by itself: `alone` runs one after the other forward, and is read only then."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = f"The norm of the gradients is {norm}" if math.isfinite(loss) else f"The loss is {loss}"
    first = next((example for example, goal in alone if _is_broken(model, goal)), None)
    found = "by no single example of it" if first is None else f"first by the example {first}"
    raise NotFiniteError(f"{what} at update {update}, {found}. {likely_cause(model)}")


def _is_broken(model: nn.Module, goal: Objective) -> bool:
    if not math.isfinite(float(goal.loss)):
        return True
    model.zero_grad()
    goal.to_minimise.backward()  # type: ignore[no-untyped-call]
    return not all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def refuse_trained(model: nn.Module, update: int) -> None:
    """Refuse to go on with, or to keep, what is not finite."""
    if not all(bool(p.detach().isfinite().all()) for p in model.parameters() if p.requires_grad):
        raise NotFiniteError(f"What was trained is not finite after update {update}. {likely_cause(model)}")


def likely_cause(model: nn.Module) -> str:
    """Return why a model computes what is not finite, as far as its weights show it, and what to try."""
    for name, weight in model.named_parameters():
        broken = int((~weight.detach().isfinite()).sum())
        if not broken:
            continue
        if weight.requires_grad:
            return (
                f"{name}, which is trained, holds {broken} numbers that are not finite: the training has "
                "diverged. Lower trainer.lr (or prompt.lr), or trainer.max_grad_norm."
            )
        return (
            f"{name} of the frozen backbone holds {broken} numbers that are not finite: its checkpoint is "
            "broken. Fetch or convert it again."
        )
    held = next(model.parameters()).dtype
    tries = ["trainer.precision=fp32"] if held.itemsize < 4 else []
    if any(weight.requires_grad for weight in model.parameters()):
        tries.append("a lower trainer.lr (or prompt.lr)")
    return (
        f"All weights are finite, so that an activation overflows in {str(held).removeprefix('torch.')}. Try "
        f"{', or '.join(tries) or 'another checkpoint'}."
    )
