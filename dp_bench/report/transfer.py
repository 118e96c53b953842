"""Matrices of runs with `regime.transfer`: trained on × evaluated on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from dp_bench.records import RunRecord
from dp_bench.report.build import base_of, by_data, header_of, rows_of, tasks_of
from dp_bench.report.expand import MULTITASK, by_evaluated_task, trained_on, trained_sha256
from dp_bench.report.frame import Table
from dp_bench.report.names import NO_NAMES, Names
from dp_bench.report.notes import MEAN_SD
from dp_bench.report.runs import scored
from dp_bench.report.variants import by_label


def transfer_tables(
    records: Iterable[RunRecord],
    metric: str = "score",
    tasks: Collection[str] = (),
    names: Names = NO_NAMES,
) -> list[Table]:
    """Return one matrix per prompt of the runs with `regime.transfer`: trained on × evaluated on (`tasks`, or
    all). `names` are display names (names.py)."""
    by_prompt: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    records = sorted(records, key=lambda r: r.run_id)
    sources = _sources(records, names)
    for evaluated in scored(by_evaluated_task(records), metric):
        if not tasks or evaluated.task in tasks:
            record = replace(evaluated, prompt=evaluated.prompt.removesuffix(MULTITASK))
            key = (record.prompt, *base_of(record)[:-1], str(record.checkpoint["fingerprint"]))
            by_prompt[key].append(record)
    return [
        _matrix(part, suffix, sources, names)
        for _, prompt_records in sorted(by_prompt.items())
        for suffix, part in by_data(prompt_records)
    ]


def _matrix(records: list[RunRecord], suffix: str, sources: dict[str, str], names: Names) -> Table:
    """Return the table of one prompt, with a row per training task and differing settings."""
    grouped = by_label(records, lambda record: f"{sources[record.run_id]}, {record.task}").rows
    rows: dict[str, list[RunRecord]] = defaultdict(list)
    for label, group in grouped.items():
        for record in group:
            rows[sources[record.run_id] + label.removeprefix(record.prompt)].append(record)
    matrix_rows, repeats = rows_of(rows)
    tasks, titles = tasks_of(records, names)
    split = f"every task's reported examples, of prompt={records[0].prompt}"
    return Table(
        replace(header_of(records[0], suffix), split=split),
        tasks,
        titles,
        tuple(matrix_rows),
        (f"{MEAN_SD} over seeds (n runs), 0 to 100; - was not run", *repeats),
        "trained on",
    )


def _sources(records: Sequence[RunRecord], names: Names) -> dict[str, str]:
    """Return, by run id, the title of its training task, with a digest if several files have that title."""
    digests = {record.run_id: trained_sha256(record) for record in records}
    versions = Counter(title for title, _ in {(trained_on(r), digests[r.run_id]) for r in records})
    files = {r.run_id: f" (files {digests[r.run_id][:8]})" for r in records if versions[trained_on(r)] > 1}
    return {r.run_id: names.of(trained_on(r)) + files.get(r.run_id, "") for r in records}
