"""Sort the records into tables, rows and cells, so that what was not run alike never shares a cell.

A table holds one data set, backbone, regime, protocol and selection. A row is a prompt; where runs of one
prompt differ in a setting other than the seed, the row splits and names it; where rows differ in a setting
other than those of their prompts, such as the training budget, every row names it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import fsum, sqrt
from statistics import fmean
from types import MappingProxyType
from typing import Any

from dp_bench.records import VOLATILE, RunRecord, flatten
from dp_bench.report.expand import MULTITASK, by_evaluated_task, by_task, trained_on
from dp_bench.settings import FullSettings, Method

TASK_ORDER = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "axb", "axg")
# Said by the header, the row's name or the cell already, or without influence on a result.
NOT_A_VARIANT = (
    *("seed", "data.name", "data.limit", "prompt.name", "trainer.name", "regime.name", "regime.split_seed"),
    "regime.transfer",
    *VOLATILE,
)
# Of prompts; trainer.full has others for all weights.
OPTIMIZER = tuple(f"trainer.{own.name}" for own in fields(FullSettings))
SPLITTING = ("trainer.selection", "trainer.heldout_fraction", "trainer.heldout_max")
TARGET = "_target_"  # the class of a piece
MEAN = "mean"  # in the place of a task: the mean over all of them
DEGENERATE = "degenerate draw"  # how a note on a lopsided few-shot draw begins
DEGENERATE_MARK = "‡"


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
    weights: str = ""  # start of the checkpoint's fingerprint, where the name does not tell tables apart
    more: tuple[str, ...] = ()  # further lines

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
            *self.more,
        ]


@dataclass(frozen=True)
class Cell:
    """The scores of one row on one task, by seed and few-shot draw (`regime.split_seed`)."""

    values: dict[tuple[int, int], float]
    degenerate: bool = False  # one of the draws has hardly any row of some label

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return fmean(self.values.values())

    @property
    def sd(self) -> float | None:
        """Return the sample standard deviation over seeds; None for one seed."""
        if self.n == 1:
            return None
        center = self.mean
        return sqrt(fsum((value - center) ** 2 for value in self.values.values()) / (self.n - 1))


@dataclass(frozen=True)
class Row:
    label: str
    cells: dict[str, Cell]  # by task
    records: tuple[RunRecord, ...]
    optimism: Cell | None = None  # scores selected on the reported split less those selected on held-out rows
    restarts: int = 1  # runs of which each score is the best one's

    def average(self, tasks: Sequence[str]) -> Cell | None:
        """Return the mean over tasks, for each seed that all of them have; None where a task or all seeds are
        missing."""
        if not all(task in self.cells for task in tasks):
            return None
        seeds = set.intersection(*(set(self.cells[task].values) for task in tasks))
        values = {seed: fmean(self.cells[task].values[seed] for task in tasks) for seed in sorted(seeds)}
        return Cell(values) if values else None

    def cell(self, task: str, tasks: Sequence[str]) -> Cell | None:
        """Return a task's cell, or for MEAN that over `tasks`."""
        return self.average(tasks) if task == MEAN else self.cells.get(task)


@dataclass(frozen=True)
class Table:
    header: Header
    tasks: tuple[str, ...]
    titles: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    row_head: str = "prompt"  # what the rows are

    @property
    def columns(self) -> tuple[str, ...]:
        """The tasks and, of several, their mean."""
        return (*self.tasks, MEAN) if len(self.tasks) > 1 else self.tasks


def build_tables(records: Iterable[RunRecord], metric: str = "score") -> list[Table]:
    """Arrange records in tables, in an order that depends on their content only."""
    by_header: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
    expanded = by_task(sorted(records, key=lambda r: r.run_id))
    single = [record for record in expanded if value_of(record, metric) is not None]
    for record in single:
        by_header[(*_base(record), record.checkpoint["fingerprint"])].append(record)
    bases = Counter(key[:-1] for key in by_header)
    optimism = _optimism(single, metric)
    tables = []
    for key in sorted(by_header, key=str):
        weights = str(key[-1])[:8] if bases[key[:-1]] > 1 else ""
        tables += [
            _table(part, metric, suffix, weights, optimism) for suffix, part in _by_data(by_header[key])
        ]
    return tables


def transfer_tables(records: Iterable[RunRecord], metric: str = "score") -> list[Table]:
    """Arrange the runs with `regime.transfer` in a matrix a prompt: trained on × evaluated on."""
    by_prompt: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    records = sorted(records, key=lambda r: r.run_id)
    sources = {record.run_id: trained_on(record) for record in records}
    for record in by_evaluated_task(records):
        prompt = record.prompt.removesuffix(MULTITASK)
        by_prompt[(prompt, *_base(record)[:-1], str(record.checkpoint["fingerprint"]))].append(record)
    tables = []
    for key in sorted(by_prompt):
        own = by_prompt[key]
        data, backbone, regime, protocol, selection, _ = _base(own[0])
        random_weights = own[0].checkpoint["name_or_path"] is None
        split = f"every task's reported examples, of prompt={key[0]}"
        rows: dict[str, list[RunRecord]] = defaultdict(list)
        for record in own:
            rows[sources[record.run_id]].append(record)
        tables.append(
            Table(
                Header(data, backbone, random_weights, regime, protocol, selection, split),
                *_columns(own),
                tuple(_row(label, group, metric) for label, group in sorted(rows.items())),
                ("mean ± sd over seeds (n runs), 0 to 100; - was not tried",),
                "trained on",
            )
        )
    return tables


def _optimism(records: list[RunRecord], metric: str) -> dict[str, float]:
    """Return, for each run that has a twin which selected otherwise, the score selected on the reported split
    less that selected on held-out rows."""
    if len({record.selection for record in records}) == 1:
        return {}
    twins: dict[str, dict[str, tuple[str, float]]] = defaultdict(dict)
    for record in records:
        flat = {k: v for k, v in flatten(record.config).items() if k not in (*VOLATILE, "trainer.selection")}
        value = value_of(record, metric)
        if value is not None:
            key = repr((record.task, record.data_sha256, sorted(flat.items(), key=str)))
            twins[key][record.selection] = (f"{record.run_id}/{record.task}", value)
    differences = {}
    for pair in twins.values():
        if len(pair) == 2:
            difference = pair["validation"][1] - pair["heldout"][1]
            differences.update({name: difference for name, _ in pair.values()})
    return differences


def draw_of(record: RunRecord) -> tuple[int, int]:
    """Return what tells the runs of a cell apart: the seed, and that of the few-shot rows."""
    return record.seed, int(record.config["regime"].get("split_seed") or 0)


def value_of(record: RunRecord, metric: str) -> float | None:
    """Return a record's score, select_score, or named metric; None where its task has no such metric."""
    if metric in ("score", "select_score"):
        return float(getattr(record, metric))
    return record.metrics.get(metric)


def data_title(record: RunRecord) -> str:
    """Return what a run's data are called, with what part or which world of them it had."""
    data = record.config["data"]
    own = [f"first {data['limit']} rows of each file"] if data["limit"] is not None else []
    own += (
        [f"{data['difficulty']}, world seed {data['world_seed']}"] if data["difficulty"] is not None else []
    )
    return f"{record.data} ({'; '.join(own)})" if own else record.data


def _base(record: RunRecord) -> tuple[str, ...]:
    return (
        data_title(record),
        record.backbone,
        _regime(record),
        record.protocol,
        record.selection,
        str(record.data_files["validation"]["file"]).split(".")[0].split("-")[0].replace("validation", "val"),
    )


def _regime(record: RunRecord) -> str:
    """Return how much data each task has; one prompt for several tasks is a row beside the others."""
    regime = record.config["regime"]
    if regime["shots"] is None:
        return "full"
    own = "FewGLUE's 32 rows" if regime["split"] == "fewglue" else f"{regime['shots']} a class"
    return f"fewshot ({own})"


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


def _columns(records: Iterable[RunRecord]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the tasks of records in the benchmark's order, and their titles."""
    titles = {record.task: str(record.config["task"]["title"]) for record in records}
    order = [*TASK_ORDER, *sorted(titles.keys() - set(TASK_ORDER))]
    return tuple(task for task in order if task in titles), titles


def _table(
    records: list[RunRecord], metric: str, suffix: str, weights: str, optimism: dict[str, float]
) -> Table:
    first = records[0]
    data, backbone, regime, protocol, selection, split = _base(first)
    random_weights = first.checkpoint["name_or_path"] is None
    data = f"{data}{suffix}"
    more = _searched(records)
    header = Header(data, backbone, random_weights, regime, protocol, selection, split, weights, more)
    tasks, titles = _columns(records)
    grouped, common = _by_label(records)
    rows = [_row(label, group, metric, optimism) for label, group in grouped.items()]
    rows.sort(key=lambda row: (min(r.trainable_parameters for r in row.records), row.label))
    return Table(
        header,
        tasks,
        titles,
        tuple(row for row in rows if row.cells),
        tuple(_notes(records, rows, metric, any(key.startswith("trainer.") for key in common))),
    )


def row_labels(
    records: Sequence[RunRecord], place: Callable[[RunRecord], str], leave_out: Collection[str] = ()
) -> dict[str, str]:
    """Return by run id what the row of each run is called, in all places alike; a setting is named where it
    differs within a place, unless it is one to leave out."""
    grouped, _ = _by_label(records, place, leave_out)
    return {record.run_id: label for label, own in grouped.items() for record in own}


def _task(record: RunRecord) -> str:
    return record.task


def _by_label(
    records: Sequence[RunRecord],
    place: Callable[[RunRecord], str] = _task,
    leave_out: Collection[str] = (),
) -> tuple[dict[str, list[RunRecord]], set[str]]:
    """Part records into rows, which differ in their prompts; where they differ in anything else, each of them
    says so. Return also the settings that all prompts' rows name."""
    variants = _Variants(place, leave_out)
    common = {
        (at, key) for at, key in variants.differing(records) if not key.startswith(("prompt.", "regime."))
    }
    grouped: dict[str, list[RunRecord]] = defaultdict(list)
    for prompt in sorted({record.prompt for record in records}):
        own = [record for record in records if record.prompt == prompt]
        differing = common | variants.differing(own)
        keys = sorted({key for _, key in differing})
        for record in own:
            # A task's own settings are other ones than another task's anyway.
            named = [key for key in keys if not key.startswith("task.") or (place(record), key) in differing]
            grouped[_label(record, variants.settings(record), named)].append(record)
    return grouped, {key for _, key in common}


def _searched(records: list[RunRecord]) -> tuple[str, ...]:
    """Say for the header how the settings of which rows were searched for, if they were."""
    trained = [record for record in records if record.num_updates]
    by_search: dict[str, set[str]] = defaultdict(set)
    for record in trained:
        hpo = record.config.get("hpo") or {}
        if hpo.get("name"):
            searched = ", ".join(hpo["searched"]) or "nothing"
            by_search[f"hpo={hpo['name']}, {hpo['trials']} trials a method and task of {searched}"].add(
                record.prompt
            )
    everyone = {record.prompt for record in trained}
    return tuple(
        f"{search}, best on held-out examples{'' if rows == everyone else ': ' + ', '.join(sorted(rows))}"
        for search, rows in sorted(by_search.items())
    )


def _row(
    label: str, records: list[RunRecord], metric: str, optimism: Mapping[str, float] = MappingProxyType({})
) -> Row:
    cells: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    differences: dict[tuple[int, int], float] = {}
    lopsided = {r.task for r in records if any(note.startswith(DEGENERATE) for note in r.notes)}
    for record in sorted(records, key=lambda r: (r.task, r.seed, r.run_id)):
        value = value_of(record, metric)
        if value is not None:
            cells[record.task][draw_of(record)] = value
        if (name := f"{record.run_id}/{record.task}") in optimism:
            differences[len(differences), 0] = optimism[name]
    own = {task: Cell(values, task in lopsided) for task, values in cells.items()}
    return Row(label, own, tuple(records), Cell(differences) if differences else None)


def _settings(record: RunRecord) -> dict[str, Any]:
    """Return what may tell rows apart; on which other tasks a prompt is tried changes nothing of its own."""
    flat = flatten(record.config)
    flat = {k: v for k, v in flat.items() if k not in NOT_A_VARIANT and _is_read(record, k)}
    hpo = record.config.get("hpo") or {}
    if _is_trained(record) and hpo.get("name"):
        # What was searched for differs from task to task: the search is what rows share.
        flat = {k: v for k, v in flat.items() if k not in hpo["searched"]} | {"hpo": hpo["name"]}
    return {k: v for k, v in flat.items() if not k.startswith(("transfer.", "regime.task_settings."))}


def _is_trained(record: RunRecord) -> bool:
    return Method(record.config["prompt"]["method"]).is_trained


def _trains_backbone(record: RunRecord) -> bool:
    prompt = record.config["prompt"]
    return Method(prompt["method"]).trains_backbone(prompt.get("freeze_backbone"))


def _is_read(record: RunRecord, key: str) -> bool:
    """Tell whether a run goes by a setting: of the trainer one that trains nothing goes by what splits the
    data alone, and the others by one of its two optimizers."""
    if not key.startswith("trainer.") or key in SPLITTING:
        return True
    others = key in OPTIMIZER if _trains_backbone(record) else key.startswith("trainer.full.")
    return _is_trained(record) and not others


class _Variants:
    """What may tell rows of a table apart, worked out once for runs that differ in their seed only."""

    def __init__(self, place: Callable[[RunRecord], str], leave_out: Collection[str]) -> None:
        self._place, self._leave_out = place, leave_out
        self._known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def settings(self, record: RunRecord) -> dict[str, Any]:
        key = self._key(record)
        if key not in self._known:
            self._known[key] = {k: v for k, v in _settings(record).items() if k not in self._leave_out}
        return self._known[key]

    def differing(self, records: Sequence[RunRecord]) -> set[tuple[str, str]]:
        """Return place and setting where records of the place differ; the place is the task, in a table.

        Where a piece is exchanged, its name is all there is to say: settings count among pieces of one class.
        """
        kinds = {self._key(record): record for record in records}
        flats = [(record, self.settings(record)) for record in kinds.values()]
        keys = {key for _, flat in flats for key in flat}
        # Where the class of the piece stands that a setting is one of; of a class itself nowhere.
        pieces = {key: "" if key.endswith(TARGET) else f"{key.rpartition('.')[0]}.{TARGET}" for key in keys}
        values: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        for record, flat in flats:
            place = self._place(record)
            for key in keys if _is_trained(record) else flat:
                if _is_read(record, key):  # what a run does not go by tells it from nothing
                    values[place, key, str(flat.get(pieces[key]))].add(repr(flat.get(key)))
        return {(place, key) for (place, key, _), seen in values.items() if len(seen) > 1}

    @staticmethod
    def _key(record: RunRecord) -> tuple[Any, ...]:
        return record.cell_id, record.task, record.prompt, (record.config.get("hpo") or {}).get("name")


def _label(record: RunRecord, flat: Mapping[str, Any], keys: Sequence[str]) -> str:
    parts = [f"{_short(key)}={_plain(flat[key])}" for key in keys if key in flat]
    return f"{record.prompt} [{', '.join(parts)}]" if parts else record.prompt


def _short(key: str) -> str:
    own = key.removeprefix("prompt.").removeprefix("trainer.").removeprefix("regime.")
    return own.removesuffix(f".{TARGET}")


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
    tuned = trainer["full"] if _trains_backbone(record) else trainer
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
    if any(cell.degenerate for row in rows for cell in row.cells.values()):
        drawn = sorted({note for record in records for note in record.notes if note.startswith(DEGENERATE)})
        notes += [f"{DEGENERATE_MARK} {note}" for note in drawn]
    draws = {draw for row in rows for cell in row.cells.values() for _, draw in cell.values}
    if len(draws) > 1:
        notes.append(f"{len(draws)} draws of few-shot rows (regime.split_seed) count as runs of one cell")
    precisions = sorted({record.precision for record in records})
    if len(precisions) > 1:
        notes.append(f"frozen weights in {' and '.join(precisions)}: not all rows were computed alike")
    return notes
