"""Warnings for runs that train but do not learn: each function yields what looks wrong.

The trainer calls them before it starts and at each evaluation; warnings are printed once and kept in the
record's `warnings`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dp_bench.effective import optimizer_of
from dp_bench.evaluation import Report
from dp_bench.methods import table
from dp_bench.prompts import catalogue
from dp_bench.prompts.prompt import Prompt
from dp_bench.prompts.selectors import Selector
from dp_bench.settings import PromptSettings, RunSettings

# Learning rates that usually work (lowest, highest): of vectors (times the embeddings' root mean square),
# of keys and values, of LoRA and BitFit, of a whole backbone.
USUAL = {
    table.PROMPT: {"adafactor": (0.005, 1.0), "adamw": (1e-3, 0.2)},
    "keys and values": {"adafactor": (1e-3, 0.1), "adamw": (1e-3, 0.1)},
    "late vectors": {"adafactor": (1e-3, 1.0), "adamw": (1e-4, 0.1)},
    "a network": {"adafactor": (1e-4, 0.1), "adamw": (1e-5, 1e-2)},
    "keys and values out of an MLP": {"adafactor": (1e-5, 2e-3), "adamw": (1e-5, 2e-3)},
    "some weights": {"adafactor": (1e-4, 0.1), "adamw": (1e-5, 1e-2)},
    "all weights": {"adafactor": (1e-5, 1e-2), "adamw": (1e-6, 2e-3)},
}
ALONE = 0.99  # a member's weight above which the others do not count


def before_training(settings: RunSettings, embedding_rms: float) -> Iterator[str]:
    """Check the settings of a run; `embedding_rms` is the root mean square of the input embeddings."""
    used = optimizer_of(settings)
    kind = _what_is_trained(settings.prompt)
    if used is not None:
        low, high = USUAL[kind][used.name]
        lr = used.absolute(embedding_rms).lr
        unit = embedding_rms if kind == table.PROMPT else 1.0
        if not low <= lr / unit <= high:
            yield (
                f"lr {lr:g} is outside what usually works for {kind} with {used.name}: "
                f"{low * unit:.2g} to {high * unit:.2g}"
            )
    if settings.protocol.frozen_dropout:
        yield "dropout is on in the frozen model and adds noise to every forward pass"


def _what_is_trained(prompt: PromptSettings) -> str:
    method = table.of(prompt.method)
    if prompt.trains_backbone:
        return table.ALL_WEIGHTS
    layers = catalogue.of(prompt.layers) if method.has_prompt else None
    return method.trains or "" if layers is None else layers.rates


def of_gradients(model: nn.Module) -> Iterator[str]:
    """Check the gradients of an update of prompt and classifier head, before they are cleared.

    The backbone is left out: with one answer step, gradients of the queries of a decoder's self-attention are
    always 0. A selector fitted in closed form has none.
    """
    fitted = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, Selector) and module.closed_form
        for parameter in module.parameters()
    }
    for name, parameter in model.named_parameters():
        trained = parameter.numel() and parameter.requires_grad and not name.startswith("backbone.")
        if not trained or id(parameter) in fitted:
            continue
        gradient: Tensor | None = parameter.grad
        largest = 0.0 if gradient is None else float(gradient.detach().abs().max())
        if largest == 0.0:
            dead = ": its ReLU may be dead" if "position.linear" in name else ""
            yield f"the gradient of {name} is zero: it does not learn{dead}"
        elif not math.isfinite(largest):
            yield f"the gradient of {name} is not finite"


def of_reports(prompt: Prompt, reports: Iterable[Report]) -> Iterator[str]:
    """Check an evaluation: what is predicted and chosen for the rows of each split."""
    for report in reports:
        predictions, where = report.predictions, report.split.name
        if _are_equal(predictions.choices):
            yield f"all {len(predictions.choices)} predictions on {where} are the same"
        for name, outcomes in (("position", predictions.position_M), ("length", predictions.length_M)):
            if prompt.selectors[name].is_per_example and _are_equal(outcomes):
                yield f"the {name} selector has collapsed: it chooses {outcomes[0]} for all rows of {where}"
        weights_MK = predictions.pool_weights_MK
        if predictions.is_routed and weights_MK is not None and min(weights_MK.shape) > 1:
            member = int(weights_MK[0].argmax())
            if (weights_MK[:, member] > ALONE).all():
                yield f"the pool has collapsed: all rows of {where} use member {member} only"


def _are_equal(values: NDArray[np.int64]) -> bool:
    return len(values) > 1 and bool((values == values[0]).all())
