"""What a prompt chooses on a split, and why: scores of the report splits under controls, and how far routes
agree with labels, predictions, sub-skills and tasks.

A position that suits a text is worse for another text; so is what a selector chooses by the summary of
another text. A route that predicts the label has read the answer from the frozen features: its pool is then
"a prompt that says yes and a prompt that says no", however well it scores.
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
    """Return the mean loss on a split of each task and what the prompt chose there: counts, mean and entropy
    (nats) of position and length, entropy of pool weights and routes. Names of several tasks are such as
    `rte/position_mean`."""
    return {
        name if len(reports) == 1 else f"{task}/{name}": value
        for task, report in reports.items()
        for name, value in {"select_loss": _loss(report), **_chosen(report.predictions, num_tokens)}.items()
    }


def _loss(report: Report) -> float:
    return round(float(report.predictions.losses(report.split.encoded.labels).mean()), 6)


def _chosen(predictions: Predictions, num_tokens: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, values in (("position", predictions.position_M), ("length", predictions.length_M)):
        counts = np.bincount(values, minlength=num_tokens + 1)
        chosen[f"{name}_counts"] = counts.tolist()  # of 0, 1, … vectors
        chosen[f"{name}_mean"] = float(values.mean())
        chosen[f"{name}_entropy"] = _entropy(counts)
    if predictions.pool_weights_MK is not None:
        weights = np.clip(predictions.pool_weights_MK, 1e-12, 1.0)
        chosen["pool_entropy"] = float(-(weights * np.log(weights)).sum(1).mean())
    if predictions.route_M is not None:
        counts = np.bincount(predictions.route_M, minlength=weights.shape[1])
        chosen["route_counts"] = counts.tolist()  # of the heaviest members
        chosen["route_entropy"] = _entropy(counts)
    return chosen


def _entropy(counts: Numbers) -> float:
    """Return the entropy of the shares of counts, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-np.sum(shares * np.log(shares)))


def after_training(
    model: PromptedModel, reports: Mapping[str, Report], settings: RunSettings
) -> dict[str, float]:
    """Return the diagnostics of a trained prompt. Scores of several tasks have names such as
    `rte/shuffled_position_score`."""
    prompt, seed = model.prompt, settings.seed_of("gumbel")
    again = partial(predict, model, batch_size=settings.trainer.eval_batch_size, seed=seed)
    controls: dict[str, Callable[[str, Report], Predictions]] = {}
    if prompt.position.is_per_example:
        controls["shuffled_position"] = lambda name, report: again(
            report.split,
            positions=_rng(seed, "shuffle", name).permutation(report.predictions.position_M),
        )
    if prompt.vectors.is_routed and prompt.needs_summary:
        controls["shuffled_input"] = lambda name, report: again(
            report.split.with_shuffled_summaries(derive(seed, "input of others", name))
        )
    if prompt.route is not None and (prompt.route.is_per_example or isinstance(prompt.route, Random)):
        controls["random_route"] = lambda name, report: again(
            report.split,
            routes=_rng(seed, "route", name).integers(prompt.vectors.num_prompts, size=len(report.split)),
        )
    several = len(reports) > 1
    scores = {
        f"{name}/{control}_score" if several else f"{control}_score": score(
            report.split, predict_control(name, report)
        ).value
        for control, predict_control in controls.items()
        for name, report in reports.items()
    }
    return scores | (_routes(reports) if prompt.vectors.is_routed else {})


def _rng(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng(derive(seed, *names))


Strata = list[tuple[Numbers, Numbers]]  # route and group of each text, one pair of arrays a task


def _routes(reports: Mapping[str, Report]) -> dict[str, float]:
    """Return purity and lambda of the routes of all reported texts with respect to label and prediction
    within each task, to the sub-skill, and to the task."""
    routed = [(r, r.predictions.route_M) for r in reports.values() if r.predictions.route_M is not None]
    strata_of: dict[str, Strata] = {
        "label": [(route_M, report.split.encoded.labels) for report, route_M in routed],
        "prediction": [(route_M, report.predictions.choices) for report, route_M in routed],
    }
    skills = [(route_M, s) for report, route_M in routed if (s := report.split.encoded.skills) is not None]
    if len(skills) == len(routed):
        strata_of["skill"] = [_concatenated(skills)]
    if len(routed) > 1:
        tasks = [(route_M, np.full(len(route_M), n)) for n, (_, route_M) in enumerate(routed)]
        strata_of["task"] = [_concatenated(tasks)]
    return {
        f"route_{measure}_{name}": of(strata)
        for name, strata in strata_of.items()
        for measure, of in (("purity", purity), ("lambda", explained))
    }


def _concatenated(strata: Strata) -> tuple[Numbers, Numbers]:
    routes, groups = zip(*strata, strict=True)
    return np.concatenate(routes), np.concatenate(groups)


def purity(strata: Strata) -> float:
    """Return the share of texts whose group is the most frequent one of their route."""
    return _right(strata) / sum(len(group_M) for _, group_M in strata)


def explained(strata: Strata) -> float:
    """Return Goodman and Kruskal's lambda: the share of the errors of guessing the most frequent group that
    knowing the route avoids, from 0 to 1. Unlike purity it is 0 for random routes of unequal groups."""
    without = sum(_most(group_M) for _, group_M in strata)
    errors = sum(len(group_M) for _, group_M in strata) - without
    return (_right(strata) - without) / errors if errors else 0.0


def _right(strata: Strata) -> int:
    """Return for how many texts the group is the most frequent one of their route."""
    return sum(_most(group_M[route_M == k]) for route_M, group_M in strata for k in np.unique(route_M))


def _most(values: Numbers) -> int:
    return int(np.unique(values, return_counts=True)[1].max())
