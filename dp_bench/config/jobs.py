"""Run jobs with Hydra: those of `dp-bench train`, and those of a sweep through one of its launchers.

Sweeps do not use Hydra's sweeper: their runs are planned by `dp_bench.sweep.plan`.
"""

from __future__ import annotations

import itertools
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from dp_bench import grammar, records
from dp_bench.config.build import Experiment, build
from dp_bench.config.composer import Composer, check_hydra, register_schema, search_path
from dp_bench.config.files import config_dir
from dp_bench.config.overrides import explained, parse, singles, typed, values_of
from dp_bench.types import UserError


def parse_words(words: Sequence[str]) -> Namespace:
    """Parse what was typed as Hydra does: overrides, config_dir, multirun, cfg, info, help …"""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. `dp-bench train --help` lists what there is.")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(words))


def flags() -> list[str]:
    """Return the flags that Hydra reads: --cfg, --info, --multirun …"""
    return list(grammar.flags_of(get_args_parser()))


def show(words: Sequence[str]) -> None:
    """Have Hydra print what `--help`, `--cfg` or `--info` ask for."""
    # Hydra reads sys.argv itself; it must not see the name of our command.
    overrides = parse_words(words).overrides
    flags = [word for word in words if word not in overrides]
    sys.argv = ["dp-bench train", *flags, *overrides]  # Hydra wants the overrides together
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints an error and exits with code 1
    register_schema()
    with explained():
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")(_run_nothing)()


def _run_nothing(cfg: DictConfig) -> None:
    """Stand for the job that Hydra would run."""


def combinations(overrides: Sequence[str], composer: Composer) -> Iterator[DictConfig]:
    """Compose each combination of the values of overrides, and of the sweep in an experiment's file.

    Raises UserError where one cannot be composed.
    """
    typed_in = {parse(word).get_key_element(): parse(word) for word in overrides}
    names = values_of(typed_in["experiment"], composer.extra_dir) if "experiment" in typed_in else []
    params = composer.sweep_params(names[0]) if len(names) == 1 else []
    axes = {parse(word).get_key_element(): parse(word) for word in params} | typed_in
    several = (singles(axis, composer.extra_dir) for axis in axes.values())
    for combination in itertools.product(*several):
        yield composer.compose([typed(override) for override in combination])


@contextmanager
def launcher(
    job: Callable[[DictConfig], str | None],
    hydra_words: Sequence[str],
    results_dir: Path,
    extra_dir: Path | None,
) -> Iterator[Launcher]:
    """Build the launcher that `hydra_words` choose, which runs `job` for lists of overrides."""
    register_schema()
    GlobalHydra.instance().clear()
    try:
        with explained():
            main = Hydra.create_main_hydra2("dp-bench", create_config_search_path(str(config_dir())))
            master = main.compose_config(
                "train",
                [*search_path(extra_dir), *hydra_words, f"hydra.sweep.dir={results_dir}/multirun"],
                run_mode=RunMode.MULTIRUN,
                with_log_configuration=False,
            )
            check_hydra(master.hydra, known=("hydra.sweep.dir", "hydra.mode"))
            HydraConfig.instance().set_config(master)
            context = HydraContext(config_loader=main.config_loader, callbacks=Callbacks(master))
            yield Plugins.instance().instantiate_launcher(
                hydra_context=context, task_function=job, config=master
            )
    finally:
        GlobalHydra.instance().clear()


def build_in_job(cfg: DictConfig) -> Experiment:
    """Build the configuration of a job in the process that a launcher started for it."""
    register_schema()
    records.typed(HydraConfig.get().overrides.task)
    return build(cfg)
