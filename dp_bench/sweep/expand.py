"""From what was typed to configurations: an experiment's sweep, spelled out run by run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dp_bench import config
from dp_bench.config import Combinations, Composer, Experiment, overrides
from dp_bench.effective import method_of

ALWAYS = {"on_missing": ["on_missing=error"]}  # in a sweep nothing is replaced by the embedded benchmark


@dataclass(frozen=True)
class Choice:
    """One run to be: what would be typed for it, and what that gives."""

    words: tuple[str, ...]
    experiment: Experiment
    swept: dict[str, str]  # of the settings with several values, this run's


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part what is typed into settings of runs and settings of Hydra, such as its launcher."""
    named = [f"hydra/{word}" if word.startswith("launcher=") else word for word in words]
    hydra = [word for word in named if word.lstrip("~+").startswith("hydra")]
    return [word for word in named if word not in hydra], hydra


def axes_of(words: Sequence[str], extra_dir: Path | None) -> list[dict[str, list[str]]]:
    """Return, for each experiment that is typed, what it sweeps: single overrides by key.

    What is typed takes the place of what the experiment's file sweeps under the same key.
    """
    composer = Composer(extra_dir)
    typed = {o.get_key_element(): o for o in map(overrides.parse, words)}
    chosen = typed.pop("experiment", None)
    if chosen:
        config.check([overrides.typed(chosen)], composer)  # before its file is read
    names = overrides.values_of(chosen, extra_dir) if chosen else [None]
    found = []
    for name in names:
        params = composer.sweep_params(name) if name else []
        merged = {o.get_key_element(): o for o in map(overrides.parse, params)} | typed
        axes = {
            key: [overrides.typed(one) for one in overrides.singles(sweep, extra_dir)]
            for key, sweep in merged.items()
        }
        found.append({**({"experiment": [f"experiment={name}"]} if name else {}), **axes, **ALWAYS})
    return found


def expand(axes: dict[str, list[str]], extra_dir: Path | None) -> Iterator[Choice]:
    """Check every value of every axis, then yield each combination as a checked experiment."""
    composer = Composer(extra_dir)
    config.check([_joined(values) for values in axes.values()], composer)
    combinations = Combinations(axes, composer)
    seeds: Sequence[str | None] = axes.get("seed") or [None]
    others = {key: values for key, values in axes.items() if key != "seed"}
    for combination in itertools.product(*others.values()):
        cfg = combinations.together((*combination, *([seeds[0]] if seeds[0] else [])))
        first = config.build(cfg, composer)
        for seed in seeds:
            words = (*combination, *([seed] if seed else []))
            swept = {k: w.split("=", 1)[1] for k, w in _by_key(axes, words) if len(axes[k]) > 1}
            if seed == seeds[0]:
                yield Choice(words, first, swept)
            elif method_of(first.settings).is_seedless:  # run with the first one
                break
            else:
                number = int(str(seed).split("=")[1])
                yield Choice(words, config.reseeded(first, cfg, number, extra_dir), swept)


def _joined(words: Sequence[str]) -> str:
    """Write the values of one axis as the sweep they came from."""
    key, first = words[0].split("=", 1)
    return f"{key}={','.join([first, *(word.split('=', 1)[1] for word in words[1:])])}"


def _by_key(axes: dict[str, list[str]], words: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((key, word) for key, own in axes.items() for word in words if word in own)
