"""What a trained prompt goes by: its reported splits scored once more under controls, and where routes lead.

A position that matters for a text is worse for another one; so is what a selector decides by another text's
summary. A route that knows the label has read the answer off the frozen features: its pool is "a prompt that
says yes and a prompt that says no", however well it scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from dp_bench.evaluation import Predictions, Report, predict, score
from dp_bench.model import PromptedModel
from dp_bench.prompts.ridge import Ridge
from dp_bench.prompts.selectors import PerInstance, Random
from dp_bench.randomness import derive
from dp_bench.settings import RunSettings

Numbers = NDArray[np.int64]


def after_training(
    model: PromptedModel, reports: Mapping[str, Report], settings: RunSettings
) -> dict[str, float]:
    """Return what is measured of a prompt beside its score; of several tasks under names such as
    `rte/shuffled_position_score`."""
    found = _controls(model, reports, settings)
    if model.prompt.vectors.is_routed:
        found |= _routes(reports)
    return found


def _controls(model: PromptedModel, reports: Mapping[str, Report], settings: RunSettings) -> dict[str, float]:
    prompt, seed = model.prompt, settings.seed_of("gumbel")
    size = settings.trainer.eval_batch_size
    controls: dict[str, Callable[[str, Report], Predictions]] = {}
    if isinstance(prompt.position, PerInstance | Ridge):
        controls["shuffled_position"] = lambda name, own: predict(
            model,
            own.split,
            batch_size=size,
            seed=seed,
            positions=_rng(seed, "shuffle", name).permutation(own.predictions.position_N),
        )
    if prompt.vectors.is_routed and prompt.needs_summary:
        controls["shuffled_input"] = lambda name, own: predict(
            model,
            own.split.with_inputs_of_others(derive(seed, "input of others", name)),
            batch_size=size,
            seed=seed,
        )
    if isinstance(prompt.route, PerInstance | Ridge | Random):
        controls["random_route"] = lambda name, own: predict(
            model,
            own.split,
            batch_size=size,
            seed=seed,
            routes=_rng(seed, "route", name).integers(prompt.vectors.num_prompts, size=len(own.split)),
        )
    several = len(reports) > 1
    return {
        f"{name}/{control}_score" if several else f"{control}_score": score(own.split, made(name, own)).value
        for control, made in controls.items()
        for name, own in reports.items()
    }


def _rng(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng(derive(seed, *names))


def _routes(reports: Mapping[str, Report]) -> dict[str, float]:
    """Return what the routes of all reported texts tell: of label, prediction, sub-skill and task."""
    own = [report for report in reports.values() if report.predictions.route_N is not None]
    route_N = np.concatenate([_some(report.predictions.route_N) for report in own])
    first = np.cumsum([0, *(len(report.split.task.labels) for report in own)])  # labels of a task apart
    groups = {
        "label": [report.split.encoded.labels + n for report, n in zip(own, first, strict=False)],
        "prediction": [report.predictions.choices + n for report, n in zip(own, first, strict=False)],
    }
    if all(report.split.encoded.skills is not None for report in own):
        groups["skill"] = [_some(report.split.encoded.skills) for report in own]
    if len(own) > 1:
        groups["task"] = [np.full(len(report.split), number) for number, report in enumerate(own)]
    found = {}
    for name, parts in groups.items():
        group_N = np.concatenate(parts)
        found[f"route_purity_{name}"] = purity(route_N, group_N)
        found[f"route_lambda_{name}"] = explained(route_N, group_N)
    return found


def _some(values: Numbers | None) -> Numbers:
    assert values is not None
    return values


def purity(route_N: Numbers, group_N: Numbers) -> float:
    """Return the share of texts whose group is the most frequent one of their route."""
    return sum(_most(group_N[route_N == route]) for route in np.unique(route_N)) / len(group_N)


def explained(route_N: Numbers, group_N: Numbers) -> float:
    """Return Goodman and Kruskal's lambda: the share of the errors of guessing the most frequent group that
    knowing the route saves, from 0 to 1. Unlike purity it is 0 for what says nothing of unequal groups."""
    errors = len(group_N) - _most(group_N)
    return (purity(route_N, group_N) * len(group_N) - _most(group_N)) / errors if errors else 0.0


def _most(values: Numbers) -> int:
    return int(np.unique(values, return_counts=True)[1].max())
