"""Search for settings before the reported runs: the same number of trials for each method, on held-out rows.

`configs/hpo/NAME.yaml` says how many trials, of what, and with which seed. For each cell of a sweep, a task
with a prompt and so on, an Optuna study is asked for settings and told the `select_score` that a run with
them reached; the reported split is never looked at: a trial selects on held-out rows even where the reported
runs do not, as under protocol=authors. The trials lie in a results folder of their own, so that
no table shows them; what was asked and told lies in an SQLite file beside them, from which an interrupted
search goes on. Then the best settings of each cell are run with the reported seeds.

A trial is an ordinary run, and so is the outcome: both are named by their settings alone. That a run came
out of a search, and of how many trials, is in its record's `config.hpo`, which is no part of its id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dp_bench import config, records
from dp_bench.randomness import derive
from dp_bench.report.index import load_all
from dp_bench.settings import HpoSettings, Selection
from dp_bench.sweep.plan import Costs, Plan, Run, make_plan, states
from dp_bench.sweep.watch import Watch
from dp_bench.sweep.workers import Workers
from dp_bench.types import UserError

if TYPE_CHECKING:
    import optuna

HELDOUT = Selection.heldout.value
FORMS = "{low: 0.01, high: 1.0, log: true} or {choices: [1, 2, 4]}, and methods: [prompt, lora] if for some"


@dataclass(frozen=True)
class Cell:
    """What is tuned together: the runs of one method on one task, which differ in their seeds."""

    runs: tuple[Run, ...]  # as they were typed, one a seed
    words: tuple[str, ...]  # of them all, without a seed
    on_heldout: tuple[str, ...]  # what makes a trial select on held-out rows, where its words do not say so
    space: Mapping[str, Mapping[str, Any]]

    @property
    def title(self) -> str:
        labels = self.runs[0].labels
        return f"{labels['task']} {labels['backbone']} {labels['prompt']}"


def search(
    words: Sequence[str],
    extra_dir: Path | None,
    *,
    jobs: int,
    gpus: Sequence[str],
    dry_run: bool,
    console: Console,
) -> Plan:
    """Make all trials that are still missing, and return the plan of the reported runs.

    With `dry_run` no trial is made, and the plan is that of the runs as they were typed.
    """
    typed = make_plan(words, extra_dir)
    settings = _settings(words, extra_dir)
    cells = _cells(typed, settings)
    folder = typed.results_dir / "hpo" / str(settings.name)
    tuned = [cell for cell in cells if cell.space]
    console.print(
        f"hpo={settings.name}: {settings.trials} trials for each of {len(tuned)} cells with seed "
        f"{settings.seed}, in {folder}; {len(cells) - len(tuned)} cells have nothing to tune",
        markup=False,
    )
    if any(cell.on_heldout for cell in tuned):
        console.print(
            f"  trials select on held-out rows (trainer.selection={HELDOUT}); the runs that are reported do "
            "not",
            markup=False,
        )
    if dry_run:
        return typed
    studies = _studies(tuned, settings, folder)
    assert settings.trials is not None
    with Workers(jobs, folder, gpus, extra_dir) as workers:
        for number in range(settings.trials):
            _round(number, tuned, studies, settings, folder, extra_dir, workers, console)
    named = {study.study_name: study for study in studies}
    return _reported(typed, cells, named, settings, folder, extra_dir)


def _settings(words: Sequence[str], extra_dir: Path | None) -> HpoSettings:
    own = [word for word in words if word.lstrip("+").split("=")[0].split(".")[0] == "hpo"]
    settings = config.experiment(own, extra_dir).settings.hpo
    if not settings.trials or settings.trials < 1 or settings.seed is None or not settings.space:
        raise UserError("hpo= needs hpo.trials (at least 1), hpo.seed and hpo.space: see configs/hpo.")
    for key, entry in settings.space.items():
        if key == "trainer.selection":
            raise UserError(
                "hpo.space: trainer.selection is no setting to search for: trials use held-out rows."
            )
        bounds = {"low", "high"} <= entry.keys() and entry["low"] < entry["high"]
        if not bounds and not entry.get("choices"):
            raise UserError(f"hpo.space: {key} must be {FORMS}.")
    return settings


def _cells(plan: Plan, settings: HpoSettings) -> list[Cell]:
    """Sort the runs by what they are apart from their seed, and give each cell its space."""
    grouped: dict[str, list[Run]] = {}
    for run in plan.runs:
        grouped.setdefault(plan.cells[run.run_id], []).append(run)
    found = []
    for own in grouped.values():
        searched = plan.resolved[own[0].run_id]["hpo"]["searched"]
        words = tuple(word for word in own[0].words if not word.startswith("seed="))
        selection = plan.resolved[own[0].run_id]["trainer"]["selection"]
        on_heldout = () if selection == HELDOUT else (f"trainer.selection={HELDOUT}",)
        space = {k: v for k, v in settings.space.items() if k in searched}
        found.append(Cell(tuple(own), words, on_heldout, space))
    return found


def _studies(cells: Sequence[Cell], settings: HpoSettings, folder: Path) -> list[optuna.Study]:
    try:
        import optuna
    except ImportError:
        raise UserError("hpo= needs Optuna: pip install 'dp-bench[hpo]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder / 'studies.db'}"
    return [
        optuna.create_study(
            storage=storage, study_name=_name(cell, settings), direction="maximize", load_if_exists=True
        )
        for cell in cells
    ]


def _name(cell: Cell, settings: HpoSettings) -> str:
    """Name a study after all that a trial's score depends on, so that another search is another study."""
    own = [*sorted(w for w in cell.words if w.split("=")[0] not in records.VOLATILE), *cell.on_heldout]
    text = repr((own, settings.seed, sorted((k, sorted(v.items())) for k, v in cell.space.items())))
    return f"{cell.title} {sha256(text.encode()).hexdigest()[:8]}"


def _round(
    number: int,
    cells: Sequence[Cell],
    studies: Sequence[optuna.Study],
    settings: HpoSettings,
    folder: Path,
    extra_dir: Path | None,
    workers: Workers,
    console: Console,
) -> None:
    """Make trial `number` of every cell that has not made it yet.

    All cells make theirs side by side and are told afterwards, so that what a study proposes depends on its
    own trials alone, whatever `--jobs` is.
    """
    asked: list[tuple[optuna.Study, Plan]] = []
    for cell, study in zip(cells, studies, strict=True):
        if len(study.trials) > number and study.trials[number].state.is_finished():
            continue
        words = [*cell.words, *_ask(study, number, cell, settings), *cell.on_heldout]
        asked.append(
            (study, make_plan([*words, f"seed={settings.seed}", f"results_dir={folder}"], extra_dir))
        )
    if not asked:
        return
    whole = _together(f"trial {number + 1} of {settings.trials}", [plan for _, plan in asked])
    from optuna.trial import TrialState

    console.print(f"{whole.name}: {len(whole.runs)} runs", markup=False)
    found = states(folder, [run.run_id for run in whole.runs])
    with Watch(whole, found, Costs(load_all(folder)), workers.jobs, console) as watch:
        watch.expect(whole.runs)
        outcomes = workers.run(whole.runs, watch)
    refused = [outcome for outcome in outcomes if outcome.kind == "refused"]
    if refused:
        raise UserError(refused[0].message)
    for study, plan in asked:
        record = records.load(folder / "runs" / plan.runs[0].run_id)
        if record is None:  # it broke: a learning rate at which the loss is no number, say
            study.tell(number, state=TrialState.FAIL)
        else:
            study.tell(number, record.select_score)


def _ask(study: optuna.Study, number: int, cell: Cell, settings: HpoSettings) -> list[str]:
    """Return the settings of trial `number`: those that an interrupted one had, or what the study proposes.

    The sampler is seeded anew for each trial, so that a search that was interrupted proposes the same.
    """
    import optuna

    assert settings.seed is not None and settings.trials is not None
    seed = derive(settings.seed, "hpo", study.study_name, number) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(2, settings.trials // 3))
    begun = study.trials[number:]
    trial = optuna.trial.Trial(study, begun[0]._trial_id) if begun else study.ask()
    values = {key: _suggest(trial, key, entry) for key, entry in cell.space.items()}
    return [f"{key}={value}" for key, value in values.items()]


def _suggest(trial: optuna.Trial, key: str, entry: Mapping[str, Any]) -> Any:
    if "choices" in entry:
        return trial.suggest_categorical(key, entry["choices"])
    low, high, log = entry["low"], entry["high"], bool(entry.get("log"))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log)
    return float(
        f"{trial.suggest_float(key, low, high, log=log):.4g}"
    )  # four digits tell all there is to tell


def _together(name: str, plans: Sequence[Plan]) -> Plan:
    """Make one plan of several."""
    return replace(
        plans[0],
        name=name,
        runs=tuple(run for plan in plans for run in plan.runs),
        resolved={k: v for plan in plans for k, v in plan.resolved.items()},
        cells={k: v for plan in plans for k, v in plan.cells.items()},
    )


def _reported(
    typed: Plan,
    cells: Sequence[Cell],
    studies: Mapping[str, optuna.Study],
    settings: HpoSettings,
    folder: Path,
    extra_dir: Path | None,
) -> Plan:
    """Plan the runs with the best settings of each cell, and leave word of what was found."""
    plans, found = [], {}
    for cell in cells:
        own: list[str] = []
        if cell.space:
            study = studies[_name(cell, settings)]
            finished = [trial for trial in study.trials if trial.value is not None]
            if not finished:
                raise UserError(f"hpo={settings.name}: every trial of {cell.title} failed; see {folder}.")
            best = max(finished, key=lambda trial: (trial.value, -trial.number))
            own = _ask(study, best.number, cell, settings)
            found[study.study_name] = {
                "settings": own,
                "select_score": best.value,
                "trial": best.number,
                "trials": len(study.trials),
                "failed": len(study.trials) - len(finished),
            }
        seeds = ",".join(run.labels["seed"] for run in cell.runs)
        plans.append(make_plan([*cell.words, *own, f"seed={seeds}"], extra_dir))
        if own:
            found[study.study_name]["run_ids"] = [run.run_id for run in plans[-1].runs]
    records.write_json(folder / "best.json", found)
    return _together(typed.name, plans)
