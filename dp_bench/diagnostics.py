"""What a prompt chooses over a split, and what a trained one goes by: its reported splits scored once more
under controls, and where routes lead.

A position that matters for a text is worse for another one; so is what a selector decides by another text's
summary. A route that knows the label has read the answer off the frozen features: its pool is "a prompt that
says yes and a prompt that says no", however well it scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_bench.evaluation import Predictions, Report, predict, score
from dp_bench.model import PromptedModel
from dp_bench.prompts.selectors import Random
from dp_bench.randomness import derive
from dp_bench.settings import RunSettings

Numbers = NDArray[np.int64]


def describe(reports: Mapping[str, Report], num_tokens: int) -> dict[str, Any]:
    """Return what the prompt chose over a split of each task: counts, mean and entropy (in nats) of position
    and length, entropy of pool weights; of several tasks under names such as `rte/position_mean`."""
    return {
        name if len(reports) == 1 else f"{task}/{name}": value
        for task, own in reports.items()
        for name, value in _chosen(own.predictions, num_tokens).items()
    }


def _chosen(predictions: Predictions, num_tokens: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, values in (("position", predictions.position_N), ("length", predictions.length_N)):
        counts = np.bincount(values, minlength=num_tokens + 1)
        chosen[f"{name}_counts"] = counts.tolist()  # of 0, 1, … vectors
        chosen[f"{name}_mean"] = float(values.mean())
        chosen[f"{name}_entropy"] = _entropy(counts)
    if predictions.pool_weights_NK is not None:
        weights = np.clip(predictions.pool_weights_NK, 1e-12, 1.0)
        chosen["pool_entropy"] = float(-(weights * np.log(weights)).sum(1).mean())
    if predictions.route_N is not None:
        counts = np.bincount(predictions.route_N, minlength=weights.shape[1])
        chosen["route_counts"] = counts.tolist()  # of the heaviest members
        chosen["route_entropy"] = _entropy(counts)
    return chosen


def _entropy(counts: Numbers) -> float:
    """Return the entropy of shares, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-np.sum(shares * np.log(shares)))


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
    again = partial(predict, model, batch_size=settings.trainer.eval_batch_size, seed=seed)
    controls: dict[str, Callable[[str, Report], Predictions]] = {}
    if prompt.position.is_per_text:
        controls["shuffled_position"] = lambda name, own: again(
            own.split, positions=_rng(seed, "shuffle", name).permutation(own.predictions.position_N)
        )
    if prompt.vectors.is_routed and prompt.needs_summary:
        controls["shuffled_input"] = lambda name, own: again(
            own.split.with_inputs_of_others(derive(seed, "input of others", name))
        )
    if prompt.route is not None and (prompt.route.is_per_text or isinstance(prompt.route, Random)):
        controls["random_route"] = lambda name, own: again(
            own.split,
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


Strata = list[tuple[Numbers, Numbers]]  # route and group of each text, of each task apart


def _routes(reports: Mapping[str, Report]) -> dict[str, float]:
    """Return what the routes of all reported texts tell: of label and prediction within each task, of the
    sub-skill, and of the task itself."""
    own = [(r, r.predictions.route_N) for r in reports.values() if r.predictions.route_N is not None]
    told: dict[str, Strata] = {
        "label": [(route_N, report.split.encoded.labels) for report, route_N in own],
        "prediction": [(route_N, report.predictions.choices) for report, route_N in own],
    }
    skills = [(route_N, s) for report, route_N in own if (s := report.split.encoded.skills) is not None]
    if len(skills) == len(own):
        told["skill"] = [_one(skills)]
    if len(own) > 1:
        told["task"] = [_one([(route_N, np.full(len(route_N), n)) for n, (_, route_N) in enumerate(own)])]
    return {
        f"route_{measure}_{name}": of(strata)
        for name, strata in told.items()
        for measure, of in (("purity", purity), ("lambda", explained))
    }


def _one(strata: Strata) -> tuple[Numbers, Numbers]:
    routes, groups = zip(*strata, strict=True)
    return np.concatenate(routes), np.concatenate(groups)


def purity(strata: Strata) -> float:
    """Return the share of texts whose group is the most frequent one of their route."""
    return _right(strata) / sum(len(group_N) for _, group_N in strata)


def explained(strata: Strata) -> float:
    """Return Goodman and Kruskal's lambda: the share of the errors of guessing the most frequent group that
    knowing the route saves, from 0 to 1. Unlike purity it is 0 for what says nothing of unequal groups."""
    without = sum(_most(group_N) for _, group_N in strata)
    errors = sum(len(group_N) for _, group_N in strata) - without
    return (_right(strata) - without) / errors if errors else 0.0


def _right(strata: Strata) -> int:
    """Return how many groups are guessed from the routes."""
    return sum(_most(group_N[route_N == k]) for route_N, group_N in strata for k in np.unique(route_N))


def _most(values: Numbers) -> int:
    return int(np.unique(values, return_counts=True)[1].max())
