"""An index over runs: one Parquet file beside thousands of records, so that tables over them take seconds.

Never the truth itself. A record whose file has another time or size than the index remembers is read anew,
one that is gone is forgotten, and an index that cannot be read is made again. Configurations that differ in
their seed only are kept, and read, once.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dp_bench import records
from dp_bench.records import RunRecord

FILE = "index.parquet"
WORTH_IT = 200  # runs; fewer are read faster than the index
COLUMNS = ("run_id", "mtime_ns", "size", "seed", "config", "rest")
VERSION = b"1"


def load_all(results_dir: Path) -> list[RunRecord]:
    """Return the records of all finished runs, in the order of their ids, as `records.load_all` does."""
    stamps = _stamps(results_dir / "runs")
    if len(stamps) < WORTH_IT:
        return records.load_all(results_dir)
    known = _read(results_dir / FILE)
    rows = {name: row for name, row in known.items() if stamps.get(name) == (row["mtime_ns"], row["size"])}
    changed = len(rows) != len(known)
    for name in stamps.keys() - rows.keys():
        record = records.load(results_dir / "runs" / name)
        if record is not None:
            rows[name] = _row(record, *stamps[name])
            changed = True
    if changed:
        _write(rows, results_dir / FILE)
    configs: dict[str, dict[str, Any]] = {}
    return [_record(rows[name], configs) for name in sorted(rows)]


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


def _row(record: RunRecord, mtime_ns: int, size: int) -> dict[str, Any]:
    content = asdict(record)
    config = content.pop("config")
    seed = config.pop("seed")
    return {
        "run_id": record.run_id,
        "mtime_ns": mtime_ns,
        "size": size,
        "seed": seed,
        "config": json.dumps(config),
        "rest": json.dumps(content),
    }


def _record(row: dict[str, Any], configs: dict[str, dict[str, Any]]) -> RunRecord:
    text = row["config"]
    if text not in configs:
        configs[text] = json.loads(text)
    return RunRecord(**json.loads(row["rest"]), config={**configs[text], "seed": row["seed"]})


def _read(path: Path) -> dict[str, dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException):
        return {}
    if (table.schema.metadata or {}).get(b"dp-bench") != VERSION or set(COLUMNS) - set(table.column_names):
        return {}
    columns = [table[name].to_pylist() for name in COLUMNS]
    return {values[0]: dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)}


def _write(rows: dict[str, dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({name: [rows[run_id][name] for run_id in sorted(rows)] for name in COLUMNS})
    table = table.replace_schema_metadata({b"dp-bench": VERSION})
    try:
        records.replace_file(
            path, lambda temporary: parquet.write_table(table, temporary, compression="zstd")
        )
    except OSError:  # somebody else's folder: the next command reads the records again
        return
