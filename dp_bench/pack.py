"""Records of many finished runs in one Parquet file, sorted by run id.

`records.parquet` (dp-bench pack) replaces the folders of runs and is read wherever records are.
`index.parquet` (report/index.py) has the same format and caches records that are in folders.
A row has the JSON of a record without its configuration and the JSON of the configuration without its seed,
which Parquet's dictionary stores once for all rows that share it. Equal records give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from dp_bench import reading
from dp_bench.types import UserError

FILE = "records.parquet"
PER_RECORD = ("seed",)  # settings that are stored with the record, not with the shared configuration
VERSION = {b"dp-bench records": b"1"}


class Row(NamedTuple):
    """One record as JSON texts. Only an index has time (ns) and size (bytes) of the record's file."""

    record: str
    config: str
    mtime_ns: int = 0
    size: int = 0


def row_of(content: Mapping[str, Any], mtime_ns: int = 0, size: int = 0) -> Row:
    """Return the row of a record; `contents` restores the record with its order of keys."""
    config = content["config"]
    per_record = {key: config[key] for key in PER_RECORD if key in config}
    record, shared = {**content, "config": per_record}, {**config, **dict.fromkeys(per_record)}
    return Row(json.dumps(record), json.dumps(shared), mtime_ns, size)


def contents(
    rows: Mapping[str, Row], path: Path, skipped: Callable[[UserError], None] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield run id and record of each row; records share the objects of equal configurations.

    Raises UserError, naming `path`, if a row is damaged, or calls `skipped` with it and goes on.
    """
    configs: dict[str, dict[str, Any]] = {}
    for run_id, row in rows.items():
        try:
            if row.config not in configs:
                configs[row.config] = reading.parsed(row.config)
            content = reading.parsed(row.record)
            content["config"] = {**configs[row.config], **content["config"]}
        except (ValueError, TypeError, KeyError) as error:
            damage = reading.unreadable(path, f"{run_id}: {error}", _remedy(path))
            if skipped is None:
                raise damage from None
            skipped(damage)
            continue
        yield run_id, content


def packed_rows(results_dir: Path) -> Mapping[str, Row]:
    """Return the packed rows of a results folder by run id, empty without a pack.

    Raises UserError if the pack cannot be read.
    """
    path = results_dir / FILE
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:  # a link to itself
        raise reading.unreadable(path, error, _remedy(path)) from None
    return _cached(path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))


@lru_cache(maxsize=2)
def _cached(path: Path, stamp: tuple[int, ...]) -> Mapping[str, Row]:
    return read(path)


def read(path: Path) -> dict[str, Row]:
    """Return the rows of a file by run id. Raises UserError if it is damaged or has another format."""
    from pyarrow import parquet

    with reading.guarded(path, _remedy(path)):
        table = parquet.read_table(path, page_checksum_verification=True)
        if table.schema != _schema() or not VERSION.items() <= (table.schema.metadata or {}).items():
            raise ValueError("it holds no records, or records of another version of dp-bench")
        return {row.pop("run_id"): Row(**row) for row in table.to_pylist() if row["run_id"] is not None}


def write(rows: Mapping[str, Row], path: Path) -> None:
    """Write rows by run id to a file."""
    import pyarrow as pa
    from pyarrow import parquet

    lines = [{"run_id": run_id, **row._asdict()} for run_id, row in sorted(rows.items())]
    parquet.write_table(
        pa.Table.from_pylist(lines, schema=_schema()),
        path,
        compression="zstd",
        compression_level=9,
        use_dictionary=["config"],
        dictionary_pagesize_limit=1 << 30,  # all configurations fit into one dictionary
        write_page_checksum=True,
        write_statistics=False,  # of no use for JSON texts
    )


def _schema() -> Any:
    import pyarrow as pa

    kinds = {"run_id": pa.string(), "record": pa.string(), "config": pa.string()}
    return pa.schema({**kinds, "mtime_ns": pa.int64(), "size": pa.int64()}, metadata=VERSION)


def _remedy(path: Path) -> str:
    return f"Restore it (git checkout {path}) or move it away: records that only it holds are then missing."
