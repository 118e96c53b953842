"""`dp-bench train`: check what was typed, let Hydra compose it (once, or for each job of a sweep), run it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dp_bench import __version__, config
from dp_bench.config import jobs
from dp_bench.settings import OnMissing
from dp_bench.types import RunFailedError, UnreachableError, UserError

MICRO = ("backbone=t5_micro", "data=micro", "trainer=micro")


def train(words: list[str]) -> int:
    """Run `dp-bench train WORDS` and return the exit code."""
    if "--version" in words:  # Hydra's parser would print Hydra's
        print(f"dp-bench {__version__}")
        return 0
    typed = jobs.parse_words(words)
    _check_flags(typed)
    extra_dir = Path(typed.config_dir) if typed.config_dir else None
    words = config.renew(words, extra_dir)
    typed = jobs.parse_words(words)
    if not (typed.help or typed.hydra_help):
        config.check(typed.overrides, config.Composer(extra_dir), sweep=typed.multirun)
        _check_experiment(typed)
    outcomes: list[int] = []
    where: list[str] = []
    unreachable: list[UnreachableError] = []

    def job(cfg: Any, alone: bool) -> None:
        where.append("" if cfg.results_dir == "results" else f" --results-dir {cfg.results_dir}")
        try:
            outcomes.append(_run_one(cfg))
        except UnreachableError as error:
            if not (alone and cfg.on_missing is OnMissing.micro):
                outcomes.append(_tell(error))
            else:
                unreachable.append(error)

    jobs.run_jobs(words, job)
    if unreachable:
        outcomes.append(_run_on_micro(typed.overrides, extra_dir, unreachable[0]))
    if len(outcomes) > 1:
        print(f"{len(outcomes)} runs: {outcomes.count(0)} done, {len(outcomes) - outcomes.count(0)} failed.")
    if outcomes and not any(outcomes):
        print(f"Next: dp-bench tables{where[-1]}")
    return max(outcomes, default=0)


def _check_flags(typed: Any) -> None:
    if typed.config_dir and not Path(typed.config_dir).is_dir():
        raise UserError(
            f"--config-dir {typed.config_dir} is not a folder. Give one that holds prompt/NAME.yaml."
        )
    if typed.multirun and (typed.cfg or typed.info):
        raise UserError("-m runs every combination, --cfg and --info show one configuration: leave one out.")
    if typed.resolve and not (typed.cfg or typed.help):
        raise UserError("--resolve fills in what --cfg job shows: add --cfg job, or leave it out.")


def _check_experiment(typed: Any) -> None:
    """Refuse to run one arbitrary cell of what stands for many runs."""
    words = [word for word in typed.overrides if word.split("=")[0] in ("experiment", "hpo")]
    if words and words[0].startswith("hpo="):
        raise UserError(f"{words[0]} is a search over several runs: dp-bench sweep {words[0]} …")
    if words and not (typed.multirun or typed.cfg or typed.info):
        raise UserError(
            f"{words[0]} stands for several runs: dp-bench sweep {words[0]}; --cfg job shows what they share."
        )


def _run_one(cfg: Any) -> int:
    """Run one job; a failure is recorded and told, and the other jobs of a sweep go on."""
    from dp_bench.run import run

    try:
        run(config.build(cfg))
    except UnreachableError:
        raise
    except UserError as error:
        return _tell(error)
    except RunFailedError as error:
        print(f"dp-bench: the run failed. {error}", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _tell(error: UserError) -> int:
    print(f"dp-bench: {error}", file=sys.stderr)
    return 2


def _run_on_micro(overrides: Sequence[str], extra_dir: Path | None, error: UnreachableError) -> int:
    """Run the same task and prompt on the embedded benchmark instead, and say so before and after."""
    replaced = ("backbone=", "backbone.", "data=", "data.", "trainer=")  # single settings of the trainer stay
    own = [override for override in overrides if not override.lstrip("+").startswith(replaced)]
    notice = (
        "=" * 100,
        f"NOT what was asked for: {error}",
        "",
        f"Running on the embedded MICRO BENCHMARK instead ({' '.join(MICRO)}): generated rows, a tiny",
        "T5. Its scores say nothing about SuperGLUE. on_missing=error stops here instead.",
        "=" * 100,
    )
    print("\n".join(notice))
    return _run_one(config.compose([*own, *MICRO], extra_dir))
