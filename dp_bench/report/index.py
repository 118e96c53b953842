"""A cache of the records in a results folder, in one Parquet file: faster to read than thousands of files.

A record whose file has another time or size than in the index is read again, one whose file is gone is
dropped, and an index that cannot be read is rebuilt. The format is that of a pack (pack.py), which needs no
index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from dp_bench import pack, reading, records
from dp_bench.pack import Row
from dp_bench.progress import notice
from dp_bench.records import RunRecord
from dp_bench.settings import RunSettings
from dp_bench.types import UserError

FILE = "index.parquet"
WORTH_IT = 200  # runs; reading fewer records is faster than reading the index


# What reports read of a record's configuration: any run has these.
READ = (
    *("backbone.name", "backbone.head", "data.difficulty", "data.limit", "data.name", "data.world_seed"),
    *("prompt.method", "prompt.name", "prompt.num_tokens", "prompt.summary", "regime.shots", "regime.split"),
    *("regime.split_seed", "task.name", "task.title", "trainer.batch_size", "trainer.full.lr"),
    *("trainer.full.optimizer", "trainer.full.weight_decay", "trainer.lr", "trainer.max_steps"),
    *("trainer.optimizer", "trainer.selection", "trainer.temperature.schedule", "trainer.weight_decay"),
)


def load_all(results_dir: Path) -> list[RunRecord]:
    """Return the records of all finished runs, sorted by id. One that cannot be read is left out and said."""
    stamps, packed = _stamps(results_dir / "runs"), pack.packed_rows(results_dir)
    if len(stamps) + len(packed) < WORTH_IT:
        folders = (results_dir / "runs" / name for name in records.finished(results_dir))
        return _readable((partial(records.load, folder), folder / "record.json") for folder in folders)
    rows = {**packed, **_indexed(results_dir, stamps)}
    file = results_dir / pack.FILE  # named in errors; records from folders are checked already
    contents = pack.contents({name: rows[name] for name in sorted(rows)}, file, _left_out)
    return _readable(
        (partial(records.parse, content, file), file if name in packed else Path(name))
        for name, content in contents
    )


def _readable(readers: Iterable[tuple[Callable[[], RunRecord | None], Path]]) -> list[RunRecord]:
    found = []
    for read, path in readers:
        try:
            if record := read():
                _refuse_configuration(record, path)
                found.append(record)
        except UserError as error:
            _left_out(error)
    return found


def _left_out(error: UserError) -> None:
    notice(f"a run is left out: {error}")


def _refuse_configuration(record: RunRecord, path: Path) -> None:
    """Raise UserError unless reports can read the configuration of a record."""
    problem = reading.misfit(record.config, RunSettings, "config")
    for key in () if problem else READ:
        value: Any = record.config
        for name in key.split("."):
            if not isinstance(value, dict) or name not in value:
                problem = problem or f"config has no {key}"
                break
            value = value[name]
    for name in [f"{task}/validation" for task in record.by_task] or ["validation"]:
        if "file" not in record.data_files.get(name, {}):
            problem = problem or f"data_files has no {name}.file"
    if "fingerprint" not in record.checkpoint or "name_or_path" not in record.checkpoint:
        problem = problem or "checkpoint has no fingerprint or no name_or_path"
    if problem:
        raise reading.unreadable(path, f"{record.run_id}: {problem}")


def _indexed(results_dir: Path, stamps: Mapping[str, tuple[int, int]]) -> dict[str, Row]:
    """Return the records in folders, from the index if it has them, and update the index."""
    indexed: dict[str, Row] = {}
    with suppress(UserError):  # none yet, or it cannot be read
        indexed = pack.read(results_dir / FILE) if stamps else {}
    rows = {name: row for name, row in indexed.items() if stamps.get(name) == (row.mtime_ns, row.size)}
    new = stamps.keys() - rows.keys()
    for name in new:
        path = results_dir / "runs" / name / "record.json"
        try:
            rows[name] = pack.row_of(records.content_of(path), *stamps[name])
        except UserError as error:
            _left_out(error)
    if new or len(rows) != len(indexed):
        with suppress(OSError):  # a folder without write permission: the next command reads the records again
            records.replace_file(results_dir / FILE, lambda temporary: pack.write(rows, temporary))
    return rows


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return modification time (ns) and size (bytes) of each record's file, by run id."""
    stamps: dict[str, tuple[int, int]] = {}
    if not folder.is_dir():
        return stamps
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # no record, or a loop of links
                stat = os.stat(f"{entry.path}/record.json")  # noqa: PTH116 - thousands of them
                stamps[entry.name] = (stat.st_mtime_ns, stat.st_size)
    return stamps
