"""Atomic claims on runs, so that two processes on one results folder never run the same run at once.

A claim is a file `claims/<run_id>.<generation>.json`. It is created with O_EXCL, so that only one of two
processes succeeds, and its modification time is the heartbeat. A stale claim is not taken: the next process
creates the next generation, which again only one can, and looks once more for others. The highest generation
is valid. A process removes its claim at the end, and looks for a record of the run after it has claimed it.

Locks of the operating system end with their process, but NFS mounts may keep them to one machine; the leases
of `filelock` count a removed marker as lost, and need a wait to tell whether a run is free.
"""

from __future__ import annotations

import _thread
import json
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from dp_bench.records import make_folder, timestamp
from dp_bench.types import UserError

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0  # eight missed heartbeats: the machine or the process has stopped
FORGET_SECONDS = 86400.0  # after which the files of a dead process are removed
TOKEN = secrets.token_hex(8)  # of this process


class BusyError(UserError):
    """Another live process holds the claim on this run."""


@contextmanager
def claimed(results_dir: Path, run_id: str) -> Iterator[None]:
    """Hold the claim on a run, with a heartbeat; raise BusyError where another live process holds it.

    An owner whose claim became stale (such as by minutes of suspension) and was taken over is interrupted, so
    that it does not write to the same files as the new owner.
    """
    path = _take(results_dir / "claims", run_id)
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A background job of a script ignores SIGINT, and could not be interrupted when its claim is lost.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    stop, lost = threading.Event(), threading.Event()
    beat = threading.Thread(target=_keep, args=(path, run_id, stop, lost), daemon=True)
    beat.start()
    try:
        yield
    except KeyboardInterrupt:
        if lost.is_set():
            raise BusyError(f"{run_id} was taken over by another process while this one slept.") from None
        raise
    finally:
        stop.set()
        beat.join()
        _release(path, run_id)


def holder(results_dir: Path, run_id: str) -> str | None:
    """Return the live owner of a run's claim, as process and host, or None."""
    known = _claims(results_dir / "claims", run_id)
    return next(filter(None, map(_live_owner, known)), None)


def holders(results_dir: Path) -> dict[str, str]:
    """Return the live owner of each claimed run, by run id."""
    runs = {_run_of(path) for path in _all(results_dir / "claims")}
    return {run_id: owner for run_id in sorted(runs) if (owner := holder(results_dir, run_id))}


def _take(folder: Path, run_id: str) -> Path:
    make_folder(folder)
    _tidy(folder)
    known = _claims(folder, run_id)
    _refuse_live(known, run_id)
    path = folder / f"{run_id}.{_generation(known[-1]) + 1 if known else 0}.json"
    try:
        _create(path)
    except FileExistsError:
        raise BusyError(f"{run_id} was claimed by another process just now.") from None
    try:  # where another process has released its claim between the two looks, two may have been created
        _refuse_live([claim for claim in _claims(folder, run_id) if claim != path], run_id)
    except BusyError:
        path.unlink(missing_ok=True)
        raise
    return path


def _create(path: Path) -> None:
    """Create this process's claim; raise FileExistsError where there is one. A full disk leaves none."""
    with path.open("x", encoding="utf-8") as file:
        try:
            json.dump({"host": _host(), "pid": os.getpid(), "token": TOKEN, "started": timestamp()}, file)
            file.flush()
        except OSError:
            path.unlink()
            raise


def _refuse_live(known: Sequence[Path], run_id: str) -> None:
    for owner in filter(None, map(_live_owner, known)):
        raise BusyError(
            f"{run_id} is being run by {owner}: wait for it, or stop it and start this again, which resumes "
            "from the last checkpoint."
        )


def _claims(folder: Path, run_id: str) -> list[Path]:
    """Return the claims on a run, the highest generation last."""
    return sorted((path for path in _all(folder) if _run_of(path) == run_id), key=_generation)


def _all(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if re.fullmatch(r"[^.].*\.\d{1,9}\.json", path.name)]


def _run_of(path: Path) -> str:
    return path.name.rsplit(".", 2)[0]


def _generation(path: Path) -> int:
    return int(path.name.rsplit(".", 2)[1])


def _tidy(folder: Path) -> None:
    """Remove what killed processes have left for long: claims, probes of the clock, half-written files."""
    now = _clock_of(folder)
    for path in folder.iterdir():
        with suppress(OSError):  # another process does the same
            if abs(now - path.stat().st_mtime) > FORGET_SECONDS and path.is_file():
                path.unlink()


def _live_owner(path: Path) -> str | None:
    """Return the owner of a claim that is neither released nor stale, as process and host."""
    try:
        claim, touched = _parsed(path), path.stat().st_mtime
    except FileNotFoundError:  # the run has just finished; no claim of ours
        return None
    patience = STALE_SECONDS
    if claim is None:
        claim, patience = {"host": "some machine", "pid": "?"}, HEARTBEAT_SECONDS  # it is being written
    is_local = claim["host"] == _host()
    if claim.get("released") or (is_local and not _is_alive(claim["pid"])):
        return None
    # A time to come is not the last heartbeat either: the next one corrects it.
    if abs(_clock_of(path.parent) - touched) > patience:
        return None
    return f"process {claim['pid']} on {claim['host'].split(' ')[0]}"


def _parsed(path: Path) -> dict[str, Any] | None:
    """Return the content of a claim, None where it is not one. Raises FileNotFoundError without a file."""
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(path)
    try:
        claim = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None
    is_claim = (
        isinstance(claim, dict) and isinstance(claim.get("host"), str) and type(claim.get("pid")) is int
    )
    return claim if is_claim and 0 < claim["pid"] < 2**31 else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user, and is alive
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # no /proc on this system
        return True
    return state != "Z"  # a zombie


def _host() -> str:
    """Return host name and process namespace: containers may share the first but not process ids."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _clock_of(folder: Path) -> float:
    """Return the time of the file system of a folder, whose clock may be another machine's."""
    try:
        with NamedTemporaryFile(dir=folder, prefix=".", suffix=".clock") as probe:
            return Path(probe.name).stat().st_mtime
    except OSError:  # it is full, or read-only
        return time.time()


def _keep(path: Path, run_id: str, stop: threading.Event, lost: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):  # a file system that is unavailable for a moment
            if not _beat(path, run_id):
                lost.set()
                _thread.interrupt_main()
                return


def _beat(path: Path, run_id: str) -> bool:
    """Touch this process's claim; create it again where someone has removed it, and no other process has
    taken the run. Return whether the run is still this process's."""
    known = _claims(path.parent, run_id)
    if path not in known:
        if any(map(_live_owner, known)):
            return False
        make_folder(path.parent)
        with suppress(FileExistsError):
            _create(path)
        known = _claims(path.parent, run_id)
    is_ours = known[-1:] == [path] and _is_ours(path)
    if is_ours:
        os.utime(path)
    return is_ours or not known  # a folder that lists nothing proves nothing


def _is_ours(path: Path) -> bool:
    claim = _parsed(path)
    return claim is None or (claim["pid"], claim.get("token")) == (os.getpid(), TOKEN)


def _release(path: Path, run_id: str) -> None:
    """Remove this process's claim, after those of earlier owners, which are dead."""
    with suppress(OSError):  # the folder is gone; or it cannot be written, and the claim becomes stale
        for claim in _claims(path.parent, run_id):
            if _generation(claim) < _generation(path) or (claim == path and _is_ours(path)):
                claim.unlink(missing_ok=True)
