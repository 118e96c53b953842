"""`dp-bench train`: check the command line, let Hydra compose each job, and run it."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from logging.config import dictConfig
from pathlib import Path
from typing import Any

from dp_bench import __version__, config, faults, grammar, ranks, records
from dp_bench.commands.finished import started_from
from dp_bench.config import jobs
from dp_bench.printing import say
from dp_bench.settings import OnMissing
from dp_bench.types import RunFailedError, UnreachableError, UserError

MICRO = ("backbone=t5_micro", "data=micro", "trainer=micro")
NAMES = ("backbone=", "backbone.", "data=", "data.")
REFUSED = ("experimental_rerun", "config_path", "config_name", "shell_completion", "hydra_help")
START = "--from"
ANOTHER_RUN = 3  # exit code: the micro benchmark ran, which nobody had asked for


def train(words: list[str]) -> int:
    """Run `dp-bench train WORDS` and return the exit code."""
    if "--version" in words:  # Hydra's parser would print Hydra's version
        say(f"dp-bench {__version__}")
        return 0
    words, start = _without_start(words)
    words = grammar.as_settings(words, jobs.flags())
    typed = jobs.parse_words(words)
    _check_flags(typed)
    extra_dir = Path(typed.config_dir) if typed.config_dir else None
    words = config.renew(words, extra_dir)
    typed = jobs.parse_words(words)
    composer = config.Composer(extra_dir)
    if start:
        flags = [word for word in words if word not in typed.overrides]
        words = [*flags, *started_from(start, typed.overrides, composer)]
        typed = jobs.parse_words(words)
    config.check(typed.overrides, composer, sweep=typed.multirun)
    if any(map(config.is_of_hydra, typed.overrides)):
        raise UserError("dp-bench train runs here, one run after the other: dp-bench sweep takes launchers.")
    if not typed.help:
        _check_experiment(typed)
    if typed.help or typed.cfg or typed.info:
        jobs.show(words)
        return 0
    records.typed(words)
    dictConfig({"version": 1, "root": {"level": "ERROR"}, "disable_existing_loggers": True})
    asked = "on_missing=micro" in typed.overrides  # for the micro benchmark in place of what is missing
    replaceable = not typed.multirun and (asked or _is_usual(typed.overrides))
    outcomes: list[int] = []
    refused: Counter[str] = Counter()  # messages, which many combinations may share
    unreachable: list[UnreachableError] = []
    results_arg = ""
    for cfg in jobs.combinations(typed.overrides, composer):
        results_arg = "" if cfg.results_dir == "results" else f" --results-dir {cfg.results_dir}"
        try:
            outcomes.append(run_one(cfg, composer))
        except UserError as error:
            wants_micro = replaceable and cfg.on_missing is OnMissing.micro
            if isinstance(error, UnreachableError) and wants_micro:
                unreachable.append(error)
                continue
            refused[str(error)] += 1
            outcomes.append(_print_error(error) if refused[str(error)] == 1 else 2)
    if unreachable:
        code = _run_on_micro(typed.overrides, composer, unreachable[0])
        outcomes.append(code if code or asked else ANOTHER_RUN)
    if len(outcomes) > 1:
        say(f"{len(outcomes)} runs: {outcomes.count(0)} done, {len(outcomes) - outcomes.count(0)} failed.")
        if refused.total() > len(refused):
            say(f"{refused.total()} of them were refused, for the reasons above, each of which is said once.")
    if outcomes and max(outcomes) in (0, ANOTHER_RUN):
        say(f"Next: dp-bench tables{results_arg}")
    return max(outcomes, default=0)


def _without_start(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Take `--from RUN` out of what was typed; raise UserError where it stands twice or without a run."""
    others, found, rest = [], [], iter(words)
    for word in rest:
        if word == START or word.startswith(f"{START}="):
            found.append(next(rest, "") if word == START else word.partition("=")[2])
        else:
            others.append(word)
    if len(found) > 1 or "" in found:
        raise UserError("--from takes one finished run: dp-bench train --from RUN key=value …")
    return others, found[0] if found else None


def _check_flags(typed: Any) -> None:
    if used := [flag for flag in REFUSED if getattr(typed, flag)]:
        flag = used[0].replace("_", "-")
        raise UserError(f"--{flag} is a flag of Hydra that dp-bench does not have: remove it.")
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


def run_one(cfg: Any, composer: config.Composer) -> int:
    """Run one job and return its exit code. A failure is printed, and other jobs continue.

    Raises UserError for settings that are wrong.
    """
    if "torch" not in sys.modules and ranks.leads():
        say("loading torch and transformers …")
        sys.stdout.flush()
    from dp_bench.run import run

    try:
        run(config.build(cfg, composer))
    except UserError:
        raise
    except RunFailedError as error:
        say(f"dp-bench: the run failed. {error}", file=sys.stderr)
        return 1
    except Exception as error:
        fault = faults.of_machine(error)
        say(f"dp-bench: {fault}" if fault else traceback.format_exc(), file=sys.stderr)
        return 1
    return 0


def _print_error(error: UserError) -> int:
    say(f"dp-bench: {error}", file=sys.stderr)
    return 2


def _begins(override: str, *keys: str) -> bool:
    return override.lstrip("+").startswith(keys)


def _is_usual(overrides: Sequence[str]) -> bool:
    """Return whether no data and no backbone were named, so that others may take their place."""
    return not any(_begins(override, *NAMES) for override in overrides)


def _run_on_micro(overrides: Sequence[str], composer: config.Composer, error: UnreachableError) -> int:
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
    say("\n".join(notice))
    return run_one(composer.compose([*kept, *MICRO]), composer)
