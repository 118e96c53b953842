"""Who runs what: one of many takers gets a run, the dead lose theirs, the living keep it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dp_bench import claims
from dp_bench.claims import BusyError, claimed, holder, holders

RUN = "rte-t5_micro-fixed-full-clean-s0-0123456789"


def leave_claim(results_dir: Path, *, generation: int = 0, age: float = 0.0, **content: Any) -> Path:
    """Write the claim of another process, last touched `age` seconds ago."""
    path = results_dir / "claims" / f"{RUN}.{generation}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "released": False, **content}), "utf-8")
    os.utime(path, (time.time() - age,) * 2)
    return path


def finish(results_dir: Path) -> None:
    (results_dir / "runs" / RUN).mkdir(parents=True)
    (results_dir / "runs" / RUN / "record.json").write_text("{}", "utf-8")


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_claim_keeps_others_out_and_is_gone_with_the_finished_run(tmp_path: Path) -> None:
    assert holder(tmp_path, RUN) is None
    with claimed(tmp_path, RUN):
        assert holder(tmp_path, RUN) == holders(tmp_path)[RUN] and str(os.getpid()) in holders(tmp_path)[RUN]
        with pytest.raises(BusyError, match=f"is being run by process {os.getpid()}"), claimed(tmp_path, RUN):
            pass
        with claimed(tmp_path, RUN.replace("s0", "s1")):
            pass  # another run is free
        finish(tmp_path)
    assert not list((tmp_path / "claims").glob(f"{RUN}.*"))


def test_a_run_that_was_stopped_is_free_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError), claimed(tmp_path, RUN):
        raise ValueError
    assert holder(tmp_path, RUN) is None
    with claimed(tmp_path, RUN):
        assert holder(tmp_path, RUN)


def test_the_claim_of_a_dead_process_of_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    leave_claim(tmp_path, host=claims._host(), pid=dead_process())
    assert holder(tmp_path, RUN) is None
    with claimed(tmp_path, RUN):
        finish(tmp_path)
    assert not list((tmp_path / "claims").glob("*.json")), "the dead one's claim goes with the run"


def test_another_machine_is_believed_while_its_heart_beats(tmp_path: Path) -> None:
    leave_claim(tmp_path, age=claims.STALE_SECONDS - 10)
    with pytest.raises(BusyError, match="process 1 on elsewhere"), claimed(tmp_path, RUN):
        pass
    leave_claim(tmp_path, age=claims.STALE_SECONDS + 10)
    with claimed(tmp_path, RUN):
        pass


def test_a_claim_that_is_half_written_counts(tmp_path: Path) -> None:
    leave_claim(tmp_path).write_text("", "utf-8")
    assert holder(tmp_path, RUN) == "process ? on some"


def test_a_long_run_stays_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    with claimed(tmp_path, RUN):
        (path,) = (tmp_path / "claims").glob("*.json")
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_an_owner_that_slept_too_long_stops_and_leaves_the_new_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    with pytest.raises(BusyError, match="taken over"), claimed(tmp_path, RUN):
        new = leave_claim(tmp_path, generation=1)
        for _ in range(1000):
            time.sleep(0.01)
    assert new.is_file() and holder(tmp_path, RUN) == "process 1 on elsewhere"


def take(results_dir: Path, start: Any, wins: Any) -> None:
    start.wait()
    try:
        with claimed(results_dir, RUN):
            wins.put(os.getpid())
            time.sleep(0.3)
    except BusyError:
        pass


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_take_at_once_one_gets_it(tmp_path: Path, stale: bool) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        results_dir = tmp_path / str(attempt)
        if stale:
            leave_claim(results_dir, generation=3, age=10 * claims.STALE_SECONDS)
        start, wins = context.Barrier(8), context.Queue()
        takers = [context.Process(target=take, args=(results_dir, start, wins)) for _ in range(8)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join(20)
            assert taker.exitcode == 0
        assert wins.get(timeout=5)
        assert wins.empty()
