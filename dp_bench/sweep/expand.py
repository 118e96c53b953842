"""Expand what was typed into configurations: an experiment's sweep, run by run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dp_bench import config
from dp_bench.config import Combinations, Composer, Experiment, overrides
from dp_bench.effective import method_of

ALWAYS = {"on_missing": ["on_missing=error"]}  # a sweep never falls back to the embedded benchmark


@dataclass(frozen=True)
class Choice:
    """One planned run: its overrides, and the experiment that they describe."""

    words: tuple[str, ...]
    experiment: Experiment
    swept: dict[str, str]  # this run's values of the settings that the sweep varies


def axes_of(words: Sequence[str], extra_dir: Path | None) -> list[dict[str, list[str]]]:
    """Return the sweep of each experiment that was typed: single overrides by key.

    A typed sweep replaces the sweep of the experiment's file with the same key. Raises UserError where an
    experiment does not exist.
    """
    composer = Composer(extra_dir)
    typed = {o.get_key_element(): o for o in map(overrides.parse, words)}
    chosen = typed.pop("experiment", None)
    if chosen:
        config.check([overrides.typed(chosen)], composer)  # before its file is read
    names = overrides.values_of(chosen, extra_dir) if chosen else [None]
    sweeps = []
    for name in names:
        params = composer.sweep_params(name) if name else []
        merged = {o.get_key_element(): o for o in map(overrides.parse, params)} | typed
        axes = {
            key: [overrides.typed(one) for one in overrides.singles(sweep, extra_dir)]
            for key, sweep in merged.items()
        }
        sweeps.append({**({"experiment": [f"experiment={name}"]} if name else {}), **axes, **ALWAYS})
    return sweeps


def expand(axes: dict[str, list[str]], extra_dir: Path | None) -> Iterator[Choice]:
    """Check every value of every axis, then yield each combination as an experiment.

    Raises UserError where a value is wrong.
    """
    composer = Composer(extra_dir)
    config.check([_joined(values) for values in axes.values()], composer)
    combinations = Combinations(axes, composer)
    seeds: Sequence[str | None] = axes.get("seed") or [None]
    others = {key: values for key, values in axes.items() if key != "seed"}
    varied = {key: values for key, values in axes.items() if len(values) > 1}
    for combination in itertools.product(*others.values()):
        cfg = combinations.compose((*combination, *([seeds[0]] if seeds[0] else [])))
        first = config.build(cfg, composer)
        for seed in seeds:
            words = (*combination, *([seed] if seed else []))
            swept = {k: w.split("=", 1)[1] for k, v in varied.items() for w in words if w in v}
            if seed == seeds[0]:
                yield Choice(words, first, swept)
            elif method_of(first.settings).is_seedless:  # the first seed stands for all
                break
            else:
                number = int(str(seed).split("=")[1])
                yield Choice(words, config.reseeded(first, cfg, number, extra_dir), swept)


def _joined(words: Sequence[str]) -> str:
    """Write the values of one axis as one sweep."""
    key = words[0].split("=", 1)[0]
    return f"{key}={','.join(word.split('=', 1)[1] for word in words)}"
