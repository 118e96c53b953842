"""Sort the records into tables, rows and cells, so that what was not run alike never shares a cell.

A table holds one data set, backbone, regime, protocol and selection. A row is a prompt; where runs of one
prompt differ in a setting other than the seed, the row splits and names it; where rows differ in a setting
other than those of their prompts, such as the training budget, every row names it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum, sqrt
from statistics import fmean
from types import MappingProxyType
from typing import Any

from dp_bench.data.notes import MARKS
from dp_bench.effective import OptimizerUsed, is_trained, optimizer_of, unread
from dp_bench.records import RunRecord, flatten, is_volatile
from dp_bench.report.aliases import canonical
from dp_bench.report.expand import MULTITASK, by_evaluated_task, by_task, trained_on, trained_sha256
from dp_bench.tasks import in_order

# Said by the header, the row's name or the cell already, or without influence on a result.
NOT_A_VARIANT = (
    *("seed", "data.name", "data.limit", "prompt.name", "trainer.name", "regime.name", "regime.split_seed"),
    "regime.transfer",
    "trainer.precision",  # the record says what `auto` came to
)
SEARCH = "hpo"  # the settings of a search below it count among runs of one search
TARGET = "_target_"  # the class of a piece
DIGEST = re.compile(r"[0-9a-f]{40,}")  # such as prompt.init_sha256
MEAN = "mean"  # in the place of a task: the mean over all of them
MEAN_SD = "mean ± sd"  # how a note on the cells begins


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
    marks: str = ""  # of notes on the data of one of its runs

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def independent(self) -> list[float]:
        """Return what may be taken for independent: the values, or of several few-shot draws their means."""
        return independent(self.values)

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


def independent(values: Mapping[tuple[int, int], float]) -> list[float]:
    """Return values by seed and draw as they are, or of several draws the mean of each.

    Runs on one few-shot draw share its rows, so that they are no independent word on other draws.
    """
    by_draw: dict[int, list[float]] = defaultdict(list)
    for (_, draw), value in values.items():
        by_draw[draw].append(value)
    return list(values.values()) if len(by_draw) == 1 else [fmean(by_draw[draw]) for draw in sorted(by_draw)]


@dataclass(frozen=True)
class Twins:
    """One run that selected on the reported split, and its twin that selected on held-out rows."""

    title: str  # of the task
    difference: float
    trained_on: tuple[int, int]  # rows, of the one and the other


@dataclass(frozen=True)
class Row:
    label: str
    cells: dict[str, Cell]  # by task
    records: tuple[RunRecord, ...]
    twins: tuple[Twins, ...] = ()
    restarts: int = 1  # runs of which each score is the best one's
    # By task, seed and draw: the run whose score stands there, where that is one of another seed.
    chosen: Mapping[tuple[str, tuple[int, int]], RunRecord] = field(default_factory=dict)

    @property
    def optimism(self) -> Cell | None:
        """The scores selected on the reported split less those selected on held-out rows."""
        values = {(number, 0): own.difference for number, own in enumerate(self.twins)}
        return Cell(values) if values else None

    @property
    def distinct(self) -> list[RunRecord]:
        """The records of each task, one a seed and draw: a run that was made twice is one."""
        return [runs[0] for by_draw in by_place(self.records).values() for runs in by_draw.values()]

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
    expanded = by_task(canonical(sorted(records, key=lambda r: r.run_id)))
    single = [record for record in expanded if value_of(record, metric) is not None]
    without = [record for record in expanded if value_of(record, metric) is None]
    for record in single:
        by_header[(*_base(record), record.checkpoint["fingerprint"])].append(record)
    bases = Counter(key[:-1] for key in by_header)
    optimism = _optimism(single, metric)
    tables = []
    for key in sorted(by_header, key=str):
        weights = str(key[-1])[:8] if bases[key[:-1]] > 1 else ""
        left_out = [record for record in without if _base(record) == key[:-1]]
        tables += [
            _table(part, metric, suffix, weights, optimism, left_out)
            for suffix, part in _by_data(by_header[key])
        ]
    return tables


def transfer_tables(records: Iterable[RunRecord], metric: str = "score") -> list[Table]:
    """Arrange the runs with `regime.transfer` in a matrix a prompt: trained on × evaluated on."""
    by_prompt: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    records = canonical(sorted(records, key=lambda r: r.run_id))
    sources = _sources(records)
    for evaluated in by_evaluated_task(records):
        record = replace(evaluated, prompt=evaluated.prompt.removesuffix(MULTITASK))
        if value_of(record, metric) is not None:
            key = (record.prompt, *_base(record)[:-1], str(record.checkpoint["fingerprint"]))
            by_prompt[key].append(record)
    tables = []
    for key in sorted(by_prompt):
        for suffix, own in _by_data(by_prompt[key]):
            data, backbone, regime, protocol, selection, _ = _base(own[0])
            random_weights = own[0].checkpoint["name_or_path"] is None
            split = f"every task's reported examples, of prompt={key[0]}"
            grouped, _ = _by_label(own, lambda record: f"{sources[record.run_id]}, {record.task}")
            rows: dict[str, list[RunRecord]] = defaultdict(list)
            for label, group in grouped.items():
                for record in group:
                    settings = label.removeprefix(record.prompt)
                    rows[f"{sources[record.run_id]}{settings}"].append(record)
            made, repeats = _rows(rows, metric)
            tables.append(
                Table(
                    Header(f"{data}{suffix}", backbone, random_weights, regime, protocol, selection, split),
                    *_columns(own),
                    tuple(made),
                    (f"{MEAN_SD} over seeds (n runs), 0 to 100; - was not tried", *repeats),
                    "trained on",
                )
            )
    return tables


def _sources(records: Sequence[RunRecord]) -> dict[str, str]:
    """Return by run id what each run was trained on, with the digest where one title has several files."""
    digests = {record.run_id: trained_sha256(record) for record in records}
    known = Counter(title for title, _ in {(trained_on(r), digests[r.run_id]) for r in records})
    return {
        r.run_id: trained_on(r) + (f" (files {digests[r.run_id][:8]})" if known[trained_on(r)] > 1 else "")
        for r in records
    }


def _optimism(records: list[RunRecord], metric: str) -> dict[str, Twins]:
    """Return the twins of which each run that has one is: runs alike but for what they selected on."""
    if len({record.selection for record in records}) == 1:
        return {}
    twins: dict[str, dict[str, tuple[RunRecord, float]]] = defaultdict(dict)
    for record in records:
        flat = flatten(record.config)
        flat = {k: v for k, v in flat.items() if not is_volatile(k) and k != "trainer.selection"}
        value = value_of(record, metric)
        if value is not None:
            key = repr((record.task, record.data_sha256, record.precision, sorted(flat.items(), key=str)))
            twins[key][record.selection] = (record, value)
    found: dict[str, Twins] = {}
    for pair in twins.values():
        if len(pair) == 2:
            (here, score), (there, other) = pair["validation"], pair["heldout"]
            title = str(here.config["task"]["title"])
            rows = (here.num_examples["train"], there.num_examples["train"])
            found |= {_entry(r): Twins(title, score - other, rows) for r in (here, there)}
    return found


def _entry(record: RunRecord) -> str:
    """Name what one run says of one task."""
    return f"{record.run_id}/{record.task}"


def draw_of(record: RunRecord) -> tuple[int, int]:
    """Return what tells the runs of a cell apart: the seed, and that of the few-shot rows."""
    regime = record.config["regime"]
    sampled = regime["shots"] is not None and regime.get("split") != "fewglue"
    return record.seed, int(regime.get("split_seed") or 0) if sampled else 0


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
    return tuple(in_order(titles)), titles


def _table(
    records: list[RunRecord],
    metric: str,
    suffix: str,
    weights: str,
    optimism: dict[str, Twins],
    left_out: list[RunRecord],
) -> Table:
    first = records[0]
    data, backbone, regime, protocol, selection, split = _base(first)
    random_weights = first.checkpoint["name_or_path"] is None
    data = f"{data}{suffix}"
    more = _searched(records)
    header = Header(data, backbone, random_weights, regime, protocol, selection, split, weights, more)
    tasks, titles = _columns(records)
    grouped, common = _by_label(records)
    rows, repeats = _rows(grouped, metric, optimism)
    rows.sort(key=lambda row: (min(r.trainable_parameters for r in row.records), row.label))
    notes = _notes(records, rows, metric, any(key.startswith("trainer.") for key in common))
    if left_out:
        tasks_without = ", ".join(sorted({str(r.config["task"]["title"]) for r in left_out}))
        notes.append(f"left out, without {metric}: {_runs(len(left_out))} on {tasks_without}")
    return Table(header, tasks, titles, tuple(rows), (*notes, *repeats))


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
            grouped[_named(record.prompt, variants.settings(record), named)].append(record)
    # What is left out tells runs apart that are expected at one place.
    parted = grouped if leave_out else _by_what_was_found(grouped, place)
    return parted, {key for _, key in common}


def _by_what_was_found(
    grouped: Mapping[str, list[RunRecord]], place: Callable[[RunRecord], str]
) -> dict[str, list[RunRecord]]:
    """Part a row in which two searches found other settings for one seed and draw: by what they found."""
    parted: dict[str, list[RunRecord]] = defaultdict(list)
    for label, own in grouped.items():
        at_place: dict[tuple[str, tuple[int, int]], list[RunRecord]] = defaultdict(list)
        for record in own:
            at_place[place(record), draw_of(record)].append(record)
        found = {
            (key, repr(flatten(record.config).get(key)), here)
            for here, several in at_place.items()
            for record in several
            for key in (record.config.get(SEARCH) or {}).get("searched") or ()
        }
        values = Counter((key, here) for key, _, here in found)
        keys = sorted({key for (key, _), number in values.items() if number > 1})
        for record in own:
            parted[_named(label, flatten(record.config), keys) if keys else label].append(record)
    return parted


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


def _rows(
    grouped: Mapping[str, list[RunRecord]],
    metric: str,
    optimism: Mapping[str, Twins] = MappingProxyType({}),
) -> tuple[list[Row], list[str]]:
    """Return a row a label, in the order of the labels, and notes on runs that share a place in a cell."""
    rows, repeated, notes = [], set[str](), []
    for label, own in sorted(grouped.items()):
        places = by_place(own)
        cells = {}
        for task, by_draw in places.items():
            values = {draw: [_value(record, metric) for record in runs] for draw, runs in by_draw.items()}
            cells[task] = Cell(
                {draw: _one_of(several) for draw, several in values.items()}, _marks(own, task)
            )
            for draw, runs in by_draw.items():
                if len(set(values[draw])) > 1:
                    notes.append(_contradiction(label, runs, values[draw]))
                else:
                    repeated |= {record.run_id for record in runs[1:]}
        twins = tuple(optimism[_entry(record)] for record in own if _entry(record) in optimism)
        rows.append(Row(label, cells, tuple(own), twins))
    if repeated:
        notes.append(
            f"{_runs(len(repeated))} with the settings and the scores of another one, counted once: "
            f"{', '.join(sorted(repeated))}"
        )
    return rows, notes


def by_place(records: Iterable[RunRecord]) -> dict[str, dict[tuple[int, int], list[RunRecord]]]:
    """Return the runs of a row by task, seed and draw: one each, unless some were made twice."""
    places: dict[str, dict[tuple[int, int], list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda r: (r.task, r.seed, r.run_id)):
        places[record.task][draw_of(record)].append(record)
    return places


def _value(record: RunRecord, metric: str) -> float:
    value = value_of(record, metric)
    assert value is not None, "records without the metric are left out before"
    return value


def _one_of(values: Sequence[float]) -> float:
    """Return what runs with the same settings and seed came to: one number, or else the mean."""
    return values[0] if len(set(values)) == 1 else fmean(values)


def _contradiction(label: str, runs: Sequence[RunRecord], values: Sequence[float]) -> str:
    seed, draw = draw_of(runs[0])
    where = f"{runs[0].config['task']['title']}, seed {seed}{f', draw {draw}' if draw else ''}"
    found = ", ".join(f"{value:.2f} ({run.run_id})" for value, run in zip(values, runs, strict=True))
    return f"{label} on {where}: runs with the same settings differ, and their mean counts as one: {found}"


def _marks(records: Iterable[RunRecord], task: str) -> str:
    """Return the marks of the notes on the data that the runs of a task have had."""
    notes = [note for record in records if record.task == task for note in record.notes]
    return "".join(mark for begin, mark in MARKS.items() if any(note.startswith(begin) for note in notes))


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _settings(record: RunRecord) -> dict[str, Any]:
    """Return what may tell rows apart; on which other tasks a prompt is tried changes nothing of its own."""
    flat = {**flatten(record.config), **record.facts, "precision": record.precision}
    left_out = {*NOT_A_VARIANT, *_unread(record)}
    flat = {k: v for k, v in flat.items() if k not in left_out and not is_volatile(k)}
    hpo = record.config.get(SEARCH) or {}
    if is_trained(record.config) and hpo.get("name"):
        # What was searched for differs from task to task: the search is what rows share.
        flat = {k: v for k, v in flat.items() if k not in hpo["searched"]}
        flat |= {SEARCH: hpo["name"], **{f"{SEARCH}.{key}": hpo.get(key) for key in ("trials", "seed")}}
    return {k: v for k, v in flat.items() if not k.startswith(("transfer.", "regime.task_settings."))}


def _unread(record: RunRecord) -> set[str]:
    """Return the settings that a run does not read; of its precision the record says what it came to."""
    found = unread(record.config)
    return found | {"precision"} if "trainer.precision" in found else found


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
        pieces = {key: _piece_of(key) for key in keys}
        values: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        for record, flat in flats:
            place = self._place(record)
            # A setting that a run does not read tells it from no other.
            for key in keys - _unread(record) if is_trained(record.config) else flat:
                values[place, key, str(flat.get(pieces[key]))].add(repr(flat.get(key)))
        return {(place, key) for (place, key, _), seen in values.items() if len(seen) > 1}

    @staticmethod
    def _key(record: RunRecord) -> tuple[Any, ...]:
        hpo = record.config.get(SEARCH) or {}
        search = tuple(hpo.get(key) for key in ("name", "trials", "seed"))
        return record.cell_id, record.task, record.prompt, record.precision, search


def _piece_of(key: str) -> str:
    """Return the key that says what a setting is one of: the class of its piece, or its search."""
    if key.startswith(f"{SEARCH}."):
        return SEARCH
    return "" if key.endswith(TARGET) else f"{key.rpartition('.')[0]}.{TARGET}"


def _named(label: str, flat: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return a prompt's name with these settings, behind those that it names already."""
    parts = ", ".join(f"{_short(key)}={_plain(flat[key])}" for key in keys if key in flat)
    if not parts:
        return label
    return f"{label.removesuffix(']')}, {parts}]" if label.endswith("]") else f"{label} [{parts}]"


def _short(key: str) -> str:
    own = key.removeprefix("prompt.").removeprefix("trainer.").removeprefix("regime.")
    return own.removesuffix(f".{TARGET}")


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    text = str(value)
    return text.rsplit(".", 1)[-1] if text.startswith("dp_bench.") else DIGEST.sub(_start, text)


def _start(digest: re.Match[str]) -> str:
    return digest[0][:8]


def _budget(record: RunRecord) -> str:
    """Say what a trained run could spend, and how its method was trained."""
    trainer = record.config["trainer"]
    used = OptimizerUsed(**record.optimizer) if record.optimizer else optimizer_of(record.config)
    assert used is not None
    selectors = "" if used.selector_lr in (None, used.lr) else f" ({used.selector_lr} for what chooses)"
    return (
        f"at most {trainer['max_steps']} updates of {trainer['batch_size']} examples, {used.name}, "
        f"lr {used.lr}{selectors}"
    )


def _budget_notes(records: list[RunRecord], labels: Mapping[str, str]) -> list[str]:
    """Say what the trained rows could spend, naming the rows and the tasks where that differs: by their
    prompts, or where rows of one prompt differ by their labels."""
    trained = [record for record in records if record.num_updates and is_trained(record.config)]
    by_budget: dict[str, list[RunRecord]] = defaultdict(list)
    by_cell: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in trained:
        budget = _budget(record)
        by_budget[budget].append(record)
        by_cell[record.prompt, record.task].add(budget)
    several = {prompt for (prompt, _), budgets in by_cell.items() if len(budgets) > 1}

    def rows_and_tasks(own: list[RunRecord]) -> tuple[list[str], list[str]]:
        names = {labels[_entry(r)] if r.prompt in several else r.prompt for r in own}
        return sorted(names), sorted({str(record.config["task"]["title"]) for record in own})

    all_rows, all_tasks = rows_and_tasks(trained)
    everyone = "every row" if len(trained) == len(records) else "every trained row"
    notes = []
    for budget, own in by_budget.items():
        rows, tasks = rows_and_tasks(own)
        who = everyone if rows == all_rows else ", ".join(rows)
        where = "" if tasks == all_tasks else f" on {', '.join(tasks)}"
        notes.append(f"{who}{where}: {budget}")
    return notes


def _notes(records: list[RunRecord], rows: list[Row], metric: str, budgets_differ: bool) -> list[str]:
    shown = "the mean of each task's metrics" if metric == "score" else metric
    notes = [
        f"{MEAN_SD} over seeds (n runs), {shown}, 0 to 100; - was not run; rows in the order of their "
        "trainable parameters"
    ]
    if not budgets_differ:
        labels = {_entry(record): row.label for row in rows for record in row.records}
        notes += _budget_notes(records, labels)
    if any(cell.n == 1 for row in rows for cell in row.cells.values()):
        notes.append("a cell with n = 1 says nothing about the spread over seeds")
    on_data = sorted({note for record in records for note in record.notes})
    notes += [f"{mark} {note}" for begin, mark in MARKS.items() for note in on_data if note.startswith(begin)]
    draws = {draw for row in rows for cell in row.cells.values() for _, draw in cell.values}
    if len(draws) > 1:
        notes.append(
            f"{len(draws)} draws of few-shot rows (regime.split_seed) count as runs of one cell; tests and "
            "intervals are over the draws, each with the mean of its runs"
        )
    precisions = sorted({record.precision for record in records})
    if len(precisions) > 1:
        notes.append(f"frozen weights in {' and '.join(precisions)}: not all rows were computed alike")
    return notes
