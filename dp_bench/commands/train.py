"""`dp-bench train`: check the command line, let Hydra compose each job, and run it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dp_bench import __version__, config
from dp_bench.config import jobs
from dp_bench.settings import OnMissing
from dp_bench.types import RunFailedError, UnreachableError, UserError, fault_of_machine

MICRO = ("backbone=t5_micro", "data=micro", "trainer=micro")
NAMES = ("backbone=", "backbone.", "data=", "data.")
ANOTHER_RUN = 3  # exit code: the micro benchmark ran, which nobody had asked for


def train(words: list[str]) -> int:
    """Run `dp-bench train WORDS` and return the exit code."""
    if "--version" in words:  # Hydra's parser would print Hydra's version
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
    asked = "on_missing=micro" in typed.overrides  # for the micro benchmark in place of what is missing
    outcomes: list[int] = []
    results_args: list[str] = []
    unreachable: list[UnreachableError] = []

    def job(cfg: Any, is_single: bool) -> None:
        results_args.append("" if cfg.results_dir == "results" else f" --results-dir {cfg.results_dir}")
        try:
            outcomes.append(_run_one(cfg))
        except UnreachableError as error:
            if is_single and cfg.on_missing is OnMissing.micro and (asked or _is_usual(typed.overrides)):
                unreachable.append(error)
            else:
                outcomes.append(_print_error(error))

    jobs.run_jobs(words, job)
    if unreachable:
        code = _run_on_micro(typed.overrides, extra_dir, unreachable[0])
        outcomes.append(code if code or asked else ANOTHER_RUN)
    if len(outcomes) > 1:
        print(f"{len(outcomes)} runs: {outcomes.count(0)} done, {len(outcomes) - outcomes.count(0)} failed.")
    if outcomes and max(outcomes) in (0, ANOTHER_RUN):
        print(f"Next: dp-bench tables{results_args[-1]}")
    return max(outcomes, default=0)


def _check_flags(typed: Any) -> None:
    if typed.config_dir and not Path(typed.config_dir).is_dir():
        raise UserError(
            f"--config-dir {typed.config_dir} is not a folder. Give one that holds prompt/NAME.yaml."
        )
    if typed.multirun and (typed.cfg or typed.info):
        raise UserError("-m runs every combination, --cfg and --info show one configuration: remove one.")
    if typed.resolve and not (typed.cfg or typed.help):
        raise UserError("--resolve resolves references in --cfg job: add --cfg job, or remove --resolve.")


def _check_experiment(typed: Any) -> None:
    """Raise UserError for an experiment or search, which has several runs."""
    words = [word for word in typed.overrides if word.split("=")[0] in ("experiment", "hpo")]
    if words and words[0].startswith("hpo="):
        raise UserError(f"{words[0]} is a search over several runs: dp-bench sweep {words[0]} …")
    if words and not (typed.multirun or typed.cfg or typed.info):
        raise UserError(
            f"{words[0]} stands for several runs: dp-bench sweep {words[0]}; --cfg job shows what they share."
        )


def _run_one(cfg: Any) -> int:
    """Run one job and return its exit code. A failure is printed, and other jobs continue."""
    from dp_bench.run import run

    try:
        run(config.build(cfg))
    except UnreachableError:
        raise
    except UserError as error:
        return _print_error(error)
    except RunFailedError as error:
        print(f"dp-bench: the run failed. {error}", file=sys.stderr)
        return 1
    except Exception as error:
        fault = fault_of_machine(error) if isinstance(error, OSError) else None
        print(f"dp-bench: {fault}" if fault else traceback.format_exc(), file=sys.stderr)
        return 1
    return 0


def _print_error(error: UserError) -> int:
    print(f"dp-bench: {error}", file=sys.stderr)
    return 2


def _begins(override: str, *keys: str) -> bool:
    return override.lstrip("+").startswith(keys)


def _is_usual(overrides: Sequence[str]) -> bool:
    """Return whether no data and no backbone were named, so that others may take their place."""
    return not any(_begins(override, *NAMES) for override in overrides)


def _run_on_micro(overrides: Sequence[str], extra_dir: Path | None, error: UnreachableError) -> int:
    """Run the same task and prompt on the embedded benchmark, after a notice."""
    kept = [override for override in overrides if not _begins(override, *NAMES, "trainer=")]
    notice = (
        "=" * 100,
        f"Nothing of what you asked for was run: {error}",
        "",
        f"Running the embedded MICRO BENCHMARK instead ({' '.join(MICRO)}): generated rows, a tiny T5.",
        "Its scores say nothing about SuperGLUE. on_missing=error stops here instead.",
        "=" * 100,
    )
    print("\n".join(notice))
    return _run_one(config.compose([*kept, *MICRO], extra_dir))
