"""Baselines that are fitted to the training rows without the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dp_bench.evaluation import Predictions, Split, score

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # L2 penalties of the linear probe; the best selection score decides


class Baseline(Protocol):
    """The class that a row of the table of methods names as its `fit`.

    Its state is the tensors that a run saves, so that `Class(tensors)` opens a finished run.
    """

    tensors: Mapping[str, Tensor]

    def __init__(self, tensors: Mapping[str, Tensor]) -> None: ...

    @classmethod
    def fit(cls, train: Split, select: Split) -> Self:
        """Fit to the training rows; tune hyperparameters, if any, on the selection rows."""
        ...

    @property
    def trainable_parameters(self) -> int:
        """The number of fitted parameters."""
        ...

    def logits(self, split: Split) -> NDArray[np.float32]:
        """Return the logits [M,C] of a split."""
        ...


class Majority:
    """Predict the most frequent label of the training rows for every example."""

    trainable_parameters = 0

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    @classmethod
    def fit(cls, train: Split, select: Split) -> Self:
        num_classes = len(train.task.labels) or 1  # ReCoRD's choices have no names: always the first
        counts = np.bincount(train.encoded.labels, minlength=num_classes)[:num_classes]
        shares = np.log((counts + 1e-9) / counts.sum()).astype(np.float32)
        return cls({"shares": torch.from_numpy(shares)})

    def logits(self, split: Split) -> NDArray[np.float32]:
        return np.tile(self.tensors["shares"].numpy(), (len(split), 1))


class LinearProbe:
    """A linear classifier on the frozen summary, which is the input of an instance-level selector.

    Multinomial logistic regression on standardised features with an L2 penalty, solved to its optimum; the
    penalty has the best selection score of RIDGES. Tensors: `weights` [C, D + 1] with the biases in the
    last column, `center` and `scale` [D].
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    @classmethod
    def fit(cls, train: Split, select: Split) -> Self:
        raw = _features(train)
        center, scale = raw.mean(0), raw.std(0) + 1e-6
        x_MD, labels_M = (raw - center) / scale, torch.from_numpy(train.encoded.labels)
        solved = [_logistic_regression(x_MD, labels_M, len(train.task.labels), ridge) for ridge in RIDGES]
        fitted = [cls({"weights": weights, "center": center, "scale": scale}) for weights in solved]
        return max(fitted, key=lambda probe: score(select, predictions_of(probe.logits(select))).value)

    @property
    def trainable_parameters(self) -> int:
        return self.tensors["weights"].numel()

    def logits(self, split: Split) -> NDArray[np.float32]:
        x_MD = (_features(split) - self.tensors["center"]) / self.tensors["scale"]
        weights = self.tensors["weights"]
        logits: NDArray[np.float32] = torch.nn.functional.linear(
            x_MD, weights[:, :-1], weights[:, -1]
        ).numpy()
        return logits


def predictions_of(logits_MC: NDArray[np.float32]) -> Predictions:
    """Return the predictions of a method that has no prompt."""
    zeros_M = np.zeros(len(logits_MC), dtype=np.int64)  # positions and lengths
    return Predictions(logits_MC.astype(np.float32), zeros_M, zeros_M, None)


def _features(split: Split) -> Tensor:
    assert split.summary_MD is not None
    return split.summary_MD[torch.from_numpy(split.encoded.rows)].double()


def _logistic_regression(x_MD: Tensor, labels_M: Tensor, num_classes: int, ridge: float) -> Tensor:
    """Return the weights, with biases in the last column [C, D + 1], of maximum penalised likelihood."""
    weights = torch.zeros(num_classes, x_MD.shape[1] + 1, dtype=x_MD.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_MC = torch.nn.functional.linear(x_MD, weights[:, :-1], weights[:, -1])
        penalty = 0.5 * ridge * weights[:, :-1].pow(2).sum()
        value = torch.nn.functional.cross_entropy(logits_MC, labels_M) + penalty
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()
