"""The keys of Hydra that dp-bench passes on. Hydra builds objects, sets variables and writes files by others.

`check_word` sees what was typed, `check_node` what the files of a configuration have made of Hydra's keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from dp_bench.types import UserError

# The launchers of `hydra/launcher=`: the classes that are built, and the name of each in Hydra.
LAUNCHERS = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": "basic",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": "joblib",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": "submitit_local",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": "submitit_slurm",
}
NAMES = ("slurm_gpu", "local_jobs", *LAUNCHERS.values())
# What a job may ask for. `setup`, `python` and `pre_dispatch` are code, `submitit_folder` is written to.
SETTINGS = (
    *("partition", "qos", "account", "nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node", "gres"),
    *("mem_gb", "mem_per_cpu", "mem_per_gpu", "gpus_per_task", "cpus_per_gpu", "constraint", "exclude"),
    *("timeout_min", "max_num_timeout", "signal_delay_s", "array_parallelism", "n_jobs", "verbose"),
)
PLAIN = re.compile(r"[\w.,:+&|@%/()\[\]*-]{0,200}")  # submitit writes it into a shell script
# Facts on the composition that Hydra notes, and the overrides and sweeps of a job.
FACTS = ("hydra.runtime.", "hydra.overrides.", "hydra.sweeper.params", "hydra.job.", "hydra.searchpath")
FREE_OF_JOB = ("name", "override_dirname", "id", "num", "config_name")


def check_word(override: Override) -> str | None:
    """Return what is wrong with an override of Hydra's keys, else None."""
    key, setting = override.key_or_group, override.key_or_group.removeprefix("hydra.launcher.")
    value = override.value()
    if key == "hydra/launcher" and override.package is None and not override.is_delete():
        return None if value in NAMES else f"There is no hydra/launcher '{value}': use {', '.join(NAMES)}."
    if key != setting and setting in SETTINGS:
        return None if _is_plain(value) else f"{key}={value!r} must be a number, or one word."
    return (
        f"{override.input_line} is refused: of Hydra's keys, dp-bench sweep takes hydra/launcher=NAME and "
        f"hydra.launcher.KEY=VALUE with KEY one of {', '.join(SETTINGS)}."
    )


def _is_plain(value: Any) -> bool:
    is_word = isinstance(value, str) and PLAIN.fullmatch(value) is not None
    return value is None or is_word or isinstance(value, bool | int | float)


def launcher_of(hydra: DictConfig) -> str:
    """Return the name in Hydra of the launcher in a configuration. Raises UserError for an unknown one."""
    target = (plain(hydra).get("launcher") or {}).get("_target_")
    if target not in LAUNCHERS:
        raise UserError(f"hydra.launcher._target_={target} is refused: use hydra/launcher={'|'.join(NAMES)}.")
    return LAUNCHERS[target]


def check_node(hydra: DictConfig, shipped: DictConfig, *, known: tuple[str, ...] = ()) -> None:
    """Raise UserError where Hydra's keys differ from the `shipped` ones in what may run code or write.

    `shipped` has the same launcher; keys in `known` may differ.
    """
    found, usual = (dict(_flat(plain(node), "hydra")) for node in (hydra, shipped))
    for key in sorted(found.keys() | usual.keys()):
        value = found.get(key)
        if value == usual.get(key) or key in known or _is_fact(key):
            continue
        if key.removeprefix("hydra.launcher.") in SETTINGS and _is_plain(value):
            continue
        raise UserError(
            f"A configuration file sets {key}={value!r}, which is refused: of Hydra's keys, files may set "
            "hydra.sweeper.params and the job's size in hydra.launcher. Remove it there."
        )
    for key in plain(hydra)["sweeper"].get("params") or {}:
        if str(key).strip().lstrip("~+").strip().startswith("hydra"):
            raise UserError(f"hydra.sweeper.params of a configuration file sweeps {key}: remove it there.")


def _is_fact(key: str) -> bool:
    return key.startswith(FACTS) and (
        not key.startswith("hydra.job.") or key.removeprefix("hydra.job.") in FREE_OF_JOB
    )


def plain(node: DictConfig) -> dict[str, Any]:
    """Return Hydra's keys as plain data, with references as they are written."""
    found = OmegaConf.to_container(node, resolve=False, enum_to_str=True, throw_on_missing=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of plain data by their path; an empty mapping is none."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}")
    else:
        yield key, value
