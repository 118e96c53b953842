"""Which settings of its configuration a run uses: the optimizer, its rates, and those that are not read.

Trainer, guards, records and tables use these functions. They take a resolved configuration, as in a record,
or the typed settings. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any

from dp_bench.methods import table
from dp_bench.methods.table import Method
from dp_bench.prompts import catalogue
from dp_bench.records import FORMER, flatten
from dp_bench.settings import FullSettings, LrUnit, RunSettings

# A method or prompt may set these; else the trainer's are used, or those of trainer.full for all weights.
OPTIMIZER = tuple(each.name for each in fields(FullSettings))
# The settings of the trainer that count without updates too.
READ_WITHOUT_UPDATES = tuple(
    f"trainer.{name}" for name in ("selection", "heldout_fraction", "heldout_max", "heldout_min", "precision")
)
# The settings that each schedule of the temperature does not read.
UNREAD_BY = {"constant": ("end", "anneal"), "exponential": ("anneal",), "authors": ()}
# Estimators whose gradient has a temperature; the first is the default.
TEMPERED = ("gumbel_st", "reinmax", "rao_blackwell")

Config = Mapping[str, Any] | RunSettings


@dataclass(frozen=True)
class OptimizerUsed:
    """The optimizer of a run. `selector_lr` is None where selectors have the same rate as the rest; `lr_unit`
    where `lr` is absolute."""

    name: str
    lr: float
    weight_decay: float
    selector_lr: float | None = None
    lr_unit: str | None = None

    def absolute(self, embedding_rms: float) -> OptimizerUsed:
        """Return the same optimizer with an absolute rate."""
        return self if self.lr_unit is None else replace(self, lr=self.lr * embedding_rms, lr_unit=None)


def optimizer_of(config: Config) -> OptimizerUsed | None:
    """Return the optimizer of a run; None for a method without updates."""
    config = _plain(config)
    if not is_trained(config):
        return None
    prompt = config["prompt"]
    usual = config["trainer"]["full"] if table.trains_backbone(prompt) else config["trainer"]
    used = {key: usual[key] if prompt.get(key) is None else prompt[key] for key in OPTIMIZER}
    selector_lr = prompt.get("selector_lr") if _chooses_by_gradient(prompt) else None
    unit = usual.get("lr_unit") if prompt.get("lr") is None else None
    unit = None if unit == LrUnit.absolute.value else unit
    return OptimizerUsed(used["optimizer"], used["lr"], used["weight_decay"], selector_lr, unit)


def is_trained(config: Config) -> bool:
    """Say whether a run makes updates, and so reads most settings of the trainer."""
    return method_of(config).is_trained


def method_of(config: Config) -> Method:
    """Return the row of the table of methods that a run uses."""
    return table.of(_prompt_of(config)["method"])


def needs_fp32(config: Config) -> bool:
    """Say whether the backbone is loaded in fp32 whatever trainer.precision is."""
    return table.trains_backbone(_prompt_of(config)) or method_of(config).needs_fp32


def unread(config: Mapping[str, Any]) -> set[str]:
    """Return dotted keys of settings on which a run's result does not depend, as far as is known."""
    trainer, regime, prompt = config["trainer"], config["regime"], config["prompt"]
    protocol = flatten({"protocol": config["protocol"]})
    keys = {key for key, value in FORMER.items() if protocol.get(key) in (None, value)}
    if trainer["selection"] != "heldout" or regime["shots"] is not None:
        keys |= {"trainer.heldout_fraction", "trainer.heldout_max", "trainer.heldout_min"}
    if needs_fp32(config) or not method_of(config).reads_model:
        keys.add("trainer.precision")
    if is_trained(config):
        keys |= _unread_rates(config)
        if not _reads_temperature(prompt):
            keys |= {f"trainer.temperature.{name}" for name in trainer["temperature"]}
        keys |= {f"trainer.temperature.{name}" for name in UNREAD_BY[trainer["temperature"]["schedule"]]}
    else:
        keys |= flatten({"trainer": trainer}).keys() - set(READ_WITHOUT_UPDATES)
    if regime["shots"] is None:
        keys |= {"regime.split", "regime.split_seed"}
    elif regime.get("split") == "fewglue":
        keys.add("regime.split_seed")
    if regime.get("tasks") is None:
        keys |= {f"regime.{name}" for name in regime if name.startswith("mixing")} | {"regime.task_weights"}
    if config["data"].get("difficulty") is None:
        keys |= {"data.world_seed", "data.mixture"}
    return keys


def _unread_rates(config: Mapping[str, Any]) -> set[str]:
    """Return the settings of the optimizer that is not used, and those of the used one that the method or
    prompt replaces."""
    prompt, groups = config["prompt"], ("trainer.full.", "trainer.")
    used, unused = groups if table.trains_backbone(prompt) else groups[::-1]
    replaced = {f"{used}{name}" for name in OPTIMIZER if prompt.get(name) is not None}
    return replaced | {f"{unused}{name}" for name in OPTIMIZER}


def _reads_temperature(prompt: Mapping[str, Any]) -> bool:
    draws = any(piece.is_learned for piece in catalogue.used(prompt).values())  # in training
    return draws and (prompt.get("estimator") or TEMPERED[0]) in TEMPERED


def _chooses_by_gradient(prompt: Mapping[str, Any]) -> bool:
    """Say whether the optimizer trains what chooses: a pool, or a selector in some of the updates."""
    if not table.of(prompt["method"]).has_prompt:
        return False
    return any(
        piece.has_members
        # A selector is fitted in closed form, without gradient, until this share of the updates.
        or (piece.is_learned and prompt[part].get("fit_until", 0.0) < 1.0)
        for part, piece in catalogue.used(prompt).items()
    )


def _prompt_of(config: Config) -> Mapping[str, Any]:
    return vars(config.prompt) if isinstance(config, RunSettings) else config["prompt"]


def _plain(config: Config) -> Mapping[str, Any]:
    if not isinstance(config, RunSettings):
        return config
    return asdict(config, dict_factory=_by_name)


def _by_name(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return settings as in a record: names for members of an enumeration."""
    return {key: value.name if isinstance(value, Enum) else value for key, value in items}
