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
FORMS = (
    "{low: 0.01, high: 1.0, log: true} or {choices: [1, 2, 4]}, and methods: [prompt, lora] to restrict it"
)


@dataclass(frozen=True)
class Cell:
    """What is tuned together: the runs of one method on one task, which differ in their seed only."""

    runs: tuple[Run, ...]  # as typed, one a seed
    words: tuple[str, ...]  # the overrides of all runs, without the seed
    on_heldout: tuple[str, ...]  # added where `words` do not select on held-out rows
    space: Mapping[str, Mapping[str, Any]]

    @property
    def title(self) -> str:
        """Task, backbone and prompt, for messages and the names of studies."""
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
    """Run all missing trials, and return the plan of the reported runs.

    With `dry_run` no trial is run, and the plan is that of the runs as typed. Raises UserError where the
    search settings are wrong, Optuna is missing, or all trials of a cell failed.
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
            f"  trials select on held-out rows (trainer.selection={HELDOUT}); the reported runs do not",
            markup=False,
        )
    if dry_run:
        return typed
    studies = _studies(tuned, settings, folder)
    assert settings.trials is not None
    with Workers(jobs, folder, gpus, extra_dir) as workers:
        for number in range(settings.trials):
            _round(number, tuned, studies, settings, folder, extra_dir, workers, console)
    by_name = {study.study_name: study for study in studies}
    return _reported(typed, cells, by_name, settings, folder, extra_dir)


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


def _cells(plan: Plan, settings: HpoSettings) -> list[Cell]:
    """Group the runs by cell, and give each cell its search space."""
    grouped: dict[str, list[Run]] = {}
    for run in plan.runs:
        grouped.setdefault(run.cell_id, []).append(run)
    cells = []
    for runs in grouped.values():
        resolved = runs[0].resolved
        words = tuple(word for word in runs[0].words if not word.startswith("seed="))
        selection = resolved["trainer"]["selection"]
        on_heldout = () if selection == HELDOUT else (f"trainer.selection={HELDOUT}",)
        space = {k: v for k, v in settings.space.items() if k in resolved["hpo"]["searched"]}
        cells.append(Cell(tuple(runs), words, on_heldout, space))
    return cells


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
    """Name a study by all that a trial's score depends on, so that another search is another study."""
    words = [*sorted(w for w in cell.words if w.split("=")[0] not in records.VOLATILE), *cell.on_heldout]
    text = repr((words, settings.seed, sorted((k, sorted(v.items())) for k, v in cell.space.items())))
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
    """Run trial `number` of every cell that does not have it yet.

    The trials of all cells run in parallel and their studies get the scores afterwards, so that what a study
    proposes depends on its earlier trials only, whatever `--jobs` is.
    """
    proposed: list[tuple[optuna.Study, Plan]] = []
    for cell, study in zip(cells, studies, strict=True):
        if len(study.trials) > number and study.trials[number].state.is_finished():
            continue
        words = [*cell.words, *_ask(study, number, cell, settings), *cell.on_heldout]
        proposed.append(
            (study, make_plan([*words, f"seed={settings.seed}", f"results_dir={folder}"], extra_dir))
        )
    if not proposed:
        return
    merged = _merged(f"trial {number + 1} of {settings.trials}", [plan for _, plan in proposed])
    from optuna.trial import TrialState

    console.print(f"{merged.name}: {len(merged.runs)} runs", markup=False)
    before = states(folder, [run.run_id for run in merged.runs])
    with Watch(merged, before, Costs(load_all(folder)), workers.jobs, console) as watch:
        watch.expect(merged.runs)
        outcomes = workers.run(merged.runs, watch)
    refused = [outcome for outcome in outcomes if outcome.kind == "refused"]
    if refused:
        raise UserError(refused[0].message)
    for study, plan in proposed:
        record = records.load(folder / "runs" / plan.runs[0].run_id)
        if record is None:  # it failed, such as by a learning rate that makes the loss NaN
            study.tell(number, state=TrialState.FAIL)
        else:
            study.tell(number, record.select_score)


def _ask(study: optuna.Study, number: int, cell: Cell, settings: HpoSettings) -> list[str]:
    """Return the settings of trial `number`: those of an interrupted trial, or what the study proposes.

    The sampler is seeded for each trial, so that a resumed search proposes the same settings.
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
    return float(f"{trial.suggest_float(key, low, high, log=log):.4g}")  # readable, and precise enough


def _merged(name: str, plans: Sequence[Plan]) -> Plan:
    """Merge several plans into one."""
    return replace(plans[0], name=name, runs=tuple(run for plan in plans for run in plan.runs))


def _reported(
    typed: Plan,
    cells: Sequence[Cell],
    studies: Mapping[str, optuna.Study],
    settings: HpoSettings,
    folder: Path,
    extra_dir: Path | None,
) -> Plan:
    """Plan the runs with the best settings of each cell, and write these settings to best.json."""
    plans, best_of = [], {}
    for cell in cells:
        best_words: list[str] = []
        if cell.space:
            study = studies[_name(cell, settings)]
            finished = [trial for trial in study.trials if trial.value is not None]
            if not finished:
                raise UserError(f"hpo={settings.name}: every trial of {cell.title} failed; see {folder}.")
            best = max(finished, key=lambda trial: (trial.value, -trial.number))
            best_words = _ask(study, best.number, cell, settings)
            best_of[study.study_name] = {
                "settings": best_words,
                "select_score": best.value,
                "trial": best.number,
                "trials": len(study.trials),
                "failed": len(study.trials) - len(finished),
            }
        seeds = ",".join(run.labels["seed"] for run in cell.runs)
        plans.append(make_plan([*cell.words, *best_words, f"seed={seeds}"], extra_dir))
        if best_words:
            best_of[study.study_name]["run_ids"] = [run.run_id for run in plans[-1].runs]
    records.write_json(folder / "best.json", best_of)
    return _merged(typed.name, plans)
