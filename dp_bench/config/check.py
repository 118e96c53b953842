"""Check what a user typed before Hydra runs it: the answer to a mistake is one paragraph, within a second."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dp_bench.config import hydra_keys
from dp_bench.config.build import plain, whole_problems
from dp_bench.config.composer import Composer, keys_of, set_value
from dp_bench.config.files import GROUPS, option_settings, options
from dp_bench.config.overrides import COMPOSE_ERRORS, explain, paragraph, parse, singles, typed, values_of
from dp_bench.effective import without_effect
from dp_bench.progress import notice
from dp_bench.prompts import catalogue
from dp_bench.suggest import did_you_mean, suggest_key
from dp_bench.types import UserError

OPEN_KEYS = ("backbone.random_init.",)  # below these, `+key=value` may add keys that the YAML does not have


def check(overrides: Sequence[str], composer: Composer | None = None, *, sweep: bool = True) -> None:
    """Raise UserError with all problems unless every configuration that `overrides` describes is valid.

    Sweeps are checked value by value, not as a product, so that checking thousands of runs is as fast as
    checking one. `sweep` says whether sweeps are allowed.
    """
    composer = composer or Composer()
    extra_dir = composer.extra_dir
    parsed, problems = _parse_all(overrides)
    ours = [override for override in parsed if not override.key_or_group.startswith("hydra")]
    problems += filter(None, (hydra_keys.check_word(o) for o in parsed if o not in ours))
    if not sweep:
        problems += [
            f"{typed(o)} describes several runs: add -m, dp-bench train -m {typed(o)} …"
            for o in ours
            if o.is_sweep_override()
        ]
    wrong = {problem: o.key_or_group for o in ours if (problem := _group_problem(o, extra_dir))}
    problems += wrong
    # Settings of a group that could not be chosen cannot be checked.
    unchecked = {group.split("/")[0] for group in wrong.values()}
    sound = [o for o in ours if o.key_or_group.replace("/", ".").split(".")[0] not in unchecked]
    idle: list[set[str]] = []
    # Of several runs that are refused, one is enough: composing each of a glob takes a minute.
    for combination in islice(_combinations(sound, extra_dir), None if sweep else 1):
        settings = [override for override in combination if override.key_or_group not in GROUPS]
        try:
            base = composer.of_choices(combination)
        except COMPOSE_ERRORS as error:
            problems.append(explain(error))
        else:
            problems += _setting_problems(base, settings, extra_dir)
            problems += _unread_problems(base, combination)
            if not problems:
                idle.append(_idle(base, settings))
    if problems:
        raise UserError(paragraph(list(dict.fromkeys(problems))))
    # A sweep may vary what some of its runs do not read.
    for key in sorted(set.intersection(*idle)):
        notice(f"{key} has no effect here: with these choices nothing reads it. Remove it")


def _parse_all(overrides: Sequence[str]) -> tuple[list[Override], list[str]]:
    parsed, problems = [], []
    for override in overrides:
        try:
            parsed.append(parse(override))
        except UserError as error:
            problems.append(str(error))
    return parsed, problems


def _group_problem(override: Override, extra_dir: Path | None) -> str | None:
    group = override.key_or_group
    if group not in GROUPS:
        return None
    if override.is_delete():
        return f"~{group} removes what every run needs: write {group}=NAME."
    known = options(group, extra_dir)
    values = values_of(override, extra_dir)
    for value in values:
        if value not in known:
            listing = ", ".join(known) if known else "none yet"
            hint = _checkpoint(value, extra_dir) if group == "backbone" else ""
            hint = hint or did_you_mean(value, known)
            yours = (
                "" if extra_dir else f" One of yours, {group}/{value}.yaml in DIR, needs --config-dir DIR."
            )
            return f"There is no {group} '{value}'. {hint}{group}= takes: {listing}.{yours}"
    if not values:
        return f"{typed(override)} matches nothing. {group}= takes: {', '.join(known)}."
    if override.is_add() or override.is_force_add():
        return f"{typed(override)} adds a second {group}: write {typed(override).lstrip('+')}."
    return None


def _checkpoint(name_or_path: str, extra_dir: Path | None) -> str:
    """Return what to type for the checkpoint of a hub or a folder, or "" where a text names none."""
    if "/" not in name_or_path:
        return ""
    found = [
        f"backbone={name}"
        for name in options("backbone", extra_dir)
        if option_settings("backbone", name, extra_dir).get("name_or_path") == name_or_path
    ]
    meant = " or ".join(found) or f"backbone=local backbone.name_or_path={name_or_path}"
    return f"Did you mean {meant}? "


def _setting_problems(base: DictConfig, settings: Sequence[Override], extra_dir: Path | None) -> list[str]:
    """Return what is wrong with settings, and with the configuration that they give together with `base`."""
    cfg, problems = deepcopy(base), []
    keys, of_pieces = list(keys_of(base)), _settings_of_pieces(base)
    for override in settings:
        problem = _key_problem(override, keys, of_pieces)
        if problem is None and not override.is_delete():
            try:
                set_value(cfg, override)
            except (OmegaConfBaseException, AttributeError) as error:
                problem = explain(error)
        if problem is not None:
            problems.append(problem)
    return problems + whole_problems(cfg, extra_dir)


def _unread_problems(base: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """Refuse `task=` and its settings where regime.tasks names the tasks: they would have no effect."""
    if base.regime.tasks is None:
        return []
    of_task = [o for o in overrides if o.key_or_group.split(".")[0] == "task"]
    return [
        f"{typed(override)} has no meaning with regime={base.regime.name}: name the tasks with "
        "regime.tasks=[cb,rte], and their settings with regime.task_settings={cb:{max_length:256}}."
        for override in of_task
    ]


def _idle(base: DictConfig, settings: Sequence[Override]) -> set[str]:
    """Return the keys among typed settings that have no effect on a run."""
    if not settings:
        return set()
    cfg = deepcopy(base)
    for override in settings:
        if not override.is_delete():
            set_value(cfg, override)
    ignored = without_effect(plain(cfg))
    return {o.key_or_group for o in settings if o.key_or_group in ignored and o.value() is not None}


def _settings_of_pieces(base: DictConfig) -> set[str]:
    """Return the settings of a prompt's pieces that `+key=value` may add where their YAML omits them."""
    prompt = plain(base)["prompt"]
    used = catalogue.used(prompt)
    return {f"prompt.{part}.{name}" for part, piece in used.items() for name in piece.settings}


def _problem_of_a_group(override: Override, key: str, group: str) -> str:
    """Return what to type in place of a group that was typed as a setting."""
    known = options(group)
    value = "NAME" if override.is_delete() else values_of(override)[0]
    if override.is_delete() or value in known:
        return f"{key} is a group of settings: write {group}={value}, or one of its keys, {key}.…"
    is_number = value.lstrip("-").isdecimal() and group.startswith("prompt/")
    meant = "The number of vectors is prompt.num_tokens. " if is_number else ""
    takes = f"{group}= takes: {', '.join(known)}"
    return f"{key} is a group of settings. {meant}{takes}; its keys are {key}.…"


def _key_problem(override: Override, keys: Sequence[str], of_pieces: Collection[str]) -> str | None:
    key = override.key_or_group
    group = key.replace(".", "/")
    if group in GROUPS:
        return _problem_of_a_group(override, key, group)
    inner = [known for known in keys if known.startswith(f"{key}.")]
    if inner and not isinstance(override.value(), dict | None):
        return f"{key} holds several settings, such as {inner[0]}. {suggest_key(key, inner)}"
    is_open = key.startswith(OPEN_KEYS) and any(known.startswith(OPEN_KEYS) for known in keys)
    if override.is_delete() and not is_open:
        return f"~{key} removes what every run needs: write {key}=VALUE."
    if key in keys or ((is_open or key in of_pieces) and override.is_add()):
        return None
    if key in of_pieces:
        return f"{key} is a setting that the YAML of this piece omits: write +{typed(override)}."
    names = [name for name in (*keys, *GROUPS) if "._" not in name]
    return f"There is no setting '{key}'. {suggest_key(key, list(dict.fromkeys(names)))}"


def _combinations(parsed: Sequence[Override], extra_dir: Path | None) -> Iterator[list[Override]]:
    """Yield override lists with each value of each sweep once, the other sweeps at their first value."""
    axes = [singles(override, extra_dir) for override in parsed]
    first = [values[0] for values in axes]
    yield first
    for index, values in enumerate(axes):
        for value in values[1:]:
            yield [*first[:index], value, *first[index + 1 :]]
