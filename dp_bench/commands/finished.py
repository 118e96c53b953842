"""Which finished runs a command is about."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from dp_bench.records import RunRecord
from dp_bench.report.aliases import canonical
from dp_bench.report.index import load_all
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError


def finished_runs(results_dir: Path, experiment: str | None = None) -> list[RunRecord]:
    """Return the finished runs below a folder, or those of one experiment, under the names that their prompts
    have today; raise UserError without any."""
    found = canonical(load_all(results_dir))
    if not found:
        raise UserError(
            f"There are no finished runs below {results_dir / 'runs'}. Start one: dp-bench train task=rte "
            "prompt=fixed; or say where they are: --results-dir DIR."
        )
    return _of_experiment(found, experiment, results_dir) if experiment else found


def _of_experiment(found: list[RunRecord], name: str, results_dir: Path) -> list[RunRecord]:
    """Return the runs that a sweep of the experiment planned, or that were made as part of it."""
    from dp_bench import config
    from dp_bench.sweep.plan import saved_plans

    name = config.present_name(name)
    part_of = {r.run_id: config.with_present_names(r.experiment) for r in found if r.experiment}
    plans = [plan for plan in saved_plans(results_dir) if name in plan["experiments"]]
    planned: Collection[str] = {run["run_id"] for plan in plans for run in plan["runs"]}
    own = [record for record in found if record.run_id in planned or part_of.get(record.run_id) == name]
    if not own:
        known = sorted(set(part_of.values()))
        there = f"There are: {', '.join(known)}." if known else "No run here is part of any."
        raise UserError(
            f"No finished run is part of experiment {name}. {did_you_mean(name, known)}{there} Start it: "
            f"dp-bench sweep experiment={name}."
        )
    return own


def check_words(option: str, words: Sequence[str], known: Sequence[str]) -> None:
    """Raise UserError where one of the words is not known, with the one that was meant."""
    for word in words:
        if word not in known:
            raise UserError(
                f"{option} does not know '{word}'. {did_you_mean(word, known)}It takes: {', '.join(known)}."
            )
