"""Search for settings before the reported runs: the same number of trials for each method, on held-out rows.

`configs/hpo/NAME.yaml` sets the number of trials, the search space and the seed. For each cell of a sweep, an
Optuna study proposes settings and receives the `select_score` of a run with them. The reported split is never
used: a trial selects on held-out rows even where the reported runs do not, as under protocol=authors. The
trials are stored in a separate results folder, so that no table shows them, with the studies in an SQLite
file from which an interrupted search resumes. Then the best settings of each cell are run with the reported
seeds.

A trial is an ordinary run, and so is a run with the best settings: the ids of both depend on their settings
only. The search is in the record's `config.hpo`, which is not part of the id.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dp_bench import config, extras, records
from dp_bench.randomness import derive
from dp_bench.report.index import load_all
from dp_bench.settings import HpoSettings, Selection
from dp_bench.sweep.estimate import Costs
from dp_bench.sweep.plan import Plan, Run, make_plan, states
from dp_bench.sweep.watch import Watch
from dp_bench.sweep.workers import Workers
from dp_bench.types import UserError

if TYPE_CHECKING:
    import optuna

HELDOUT = Selection.heldout.value
FORMS = (
    "{low: 0.01, high: 1.0, log: true} or {choices: [1, 2, 4]}, and methods: [prompt, lora] or prompts: "
    "[fixed, dynamic] to restrict it"
)


@dataclass(frozen=True)
class Cell:
    """What is tuned together: the runs of one method on one task, which differ in their seed only."""

    runs: Sequence[Run]  # as typed, one a seed
    settings: HpoSettings
    folder: Path  # of the trials and the studies

    @property
    def words(self) -> list[str]:
        """The overrides of all runs, without the seed."""
        return [word for word in self.runs[0].words if not word.startswith("seed=")]

    @property
    def on_heldout(self) -> list[str]:
        """What trials add, where the runs do not select on held-out rows."""
        selection = self.runs[0].resolved["trainer"]["selection"]
        return [] if selection == HELDOUT else [f"trainer.selection={HELDOUT}"]

    @property
    def space(self) -> dict[str, dict[str, Any]]:
        """The search space of the method; empty where there is nothing to tune."""
        searched = self.runs[0].resolved["hpo"]["searched"]
        return {key: entry for key, entry in self.settings.space.items() if key in searched}

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the values, where all entries of the space have `choices`."""
        if not all("choices" in entry for entry in self.space.values()):
            return []
        values = product(*(entry["choices"] for entry in self.space.values()))
        return [dict(zip(self.space, chosen, strict=True)) for chosen in values]

    @property
    def title(self) -> str:
        """Task, backbone and prompt, for messages and the names of studies."""
        labels = self.runs[0].labels
        return f"{labels['task']} {labels['backbone']} {labels['prompt']}"

    @cached_property
    def study(self) -> optuna.Study:
        """The study, named by all that a trial's score depends on: another search is another study."""
        import optuna

        space = sorted((key, sorted(entry.items())) for key, entry in self.space.items())
        digest = sha256(repr((self.runs[0].cell_id, self.settings.seed, space)).encode()).hexdigest()[:8]
        return optuna.create_study(
            storage=f"sqlite:///{self.folder / 'studies.db'}",
            study_name=f"{self.title} {digest}",
            direction="maximize",
            load_if_exists=True,
        )

    def ask(self, number: int) -> list[str]:
        """Return the settings of trial `number`: those of an interrupted trial, or what the study proposes.

        The sampler is seeded for each trial, so that a resumed search proposes the same settings.
        """
        import optuna

        assert self.settings.seed is not None and self.settings.trials is not None
        seed = derive(self.settings.seed, "hpo", self.study.study_name, number) % 2**32
        startup = max(2, self.settings.trials // 3)
        sampler: Any = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
        if 0 < len(self.grid) <= self.settings.trials:  # each once, in turn
            fixed = self.grid[number % len(self.grid)]
            with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
                sampler = optuna.samplers.PartialFixedSampler(fixed, sampler)
        self.study.sampler = sampler
        begun = self.study.trials[number:]
        trial = optuna.trial.Trial(self.study, begun[0]._trial_id) if begun else self.study.ask()
        return [f"{key}={_suggest(trial, key, entry)}" for key, entry in self.space.items()]


def search(
    words: Sequence[str],
    extra_dir: Path | None,
    *,
    jobs: int,
    pack: int,
    gpus: Sequence[str],
    dry_run: bool,
    console: Console,
) -> Plan:
    """Run all missing trials, and return the plan of the reported runs.

    With `dry_run` no trial is run, and the plan is that of the runs as typed. Raises UserError where the
    search settings are wrong, Optuna is missing, or all trials of a cell failed.
    """
    typed = make_plan(words, extra_dir)
    settings = _settings(words, extra_dir)
    folder = typed.results_dir / "hpo" / str(settings.name)
    grouped: dict[str, list[Run]] = defaultdict(list)
    for run in typed.runs:
        grouped[run.cell_id].append(run)
    cells = [Cell(runs, settings, folder) for runs in grouped.values()]
    tuned = [cell for cell in cells if cell.space]
    console.print(
        f"hpo={settings.name}: {settings.trials} trials for each of {len(tuned)} cells with seed "
        f"{settings.seed}, in {folder}; {len(cells) - len(tuned)} cells have nothing to tune"
    )
    if any(cell.on_heldout for cell in tuned):
        console.print(
            f"  trials select on held-out rows (trainer.selection={HELDOUT}); the reported runs do not"
        )
    if dry_run:
        return typed
    try:
        import optuna
    except ImportError:
        raise extras.absent("hpo", "hpo=") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    assert settings.trials is not None
    with Workers(jobs, folder, gpus, extra_dir, pack) as workers:
        for number in range(settings.trials):
            _round(number, tuned, workers, console)
    return _reported(typed, cells, folder, extra_dir)


def _settings(words: Sequence[str], extra_dir: Path | None) -> HpoSettings:
    hpo_words = [word for word in words if word.lstrip("+").split("=")[0].split(".")[0] == "hpo"]
    settings = config.experiment(hpo_words, extra_dir).settings.hpo
    if not settings.trials or settings.trials < 1 or settings.seed is None or not settings.space:
        raise UserError("hpo= needs hpo.trials (at least 1), hpo.seed and hpo.space: see configs/hpo.")
    for key, entry in settings.space.items():
        if key == "trainer.selection":
            raise UserError(
                "hpo.space: trainer.selection cannot be searched: trials always select on held-out rows."
            )
        bounds = {"low", "high"} <= entry.keys() and entry["low"] < entry["high"]
        if not bounds and not entry.get("choices"):
            raise UserError(f"hpo.space: {key} must be {FORMS}.")
    return settings


def _round(number: int, cells: Sequence[Cell], workers: Workers, console: Console) -> None:
    """Run trial `number` of every cell that does not have it yet.

    The trials of all cells run in parallel and their studies get the scores afterwards, so that what a study
    proposes depends on its earlier trials only, whatever `--jobs` is.
    """
    folder = workers.results_dir
    proposed: list[tuple[Cell, Plan]] = []
    for cell in cells:
        if any(trial.state.is_finished() for trial in cell.study.trials[number : number + 1]):
            continue
        trial_words = [*cell.ask(number), *cell.on_heldout, f"seed={cell.settings.seed}"]
        plan = make_plan([*cell.words, *trial_words, f"results_dir={folder}"], workers.extra_dir)
        proposed.append((cell, plan))
    if not proposed:
        return
    name = f"trial {number + 1} of {cells[0].settings.trials}"
    merged = _merged(name, [plan for _, plan in proposed])
    console.print(f"{name}: {len(merged.runs)} runs")
    before = states(folder, [run.run_id for run in merged.runs])
    watch = Watch(merged, merged.runs, before, Costs(load_all(folder)), workers.jobs, console)
    for outcome in workers.run(merged.runs, watch):
        if outcome.kind == "refused":
            raise UserError(outcome.message)
    from optuna.trial import TrialState

    for cell, plan in proposed:
        record = records.load(folder / "runs" / plan.runs[0].run_id)
        if record is None:  # it failed, such as by a learning rate that makes the loss NaN
            cell.study.tell(number, state=TrialState.FAIL)
        else:
            cell.study.tell(number, record.select_score)


def _suggest(trial: optuna.Trial, key: str, entry: Mapping[str, Any]) -> Any:
    if "choices" in entry:
        return trial.suggest_categorical(key, entry["choices"])
    low, high, log = entry["low"], entry["high"], bool(entry.get("log"))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log)
    return float(f"{trial.suggest_float(key, low, high, log=log):.4g}")  # readable, and precise enough


def _merged(name: str, plans: Sequence[Plan]) -> Plan:
    """Merge several plans into one."""
    return replace(plans[0], name=name, runs=tuple(run for plan in plans for run in plan.runs))


def _reported(typed: Plan, cells: Sequence[Cell], folder: Path, extra_dir: Path | None) -> Plan:
    """Plan the runs with the best settings of each cell, and write these settings to best.json."""
    plans, best_of = [], {}
    for cell in cells:
        seeds = f"seed={','.join(run.labels['seed'] for run in cell.runs)}"
        if not cell.space:
            plans.append(make_plan([*cell.words, seeds], extra_dir))
            continue
        finished = [trial for trial in cell.study.trials if trial.value is not None]
        if not finished:
            raise UserError(f"hpo={cell.settings.name}: every trial of {cell.title} failed; see {folder}.")
        best = max(finished, key=lambda trial: (trial.value, -trial.number))
        best_words = cell.ask(best.number)
        plans.append(make_plan([*cell.words, *best_words, seeds], extra_dir))
        best_of[cell.study.study_name] = {
            "settings": best_words,
            "select_score": best.value,
            "trial": best.number,
            "trials": len(cell.study.trials),
            "failed": len(cell.study.trials) - len(finished),
            "run_ids": [run.run_id for run in plans[-1].runs],
        }
    records.write_json(folder / "best.json", best_of)
    return _merged(typed.name, plans)
