"""Compose, check and build: the only file that knows Hydra.

Hydra picks the files and fills the values; everything after `build` sees typed settings. `check` reads what
the user typed before Hydra runs it, so that a mistake is answered in one paragraph, in under a second,
without torch.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dp_bench import records
from dp_bench.checks import problems_of, task_problems
from dp_bench.prompts import catalogue
from dp_bench.settings import Init, PromptSettings, RunSettings, TaskSettings
from dp_bench.suggest import did_you_mean, suggest_key
from dp_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dp_bench.prompts.prompt import Prompt
    from dp_bench.types import Dims

GROUPS = (
    *("task", "backbone", "prompt", "prompt/position", "prompt/length", "prompt/vectors", "prompt/layers"),
    "prompt/route",
    *("regime", "data", "trainer", "protocol", "hpo", "experiment"),
)
OPEN_KEYS = ("backbone.random_init.",)  # below these, `+key=value` may add what the YAML does not name

COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)


@dataclass(frozen=True)
class Experiment:
    """One run, fully specified: typed settings for the code, the same as plain data for the record."""

    settings: RunSettings
    resolved: dict[str, Any]
    tasks: tuple[TaskSettings, ...]  # what is trained on: `settings.task`, or under regime=multitask several
    transfer: tuple[TaskSettings, ...] = ()  # what the trained prompt is tried on besides


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


def prompt_settings(name: str, extra_dir: Path | None = None) -> dict[str, Any]:
    """Return the settings of a prompt as its files have them: what Hydra composes, for a list in no time."""
    settings: dict[str, Any] = {}
    content = dict(option_file("prompt", name, extra_dir))
    for default in content.pop("defaults", ["_self_"]):
        if default == "_self_":
            for key, value in content.items():
                merged = isinstance(value, dict) and isinstance(settings.get(key), dict)
                settings[key] = settings[key] | value if merged else value
        elif isinstance(default, str):
            settings |= prompt_settings(default, extra_dir)
        else:
            ((part, option),) = default.items()
            settings[part] = (
                None if option is None else dict(option_file(f"prompt/{part}", option, extra_dir))
            )
    return settings


@cache
def option_file(group: str, option: str, extra_dir: Path | None) -> dict[str, Any]:
    """Read the file of an option, a user's before a shipped one."""
    folders = [*([extra_dir] if extra_dir else []), config_dir()]
    paths = [folder / group / f"{option}.yaml" for folder in folders]
    path = next((path for path in paths if path.is_file()), paths[-1])
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is built
    content: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), loader)
    return content


@cache
def register_schema() -> None:
    """Tell Hydra, once a process, what settings there are and of what types."""
    ConfigStore.instance().store(name="schema", node=RunSettings)
    OmegaConf.register_new_resolver("of", _value_of, replace=True)


def _value_of(name: str, values: Mapping[str, Any]) -> Any:
    """Resolve `${of:${backbone.name},{t5_small: 32, else: 8}}`, a setting that depends on a choice."""
    return values.get(name, values.get("else"))


def compose(overrides: Sequence[str] = (), extra_dir: Path | None = None) -> DictConfig:
    """Compose the configuration of one run, as Hydra would for `dp-bench train OVERRIDES`."""
    register_schema()
    with _initialized(extra_dir) as search:
        return hydra_compose("train", [*search, *overrides])


@contextmanager
def _initialized(extra_dir: Path | None) -> Iterator[list[str]]:
    """Make Hydra ready to compose; give the override that names the user's own folder."""
    running = get_gh_backup()  # Hydra itself, where this is called from one of its jobs
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            yield [f"hydra.searchpath=[file://{extra_dir.resolve()}]"] if extra_dir else []
    finally:
        restore_gh_from_backup(running)


def sweep_params(experiment: str, extra_dir: Path | None = None) -> list[str]:
    """Return what an experiment's file sweeps, as it would be typed: its `hydra.sweeper.params`."""
    register_schema()
    with _initialized(extra_dir) as search:
        cfg = hydra_compose("train", [*search, f"experiment={experiment}"], return_hydra_config=True)
    return [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()]


def build(cfg: DictConfig, extra_dir: Path | None = None) -> Experiment:
    """Check a composed configuration as a whole and return it as typed settings.

    Raises UserError naming every problem at once.
    """
    extra_dir = extra_dir or _extra_dir()
    if cfg.data.templated:
        cfg = deepcopy(cfg)
        _keep_nothing_together(cfg.task)
    cfg = apply_protocol(cfg, extra_dir)
    problems = _whole_problems(cfg, extra_dir)
    if problems:
        raise UserError(_paragraph(problems))
    resolved = _plain(cfg) | {"task": _plain_task(cfg.task)}
    resolved.pop("hydra", None)
    settings = _settings(cfg)
    space = resolved["hpo"].pop("space")  # what was found in it stands at its own place
    searched = [k for k, v in space.items() if settings.hpo.name and settings.hpo.is_for(settings.prompt, v)]
    resolved["hpo"]["searched"] = sorted(searched)
    if settings.prompt.init is Init.saved:
        resolved["prompt"]["init_sha256"] = _saved_sha256(settings.prompt)
    regime = settings.regime
    own = regime.task_settings or {}

    def other_task(name: str) -> DictConfig:
        node = _task(name, own.get(name, {}), extra_dir)
        if settings.data.templated:
            _keep_nothing_together(node)
        return node

    transfer = {name: other_task(name) for name in regime.transfer or ()}
    if transfer:
        resolved["transfer"] = {name: _plain_task(node) for name, node in transfer.items()}
    others = tuple(_task_settings(node) for node in transfer.values())
    if regime.tasks is None:
        return Experiment(settings, resolved, (settings.task,), others)
    several = {name: other_task(name) for name in regime.tasks}
    tasks = tuple(_task_settings(node) for node in several.values())
    for task in tasks:
        if task.trains_on is not None:
            raise UserError(
                f"regime.tasks names '{task.name}', a diagnostic without training examples: use "
                f"regime.tasks=[…,{task.trains_on}] regime.transfer=[{task.name}]."
            )
    name, title = "+".join(several), " + ".join(task.title for task in tasks)
    settings.task = TaskSettings(name=name, title=title)
    plain = {name: _plain_task(node) for name, node in several.items()}
    resolved["task"] = {"name": name, "title": title, "tasks": plain}
    return Experiment(settings, resolved, tasks, others)


def apply_protocol(cfg: DictConfig, extra_dir: Path | None) -> DictConfig:
    """Return a configuration with what its protocol sets of pieces and prompts at their own places.

    What was typed stays: a setting of a prompt is only set where it is what the prompt's file says.
    """
    by_piece, by_prompt = cfg.protocol.by_piece, cfg.protocol.by_prompt
    if by_piece is None and by_prompt is None:
        return cfg
    cfg = deepcopy(cfg)
    with open_dict(cfg):
        cfg.protocol.by_piece = cfg.protocol.by_prompt = None
        for piece in (cfg.prompt[part] for part in catalogue.PARTS if cfg.prompt[part] is not None):
            for key, value in (by_piece or {}).get(str(piece.get("_target_")).rsplit(".", 1)[-1], {}).items():
                piece.setdefault(key, value)
        changed = (by_prompt or {}).get(cfg.prompt.name, {})
        usual = records.flatten({"prompt": prompt_settings(cfg.prompt.name, extra_dir)}) if changed else {}
        typed_in = records.flatten(_plain(cfg))
        for key, value in changed.items():
            if typed_in.get(key) == usual.get(key):
                OmegaConf.update(cfg, key, value)
    return cfg


def _keep_nothing_together(task: DictConfig) -> None:
    """Drop what keeps rows together: a generator has so few sentences that all its rows share some."""
    for node in (task, task.train_task):
        if node is not None:
            node.together = None


def reopen(resolved: Mapping[str, Any], results_dir: Path) -> Experiment:
    """Return the experiment of a finished run, from what its record says."""
    known = deepcopy(dict(resolved))
    transfer = known.pop("transfer", {})
    several = known["task"].get("tasks")
    if several is not None:
        known["task"] = {key: value for key, value in known["task"].items() if key != "tasks"}
    known.get("hpo", {}).pop("searched", None)
    protocol = known["protocol"]
    former = {key.removeprefix("protocol."): value for key, value in records.FORMER.items()}
    known["protocol"] = {k: v for k, v in protocol.items() if k not in former or v != former[k]}
    known["prompt"].pop("init_sha256", None)
    known["results_dir"] = str(results_dir)
    try:
        cfg = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(RunSettings), known))
        settings = (
            cast(RunSettings, OmegaConf.to_object(cfg)) if several is None else _settings_of_several(cfg)
        )
        trained = (settings.task,) if several is None else tuple(map(_reopened_task, several.values()))
        others = tuple(map(_reopened_task, transfer.values()))
    except OmegaConfBaseException as error:
        raise UserError(f"The run was made by another version of dp-bench: {explain(error)}") from None
    return Experiment(settings, dict(resolved), trained, others)


def _settings_of_several(cfg: DictConfig) -> RunSettings:
    """Return settings whose task is no more than a name for several."""
    name, title = cfg.task.name, cfg.task.title
    cfg.task = _shipped_task("rte", None, config_dir())
    settings = _settings(cfg)
    settings.task = TaskSettings(name=name, title=title)
    return settings


def _reopened_task(plain: Mapping[str, Any]) -> TaskSettings:
    return _task_settings(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(TaskSettings), plain)))


def reseeded(experiment: Experiment, cfg: DictConfig, seed: int) -> Experiment:
    """Return what `build` gives for a configuration that was built before, now with another seed."""
    cfg.seed = seed
    cfg = apply_protocol(cfg, None)
    plain = _plain(cfg)
    followed = {key: plain[key] for key in ("seed", "seeds", "regime", "trainer")}
    regime = _settings(cfg).regime
    settings = replace(experiment.settings, seed=seed, regime=regime)
    return replace(experiment, settings=settings, resolved={**experiment.resolved, **followed})


def _saved_sha256(prompt: PromptSettings) -> str:
    """Return the digest of the prompt that a run starts from: wherever it lies, it is the same start."""
    path = prompt.saved_file
    if not path.is_file():
        raise UserError(
            f"prompt.init_from={prompt.init_from}: there is no {path}. Give the folder of a finished run, "
            "results/runs/RUN_ID, or its prompt.safetensors."
        )
    return sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=64)
def _shipped_task(name: str, extra_dir: Path | None, folder: Path) -> DictConfig:
    task: DictConfig = compose([f"task={name}"], extra_dir).task
    return task


def _task(name: str, own_settings: Mapping[str, Any], extra_dir: Path | None) -> DictConfig:
    """Compose one of several tasks, with what `regime.task_settings` changes of it."""
    task = deepcopy(_shipped_task(name, extra_dir, config_dir()))
    try:
        task.merge_with(own_settings)
    except OmegaConfBaseException as error:
        raise UserError(f"regime.task_settings of {name}: {explain(error)}") from None
    if problems := list(task_problems(_task_settings(task))):
        raise UserError(_paragraph(problems))
    return task


def _task_settings(node: DictConfig) -> TaskSettings:
    return cast(TaskSettings, OmegaConf.to_object(node))


def _plain(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True, enum_to_str=True))


def _plain_task(node: DictConfig) -> dict[str, Any]:
    """Return a task without what only lists and `data check` read."""
    task = _plain(node)
    for own in (task, task["train_task"] or {}):
        own.pop("order", None)
        own.pop("files", None)
    return task


def _extra_dir() -> Path | None:
    """Return the `--config-dir` that Hydra runs with."""
    if not HydraConfig.initialized():
        return None
    sources = HydraConfig.get().runtime.config_sources
    found = [Path(s.path) for s in sources if s.schema == "file" and s.provider == "command-line"]
    return found[0] if found else None


def build_prompt(
    experiment: Experiment, dims: Dims, embedding_VD: Tensor | None, first_ids: Sequence[int] = ()
) -> Prompt:
    """Build the prompt that the settings describe.

    `embedding_VD` is what vocabulary initialisation reads; `init=uniform` does without. `first_ids` are the
    tokens of `init=text` and `init=label_words`.
    """
    from dp_bench.prompts.prompt import build

    settings = experiment.settings.prompt
    pieces: dict[str, Any] = {part: catalogue.build(piece) for part, piece in settings.pieces.items()}
    seed = experiment.settings.seed_of("init")
    order = experiment.settings.protocol.split_order
    return build(settings, order, seed, dims, embedding_VD, first_ids, **pieces)


def check(
    overrides: Sequence[str],
    extra_dir: Path | None = None,
    *,
    sweep: bool = True,
    composed: dict[tuple[str, ...], DictConfig] | None = None,
) -> None:
    """Raise UserError, naming every problem at once, unless every configuration that `overrides` spells out
    composes and makes sense.

    Sweeps are checked value by value, not as a product, so that a sweep of thousands is answered as fast as
    one run. `sweep` says whether there may be any. `composed` keeps what was composed, by the choices of
    files that were typed.
    """
    parsed, problems = _parse_all(overrides)
    ours = [override for override in parsed if not override.key_or_group.startswith("hydra")]
    if not sweep:
        problems += [problem for override in ours if (problem := _sweep_problem(override))]
    wrong = {problem: o.key_or_group for o in ours if (problem := _group_problem(o, extra_dir))}
    problems += wrong
    # What belongs to a group that could not be chosen cannot be judged.
    doubtful = {group.split("/")[0] for group in wrong.values()}
    sound = [o for o in ours if o.key_or_group.replace("/", ".").split(".")[0] not in doubtful]
    composed = {} if composed is None else composed
    for combination in _combinations(sound, extra_dir):
        choices = tuple(typed(override) for override in combination if override.key_or_group in GROUPS)
        settings = [override for override in combination if override.key_or_group not in GROUPS]
        try:
            if choices not in composed:
                composed[choices] = compose(choices, extra_dir)
        except COMPOSE_ERRORS as error:
            problems.append(explain(error))
        else:
            problems += _setting_problems(composed[choices], settings, extra_dir)
            problems += _unread_problems(composed[choices], combination)
    if problems:
        raise UserError(_paragraph(list(dict.fromkeys(problems))))


def _parse_all(overrides: Sequence[str]) -> tuple[list[Override], list[str]]:
    parsed, problems = [], []
    for override in overrides:
        try:
            parsed.append(parse(override))
        except UserError as error:
            problems.append(str(error))
    return parsed, problems


def parse(override: str) -> Override:
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"'{override}' could not be read ({reason}). Write KEY=VALUE, such as prompt.num_tokens=8."
        ) from None
    is_file_glob = isinstance(parsed.value(), Glob) and parsed.key_or_group not in GROUPS
    if parsed.is_interval_sweep() or is_file_glob:
        raise UserError(f"'{override}' names no values: write them out, a,b,c, or as range(0,3).")
    return parsed


def _sweep_problem(override: Override) -> str | None:
    if not override.is_sweep_override():
        return None
    return f"{typed(override)} stands for several runs: add -m, dp-bench train -m {typed(override)} …"


def _group_problem(override: Override, extra_dir: Path | None) -> str | None:
    group = override.key_or_group
    if group not in GROUPS:
        return None
    if override.is_delete():
        return f"~{group} takes away what every run needs: write {group}=NAME."
    known = options(group, extra_dir)
    values = values_of(override, extra_dir)
    for value in values:
        if value not in known:
            listing = ", ".join(known) if known else "none yet"
            return f"There is no {group} '{value}'. {did_you_mean(value, known)}{group}= takes: {listing}."
    if not values:
        return f"{typed(override)} matches nothing. {group}= takes: {', '.join(known)}."
    if override.is_add() or override.is_force_add():
        return f"{typed(override)} asks for a second {group}: write {typed(override).lstrip('+')}."
    return None


def _setting_problems(base: DictConfig, settings: Sequence[Override], extra_dir: Path | None) -> list[str]:
    """Return what is wrong with settings, and with the whole that they make of a composed configuration."""
    cfg, problems = deepcopy(base), []
    keys = list(_flatten(base))
    for override in settings:
        problem = _key_problem(override, keys, _settings_of_pieces(base))
        if problem is None and not override.is_delete():
            try:
                OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=override.is_add())
            except OmegaConfBaseException as error:
                problem = explain(error)
        if problem is not None:
            problems.append(problem)
    return problems + _whole_problems(cfg, extra_dir)


def _unread_problems(base: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """Refuse `task=` and its settings where several tasks are trained on, none of which they would reach."""
    if base.regime.tasks is None:
        return []
    of_task = [o for o in overrides if o.key_or_group.split(".")[0] == "task"]
    return [
        f"{typed(override)} has no meaning with regime={base.regime.name}: name the tasks with "
        "regime.tasks=[cb,rte], and their settings with regime.task_settings={cb:{max_length:256}}."
        for override in of_task
    ]


def _whole_problems(cfg: DictConfig, extra_dir: Path | None) -> list[str]:
    try:
        missing = sorted(key for key in OmegaConf.missing_keys(cfg) if not key.startswith("hydra"))
        if missing:
            return [f"{', '.join(missing)} must be given: add {' '.join(f'{key}=…' for key in missing)}."]
        return [*problems_of(_settings(cfg)), *_task_name_problems(cfg, extra_dir)]
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        return [explain(error)]


def put_together(
    overrides: Sequence[str], extra_dir: Path | None, composed: dict[tuple[str, ...], DictConfig]
) -> DictConfig:
    """Compose like `compose`, with what `composed` keeps of the same choices of files."""
    parsed = [parse(override) for override in overrides]
    choices = tuple(typed(override) for override in parsed if override.key_or_group in GROUPS)
    settings = [override for override in parsed if override.key_or_group not in GROUPS]
    if any(o.is_delete() or o.is_add() or o.is_force_add() for o in settings):
        return compose(overrides, extra_dir)
    if choices not in composed:
        composed[choices] = compose(choices, extra_dir)
    cfg = deepcopy(composed[choices])
    for override in settings:
        OmegaConf.update(cfg, override.key_or_group, override.value())
    return cfg


def _task_name_problems(cfg: DictConfig, extra_dir: Path | None) -> Iterator[str]:
    known = options("task", extra_dir)
    for key in ("tasks", "transfer"):
        for name in cfg.regime[key] or ():
            if name not in known:
                hint = did_you_mean(name, known)
                yield f"regime.{key}: there is no task '{name}'. {hint}There are: {', '.join(known)}."


def _settings(cfg: DictConfig) -> RunSettings:
    return cast(RunSettings, OmegaConf.to_object(cfg))


def _settings_of_pieces(base: DictConfig) -> set[str]:
    """Return the settings of a prompt's pieces that their YAML leaves out, as `+key=value` may add them."""
    prompt = _plain(base)["prompt"]
    used = catalogue.used(prompt)
    return {f"prompt.{part}.{name}" for part, piece in used.items() for name in piece.settings}


def _key_problem(override: Override, keys: Sequence[str], of_pieces: Collection[str]) -> str | None:
    key = override.key_or_group
    group = key.replace(".", "/")
    if group in GROUPS:
        value = "NAME" if override.is_delete() else values_of(override)[0]
        return f"{key} is a group of settings: write {group}={value}, or one of its keys, {key}.…"
    is_open = key.startswith(OPEN_KEYS) and any(known.startswith(OPEN_KEYS) for known in keys)
    if override.is_delete() and not is_open:
        return f"~{key} takes away what every run needs: write {key}=VALUE."
    if key in keys or ((is_open or key in of_pieces) and override.is_add()):
        return None
    if key in of_pieces:
        return f"{key} is a setting that the YAML of this piece leaves out: write +{typed(override)}."
    names = [name for name in (*keys, *GROUPS) if "._" not in name]
    return f"There is no setting '{key}'. {suggest_key(key, list(dict.fromkeys(names)))}"


def values_of(override: Override, extra_dir: Path | None = None) -> list[str]:
    """Return what an override assigns, as it would be typed: one value, or each value of a sweep."""
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(list(options(override.key_or_group, extra_dir)))
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_string()] if value is not None else ["null"]


def typed(override: Override) -> str:
    assert override.input_line is not None  # only overrides that were never text have none
    return override.input_line


def _combinations(parsed: Sequence[Override], extra_dir: Path | None) -> Iterator[list[Override]]:
    """Yield override lists in which each value of each sweep stands once, beside the first values of the
    others."""
    each = [singles(override, extra_dir) for override in parsed]
    first = [values[0] for values in each]
    yield first
    for place, values in enumerate(each):
        for value in values[1:]:
            yield [*first[:place], value, *first[place + 1 :]]


def singles(override: Override, extra_dir: Path | None) -> list[Override]:
    """Return a sweep as one override a value; any other override is alone."""
    if not override.is_sweep_override():
        return [override]
    prefix = typed(override).split("=", 1)[0]
    return [parse(f"{prefix}={value}") for value in values_of(override, extra_dir)]


def _flatten(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, cfg):
        path = f"{prefix}{key}"
        yield path
        if not OmegaConf.is_missing(cfg, key) and isinstance(cfg[key], DictConfig):
            yield from _flatten(cfg[key], f"{path}.")


def explain(error: Exception) -> str:
    """Turn an error of Hydra, OmegaConf or YAML into one sentence: the first lines say what, the cause says
    why."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines()]
    # Hydra's first line says no more than which file it was at.
    lines = [line for line in lines if not line.endswith("raised while composing config:")] or lines
    if isinstance(error, YAMLError):
        return f"A configuration file is not YAML: {' '.join(lines)}."
    where = next((line.split(":", 1)[1].strip() for line in lines if "full_key" in line), "")
    first = where or str(error).splitlines()[0].rstrip(".:")
    what = lines[0].rstrip(".")
    return f"{what}." if what == first else f"{first}: {what}."


def _paragraph(problems: Sequence[str]) -> str:
    return problems[0] if len(problems) == 1 else "\n".join(f"  - {problem}" for problem in problems)
