"""Atomic claims on runs, so that two processes on one results folder never run the same run at once.

A claim is a file `claims/<run_id>.<generation>.json`. It is created with O_EXCL, so that only one of two
processes succeeds, and its modification time is the heartbeat. A stale claim is never removed or renamed: the
next process creates the next generation, which again only one can. The highest generation is valid. All are
removed once the run has a record, for which every process looks after it has claimed the run.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from dp_bench.records import is_finished, timestamp, write_json
from dp_bench.types import UserError

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0  # eight missed heartbeats: the machine or the process has stopped


class BusyError(UserError):
    """Another live process holds the claim on this run."""


@contextlib.contextmanager
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
        if not lost.is_set():
            _release(path, results_dir, run_id)


def holder(results_dir: Path, run_id: str) -> str | None:
    """Return the live owner of a run's claim, as process and host, or None."""
    newest = _newest(results_dir / "claims", run_id)
    return None if newest is None else _live_owner(newest)


def holders(results_dir: Path) -> dict[str, str]:
    """Return the live owner of each claimed run, by run id."""
    runs = {path.name.rsplit(".", 2)[0] for path in (results_dir / "claims").glob("*.json")}
    return {run_id: owner for run_id in sorted(runs) if (owner := holder(results_dir, run_id))}


def _take(folder: Path, run_id: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    newest = _newest(folder, run_id)
    owner = _live_owner(newest) if newest else None
    if owner is not None:
        raise BusyError(
            f"{run_id} is being run by {owner}: wait for it, or stop it and start this again, which resumes "
            "from the last checkpoint."
        )
    path = folder / f"{run_id}.{_generation(newest) + 1 if newest else 0}.json"
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump({"host": _host(), "pid": os.getpid(), "started": timestamp(), "released": False}, file)
    except FileExistsError:
        raise BusyError(f"{run_id} was claimed by another process just now.") from None
    return path


def _newest(folder: Path, run_id: str) -> Path | None:
    return max(folder.glob(f"{run_id}.*.json"), key=_generation, default=None)


def _generation(path: Path) -> int:
    return int(path.name.rsplit(".", 2)[1])


def _live_owner(path: Path) -> str | None:
    """Return the owner of a claim that is neither released nor stale, as process and host."""
    try:
        text, touched = path.read_text(encoding="utf-8"), path.stat().st_mtime
    except FileNotFoundError:  # the run has just finished
        return None
    try:
        claim: dict[str, Any] = json.loads(text)
    except ValueError:  # it is being written
        claim = {"host": "some machine", "pid": "?", "released": False}
    is_local = claim["host"] == _host()
    if claim["released"] or (is_local and not _is_alive(claim["pid"])):
        return None
    if _clock_of(path.parent) - touched > STALE_SECONDS:
        return None
    return f"process {claim['pid']} on {claim['host'].split(' ')[0]}"


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
    with NamedTemporaryFile(dir=folder, prefix=".", suffix=".clock") as probe:
        return Path(probe.name).stat().st_mtime


def _keep(path: Path, run_id: str, stop: threading.Event, lost: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        if _newest(path.parent, run_id) != path:
            lost.set()
            _thread.interrupt_main()
            return
        with contextlib.suppress(OSError):  # a file system that is unavailable for a moment
            os.utime(path)


def _release(path: Path, results_dir: Path, run_id: str) -> None:
    """Release a claim: remove all files of a finished run's claims, mark that of an unfinished run."""
    if is_finished(results_dir / "runs" / run_id):
        for claim in path.parent.glob(f"{run_id}.*.json"):
            claim.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):  # another process has just finished the run
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "released": True})
