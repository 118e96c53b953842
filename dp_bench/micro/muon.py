"""Muon for many small matrices: the momentum of all matrices of one shape is orthogonalised at once.

The update is that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` (Keller Jordan's
Newton-Schulz coefficients, Nesterov momentum), in fp32 and batched: on a CPU the optimizer otherwise takes a
third of the time of a tiny model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 4
MOMENTUM = 0.95
WEIGHT_DECAY = 0.01


class Muon(torch.optim.Optimizer):
    """Stochastic gradient descent whose update of each matrix has singular values near one."""

    def __init__(self, matrices: Iterable[Tensor], lr: float) -> None:
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for matrix in matrices:
            by_shape.setdefault(tuple(sorted(matrix.shape)), []).append(matrix)
        super().__init__([{"params": same} for same in by_shape.values()], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one update of all matrices."""
        assert closure is None
        for group in self.param_groups:
            matrices = group["params"]
            grad = torch.stack([wide(matrix.grad) for matrix in matrices])
            momentum = self.state[matrices[0]].setdefault("momentum", torch.zeros_like(grad))
            momentum.lerp_(grad, 1 - MOMENTUM)
            update = orthogonalise(grad.lerp(momentum, MOMENTUM))
            scale = 0.2 * update.shape[-1] ** 0.5  # root mean square of an AdamW update
            for matrix, change in zip(matrices, update, strict=True):
                matrix.mul_(1 - group["lr"] * WEIGHT_DECAY)
                wide(matrix).add_(change, alpha=-group["lr"] * scale)


def wide(matrix: Tensor) -> Tensor:
    """Return a matrix, transposed if it has more rows than columns."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def orthogonalise(x: Tensor) -> Tensor:
    """Bring the singular values of each matrix of a stack near one by Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
