"""The finished runs that a command selects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from dp_bench.records import RunRecord
from dp_bench.report.aliases import canonical
from dp_bench.report.index import load_all
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError


def finished_runs(results_dir: Path, experiment: str | None = None) -> list[RunRecord]:
    """Return the finished runs below a folder, or those of one experiment, with prompt aliases resolved.

    Raises UserError if there are none.
    """
    records = canonical(load_all(results_dir))
    if not records:
        raise UserError(
            f"There are no finished runs below {results_dir / 'runs'}. Start one: dp-bench train task=rte "
            "prompt=fixed; or name their folder: --results-dir DIR."
        )
    return _of_experiment(records, experiment, results_dir) if experiment else records


def _of_experiment(records: list[RunRecord], name: str, results_dir: Path) -> list[RunRecord]:
    """Return the runs that a sweep of the experiment planned, or whose record names it."""
    from dp_bench import config
    from dp_bench.sweep.plan import saved_plans

    name = config.with_present_names(name, typed=True)
    experiments = {r.run_id: config.with_present_names(r.experiment) for r in records if r.experiment}
    plans = [plan for plan in saved_plans(results_dir) if name in plan["experiments"]]
    planned: Collection[str] = {run["run_id"] for plan in plans for run in plan["runs"]}
    selected = [r for r in records if r.run_id in planned or experiments.get(r.run_id) == name]
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
