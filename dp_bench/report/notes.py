"""Lines above and below the rows of a table: searches, budgets, marks, and what the numbers are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from dp_bench.data.notes import MARKS
from dp_bench.effective import OptimizerUsed, is_trained, optimizer_of
from dp_bench.records import RunRecord
from dp_bench.report.frame import Row
from dp_bench.report.runs import search_of, seed_and_draw_of, task_run_id, title_of

MEAN_SD = "mean ± sd"  # how a note on the cells begins
RUNS = "(n runs)"  # the number in a cell, which writers may leave out where it is the usual one


FEW = 3  # rows that a note on their budget lists, where all others have another one


def notes_on(records: list[RunRecord], rows: list[Row], metric: str, *, budgets_differ: bool) -> list[str]:
    """Return the notes that explain the cells and the runs behind them."""
    shown = "each task's metrics" if metric == "score" else metric
    notes = [
        f"{MEAN_SD} over seeds {RUNS} of {shown}, 0 to 100; -: not run; rows in order of trainable parameters"
    ]
    if not budgets_differ:
        labels = {task_run_id(record): row.name for row in rows for record in row.records}
        notes += _budgets(records, labels)
    if any(cell.n == 1 for row in rows for cell in row.cells.values()):
        notes.append("(1): one run, which says nothing about the spread over seeds")
    on_data = sorted({note for record in records for note in record.notes})
    notes += [f"{mark} {note}" for begin, mark in MARKS.items() for note in on_data if note.startswith(begin)]
    draws = {draw for row in rows for cell in row.cells.values() for draw in cell.draws}
    if len(draws) > 1:
        notes.append(
            f"the runs of a cell have {len(draws)} draws of few-shot rows (regime.split_seed); tests and "
            "intervals are over draws, each with the mean of its runs"
        )
    precisions = sorted({record.precision for record in records})
    if len(precisions) > 1:
        notes.append(f"frozen weights in {' and '.join(precisions)}: not all rows were computed alike")
    return notes


def searched(records: Iterable[RunRecord]) -> tuple[str, ...]:
    """Return header lines on the hyperparameter searches and the rows that they are for."""
    trained = [record for record in records if record.num_updates]
    by_description: dict[str, set[str]] = defaultdict(set)
    for record in trained:
        if search := search_of(record):
            keys = ", ".join(search["searched"]) or "nothing"
            description = f"hpo={search['name']}, {search['trials']} trials a method and task of {keys}"
            by_description[description].add(record.prompt)
    prompts = {record.prompt for record in trained}
    return tuple(
        f"{description}, best on held-out examples{'' if some == prompts else ': ' + ', '.join(sorted(some))}"
        for description, some in sorted(by_description.items())
    )


def left_out(records: Sequence[RunRecord], metric: str) -> list[str]:
    """Return a note on the runs that lack the metric, if any."""
    tasks = ", ".join(sorted({title_of(record) for record in records}))
    return [f"left out, without {metric}: {_runs(len(records))} on {tasks}"] if records else []


def repeats(run_ids: set[str]) -> list[str]:
    """Return a note on runs that repeat the settings and scores of another run and count once."""
    text = f"{_runs(len(run_ids))} with the settings and the scores of another one, counted once: "
    return [text + ", ".join(sorted(run_ids))] if run_ids else []


def contradiction(label: str, runs: Sequence[RunRecord]) -> str:
    """Return a note that runs with the same settings differ in their scores."""
    seed, draw = seed_and_draw_of(runs[0])
    where = f"{title_of(runs[0])}, seed {seed}{f', draw {draw}' if draw else ''}"
    scores = ", ".join(f"{run.score:.2f} ({run.run_id})" for run in runs)
    return f"{label} on {where}: runs with the same settings differ, and their mean counts as one: {scores}"


def marks(records: Iterable[RunRecord], task: str) -> str:
    """Return the marks of the data notes that the runs of a task have."""
    notes = [note for record in records if record.task == task for note in record.notes]
    return "".join(mark for begin, mark in MARKS.items() if any(note.startswith(begin) for note in notes))


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _budget(record: RunRecord) -> str:
    """Return the budget and optimizer of a trained run."""
    trainer = record.config["trainer"]
    used = OptimizerUsed(**record.optimizer) if record.optimizer else optimizer_of(record.config)
    assert used is not None
    others = {"selectors": used.selector_lr, "networks": used.network_lr, "adapters": used.adapter_lr}
    apart = "".join(f" ({lr} for {name})" for name, lr in others.items() if lr not in (None, used.lr))
    unit = "" if used.lr_unit is None else " times the embeddings' root mean square"
    return (
        f"at most {trainer['max_steps']} updates of {trainer['batch_size']} examples, {used.name}, "
        f"lr {used.lr}{unit}{apart}"
    )


def _budgets(records: list[RunRecord], labels: Mapping[str, str]) -> list[str]:
    """Return a note per training budget, naming rows and tasks if budgets differ. A row is named by its
    prompt, or by its label if rows of one prompt differ."""
    trained = [record for record in records if record.num_updates and is_trained(record.config)]
    by_budget: dict[str, list[RunRecord]] = defaultdict(list)
    by_cell: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in trained:
        budget = _budget(record)
        by_budget[budget].append(record)
        by_cell[record.prompt, record.task].add(budget)
    ambiguous = {prompt for (prompt, _), budgets in by_cell.items() if len(budgets) > 1}

    def rows_and_tasks(subset: list[RunRecord]) -> tuple[list[str], list[str]]:
        names = {labels[task_run_id(r)] if r.prompt in ambiguous else r.prompt for r in subset}
        return sorted(names), sorted({title_of(record) for record in subset})

    all_rows, all_tasks = rows_and_tasks(trained)
    everyone = "every row" if len(trained) == len(records) else "every trained row"
    parts = {budget: rows_and_tasks(subset) for budget, subset in by_budget.items()}
    most = max(parts.values(), key=lambda part: len(part[0]), default=([], []))
    notes = []
    several = len(most[0]) > FEW  # the other budgets come first
    for budget, (rows, tasks) in sorted(parts.items(), key=lambda part: several and part[1] == most):
        who = everyone if rows == all_rows else ", ".join(rows)
        if several and rows == most[0] and tasks == all_tasks and len(rows) < len(all_rows):
            who = "every other trained row"
        where = "" if tasks == all_tasks else f" on {', '.join(tasks)}"
        notes.append(f"{who}{where}: {budget}")
    return notes
