"""Expand records of runs on several tasks into one record per task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dp_bench.data.source import digest_of_both
from dp_bench.records import RunRecord, digest_of

MULTITASK = " (multitask)"  # suffix of a prompt's name in tables


def by_task(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Return single-task records, and for each multitask record one record per task.

    Tables show these as separate rows, next to those of single-task runs.
    """
    expanded: list[RunRecord] = []
    for record in records:
        if not record.by_task:
            expanded.append(replace(record, data_sha256=trained_sha256(record)))
        for task, entry in record.by_task.items():
            part = _for(record, task, entry, record.config["task"]["tasks"][task])
            expanded.append(replace(part, prompt=record.prompt + MULTITASK))
    return expanded


def by_evaluated_task(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Return one record per task that runs with `regime.transfer` were evaluated on."""
    expanded: list[RunRecord] = []
    for record in records:
        if record.transfer:
            expanded += by_task([record])  # the training task: the diagonal of the matrix
            expanded += [
                _for(record, task, entry, record.config["transfer"][task])
                for task, entry in record.transfer.items()
            ]
    return expanded


def trained_sha256(record: RunRecord) -> str:
    """Return the digest of the data that a run was trained on. In older records of runs with
    `regime.transfer`, `data_sha256` includes the tasks that they were only evaluated on."""
    if record.by_task:
        return digest_of([entry["data_sha256"] for entry in record.by_task.values()])
    digests = [record.data_files.get(name, {}).get("sha256") for name in ("train", "validation")]
    evaluated = [entry["data_sha256"] for entry in record.transfer.values()]
    if not evaluated or None in digests:
        return record.data_sha256
    trained = digest_of_both(str(digests[0]), str(digests[1]))
    return trained if record.data_sha256 == digest_of([trained, *evaluated]) else record.data_sha256


def trained_on(record: RunRecord) -> str:
    """Return the titles of the tasks that a run was trained on."""
    task = record.config["task"]
    return str((task.get("train_task") or task)["title"])


def _for(record: RunRecord, task: str, entry: Mapping[str, Any], task_config: Mapping[str, Any]) -> RunRecord:
    """Return the record of a run for one task, from its entry in `by_task` or `transfer`."""
    files = record.data_files
    return replace(
        record,
        task=task,
        data_files={
            name: files[key] for name in ("train", "validation") if (key := f"{task}/{name}") in files
        },
        config={**record.config, "task": dict(task_config)},
        **{name: value for name, value in entry.items() if hasattr(record, name)},
    )
