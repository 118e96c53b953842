"""Compose, check and build: the only file that knows Hydra.

Hydra picks the files and fills the values; everything after `build` sees typed settings. `check` reads what
the user typed before Hydra runs it, so that a mistake is answered in one paragraph, in under a second,
without torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dp_bench.checks import problems_of
from dp_bench.settings import RunSettings
from dp_bench.suggest import did_you_mean, suggest_key
from dp_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dp_bench.prompts.prompt import Prompt
    from dp_bench.types import Dims

GROUPS = (
    *("task", "backbone", "prompt", "prompt/position", "prompt/length", "prompt/vectors"),
    *("regime", "data", "trainer", "protocol", "experiment"),
)
OPEN_KEYS = ("backbone.random_init.",)  # below these, `+key=value` may add what the YAML does not name


@dataclass(frozen=True)
class Experiment:
    """One run, fully specified: typed settings for the code, the same as plain data for the record."""

    settings: RunSettings
    resolved: dict[str, Any]


def config_dir() -> Path:
    """Return the folder of the YAML files: $DP_BENCH_CONFIGS, the wheel's own copy, or the checkout's
    `configs/`."""
    package = Path(__file__).resolve().parent
    chosen = os.environ.get("DP_BENCH_CONFIGS")
    candidates = [Path(chosen).resolve()] if chosen else [package / "configs", package.parent / "configs"]
    for candidate in candidates:
        if (candidate / "train.yaml").is_file():
            return candidate
    raise UserError(
        f"No train.yaml in {' or '.join(map(str, candidates))}. Reinstall dp-bench, or set DP_BENCH_CONFIGS."
    )


@cache
def _options(group: str, folder: Path) -> tuple[str, ...]:
    root = folder / group
    inner = [folder / other for other in GROUPS if other.startswith(f"{group}/")]
    found = (
        path.relative_to(root).with_suffix("")
        for path in root.rglob("*.yaml")
        if not any(d in path.parents for d in inner)
    )
    return tuple(sorted(name.as_posix() for name in found if not name.name.startswith("_")))


def options(group: str, extra_dir: Path | None = None) -> tuple[str, ...]:
    """Return the names that `group=` accepts, from the shipped folder and the user's `--config-dir`."""
    folders = [config_dir(), *([extra_dir] if extra_dir else [])]
    return tuple(dict.fromkeys(name for folder in folders for name in _options(group, folder)))


def describe(group: str, option: str) -> str:
    """Return the sentence that opens the YAML file of an option."""
    first = (config_dir() / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
    sentence = next(line for line in first if line.startswith("#") and "@package" not in line)
    return sentence.lstrip("# ").strip()


def register_schema() -> None:
    ConfigStore.instance().store(name="schema", node=RunSettings)


def compose(overrides: Sequence[str] = (), extra_dir: Path | None = None) -> DictConfig:
    """Compose the configuration of one run, as Hydra would for `dp-bench train OVERRIDES`."""
    register_schema()
    search = [f"hydra.searchpath=[file://{extra_dir.resolve()}]"] if extra_dir else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra_compose("train", [*search, *overrides])


def build(cfg: DictConfig) -> Experiment:
    """Check a composed configuration as a whole and return it as typed settings.

    Raises UserError naming every problem at once.
    """
    missing = sorted(key for key in OmegaConf.missing_keys(cfg) if not key.startswith("hydra"))
    if missing:
        raise UserError(f"{', '.join(missing)} must be given: add {' '.join(f'{key}=…' for key in missing)}.")
    resolved = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    resolved.pop("hydra", None)
    settings = cast(RunSettings, OmegaConf.to_object(cfg))
    problems = problems_of(settings)
    if problems:
        raise UserError(_paragraph(problems))
    return Experiment(settings, resolved)


def build_prompt(experiment: Experiment, dims: Dims, embedding_VD: Tensor | None) -> Prompt:
    """Instantiate the prompt that the settings describe; the one place where a `_target_` becomes an object.

    `embedding_VD` is what vocabulary initialisation reads; `init=uniform` does without.
    """
    from hydra.utils import instantiate

    from dp_bench.prompts.prompt import build

    settings = experiment.settings.prompt
    pieces = {name: instantiate(getattr(settings, name)) for name in ("position", "length", "vectors")}
    return build(
        settings, experiment.settings.protocol, experiment.settings.seed, dims, embedding_VD, **pieces
    )


def check(overrides: Sequence[str], extra_dir: Path | None = None) -> None:
    """Raise UserError unless every configuration that `overrides` spells out composes and makes sense.

    Sweeps are checked value by value, not as a product, so that a sweep of thousands is answered as fast as
    one run.
    """
    parsed = [_parse(override) for override in overrides]
    ours = [override for override in parsed if not override.key_or_group.startswith("hydra")]
    problems = [problem for override in ours if (problem := _group_problem(override, extra_dir))]
    choices = [_typed(o) for o in ours if o.key_or_group in GROUPS and not _group_problem(o, extra_dir)]
    known = compose([_first_value(_parse(choice)) for choice in choices], extra_dir)
    problems += [problem for override in ours if (problem := _key_problem(override, known))]
    if problems:
        raise UserError(_paragraph(problems))
    seen: dict[str, None] = {}
    for combination in _combinations(ours):
        try:
            build(compose(combination, extra_dir))
        except UserError as error:
            seen[str(error)] = None
        except (HydraException, OmegaConfBaseException) as error:
            seen[_explain(error)] = None
    if seen:
        raise UserError(_paragraph(list(seen)))


def _parse(override: str) -> Override:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"'{override}' could not be read ({reason}). Write KEY=VALUE, such as prompt.num_tokens=8."
        ) from None


def _group_problem(override: Override, extra_dir: Path | None) -> str | None:
    group = override.key_or_group
    if group not in GROUPS or override.is_delete():
        return None
    known = options(group, extra_dir)
    for value in _values(override):
        if value not in (*known, "null", "None"):
            listing = ", ".join(known) if known else "none yet"
            return f"There is no {group} '{value}'. {did_you_mean(value, known)}{group}= takes: {listing}."
    return None


def _key_problem(override: Override, known: DictConfig) -> str | None:
    key = override.key_or_group
    if key in GROUPS or override.is_delete():
        return None
    keys = list(_flatten(known))
    group = key.replace(".", "/")
    if group in GROUPS:
        return (
            f"{key} is a group of settings: write {group}={_values(override)[0]}, or one of its keys, {key}.…"
        )
    if key in keys or (key.startswith(OPEN_KEYS) and override.is_add()):
        return None
    return f"There is no setting '{key}'. {suggest_key(key, list(dict.fromkeys([*keys, *GROUPS])))}"


def _values(override: Override) -> list[str]:
    """Return what an override assigns, as it would be typed: one value, or each value of a sweep."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_string()] if override.value() is not None else ["null"]


def _first_value(override: Override) -> str:
    typed = _typed(override)
    return f"{typed.split('=', 1)[0]}={_values(override)[0]}" if override.is_sweep_override() else typed


def _typed(override: Override) -> str:
    assert override.input_line is not None  # only overrides that were never text have none
    return override.input_line


def _combinations(parsed: Sequence[Override]) -> Iterator[list[str]]:
    """Yield override lists in which each value of each sweep stands once, beside the first values of the
    others."""
    first = [_first_value(override) for override in parsed]
    yield first
    for place, override in enumerate(parsed):
        for value in _values(override)[1:]:
            prefix = _typed(override).split("=", 1)[0]
            yield [*first[:place], f"{prefix}={value}", *first[place + 1 :]]


def _flatten(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, cfg):
        path = f"{prefix}{key}"
        yield path
        if not OmegaConf.is_missing(cfg, key) and isinstance(cfg[key], DictConfig):
            yield from _flatten(cfg[key], f"{path}.")


def _explain(error: Exception) -> str:
    """Turn a Hydra or OmegaConf error into one sentence: their first lines say what, their cause says why."""
    cause = error.__cause__ or error
    what = str(cause).splitlines()[0]
    where = next(
        (line.split(":", 1)[1].strip() for line in str(cause).splitlines() if "full_key" in line), ""
    )
    return f"{where}: {what}." if where else f"{str(error).splitlines()[0]}: {what}."


def _paragraph(problems: Sequence[str]) -> str:
    return problems[0] if len(problems) == 1 else "\n".join(f"  - {problem}" for problem in problems)
