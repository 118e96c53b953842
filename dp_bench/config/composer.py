"""Compose configurations as Hydra does, each combination of files once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import omegaconf
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from omegaconf import DictConfig, OmegaConf, flag_override

from dp_bench.config import hydra_keys
from dp_bench.config.files import GROUPS, config_dir, has_other_files, refuse_damaged
from dp_bench.config.overrides import COMPOSE_ERRORS, explained, is_of_hydra, parse, typed
from dp_bench.settings import RunSettings
from dp_bench.types import UserError


@cache
def register_schema() -> None:
    """Register the typed schema and the resolver with Hydra, once a process."""
    ConfigStore.instance().store(name="schema", node=RunSettings)
    is_new = tuple(map(int, omegaconf.__version__.split(".")[:2])) >= (2, 4)  # before, it was another one
    register = getattr(OmegaConf, "register_resolver" if is_new else "register_new_resolver")
    register("of", _value_of, replace=True)
    register("oc.env", _refuse_environment, replace=True)


def _value_of(name: str, values: Mapping[str, Any]) -> Any:
    """Resolve `${of:${backbone.name},{t5_small: 32, else: 8}}`, a setting that depends on a choice."""
    return values.get(name, values.get("else"))


def _refuse_environment(name: str, *_: Any) -> Any:
    """Refuse `${oc.env:NAME}`: a configuration or record would copy what is secret into records."""
    raise ValueError(f"a configuration does not read the environment: type results_dir=${name} in the shell")


def set_value(cfg: DictConfig, override: Override) -> None:
    """Set `key=value` in a configuration, as Hydra does: a mapping is merged into one that is there."""
    key = override.key_or_group
    merge = OmegaConf.select(cfg, key) is not None
    OmegaConf.update(cfg, key, override.value(), merge=merge, force_add=override.is_add())


def keys_of(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a configuration, those of its parts too."""
    for key in map(str, cfg):
        path = f"{prefix}{key}"
        yield path
        if not OmegaConf.is_missing(cfg, key) and isinstance(cfg[key], DictConfig):
            yield from keys_of(cfg[key], f"{path}.")


class Composer:
    """Compose configurations from the shipped files and a user's folder.

    Hydra takes 0.1 s to compose one. A composer caches the result for each combination of files, pickled, and
    sets single values in a copy of it, so that checks and sweeps of thousands of runs are quick.
    """

    def __init__(self, extra_dir: Path | None = None) -> None:
        self.extra_dir = extra_dir
        self._composed: dict[tuple[str, ...], bytes] = {} if extra_dir else _of_shipped_files(config_dir())

    def compose(self, overrides: Sequence[str] = ()) -> DictConfig:
        """Return the configuration of one run, as Hydra composes it for `dp-bench train OVERRIDES`."""
        parsed = [parse(override) for override in overrides]
        settings = [override for override in parsed if override.key_or_group not in GROUPS]
        with explained(AttributeError):  # of OmegaConf, for a mapping in place of null
            if any(o.is_delete() or o.is_add() or o.is_force_add() for o in settings):
                return self._copy(tuple(overrides))
            cfg = self.of_choices(parsed)
            for override in settings:
                set_value(cfg, override)
            return cfg

    def of_choices(self, parsed: Sequence[Override]) -> DictConfig:
        """Return the configuration of the files that overrides choose: the caller's copy."""
        return self._copy(tuple(typed(override) for override in parsed if override.key_or_group in GROUPS))

    def task(self, name: str) -> DictConfig:
        """Return the settings in a task's file."""
        return cast(DictConfig, self.of_choices([parse(f"task={name}")]).task)

    def sweep_params(self, experiment: str) -> list[str]:
        """Return the sweeps in the file of an experiment, as a user would type them."""
        cfg = self._by_hydra([f"experiment={experiment}"], return_hydra_config=True)
        return [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()]

    def _copy(self, words: tuple[str, ...]) -> DictConfig:
        if words not in self._composed:
            self._composed[words] = pickle.dumps(self._by_hydra(words))
        return cast(DictConfig, pickle.loads(self._composed[words]))  # takes a fifth of the time of deepcopy

    def _by_hydra(self, overrides: Sequence[str], *, return_hydra_config: bool = False) -> DictConfig:
        register_schema()
        with _initialized():
            words = [*search_path(self.extra_dir), *overrides]
            try:
                cfg = hydra_compose("train", words, return_hydra_config=True)
            except COMPOSE_ERRORS:
                raise
            except Exception as error:  # Hydra could not read a file, and may raise anything
                if self.extra_dir is None:
                    raise
                refuse_damaged(self.extra_dir)
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(f"The files in {self.extra_dir} cannot be composed: {reason}.") from None
        # The shipped files are what the check compares with.
        if has_other_files(self.extra_dir) or any(map(is_of_hydra, overrides)):
            check_hydra(cfg.hydra)
        if not return_hydra_config:
            with flag_override(cfg, ["struct", "readonly"], [False, False]):
                del cfg["hydra"]
        return cfg


def check_hydra(hydra: DictConfig, *, known: tuple[str, ...] = ()) -> None:
    """Raise UserError where configuration files set keys of Hydra that are not passed on; `known` may be."""
    shipped = _shipped_hydra(config_dir(), hydra_keys.launcher_of(hydra))
    hydra_keys.check_node(hydra, shipped, known=known)


@cache
def _shipped_hydra(folder: Path, launcher: str) -> DictConfig:
    """Return Hydra's keys as the shipped files have them."""
    with _initialized():
        words = [f"hydra/launcher={launcher}"]
        return cast(DictConfig, hydra_compose("train", words, return_hydra_config=True).hydra)


@cache
def _of_shipped_files(folder: Path) -> dict[tuple[str, ...], bytes]:
    """Return the cache that the composers of a process share for files that no user edits meanwhile."""
    return {}


def copied(cfg: DictConfig) -> DictConfig:
    """Return a copy of a configuration, in less than half of the time of deepcopy."""
    return cast(DictConfig, pickle.loads(pickle.dumps(cfg)))


def compose(overrides: Sequence[str] = (), extra_dir: Path | None = None) -> DictConfig:
    """Compose the configuration of one run, as Hydra would for `dp-bench train OVERRIDES`."""
    return Composer(extra_dir).compose(overrides)


def search_path(extra_dir: Path | None) -> list[str]:
    """Return the override that names a user's folder of configurations."""
    return [f"hydra.searchpath=[file://{extra_dir.resolve()}]"] if extra_dir else []


@contextmanager
def _initialized() -> Iterator[None]:
    """Initialize Hydra to compose, and restore its state after: the caller may be one of its jobs."""
    running = get_gh_backup()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            yield
    finally:
        restore_gh_from_backup(running)


class Combinations:
    """Compose the combinations of several axes from parts that are composed once.

    A choice of file usually changes its part of the configuration only. Such parts are exchanged; a choice
    that changes more (`protocol=authors` also sets the trainer) is composed with each value of the others.
    """

    def __init__(self, axes: Mapping[str, Sequence[str]], composer: Composer) -> None:
        self._composer = composer
        self._first = [words[0] for words in axes.values()]
        self._part_of = {word: _part(key) for key, words in axes.items() for word in words}
        others = [word for words in axes.values() for word in words[1:]]
        wide = {"experiment", *(self._part_of[word] for word in others if self._changes_more(word))}
        self._narrow = {*self._part_of.values()} - wide  # parts whose axes change nothing else

    def compose(self, words: Sequence[str]) -> DictConfig:
        """Return the configuration of these overrides, one of each axis."""
        wide = [word for word in words if self._part_of[word] not in self._narrow]
        cfg = self._with(wide)
        for part in self._narrow:
            chosen = [word for word in words if self._part_of[word] == part]
            if any(word not in self._first for word in chosen):
                cfg[part] = self._with([*wide, *chosen])[part]
        return cfg

    def _with(self, words: Sequence[str]) -> DictConfig:
        """Compose the first value of every axis, replaced by these overrides where they have the same key."""
        chosen = {word.split("=", 1)[0]: word for word in words}
        return self._composer.compose([chosen.get(word.split("=", 1)[0], word) for word in self._first])

    def _changes_more(self, word: str) -> bool:
        """Say whether a value of an axis changes more than its part of the configuration."""
        before, after = (
            {**cast(dict[str, Any], OmegaConf.to_container(cfg)), self._part_of[word]: None}
            for cfg in (self._with([]), self._with([word]))
        )
        return before != after


def _part(key: str) -> str:
    """Return the part of the configuration that a key belongs to: `prompt` of `prompt/position`."""
    return key.lstrip("~+").replace("/", ".").split(".")[0]
