"""From what was typed to configurations: an experiment's sweep, spelled out run by run.

Hydra takes a tenth of a second to compose one configuration, a minute for five hundred. A choice of file
usually changes its own part of the configuration alone, so each choice is composed once and the parts are
put together; a choice that changes more (`protocol=authors` also sets the trainer) is composed with each of
the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dp_bench import config
from dp_bench.config import Experiment
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
    typed = {o.get_key_element(): o for o in map(config.parse, words)}
    chosen = typed.pop("experiment", None)
    if chosen:
        config.check([config.typed(chosen)], extra_dir)  # before its file is read
    names = config.values_of(chosen, extra_dir) if chosen else [None]
    found = []
    for name in names:
        params = config.sweep_params(name, extra_dir) if name else []
        merged = {o.get_key_element(): o for o in map(config.parse, params)} | typed
        axes = {key: [config.typed(one) for one in config.singles(o, extra_dir)] for key, o in merged.items()}
        found.append({**({"experiment": [f"experiment={name}"]} if name else {}), **axes, **ALWAYS})
    return found


def expand(axes: dict[str, list[str]], extra_dir: Path | None) -> Iterator[Choice]:
    """Check every value of every axis, then yield each combination as a checked experiment."""
    composed: dict[tuple[str, ...], DictConfig] = {}
    config.check([_joined(own) for own in axes.values()], extra_dir, composed=composed)
    parts = _Parts(axes, extra_dir, composed)
    seeds: Sequence[str | None] = axes.get("seed") or [None]
    others = {key: own for key, own in axes.items() if key != "seed"}
    for combination in itertools.product(*others.values()):
        first = (*combination, *([seeds[0]] if seeds[0] else []))
        cfg = parts.together(first)
        built = config.build(cfg, extra_dir)
        for number, seed in enumerate(seeds):
            words = (*combination, *([seed] if seed else []))
            experiment = built if number == 0 else config.reseeded(built, cfg, int(str(seed).split("=")[1]))
            swept = {k: w.split("=", 1)[1] for k, w in _by_key(axes, words) if len(axes[k]) > 1}
            yield Choice(words, experiment, swept)
            if method_of(built.settings).is_seedless:  # run with the first one
                break


def _joined(words: Sequence[str]) -> str:
    """Write the values of one axis as the sweep they came from."""
    key, first = words[0].split("=", 1)
    return f"{key}={','.join([first, *(word.split('=', 1)[1] for word in words[1:])])}"


def _by_key(axes: dict[str, list[str]], words: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((key, word) for key, own in axes.items() for word in words if word in own)


class _Parts:
    """The parts of a configuration that each value of each axis gives, composed once."""

    def __init__(
        self, axes: dict[str, list[str]], extra_dir: Path | None, composed: dict[tuple[str, ...], DictConfig]
    ) -> None:
        self.extra_dir, self.composed = extra_dir, composed
        self.first = [own[0] for own in axes.values()]
        self.node_of = {word: _node(key) for key, own in axes.items() for word in own}
        self.narrow = set(self.node_of.values()) - {"experiment"}  # nodes whose axes change nothing else
        for key, own in axes.items():
            for word in own[1:]:
                self._judge(_node(key), word, own[0])
        self.cache: dict[tuple[str, ...], DictConfig] = {}

    def together(self, words: Sequence[str]) -> DictConfig:
        """Return the configuration that these words give, one of each axis."""
        wide = [word for word in words if self.node_of[word] not in self.narrow]
        cfg = deepcopy(self._with(wide))
        for node in self.narrow:
            own = [word for word in words if self.node_of[word] == node]
            if any(word not in self.first for word in own):
                cfg[node] = self._with([*wide, *own])[node]
        return cfg

    def _with(self, words: Sequence[str]) -> DictConfig:
        """Compose the first value of every axis, with these words in the places of theirs."""
        key = tuple(words)
        if key not in self.cache:
            own = {word.split("=", 1)[0]: word for word in words}
            self.cache[key] = self._compose([own.get(w.split("=", 1)[0], w) for w in self.first])
        return self.cache[key]

    def _compose(self, words: Sequence[str]) -> DictConfig:
        return config.put_together(words, self.extra_dir, self.composed)

    def _judge(self, node: str, word: str, first: str) -> None:
        """Find out whether an axis changes more than its own node."""
        if node not in self.narrow:
            return
        other = self._compose([word if known == first else known for known in self.first])
        before = OmegaConf.to_container(self._compose(self.first))
        after = OmegaConf.to_container(other)
        assert isinstance(before, dict) and isinstance(after, dict)
        if {k: v for k, v in before.items() if k != node} != {k: v for k, v in after.items() if k != node}:
            self.narrow.discard(node)


def _node(key: str) -> str:
    """Return the part of the configuration that a key belongs to: `prompt` of `prompt/position`."""
    return key.lstrip("~+").replace("/", ".").split(".")[0]
