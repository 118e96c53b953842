"""The finished runs that a command selects, and the one that it names."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dp_bench import records
from dp_bench.printing import say
from dp_bench.records import RunRecord
from dp_bench.report.aliases import canonical
from dp_bench.report.index import load_all
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError

if TYPE_CHECKING:
    from dp_bench.config import Composer


def finished_runs(results_dir: Path, experiment: str | None = None) -> list[RunRecord]:
    """Return the finished runs below a folder, or those of one experiment, with prompt aliases resolved.

    Raises UserError if there are none.
    """
    runs = canonical(load_all(results_dir))
    if not runs:
        raise UserError(
            f"There are no finished runs below {results_dir / 'runs'}. Start one: dp-bench train task=rte "
            "prompt=fixed; or name their folder: --results-dir DIR."
        )
    return _of_experiment(runs, experiment, results_dir) if experiment else runs


def find_run(run: str, results_dir: Path) -> Path:
    """Return the folder of the finished run that `run` names: its folder, its id, or a part of its id.

    Raises UserError where it names none, or several.
    """
    if _is_run(run):
        return Path(run)
    finished = records.finished(results_dir)
    matching = [run] if run in finished else [run_id for run_id in finished if run and run in run_id]
    if len(matching) == 1:
        return results_dir / "runs" / matching[0]
    if not matching:
        raise UserError(
            f"No finished run below {results_dir / 'runs'} has '{run}' in its id, and there is no such "
            "folder of one. `dp-bench list runs` prints the ids; name their folder: --results-dir DIR."
        )
    shown = "\n  ".join(matching[:10])
    more = f"\n  and {len(matching) - 10} more" if len(matching) > 10 else ""
    raise UserError(
        f"'{run}' is in the ids of {len(matching)} finished runs; type more of one:\n  {shown}{more}"
    )


def started_from(run: str | None, typed: Sequence[str], composer: Composer) -> list[str]:
    """Return the words that give a finished run's settings, if one is named, and those typed, which win.

    The run is looked for below the results_dir that is typed. Raises UserError where this version cannot say
    its configuration.
    """
    from dp_bench import config

    if run is None:
        return list(typed)
    if any(word.lstrip("+").startswith("experiment=") for word in typed):
        raise UserError("--from and experiment= both say where to start: remove one.")
    folders = [word.partition("=")[2] for word in typed if word.startswith("results_dir=")]
    folder = find_run(run, Path(folders[-1] if folders else "results"))
    record = records.load(folder)
    assert record is not None, "find_run finds finished runs"
    said = config.words_of(record.config, composer)
    if not said.is_exact:
        raise UserError(
            f"--from {run}: this version of dp-bench cannot say its configuration: {said.problem}. Give the "
            "--config-dir and --code that it was started with, or type what you want to keep of: "
            f"{shlex.join(said.words)}"
        )
    say(f"from {record.run_id}: {shlex.join(said.words)}")
    return config.merged(said.words, typed, composer.extra_dir)


def _is_run(text: str) -> bool:
    try:
        return bool(text) and records.is_finished(Path(text))
    except (OSError, ValueError):  # a name that no folder can have
        return False


def _of_experiment(runs: list[RunRecord], name: str, results_dir: Path) -> list[RunRecord]:
    """Return the runs that a sweep of the experiment planned, or whose record names it."""
    from dp_bench import config
    from dp_bench.sweep.plan import saved_plans

    name = config.with_present_names(name, typed=True)
    experiments = {r.run_id: config.with_present_names(r.experiment) for r in runs if r.experiment}
    plans = [plan for plan in saved_plans(results_dir) if name in plan["experiments"]]
    planned: Collection[str] = {run["run_id"] for plan in plans for run in plan["runs"]}
    selected = [r for r in runs if r.run_id in planned or experiments.get(r.run_id) == name]
    if not selected:
        known = sorted(set(experiments.values()))
        available = f"There are: {', '.join(known)}." if known else "No run here is part of an experiment."
        raise UserError(
            f"No finished run is part of experiment {name}. {did_you_mean(name, known)}{available} Start it: "
            f"dp-bench sweep experiment={name}."
        )
    return selected


def check_words(option: str, words: Sequence[str], known: Sequence[str]) -> None:
    """Raise UserError for the first word that is not known, with the nearest known word."""
    for word in words:
        if word not in known:
            raise UserError(
                f"{option} does not know '{word}'. {did_you_mean(word, known)}It takes: {', '.join(known)}."
            )
