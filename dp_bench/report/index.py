"""An index over runs: one Parquet file beside thousands of records, so that tables over them take seconds.

Never the truth itself. A record whose file has another time or size than the index remembers is read anew,
one that is gone is forgotten, and an index that cannot be read is made again. It has the form of a pack
(pack.py), which needs no index.
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
WORTH_IT = 200  # runs; fewer are read faster than the index


def load_all(results_dir: Path) -> list[RunRecord]:
    """Return the records of all finished runs, in the order of their ids, as `records.load_all` does."""
    stamps, packed = _stamps(results_dir / "runs"), pack.beside(results_dir)
    if len(stamps) + len(packed) < WORTH_IT:
        return records.load_all(results_dir)
    rows = {**packed, **_indexed(results_dir, stamps)}
    file = results_dir / pack.FILE  # what comes from folders has been checked
    found = pack.contents({name: rows[name] for name in sorted(rows)}, file)
    return [records.parse(content, file) for _, content in found]


def _indexed(results_dir: Path, stamps: Mapping[str, tuple[int, int]]) -> dict[str, Row]:
    """Return the records in folders, out of the index where it has them, and bring that up to date."""
    known = _read(results_dir / FILE) if stamps else {}
    rows = {name: row for name, row in known.items() if stamps.get(name) == (row.mtime_ns, row.size)}
    new = stamps.keys() - rows.keys()
    for name in new:
        path = results_dir / "runs" / name / "record.json"
        if path.is_file():
            rows[name] = pack.row_of(records.content_of(path), *stamps[name])
    if new or len(rows) != len(known):
        with suppress(OSError):  # somebody else's folder: the next command reads the records again
            records.replace_file(results_dir / FILE, lambda temporary: pack.write(rows, temporary))
    return rows


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return time and size of each record, by run."""
    found: dict[str, tuple[int, int]] = {}
    if not folder.is_dir():
        return found
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                stat = os.stat(f"{entry.path}/record.json")  # noqa: PTH116 - thousands of them
            except (FileNotFoundError, NotADirectoryError):
                continue
            found[entry.name] = (stat.st_mtime_ns, stat.st_size)
    return found


def _read(path: Path) -> dict[str, Row]:
    try:
        return pack.read(path)
    except UserError:
        return {}
