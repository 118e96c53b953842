"""What a run uses of its configuration: the optimizer, its rates, and which settings it reads at all.

Trainer, guards, record and tables ask here, so that none of them says what was not so. Every function takes a
resolved configuration, as a record has it, or the typed settings. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

from dp_bench.methods import table
from dp_bench.methods.table import Method
from dp_bench.prompts import catalogue
from dp_bench.records import FORMER, flatten
from dp_bench.settings import FullSettings, RunSettings

# A method or prompt may have its own; else those of the trainer count, or of trainer.full for all weights.
OPTIMIZER = tuple(each.name for each in fields(FullSettings))
# What is left of the trainer for a method that makes no updates.
OF_DATA = tuple(f"trainer.{name}" for name in ("selection", "heldout_fraction", "heldout_max", "precision"))
NOT_BY = {
    "constant": ("end", "anneal"),
    "exponential": ("anneal",),
    "authors": (),
}  # a schedule of temperature
# Estimators whose gradient has a temperature; null is the first of them.
TEMPERED = ("gumbel_st", "reinmax", "rao_blackwell")

Config = Mapping[str, Any] | RunSettings


@dataclass(frozen=True)
class OptimizerUsed:
    """What trains a method by gradient. `selector_lr` is None where selectors have no rate of their own."""

    name: str
    lr: float
    weight_decay: float
    selector_lr: float | None = None


def optimizer_of(config: Config) -> OptimizerUsed | None:
    """Return what a run is trained with; None for a method that makes no updates."""
    config = _plain(config)
    if not is_trained(config):
        return None
    prompt = config["prompt"]
    usual = config["trainer"]["full"] if trains_backbone(config) else config["trainer"]
    used = {key: usual[key] if prompt.get(key) is None else prompt[key] for key in OPTIMIZER}
    return OptimizerUsed(
        used["optimizer"],
        used["lr"],
        used["weight_decay"],
        prompt.get("selector_lr") if _chooses_by_gradient(prompt) else None,
    )


def is_trained(config: Config) -> bool:
    """Say whether a run makes updates, which most settings of the trainer are about."""
    return method_of(config).is_trained


def method_of(config: Config) -> Method:
    """Return the row of the table of methods that a run uses."""
    prompt = config.prompt.method if isinstance(config, RunSettings) else config["prompt"]["method"]
    return table.of(prompt)


def trains_backbone(config: Config) -> bool:
    return table.trains_backbone(_plain(config)["prompt"])


def needs_fp32(config: Config) -> bool:
    """Say whether the backbone is loaded in fp32 whatever trainer.precision says."""
    return trains_backbone(config) or method_of(config).needs_fp32


def reads_precision(config: Config) -> bool:
    """Say whether a run's result depends on trainer.precision."""
    return not needs_fp32(config) and method_of(config).reads_model


def unread(config: Mapping[str, Any]) -> set[str]:
    """Return the settings on which a run's result does not depend, as dotted keys of a configuration.

    What is not known to be unread is not among them.
    """
    trainer, regime, prompt = config["trainer"], config["regime"], config["prompt"]
    protocol = flatten({"protocol": config["protocol"]})
    found = {key for key, value in FORMER.items() if protocol.get(key) in (None, value)}
    if trainer["selection"] != "heldout" or regime["shots"] is not None:
        found |= {"trainer.heldout_fraction", "trainer.heldout_max"}
    if not reads_precision(config):
        found.add("trainer.precision")
    if is_trained(config):
        found |= _unread_rates(config)
        if not _reads_temperature(prompt):
            found |= {f"trainer.temperature.{name}" for name in trainer["temperature"]}
        found |= {f"trainer.temperature.{name}" for name in NOT_BY[trainer["temperature"]["schedule"]]}
    else:
        found |= flatten({"trainer": trainer}).keys() - set(OF_DATA)
    if regime["shots"] is None:
        found |= {"regime.split", "regime.split_seed"}
    elif regime.get("split") == "fewglue":
        found.add("regime.split_seed")
    if regime.get("tasks") is None:
        found |= {f"regime.{name}" for name in regime if name.startswith("mixing")} | {"regime.task_weights"}
    if config["data"].get("difficulty") is None:
        found |= {"data.world_seed", "data.mixture"}
    return found


def _unread_rates(config: Mapping[str, Any]) -> set[str]:
    """Return the settings of the optimizer that is not used, and of the other one those for which a method
    has its own."""
    here, there = ("trainer.full.", "trainer.") if trains_backbone(config) else ("trainer.", "trainer.full.")
    own = {f"{here}{name}" for name in OPTIMIZER if config["prompt"].get(name) is not None}
    return own | {f"{there}{name}" for name in OPTIMIZER}


def _reads_temperature(prompt: Mapping[str, Any]) -> bool:
    return _draws(prompt) and (prompt.get("estimator") or TEMPERED[0]) in TEMPERED


def _draws(prompt: Mapping[str, Any]) -> bool:
    """Say whether a learned selector draws while it is trained."""
    return any(piece.is_learned for piece in catalogue.used(prompt).values())


def _chooses_by_gradient(prompt: Mapping[str, Any]) -> bool:
    """Say whether something that chooses is trained by the optimizer, to the end or at any time."""
    if not table.of(prompt["method"]).has_prompt:
        return False
    return any(
        piece.has_members  # a selector fits itself, by no gradient, until this share of the updates
        or (piece.is_learned and prompt[part].get("fit_until", 0.0) < 1.0)
        for part, piece in catalogue.used(prompt).items()
    )


def _plain(config: Config) -> Mapping[str, Any]:
    if not isinstance(config, RunSettings):
        return config
    plain: Mapping[str, Any] = _by_name(asdict(config))
    return plain


def _by_name(value: Any) -> Any:
    """Return settings as a record has them: names for members of an enumeration."""
    if isinstance(value, Mapping):
        return {key: _by_name(own) for key, own in value.items()}
    return value.name if isinstance(value, Enum) else value
