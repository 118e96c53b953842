"""Cached folders: written whole by the first process that needs them, and verified before each use."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from dp_bench import faults, reading
from dp_bench.digests import file_sha256
from dp_bench.progress import notice
from dp_bench.types import UserError

MANIFEST = "manifest.json"  # the sha256 of each other file of the folder


def cached_folder(folder: Path, write: Callable[[Path], object]) -> Path:
    """Return the folder; `write` fills it first if it is missing or damaged.

    A temporary folder beside it is filled and renamed, so that any number of processes may call this at once.
    Raises UserError if a damaged folder cannot be replaced.
    """
    if is_intact(folder):
        return folder
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        with faults.writing(folder):
            write(temporary)
            digests = {path.name: file_sha256(path) for path in temporary.iterdir()}
            (temporary / MANIFEST).write_text(json.dumps(digests, indent=1), encoding="utf-8")
            _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # exists only if it was not renamed
    return folder


def is_intact(folder: Path) -> bool:
    """Return whether a folder exists with its files unchanged; report a damaged one."""
    if not os.path.lexists(folder):
        return False
    try:
        digests = reading.json_object(folder / MANIFEST)
        # Names of files in this folder only: not of a device, or of a pipe, which would be read for ever.
        intact = all(
            (folder / name).parent == folder
            and (folder / name).is_file()
            and file_sha256(folder / name) == digest
            for name, digest in digests.items()
        )
    except (OSError, ValueError, UserError):  # no manifest, no JSON, or a file of it is missing
        intact = False
    if not intact:
        notice(f"{folder} in the cache is damaged: it is written again")
    return intact


def _replace(temporary: Path, folder: Path) -> None:
    for _ in range(3):
        try:
            temporary.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        # The folder exists: another process has written it, or it is the damaged one.
        if is_intact(folder):
            return
        if folder.is_symlink() or folder.is_file():
            folder.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # another process may be removing it as well
    raise UserError(f"{folder} in the cache is damaged and cannot be replaced: remove that folder.")
