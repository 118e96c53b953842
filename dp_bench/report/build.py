"""Sort records into tables, rows and cells: runs in one cell differ only in seed or few-shot draw."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from statistics import fmean
from types import MappingProxyType
from typing import Any

from dp_bench.records import RunRecord, flatten, is_volatile
from dp_bench.report import notes
from dp_bench.report.expand import by_task
from dp_bench.report.frame import Cell, Header, Row, Table, Twins, by_seed_and_draw
from dp_bench.report.names import NO_NAMES, Names, display_names
from dp_bench.report.runs import data_title, regime_title, scored, task_run_id, title_of, value_of
from dp_bench.report.variants import by_label
from dp_bench.tasks import in_order


def build_tables(
    records: Iterable[RunRecord],
    metric: str = "score",
    tasks: Collection[str] = (),
    names: Names = NO_NAMES,
) -> list[Table]:
    """Return the tables of these records, or of their results on some tasks, in an order that depends only on
    their content. `names` are display names (names.py)."""
    in_order_of_ids = sorted(records, key=lambda r: r.run_id)
    expanded = [record for record in by_task(in_order_of_ids) if not tasks or record.task in tasks]
    with_metric = scored(expanded, metric)
    without = [record for record in expanded if value_of(record, metric) is None]
    by_header: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
    for record in with_metric:
        by_header[(*base_of(record), record.checkpoint["fingerprint"])].append(record)
    bases = Counter(key[:-1] for key in by_header)
    twins = _twins(with_metric)
    tables = []
    for key in sorted(by_header, key=str):
        weights = str(key[-1])[:8] if bases[key[:-1]] > 1 else ""
        left_out = [record for record in without if base_of(record) == key[:-1]]
        for suffix, part in by_data(by_header[key]):
            header = header_of(part[0], suffix, weights=weights, more=notes.searched(part))
            tables.append(_table(header, part, metric, twins, left_out, names))
    return tables


def _table(
    header: Header,
    records: list[RunRecord],
    metric: str,
    twins: dict[str, Twins],
    left_out: list[RunRecord],
    names: Names,
) -> Table:
    labelled = by_label(records)
    shown, name_notes = display_names(labelled, names)
    rows, repeats = rows_of(labelled.rows, twins, shown)
    rows = [replace(row, named=labelled.settings[row.label]) for row in rows]
    rows.sort(key=lambda row: (min(r.trainable_parameters for r in row.records), row.label))
    budgets_differ = any(key.startswith("trainer.") for key in labelled.common)
    table_notes = notes.notes_on(records, rows, metric, budgets_differ=budgets_differ)
    table_notes += [*name_notes, *notes.left_out(left_out, metric), *repeats]
    tasks, titles = tasks_of(records, names)
    return Table(header, tasks, titles, tuple(rows), tuple(table_notes))


def header_of(record: RunRecord, suffix: str, **more: Any) -> Header:
    """Return the header of the table that this run belongs to."""
    base, is_random = base_of(record), record.checkpoint["name_or_path"] is None
    return Header(base[0] + suffix, *base[1:], is_random, **more)


def base_of(record: RunRecord) -> tuple[str, str, str, str, str, str]:
    """Return what all runs of a table share: data, backbone, regime, protocol, selection, reported split."""
    return (
        data_title(record),
        record.backbone,
        regime_title(record),
        record.protocol,
        record.selection,
        str(record.data_files["validation"]["file"]).split(".")[0].split("-")[0].replace("validation", "val"),
    )


def by_data(records: list[RunRecord]) -> list[tuple[str, list[RunRecord]]]:
    """Split records of tasks that were read from different files; return title suffix and records of each."""
    tasks = {record.task for record in records}
    digests = {task: sorted({r.data_sha256 for r in records if r.task == task}) for task in tasks}
    parts: dict[int, list[RunRecord]] = defaultdict(list)
    for record in records:
        parts[digests[record.task].index(record.data_sha256)].append(record)
    if len(parts) == 1:
        return [("", records)]
    titled = []
    for _, part in sorted(parts.items()):
        # The first 8 digits of the digests of tasks that were read from several files.
        files = sorted({r.data_sha256[:8] for r in part if len(digests[r.task]) > 1})
        titled.append((f" (files {' '.join(files)})", part))
    return titled


def tasks_of(records: Iterable[RunRecord], names: Names = NO_NAMES) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the tasks of records in the benchmark's order, and their titles by task."""
    titles = {record.task: names.of(record.task, title_of(record)) for record in records}
    return tuple(in_order(titles)), titles


def rows_of(
    grouped: Mapping[str, list[RunRecord]],
    twins: Mapping[str, Twins] = MappingProxyType({}),
    shown: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Row], list[str]]:
    """Return one row per label, sorted by label, and notes on runs that share seed, draw and task. `shown`
    has the names of labels."""
    rows, repeated, contradictions = [], set[str](), []
    for label, records in sorted(grouped.items()):
        cells = {}
        for task, by_draw in by_seed_and_draw(records).items():
            scores = {}
            for draw, runs in by_draw.items():
                equal = len({run.score for run in runs}) == 1
                scores[draw] = runs[0].score if equal else fmean(run.score for run in runs)
                if equal:
                    repeated |= {record.run_id for record in runs[1:]}
                else:
                    contradictions.append(notes.contradiction(shown.get(label, label), runs))
            first = {draw: runs[0] for draw, runs in by_draw.items()}
            cells[task] = Cell(scores, notes.marks(records, task), first)
        row_twins = tuple(twins[task_run_id(record)] for record in records if task_run_id(record) in twins)
        rows.append(Row(label, cells, tuple(records), row_twins, shown=shown.get(label, label)))
    return rows, [*contradictions, *notes.repeats(repeated)]


def _twins(records: list[RunRecord]) -> dict[str, Twins]:
    """Return, by `task_run_id`, pairs of runs that differ only in the split they selected on."""
    if len({record.selection for record in records}) == 1:
        return {}
    pairs: dict[str, dict[str, RunRecord]] = defaultdict(dict)
    for record in records:
        flat = flatten(record.config).items()
        settings = sorted((k, v) for k, v in flat if not is_volatile(k) and k != "trainer.selection")
        key = repr((record.task, record.data_sha256, record.precision, settings))
        pairs[key][record.selection] = record
    twins: dict[str, Twins] = {}
    for pair in pairs.values():
        if len(pair) == 2:
            first, second = pair["validation"], pair["heldout"]
            rows = (first.num_examples["train"], second.num_examples["train"])
            twin = Twins(title_of(first), first.score - second.score, rows)
            twins |= {task_run_id(record): twin for record in (first, second)}
    return twins
