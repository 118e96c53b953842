"""Build typed settings from a composed configuration or from a record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dp_bench import reading, records
from dp_bench.checks import name_problems, problems_of, task_problems
from dp_bench.config.composer import Composer, copied, register_schema
from dp_bench.config.files import option_settings, options
from dp_bench.config.overrides import explain, paragraph
from dp_bench.methods import table
from dp_bench.prompts import catalogue
from dp_bench.settings import Init, RegimeSettings, RunSettings, TaskSettings
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError


@dataclass(frozen=True)
class Experiment:
    """One run, fully specified: typed settings for the code, and the same as plain data for the record."""

    settings: RunSettings
    resolved: dict[str, Any]
    tasks: tuple[TaskSettings, ...]  # trained on: `settings.task`, or several under regime=multitask
    transfer: tuple[TaskSettings, ...] = ()  # on which the trained prompt is also evaluated


def build(cfg: DictConfig, composer: Composer | None = None) -> Experiment:
    """Check a composed configuration as a whole and return it as typed settings.

    `composer` knows the user's folder and reads the tasks that regime names; None: that of Hydra's job.
    Raises UserError with all problems.
    """
    composer = composer or Composer(_extra_dir())
    cfg = _applied(cfg, composer.extra_dir)
    settings, problems = _checked(cfg, composer.extra_dir)
    if problems or settings is None:
        raise UserError(paragraph(problems))
    resolved = resolved_of(cfg)
    space = resolved["hpo"].pop("space")  # the values found by the search are at their usual keys
    searched = [k for k, v in space.items() if settings.hpo.name and settings.hpo.is_for(settings.prompt, v)]
    resolved["hpo"]["searched"] = sorted(searched)
    if settings.prompt.init is Init.saved:
        named = f"prompt.init_from={settings.prompt.init_from}"
        resolved["prompt"]["init_sha256"] = _sha256_of_prompt(settings.prompt.saved_file, named)
    if files := settings.prompt.source_files:
        digests = [_sha256_of_prompt(path, "prompt.vectors.sources") for path in files]
        resolved["prompt"]["sources_sha256"] = digests
    transfer = {name: _other_task(name, settings, composer) for name in settings.regime.transfer or ()}
    if transfer:
        resolved["transfer"] = {name: _plain_task(node, cfg.prompt) for name, node in transfer.items()}
    several = {name: _other_task(name, settings, composer) for name in settings.regime.tasks or ()}
    tasks = tuple(map(_task_settings, several.values() or [cfg.task]))
    for task in tasks if several else ():
        if task.train_task is not None:
            raise UserError(
                f"regime.tasks names '{task.name}', a diagnostic without training examples: use "
                f"regime.tasks=[…,{task.train_task.name}] regime.transfer=[{task.name}]."
            )
    if several:
        settings = replace(settings, task=None)
        resolved["task"] = {
            "name": "+".join(several),
            "title": " + ".join(task.title for task in tasks),
            "tasks": {name: _plain_task(node, cfg.prompt) for name, node in several.items()},
        }
    return Experiment(settings, resolved, tasks, tuple(map(_task_settings, transfer.values())))


def experiment(overrides: Sequence[str], extra_dir: Path | None = None) -> Experiment:
    """Return the experiment that `dp-bench train OVERRIDES` runs."""
    composer = Composer(extra_dir)
    return build(composer.compose(overrides), composer)


def _applied(cfg: DictConfig, extra_dir: Path | None) -> DictConfig:
    """Return a copy of a configuration with the settings that backbone, data and protocol change in other
    groups."""
    cfg = copied(cfg)
    apply_format(cfg.task, cfg.backbone.format, extra_dir)
    _apply_rate(cfg, extra_dir)
    if cfg.data.templated:
        _keep_nothing_together(cfg.task)
    apply_protocol(cfg, extra_dir)
    return cfg


PAPER = "paper"  # the format that the other keys of a task's file describe


def apply_format(task: DictConfig, preferred: str | None, extra_dir: Path | None) -> None:
    """Set the keys of a task as its format has them: `task.format`, or else the preferred one if it has that.

    What the user typed stays: a key changes only where it has the value of the task's file. `\\n` and `\\t`
    typed in a template or a cue become a line break and a tab. Raises UserError for an unknown format.
    """
    formats = task.formats or {}
    if task.format not in (None, PAPER, *formats):
        known = ", ".join((PAPER, *formats))
        raise UserError(f"task.format={task.format}: task={task.name} has the formats {known}.")
    name = task.format or (preferred if preferred in formats else None)
    task.format = None if name == PAPER else name
    if task.format is not None:
        usual = option_settings("task", task.name, extra_dir)
        _set_unless_typed(task, formats[name], plain(task), usual)
    for key in ("template", "cue"):
        if isinstance(text := task[key], str):
            task[key] = _unescaped(text)
    if task.templates is not None:
        task.templates = [_unescaped(text) if isinstance(text, str) else text for text in task.templates]
    if task.train_task is not None:
        apply_format(task.train_task, name, extra_dir)


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _apply_rate(cfg: DictConfig, extra_dir: Path | None) -> None:
    """Set the keys of the trainer that `backbone.trainer` has, if they all are as in the paper's trainer.

    A rate without its unit says nothing, so that one typed key keeps the others too.
    """
    changes = plain(cfg.backbone)["trainer"] or {}
    cfg.backbone.trainer = None
    present, paper = plain(cfg.trainer), option_settings("trainer", "default", extra_dir)
    if unknown := sorted(changes.keys() - present.keys()):
        raise UserError(f"backbone.trainer of {cfg.backbone.name}: there is no trainer.{unknown[0]}.")
    if all(present.get(key) == paper.get(key) for key in changes):
        try:
            cfg.trainer.merge_with(changes)
        except OmegaConfBaseException as error:
            raise UserError(f"backbone.trainer of {cfg.backbone.name}: {explain(error)}") from None


def whole_problems(cfg: DictConfig, extra_dir: Path | None) -> list[str]:
    """Return what is wrong with a composed configuration as a whole, one sentence a problem."""
    return _checked(cfg, extra_dir)[1]


def _checked(cfg: DictConfig, extra_dir: Path | None) -> tuple[RunSettings | None, list[str]]:
    """Return a composed configuration as dataclasses, if it can be, and what is wrong with it."""
    try:
        settings = typed_settings(cfg)
    except MissingMandatoryValue:
        missing = sorted(key for key in OmegaConf.missing_keys(cfg) if not key.startswith("hydra"))
        words = " ".join(f"{key}=…" for key in missing)
        return None, [f"{', '.join(missing)} must be given: add {words}."]
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        return None, [explain(error)]
    wrong = reading.misfit(settings, RunSettings, "")  # by a reference to a value of another type
    try:
        problems = problems_of(settings)
    except (TypeError, AttributeError):
        if wrong is None:
            raise
        problems = []
    if wrong and not problems:
        return settings, [f"{wrong}."]
    return settings, [*problems, *_task_name_problems(settings.regime, extra_dir)]


def _task_name_problems(regime: RegimeSettings, extra_dir: Path | None) -> Iterator[str]:
    known = options("task", extra_dir)
    for key in ("tasks", "transfer"):
        for name in getattr(regime, key) or ():
            if name not in known:
                hint = did_you_mean(name, known)
                yield f"regime.{key}: there is no task '{name}'. {hint}There are: {', '.join(known)}."


def _keep_nothing_together(task: DictConfig) -> None:
    """Drop `together`: a generator has so few sentences that all its rows share some."""
    for node in (task, task.train_task):
        if node is not None:
            node.together = None


def _set_unless_typed(
    node: DictConfig, changes: Mapping[str, Any], present: Mapping[str, Any], usual: Mapping[str, Any]
) -> None:
    """Make changes to a configuration, but for keys whose `present` value is not the `usual` one of the file:
    the user has typed those."""
    for key, value in changes.items():
        if present.get(key) == usual.get(key):
            OmegaConf.update(node, key, value)


def apply_protocol(cfg: DictConfig, extra_dir: Path | None) -> None:
    """Write the settings that the protocol of a configuration has for pieces and prompts to their places.

    What the user typed stays: a setting of a prompt changes only where it has the value of the prompt's file.
    """
    by_piece, by_prompt = cfg.protocol.by_piece, cfg.protocol.by_prompt
    if by_piece is None and by_prompt is None:
        return
    for key, value in (("by_piece", by_piece), ("by_prompt", by_prompt)):
        inner = value.values() if isinstance(value, DictConfig) else [value]
        if value is not None and not all(isinstance(each, DictConfig) for each in inner):
            raise UserError(f"protocol.{key}={value} must map names to settings, as in {{fixed: {{…}}}}.")
    with open_dict(cfg):
        cfg.protocol.by_piece = cfg.protocol.by_prompt = None
        for piece in (cfg.prompt[part] for part in catalogue.PARTS if cfg.prompt[part] is not None):
            for key, value in (by_piece or {}).get(str(piece.get("_target_")).rsplit(".", 1)[-1], {}).items():
                piece.setdefault(key, value)
        changed = (by_prompt or {}).get(cfg.prompt.name, {})
        named = option_settings("prompt", cfg.prompt.name, extra_dir) if changed else {}
        usual = records.flatten({"prompt": named})
        try:
            _set_unless_typed(cfg, changed, records.flatten(plain(cfg)), usual)
        except OmegaConfBaseException as error:
            raise UserError(f"protocol.by_prompt of {cfg.prompt.name}: {explain(error)}") from None


def reopen(resolved: Mapping[str, Any], results_dir: Path) -> Experiment:
    """Return the experiment of a finished run from the configuration in its record.

    Raises UserError where this version cannot read that configuration.
    """
    register_schema()
    known = deepcopy(dict(resolved))
    transfer, several = known.pop("transfer", {}), known["task"].get("tasks")
    if several is not None:
        known["task"] = None
    known.get("hpo", {}).pop("searched", None)
    protocol = known["protocol"]
    former = {key.removeprefix("protocol."): value for key, value in records.FORMER.items()}
    known["protocol"] = {k: v for k, v in protocol.items() if k not in former or v != former[k]}
    for key in ("init_sha256", "sources_sha256"):
        known["prompt"].pop(key, None)
    known["results_dir"] = str(results_dir)
    try:
        settings = typed_settings(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(RunSettings), known)))
        trained = tuple(map(_reopened_task, [resolved["task"]] if several is None else several.values()))
        transfer_tasks = tuple(map(_reopened_task, transfer.values()))
        wrong = [*name_problems(settings), *catalogue.unknown(settings.prompt.pieces)]
    except OmegaConfBaseException as error:
        raise UserError(f"The run was written by another version of dp-bench: {explain(error)}") from None
    if wrong:
        raise UserError(f"The run's record is not one of dp-bench: {paragraph(wrong)}")
    return Experiment(settings, dict(resolved), trained, transfer_tasks)


def _reopened_task(resolved: Mapping[str, Any]) -> TaskSettings:
    return _task_settings(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(TaskSettings), resolved)))


def with_transfer(experiment: Experiment, names: Sequence[str]) -> Experiment:
    """Return an experiment that also evaluates on these tasks, as regime.transfer does.

    Raises UserError where there is no such task, or where the prompt cannot be evaluated on others.
    """
    settings = experiment.settings
    regime = replace(settings.regime, transfer=[*(settings.regime.transfer or ()), *names])
    if problems := [*problems_of(replace(settings, regime=regime)), *_task_name_problems(regime, None)]:
        raise UserError(paragraph(problems))
    composer = Composer()
    others = tuple(_task_settings(_other_task(name, settings, composer)) for name in names)
    return replace(experiment, transfer=(*experiment.transfer, *others))


def reseeded(experiment: Experiment, cfg: DictConfig, seed: int, extra_dir: Path | None) -> Experiment:
    """Return what `build` returns for a configuration that was built before, with another seed."""
    cfg.seed = seed
    cfg = _applied(cfg, extra_dir)
    resolved = plain(cfg)
    seeded = {key: resolved[key] for key in ("seed", "seeds", "regime", "trainer")}
    regime = typed_settings(cfg).regime
    settings = replace(experiment.settings, seed=seed, regime=regime)
    return replace(experiment, settings=settings, resolved={**experiment.resolved, **seeded})


def _sha256_of_prompt(path: Path, named: str) -> str:
    """Return the digest of a trained prompt that a run reads, which identifies it wherever it is stored."""
    if not path.is_file():
        raise UserError(
            f"{named}: {path} does not exist. Give the folder of a finished run, "
            "results/runs/RUN_ID, or its prompt.safetensors."
        )
    return sha256(path.read_bytes()).hexdigest()


def _other_task(name: str, settings: RunSettings, composer: Composer) -> DictConfig:
    """Compose one of the tasks that regime names, with its `regime.task_settings`."""
    task = composer.task(name)
    apply_format(task, settings.backbone.format, composer.extra_dir)
    try:
        task.merge_with((settings.regime.task_settings or {}).get(name, {}))
    except OmegaConfBaseException as error:
        raise UserError(f"regime.task_settings of {name}: {explain(error)}") from None
    if problems := task_problems(_task_settings(task)):
        raise UserError(paragraph(problems))
    if settings.data.templated:
        _keep_nothing_together(task)
    return task


def _task_settings(node: DictConfig) -> TaskSettings:
    return cast(TaskSettings, OmegaConf.to_object(node))


def typed_settings(cfg: DictConfig) -> RunSettings:
    """Return a composed configuration as dataclasses."""
    return cast(RunSettings, OmegaConf.to_object(cfg))


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain data, without references."""
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True, enum_to_str=True))


def resolved_of(cfg: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain data, without what Hydra, lists and tables alone read."""
    resolved = plain(cfg) | {"task": _plain_task(cfg.task, cfg.prompt)}
    for key in ("hydra", "labels"):
        resolved.pop(key, None)
    return resolved


def _plain_task(node: DictConfig, prompt: DictConfig) -> dict[str, Any]:
    """Return a task without the settings that only lists and `data check` read, or another method."""
    task = plain(node)
    unread = ["order", "files", "formats", "submitted"]
    if not table.of(prompt.method).reads_templates:
        unread.append("templates")
    for content in (task, task["train_task"] or {}):
        for key in unread:
            content.pop(key, None)
    return task


PROVIDER = "hydra.searchpath in command-line"  # Hydra's name for what composer.search_path returns


def _extra_dir() -> Path | None:
    """Return the `--config-dir` of the running job of a launcher."""
    if not HydraConfig.initialized():
        return None
    sources = HydraConfig.get().runtime.config_sources
    folders = [Path(s.path) for s in sources if s.schema == "file" and s.provider == PROVIDER]
    return folders[0] if folders else None
