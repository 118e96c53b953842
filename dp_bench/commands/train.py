"""`dp-bench train`: check what was typed, let Hydra compose it (once, or for each job of a sweep), run it."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from dp_bench import config
from dp_bench.types import UserError


def train(words: list[str]) -> int:
    """Run `dp-bench train WORDS` and return the exit code."""
    typed = get_args_parser().parse_intermixed_args(words)
    extra_dir = Path(typed.config_dir) if typed.config_dir else None
    if extra_dir and not extra_dir.is_dir():
        raise UserError(f"--config-dir {extra_dir} is not a folder. Give one that holds prompt/NAME.yaml.")
    if typed.multirun and (typed.cfg or typed.info):
        raise UserError("-m runs every combination, --cfg and --info show one configuration: leave one out.")
    if not (typed.help or typed.hydra_help):
        config.check(typed.overrides, extra_dir, sweep=typed.multirun)
    config.register_schema()
    outcomes: list[int] = []
    where: list[str] = []

    def job(cfg: DictConfig) -> None:
        where.append("" if cfg.results_dir == "results" else f" --results-dir {cfg.results_dir}")
        outcomes.append(_run_one(cfg))

    # Hydra reads sys.argv itself; it must not see our command word.
    sys.argv = ["dp-bench train", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # its own report of an error ends in exit code 1
    try:
        hydra.main(version_base="1.3", config_path=str(config.config_dir()), config_name="train")(job)()
    except config.COMPOSE_ERRORS as error:
        raise UserError(config.explain(error)) from None
    if len(outcomes) > 1:
        print(f"{len(outcomes)} runs: {outcomes.count(0)} done, {len(outcomes) - outcomes.count(0)} failed.")
    if outcomes and not any(outcomes):
        print(f"Next: dp-bench tables{where[-1]}")
    return max(outcomes, default=0)


def _run_one(cfg: DictConfig) -> int:
    """Run one job; a failure is recorded and told, and the other jobs of a sweep go on."""
    from dp_bench.run import run

    try:
        run(config.build(cfg))
    except UserError as error:
        print(f"dp-bench: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    return 0
