"""A cache of the records in a results folder, in one Parquet file: faster to read than thousands of files.

A record whose file has another time or size than in the index is read again, one whose file is gone is
dropped, and an index that cannot be read is rebuilt. The format is that of a pack (pack.py), which needs no
index.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dp_bench import pack, records
from dp_bench.pack import Row
from dp_bench.records import RunRecord
from dp_bench.types import UserError

FILE = "index.parquet"
WORTH_IT = 200  # runs; reading fewer records is faster than reading the index


def load_all(results_dir: Path) -> list[RunRecord]:
    """Return the records of all finished runs, sorted by id, as `records.load_all` does."""
    stamps, packed = _stamps(results_dir / "runs"), pack.packed_rows(results_dir)
    if len(stamps) + len(packed) < WORTH_IT:
        return records.load_all(results_dir)
    rows = {**packed, **_indexed(results_dir, stamps)}
    file = results_dir / pack.FILE  # named in errors; records from folders are checked already
    contents = pack.contents({name: rows[name] for name in sorted(rows)}, file)
    return [records.parse(content, file) for _, content in contents]


def _indexed(results_dir: Path, stamps: Mapping[str, tuple[int, int]]) -> dict[str, Row]:
    """Return the records in folders, from the index if it has them, and update the index."""
    indexed: dict[str, Row] = {}
    with suppress(UserError):  # none yet, or it cannot be read
        indexed = pack.read(results_dir / FILE) if stamps else {}
    rows = {name: row for name, row in indexed.items() if stamps.get(name) == (row.mtime_ns, row.size)}
    new = stamps.keys() - rows.keys()
    for name in new:
        path = results_dir / "runs" / name / "record.json"
        if path.is_file():
            rows[name] = pack.row_of(records.content_of(path), *stamps[name])
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
            with suppress(FileNotFoundError, NotADirectoryError):
                stat = os.stat(f"{entry.path}/record.json")  # noqa: PTH116 - thousands of them
                stamps[entry.name] = (stat.st_mtime_ns, stat.st_size)
    return stamps
