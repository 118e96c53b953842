"""Records of many finished runs in one Parquet file: whole, sorted by run, each configuration once.

`records.parquet` (dp-bench pack) stands for runs whose folders are gone, and is read wherever records are.
`index.parquet` (report/index.py) has the same form and repeats records that are in folders: it is faster.
A row has the text of a record without its configuration, and that of the configuration without its seed,
which Parquet's dictionary keeps once for all rows that have it. The same records give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from dp_bench.types import UserError

FILE = "records.parquet"
OWN = ("seed",)  # the settings of a configuration that stay with the record
VERSION = {b"dp-bench records": b"1"}


class Row(NamedTuple):
    """One record, as texts; and, in an index alone, time and size of the file that it was read from."""

    record: str
    config: str
    mtime_ns: int = 0
    size: int = 0


def row_of(content: Mapping[str, Any], mtime_ns: int = 0, size: int = 0) -> Row:
    """Return the row of a record, which `contents` gives back with its keys in the order that they have."""
    config = content["config"]
    own = {key: config[key] for key in OWN if key in config}
    record, shared = {**content, "config": own}, {**config, **dict.fromkeys(own)}
    return Row(json.dumps(record), json.dumps(shared), mtime_ns, size)


def contents(rows: Mapping[str, Row], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of the rows of a file, by run; equal parts of configurations are the same objects."""
    configs: dict[str, dict[str, Any]] = {}
    for run_id, row in rows.items():
        try:
            if row.config not in configs:
                configs[row.config] = json.loads(row.config)
            content = json.loads(row.record)
            content["config"] = {**configs[row.config], **content["config"]}
        except (ValueError, TypeError, KeyError) as error:
            raise _unreadable(path, f"{run_id}: {error}") from None
        yield run_id, content


def beside(results_dir: Path) -> Mapping[str, Row]:
    """Return what is packed in a results folder, by run: nothing without a pack. Raises UserError where the
    pack cannot be read."""
    path = results_dir / FILE
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return _kept(path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))


@lru_cache(maxsize=2)
def _kept(path: Path, stamp: tuple[int, ...]) -> Mapping[str, Row]:
    return read(path)


def read(path: Path) -> dict[str, Row]:
    """Return the rows of a file; raise UserError where it is damaged, or none of ours."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    if table.schema != _schema() or not VERSION.items() <= (table.schema.metadata or {}).items():
        raise _unreadable(path, "it holds something else than records, or those of another dp-bench")
    columns = [column.to_pylist() for column in table.columns]
    return {run_id: Row(*values) for run_id, *values in zip(*columns, strict=True)}


def write(rows: Mapping[str, Row], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = sorted(rows)
    columns = [names, *([rows[name][place] for name in names] for place in range(len(Row._fields)))]
    parquet.write_table(
        pa.table(columns, schema=_schema()),
        path,
        compression="zstd",
        compression_level=9,
        use_dictionary=["config"],
        dictionary_pagesize_limit=1 << 30,  # however many configurations there are
        write_page_checksum=True,
        write_statistics=False,  # whole texts, and nobody asks for the least of them
    )


def _schema() -> Any:
    import pyarrow as pa

    kinds = {"run_id": pa.string(), "record": pa.string(), "config": pa.string()}
    return pa.schema({**kinds, "mtime_ns": pa.int64(), "size": pa.int64()}, metadata=VERSION)


def _unreadable(path: Path, why: object) -> UserError:
    return UserError(
        f"{path} cannot be read ({why}). Put back a copy of it (git checkout {path}), or move it away: the "
        "records that are in it alone are then missing."
    )
