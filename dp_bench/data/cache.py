"""Folders that are made once, whole, by whichever process comes first, and looked over before each use."""

from __future__ import annotations

import errno
import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from dp_bench.digests import file_sha256
from dp_bench.progress import notice
from dp_bench.types import UserError

MANIFEST = "manifest.json"  # digests of the other files of a folder


def cached_folder(folder: Path, write: Callable[[Path], object]) -> Path:
    """Return the folder, having `write` fill it unless it is there as it was written.

    It is filled beside its place and renamed, so that any number of processes may ask for it at once. Raises
    UserError where a damaged one cannot be replaced.
    """
    if _is_intact(folder):
        return folder
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        digests = {path.name: file_sha256(path) for path in temporary.iterdir()}
        (temporary / MANIFEST).write_text(json.dumps(digests, indent=1), encoding="utf-8")
        _put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # there only where it was not put in place
    return folder


def _is_intact(folder: Path) -> bool:
    """Tell whether a folder is there and as it was written; a damaged one is reported."""
    if not folder.exists():
        return False
    try:
        digests = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        intact = all(file_sha256(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):  # no manifest, or no JSON, or no file that it names
        intact = False
    if not intact:
        notice(f"{folder} in the cache is damaged and is made again")
    return intact


def _put_in_place(temporary: Path, folder: Path) -> None:
    for _ in range(3):
        try:
            temporary.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # The place is taken: by another process's folder, or by the damaged one that made us write.
        if _is_intact(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)  # another process may be removing it as well
    raise UserError(f"{folder} in the cache is damaged and cannot be replaced: remove that folder.")
