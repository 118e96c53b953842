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
    network_lr: float | None = None  # of networks in pieces
    adapter_lr: float | None = None  # of weights that are trained beside the prompt

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
    rates = {
        "selector_lr": selector_lr,
        "network_lr": prompt.get("network_lr") if _has_network(prompt) else None,
        "adapter_lr": (prompt.get("adapters") or {}).get("lr"),
    }
    return OptimizerUsed(used["optimizer"], used["lr"], used["weight_decay"], lr_unit=unit, **rates)


def is_trained(config: Config) -> bool:
    """Say whether a run makes updates, and so reads most settings of the trainer."""
    return method_of(config).is_trained


def method_of(config: Config) -> Method:
    """Return the row of the table of methods that a run uses."""
    return table.of(_prompt_of(config)["method"])


def needs_fp32(config: Config) -> bool:
    """Say whether the backbone is loaded in fp32 whatever trainer.precision is."""
    prompt = _prompt_of(config)
    beside = table.adapters_of(prompt)
    adapts = beside is not None and beside.needs_fp32
    return table.trains_backbone(prompt) or method_of(config).needs_fp32 or adapts


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


# Read by a run without updates, though its result does not depend on them.
OF_THE_MACHINE = ("eval_batch_size", "cpu_threads", "compile", "precision", "checkpoint_minutes", "name")


def without_effect(config: Mapping[str, Any]) -> set[str]:
    """Return dotted keys that are not read with the other choices of a configuration: `unread`, and those
    that name a run or a variant all the same."""
    prompt, backbone, regime, data = (config[group] for group in ("prompt", "backbone", "regime", "data"))
    protocol, trainer, seeds, method = (
        config["protocol"],
        config["trainer"],
        config["seeds"],
        method_of(config),
    )
    pieces = catalogue.used(prompt).values() if method.has_prompt else ()
    looks = any(piece.looks for piece in pieces)
    learns = any(piece.is_learned for piece in pieces)
    draws = learns or protocol["frozen_dropout"] or any(piece.is_random for piece in pieces)
    draws = draws or prompt.get("route") is not None  # of a diagnostic
    is_local = backbone["name_or_path"] is not None
    classifies = backbone["head"] == "classifier"
    holds_out = trainer["selection"] == "heldout" and regime["shots"] is None
    rows = (
        (not is_trained(config), "prompt.lr prompt.optimizer prompt.weight_decay seeds.order"),
        (not is_trained(config), "protocol.sum_losses protocol.warmup_from_zero"),
        (not _chooses_by_gradient(prompt), "prompt.selector_lr"),
        (not _has_network(prompt), "prompt.network_lr"),
        (not (looks or method.reads_summaries), "prompt.summary protocol.summary_pad_to"),
        (not learns, "protocol.sample_at_eval"),
        (not draws, "seeds.gumbel"),
        (not holds_out, "seeds.heldout"),
        (method.is_seedless, "seeds.init"),
        (not method.reads_templates, "task.templates"),
        (regime["shots"] is None, "protocol.whole_classes"),
        (regime.get("mixing") != "temperature", "regime.mixing_temperature"),
        (regime.get("mixing") == "equal", "regime.mixing_cap"),
        (not (regime.get("tasks") or regime.get("transfer")), "regime.task_settings"),
        (is_local, "backbone.init_seed backbone.random_init"),
        (not is_local, "backbone.revision backbone.sha256 backbone.gguf_file"),
        (not method.reads_model, "backbone.attention backbone.answer_prefix backbone.answer_cue"),
        (backbone["family"] in ("encoder_only", "decoder_only"), "backbone.answer_prefix"),
        (not classifies or backbone["family"] in ("encoder_decoder", "decoder_only"), "backbone.pooling"),
        (data.get("difficulty") is not None, "data.dir data.hub data.revision"),
        (data.get("dir") is not None, "data.hub data.revision"),
        (not trainer.get("micro_batch_size"), "trainer.step_each_micro_batch"),
        (not table.trains_backbone(prompt), "keep_weights"),
        (all(seed is not None for seed in seeds.values()), "seed"),
    )
    more = {key for is_so, keys in rows if is_so for key in keys.split()}
    return (unread(config) | more) - {f"trainer.{name}" for name in OF_THE_MACHINE}


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


def _has_network(prompt: Mapping[str, Any]) -> bool:
    has_prompt = table.of(prompt["method"]).has_prompt
    return has_prompt and any(piece.has_network for piece in catalogue.used(prompt).values())


def _prompt_of(config: Config) -> Mapping[str, Any]:
    return vars(config.prompt) if isinstance(config, RunSettings) else config["prompt"]


def _plain(config: Config) -> Mapping[str, Any]:
    if not isinstance(config, RunSettings):
        return config
    return asdict(config, dict_factory=_by_name)


def _by_name(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return settings as in a record: names for members of an enumeration."""
    return {key: value.name if isinstance(value, Enum) else value for key, value in items}
