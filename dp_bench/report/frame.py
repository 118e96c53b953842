"""Sort the records into tables, rows and cells, so that what was not run alike never shares a cell.

A table holds one data set, backbone, regime, protocol and selection. A row is a prompt; where runs of one
prompt differ in a setting other than the seed, the row splits and names it; where rows differ in a setting
other than those of their prompts, such as the training budget, every row names it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from dp_bench.records import VOLATILE, RunRecord, flatten

TASK_ORDER = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "axb", "axg")
# Said by the header or the row's name already, or without influence on a result.
NOT_A_VARIANT = ("seed", "data.name", "data.limit", "prompt.name", "trainer.name", *VOLATILE)


@dataclass(frozen=True)
class Header:
    """What all runs of a table have in common."""

    data: str
    backbone: str
    random_weights: bool
    regime: str
    protocol: str
    selection: str
    split: str
    weights: str = (
        ""  # start of the checkpoint's fingerprint, where the name alone does not tell tables apart
    )

    def lines(self) -> list[str]:
        weights = (", RANDOM weights" if self.random_weights else "") + (
            f" {self.weights}" if self.weights else ""
        )
        selected = {
            "heldout": "prompt selected on held-out training examples",
            "validation": "prompt selected on the REPORTED split, which flatters every row",
        }
        return [
            f"data {self.data} · backbone {self.backbone}{weights} · regime {self.regime} · protocol "
            f"{self.protocol}",
            f"scores on {self.split}; {selected[self.selection]}",
        ]


@dataclass(frozen=True)
class Cell:
    """The scores of one row on one task, by seed."""

    values: dict[int, float]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return mean(self.values.values())

    @property
    def sd(self) -> float | None:
        """Return the sample standard deviation over seeds; None for one seed."""
        return stdev(self.values.values()) if self.n > 1 else None


@dataclass(frozen=True)
class Row:
    label: str
    cells: dict[str, Cell]  # by task
    records: tuple[RunRecord, ...]

    def average(self, tasks: Sequence[str]) -> Cell | None:
        """Return the mean over tasks, for each seed that all of them have; None where a task or all seeds are
        missing."""
        if not all(task in self.cells for task in tasks):
            return None
        seeds = set.intersection(*(set(self.cells[task].values) for task in tasks))
        values = {seed: mean(self.cells[task].values[seed] for task in tasks) for seed in sorted(seeds)}
        return Cell(values) if values else None


@dataclass(frozen=True)
class Table:
    header: Header
    tasks: tuple[str, ...]
    titles: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def build_tables(records: Iterable[RunRecord], metric: str = "score") -> list[Table]:
    """Arrange records in tables, in an order that depends on their content only."""
    by_header: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r.run_id):
        by_header[(*_base(record), record.checkpoint["fingerprint"])].append(record)
    bases = Counter(key[:-1] for key in by_header)
    tables = []
    for key in sorted(by_header, key=str):
        weights = str(key[-1])[:8] if bases[key[:-1]] > 1 else ""
        tables += [_table(part, metric, suffix, weights) for suffix, part in _by_data(by_header[key])]
    return tables


def value_of(record: RunRecord, metric: str) -> float | None:
    """Return a record's score, select_score, or named metric; None where its task has no such metric."""
    if metric in ("score", "select_score"):
        return float(getattr(record, metric))
    return record.metrics.get(metric)


def _base(record: RunRecord) -> tuple[str, ...]:
    data = record.config["data"]
    own = [f"first {data['limit']} rows of each file"] if data["limit"] is not None else []
    own += (
        [f"{data['difficulty']}, world seed {data['world_seed']}"] if data["difficulty"] is not None else []
    )
    own_text = f" ({'; '.join(own)})" if own else ""
    return (
        f"{record.data}{own_text}",
        record.backbone,
        _regime(record),
        record.protocol,
        record.selection,
        str(record.data_files["validation"]["file"]).split(".")[0].split("-")[0].replace("validation", "val"),
    )


def _regime(record: RunRecord) -> str:
    regime = record.config["regime"]
    if regime["shots"] is None:
        return record.regime
    own = "FewGLUE's 32 rows" if regime["split"] == "fewglue" else f"{regime['shots']} a class"
    return f"{record.regime} ({own})"


def _by_data(records: list[RunRecord]) -> list[tuple[str, list[RunRecord]]]:
    """Part records whose tasks were read from different files under one name."""
    digests: dict[str, list[str]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r.data_sha256):
        if record.data_sha256 not in digests[record.task]:
            digests[record.task].append(record.data_sha256)
    parts: dict[int, list[RunRecord]] = defaultdict(list)
    for record in records:
        parts[digests[record.task].index(record.data_sha256)].append(record)
    if len(parts) == 1:
        return [("", records)]
    return [(f" (files {_files(parts[number], digests)})", parts[number]) for number in sorted(parts)]


def _files(records: list[RunRecord], digests: dict[str, list[str]]) -> str:
    """Name what was read by the start of its digest, for the tasks that were read from several files."""
    return " ".join(sorted({r.data_sha256[:8] for r in records if len(digests[r.task]) > 1}))


def _table(records: list[RunRecord], metric: str, suffix: str, weights: str) -> Table:
    first = records[0]
    data, backbone, regime, protocol, selection, split = _base(first)
    random_weights = first.checkpoint["name_or_path"] is None
    header = Header(f"{data}{suffix}", backbone, random_weights, regime, protocol, selection, split, weights)
    titles = {record.task: str(record.config["task"]["title"]) for record in records}
    tasks = tuple(
        sorted(titles, key=lambda t: (TASK_ORDER.index(t) if t in TASK_ORDER else len(TASK_ORDER), t))
    )
    # Rows differ in their prompts; where they differ in anything else, each of them says so.
    common = {(task, key) for task, key in _differing(records) if not key.startswith("prompt.")}
    grouped: dict[str, list[RunRecord]] = defaultdict(list)
    for prompt in sorted({record.prompt for record in records}):
        own = [record for record in records if record.prompt == prompt]
        differing = common | _differing(own)
        keys = sorted({key for _, key in differing})
        for record in own:
            # A task's own settings are other ones than another task's anyway.
            named = [key for key in keys if not key.startswith("task.") or (record.task, key) in differing]
            grouped[_label(record, named)].append(record)
    rows = [_row(label, group, metric) for label, group in grouped.items()]
    rows.sort(key=lambda row: (min(r.trainable_parameters for r in row.records), row.label))
    return Table(
        header,
        tasks,
        titles,
        tuple(row for row in rows if row.cells),
        tuple(_notes(records, rows, metric, any(key.startswith("trainer.") for _, key in common))),
    )


def _row(label: str, records: list[RunRecord], metric: str) -> Row:
    cells: dict[str, dict[int, float]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: (r.task, r.seed, r.run_id)):
        value = value_of(record, metric)
        if value is not None:
            cells[record.task][record.seed] = value
    return Row(label, {task: Cell(values) for task, values in cells.items()}, tuple(records))


def _settings(record: RunRecord) -> dict[str, Any]:
    return {k: v for k, v in flatten(record.config).items() if k not in NOT_A_VARIANT}


def _differing(records: list[RunRecord]) -> set[tuple[str, str]]:
    """Return task and setting where records of the task differ."""
    flats = [(record.task, _settings(record)) for record in records]
    keys = {key for _, flat in flats for key in flat}
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for task, flat in flats:
        for key in keys:
            values[task, key].add(repr(flat.get(key)))
    return {task_and_key for task_and_key, seen in values.items() if len(seen) > 1}


def _label(record: RunRecord, keys: Sequence[str]) -> str:
    flat = _settings(record)
    parts = [
        f"{key.removeprefix('prompt.').removeprefix('trainer.')}={_plain(flat[key])}"
        for key in keys
        if key in flat
    ]
    return f"{record.prompt} [{', '.join(parts)}]" if parts else record.prompt


def _plain(value: Any) -> str:
    return (
        "null"
        if value is None
        else str(value).rsplit(".", 1)[-1]
        if str(value).startswith("dp_bench.")
        else str(value)
    )


def _budget(record: RunRecord) -> str:
    trainer = record.config["trainer"]
    tuned = trainer["full"] if record.config["prompt"]["method"] == "fine_tuning" else trainer
    return (
        f"at most {trainer['max_steps']} updates of {trainer['batch_size']} examples, "
        f"{tuned['optimizer']}, lr {tuned['lr']}"
    )


def _budget_notes(records: list[RunRecord]) -> list[str]:
    """Say what the trained rows could spend, naming the rows and the tasks where that differs."""
    trained = [record for record in records if record.num_updates]
    by_budget: dict[str, list[RunRecord]] = defaultdict(list)
    for record in trained:
        by_budget[_budget(record)].append(record)
    all_rows, all_tasks = _rows_and_tasks(trained)
    everyone = "every row" if len(trained) == len(records) else "every trained row"
    notes = []
    for budget, own in by_budget.items():
        rows, tasks = _rows_and_tasks(own)
        who = everyone if rows == all_rows else ", ".join(rows)
        where = "" if tasks == all_tasks else f" on {', '.join(tasks)}"
        notes.append(f"{who}{where}: {budget}")
    return notes


def _rows_and_tasks(records: list[RunRecord]) -> tuple[list[str], list[str]]:
    tasks = {str(record.config["task"]["title"]) for record in records}
    return sorted({record.prompt for record in records}), sorted(tasks)


def _notes(records: list[RunRecord], rows: list[Row], metric: str, budgets_differ: bool) -> list[str]:
    shown = "the mean of each task's metrics" if metric == "score" else metric
    notes = [
        f"mean ± sd over seeds (n runs), {shown}, 0 to 100; - was not run; rows in the order of their "
        "trainable parameters"
    ]
    if not budgets_differ:
        notes += _budget_notes(records)
    if any(cell.n == 1 for row in rows for cell in row.cells.values()):
        notes.append("a cell with n = 1 says nothing about the spread over seeds")
    precisions = sorted({record.precision for record in records})
    if len(precisions) > 1:
        notes.append(f"frozen weights in {' and '.join(precisions)}: not all rows were computed alike")
    return notes
