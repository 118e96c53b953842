"""The sha256 of files, read once: kept for the process and, of large files, on disk for the next start."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path

from dp_bench.records import write_json

LARGE = 4_000_000  # bytes from which a digest is worth a file of its own
SETTLED_SECONDS = 2.0  # clocks of file systems tick slowly: what was just written may change unseen


def file_sha256(path: Path, memory: Path | None = None) -> str:
    """Return the sha256 of a file. It is computed anew where the file's size, times or inode have changed.

    `memory` is a folder in which the digests of large files are kept.
    """
    state = path.stat()
    key = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    settled = time.time() - max(state.st_mtime, state.st_ctime) > SETTLED_SECONDS
    if not settled:
        return _computed(path)
    if memory is None or state.st_size < LARGE:
        return _kept(path, key)
    entry = memory / f"{sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    known = _read(entry)
    if known.get("state") == list(key) and len(str(known.get("sha256"))) == 64:
        return str(known["sha256"])
    found = _kept(path, key)
    write_json(entry, {"file": str(path.resolve()), "state": key, "sha256": found})
    return found


def _computed(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1024)
def _kept(path: Path, state: tuple[int, ...]) -> str:
    return _computed(path)


def _read(entry: Path) -> dict[str, object]:
    try:
        content = json.loads(entry.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # nothing there yet, or damaged: it is computed again
        return {}
    return content if isinstance(content, dict) else {}
