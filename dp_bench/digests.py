"""The sha256 of files, cached for the process and, for large files, on disk."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path

from dp_bench.records import write_json

LARGE = 4_000_000  # bytes from which a digest is cached on disk
SETTLED_SECONDS = 2.0  # file times are coarse: a file that was just written may change without a new time


def file_sha256(path: Path, memory: Path | None = None) -> str:
    """Return the sha256 of a file, computed again if its size, times or inode have changed.

    `memory` is the folder for cached digests of large files.
    """
    state = path.stat()
    key = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    if time.time() - max(state.st_mtime, state.st_ctime) <= SETTLED_SECONDS:
        return computed_sha256(path)
    if memory is None or state.st_size < LARGE:
        return _cached(path, key)
    entry = memory / f"{sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    try:
        stored = json.loads(entry.read_text(encoding="utf-8"))
        if stored["state"] == list(key):
            return str(stored["sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # missing or damaged: the digest is computed again
    digest = _cached(path, key)
    write_json(entry, {"file": str(path.resolve()), "state": key, "sha256": digest})
    return digest


def computed_sha256(path: Path) -> str:
    """Return the sha256 of a file as it is now, read whole."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1024)
def _cached(path: Path, state: tuple[int, ...]) -> str:
    return computed_sha256(path)
