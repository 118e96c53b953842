"""Answers to "it trains but does not learn": each function returns what looks wrong, or nothing.

The trainer asks before it starts and at each evaluation; what it is told is printed once and kept in the
record's `warnings`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dp_bench.effective import optimizer_of
from dp_bench.methods import table
from dp_bench.prompts import catalogue
from dp_bench.settings import OptimizerName, PromptSettings, RunSettings

# Learning rates that are seen to work: of vectors, of keys and values, of LoRA and BitFit, of a whole
# backbone.
USUAL = {
    (OptimizerName.adafactor, "prompt"): (0.01, 1.0),
    (OptimizerName.adamw, "prompt"): (1e-4, 0.1),
    (OptimizerName.adafactor, "keys and values"): (1e-3, 0.1),
    (OptimizerName.adamw, "keys and values"): (1e-3, 0.1),
    (OptimizerName.adafactor, "keys and values out of an MLP"): (1e-5, 2e-3),
    (OptimizerName.adamw, "keys and values out of an MLP"): (1e-5, 2e-3),
    (OptimizerName.adafactor, "some weights"): (1e-4, 0.1),
    (OptimizerName.adamw, "some weights"): (1e-5, 1e-2),
    (OptimizerName.adafactor, "all weights"): (1e-5, 1e-2),
    (OptimizerName.adamw, "all weights"): (1e-6, 2e-3),
}


ALONE = 0.99  # a member's weight, beside which the others do not count


def before_training(settings: RunSettings) -> Iterator[str]:
    """Look at the settings alone."""
    used = optimizer_of(settings)
    kind = _what_is_trained(settings.prompt)
    if used is not None:
        low, high = USUAL[OptimizerName(used.name), kind]
        if not low <= used.lr <= high:
            yield (
                f"lr {used.lr:g} is outside of what usually works for {kind} with {used.name}: "
                f"{low:g} to {high:g}"
            )
    if settings.protocol.frozen_dropout:
        yield "dropout is on in the frozen model, which adds noise to every forward pass"


def _what_is_trained(prompt: PromptSettings) -> str:
    method = table.of(prompt.method)
    if prompt.trains_backbone:
        return table.ALL_WEIGHTS
    layers = catalogue.of(prompt.layers) if method.has_prompt else None
    return method.trains or "" if layers is None else layers.rates


def of_gradients(named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[str]:
    """Look at the gradients of an update, before they are cleared."""
    for name, parameter in named:
        gradient: Tensor | None = parameter.grad
        largest = 0.0 if gradient is None else float(gradient.detach().abs().max())
        if largest == 0.0:
            dead = ": its ReLU may be dead" if "position.linear" in name else ""
            yield f"the gradient of {name} is zero, so that it does not learn{dead}"
        elif not math.isfinite(largest):
            yield f"the gradient of {name} is not finite"


def of_predictions(choices: NDArray[np.int64], where: str) -> Iterator[str]:
    """Look at what is predicted for the rows of a split."""
    if len(choices) > 1 and (choices == choices[0]).all():
        yield f"all {len(choices)} predictions on {where} are the same"


def of_pool(weights_NK: NDArray[np.float32], where: str) -> Iterator[str]:
    """Look at the weights that a pool's members have for the rows of a split."""
    heaviest = int(weights_NK[0].argmax())
    if weights_NK.shape[1] > 1 and len(weights_NK) > 1 and (weights_NK[:, heaviest] > ALONE).all():
        yield f"the pool has collapsed: member {heaviest} alone makes the prompt of all rows of {where}"


def of_outcomes(name: str, outcomes: NDArray[np.int64], where: str) -> Iterator[str]:
    """Look at what an instance-level selector chooses for the rows of a split."""
    if len(outcomes) > 1 and (outcomes == outcomes[0]).all():
        yield f"the {name} selector has collapsed: it chooses {outcomes[0]} for all rows of {where}"
