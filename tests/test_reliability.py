"""Nothing is lost: by signals, power cuts, damaged checkpoints, killed reruns and removed claims."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pytest
import torch
from conftest import FIXTURES
from helpers.processes import Forked
from helpers.trainers import make_trainer

from dp_bench import checkpoints, claims, config, records, run, signals
from dp_bench.claims import BusyError, claimed, holder
from dp_bench.config import Experiment
from dp_bench.trainer import Trainer

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=5")
RUN = "rte-t5_micro-fixed-full-clean-s0-0123456789"


def folder_of(composed: Experiment, run_id: str) -> Path:
    return Path(composed.settings.results_dir) / "runs" / run_id


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------------------- preemption


def start(folder: Path, *words: str) -> Forked:
    base = ("task=rte", "backbone=t5_tiny_random", "trainer=smoke", "trainer.precision=fp32", "device=cpu")
    command = [sys.executable, "-m", "dp_bench", "train", *base, f"data.dir={FIXTURES}", *words]
    return Forked(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=folder)


def end(process: Forked) -> tuple[int, str]:
    process.stdin.close()
    said = process.stdout.read() + process.stderr.read()
    process.stdout.close()
    return process.wait(60), said


def test_a_warned_run_goes_on_from_the_update_it_was_at(tmp_path: Path) -> None:
    name, words = "SIGUSR1", ("prompt=dynamic", *QUICK, "trainer.max_steps=120", "trainer.eval_every=120")
    whole = start(tmp_path, *words, "results_dir=whole")
    process = start(tmp_path, *words, "results_dir=warned", "trainer.checkpoint_minutes=0.0001")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("warned/runs/*/checkpoint/step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.Signals[name])
    code, said = end(process)
    assert code == 128 + signal.Signals[name], said
    assert f"{name}: stopped after update" in said and "Traceback" not in said
    (folder,) = (tmp_path / "warned" / "runs").iterdir()
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"
    assert not list((tmp_path / "warned" / "claims").iterdir()), "the requeued job need not wait"
    code, said = end(start(tmp_path, *words, "results_dir=warned"))
    assert code == 0 and "resuming after update" in said
    assert end(whole)[0] == 0
    for file in ("predictions.parquet", "prompt.safetensors"):
        one, other = (next(tmp_path.glob(f"{where}/runs/*/{file}")) for where in ("whole", "warned"))
        assert one.read_bytes() == other.read_bytes(), "a run that was stopped ends as one that was not"


def stopping(monkeypatch: pytest.MonkeyPatch, where: str, number: int, at: int) -> None:
    """Send a signal to this process in the `at`-th call of a method of Trainer."""
    whole, calls = getattr(Trainer, where), []

    def method(trainer: Trainer, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return whole(trainer, *args, **options)

    monkeypatch.setattr(Trainer, where, method)


@pytest.fixture(autouse=True)
def hangup_is_not_ignored() -> Iterator[None]:
    """The tests may run under nohup."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize("number", signals.WATCHED)
@pytest.mark.parametrize(("where", "at", "step"), [("_update", 2, 2), ("_update", 3, 3), ("report", 1, 2)])
def test_a_signal_saves_the_update_or_what_is_evaluated(
    experiment: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    where: str,
    at: int,
    step: int,
) -> None:
    composed = experiment("prompt=fixed", *QUICK)
    trainer = make_trainer(composed, tmp_path / "stopped")
    former = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(signals.Preempted), signals.watched():
        stopping(patch, where, number, at)
        trainer.fit()
    assert signal.getsignal(number) == former
    assert trainer.progress.step == step
    resumed, whole = (make_trainer(composed, tmp_path / name) for name in ("stopped", "whole"))
    assert resumed.fit().history and whole.fit().history
    for key, value in whole._state().items():
        assert torch.equal(resumed._state()[key], value)
    one, other = (
        [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in t.progress.history]
        for t in (resumed, whole)
    )
    assert one == other


def test_a_signal_elsewhere_stops_at_once_and_an_ignored_one_never(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(signals.Preempted), signals.watched():
        os.kill(os.getpid(), signal.SIGUSR2)
        pytest.fail("it went on")
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with signals.watched():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_launcher_hears_of_the_signal_once_the_run_has_let_go(
    experiment: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As submitit, whose handler requeues the job; where it only ignores the signal, the run goes on."""
    from dp_bench.sweep import launch

    composed = experiment("prompt=fixed", *QUICK)
    monkeypatch.setattr(launch.jobs, "build_in_job", lambda cfg: composed)
    monkeypatch.setattr(launch, "KILL_SECONDS", 0.0)
    stopping(monkeypatch, "_update", signal.SIGUSR2, 3)
    heard: list[str | None] = []
    (results,) = (Path(composed.settings.results_dir),)

    def handler(*_: object) -> None:
        (folder,) = (results / "runs").iterdir()
        heard.append(holder(results, folder.name))

    former = signal.signal(signal.SIGUSR2, handler)
    try:
        assert launch.job(None) is None
    finally:
        signal.signal(signal.SIGUSR2, former)
    assert heard == [None] and len(records.finished(results)) == 1


def test_minutes_between_checkpoints_change_no_id_and_no_result(experiment: Build, tmp_path: Path) -> None:
    plain, often = (
        experiment("prompt=fixed", *QUICK, f"trainer.checkpoint_minutes={m}") for m in ("null", 1e-9)
    )
    first = run.run(plain)
    assert run.run(often) == first, "the same run, which is finished"
    trainer = make_trainer(often, tmp_path)
    saved: list[int] = []
    trainer._checkpoint = lambda: saved.append(trainer.progress.step)  # type: ignore[method-assign]
    trainer.fit()
    assert saved == [1, 2, 2, 3, 4, 4] and trainer.progress.best_score == first.select_score


# ------------------------------------------------------------------------------------------ checkpoints


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lack(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("file", ["progress.json", "learned.safetensors", "best.safetensors", "optimizer.pt"])
@pytest.mark.parametrize(  # without digests, as of earlier versions, nothing tells of a flipped bit
    ("damage", "known"), [(cut, True), (flip, True), (lack, True), (cut, False), (lack, False)]
)
def test_a_damaged_checkpoint_is_set_aside(
    experiment: Build,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    damage: Callable[[Path], None],
    known: bool,
) -> None:
    trainer = make_trainer(experiment("prompt=fixed"), tmp_path)
    for trainer.progress.step in (1, 2):
        trainer._checkpoint()
    folder = tmp_path / "checkpoint"
    for expected in (1, None):
        last = max(folder.glob("step-*"))
        if not known:
            (last / checkpoints.DIGESTS).unlink()
        damage(last / file)
        saved = checkpoints.load(folder, {}, trainer.best)
        assert (saved.progress.step if saved else None) == expected
        said = capsys.readouterr().err
        assert said.count("is damaged") == 1 and (folder / f"damaged-{last.name}").is_dir()
    trainer._checkpoint()
    assert checkpoints.load(folder, {}, trainer.best) is not None


def test_a_checkpoint_of_another_shape_or_layout_is_set_aside(experiment: Build, tmp_path: Path) -> None:
    trainer = make_trainer(experiment("prompt=fixed"), tmp_path)
    trainer._checkpoint()
    assert checkpoints.load(tmp_path / "checkpoint", {}, {"other": torch.zeros(1)}) is None
    (tmp_path / "checkpoint" / "step-00000009").write_text("a file")
    assert checkpoints.load(tmp_path / "checkpoint", {}, trainer.best) is None


def test_a_checkpoint_that_cannot_be_read_again_leaves_the_one_before(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(experiment("prompt=fixed"), tmp_path)
    for trainer.progress.step in (1, 2):
        trainer._checkpoint()
    whole = torch.save

    def half(content: object, file: BinaryIO) -> None:
        whole(content, file)
        file.truncate(file.tell() // 2)

    for trainer.progress.step in (3, 4):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", half)
            trainer._checkpoint()
        assert "cannot be read again" in capsys.readouterr().err
        saved = checkpoints.load(tmp_path / "checkpoint", {}, trainer.best)
        assert saved is not None and saved.progress.step == 2
    assert [path.name[:13] for path in (tmp_path / "checkpoint").iterdir()] == ["step-00000002"]


def test_what_is_written_is_on_the_disk_before_and_after_its_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    path = tmp_path / "runs" / "one" / "record.json"
    monkeypatch.setattr(records, "sync", lambda p: synced.append((p.name, path.exists())))
    records.write_text(path, "{}")
    assert synced[:2] == [(tmp_path.name, False), ("runs", False)], "the new folders"
    assert synced[2][0].startswith(".record.json") and not synced[2][1]
    assert synced[3] == ("one", True)


# ------------------------------------------------------------------------------------- reruns and bytes


def test_a_killed_rerun_leaves_the_finished_run_and_goes_on(
    experiment: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    composed, again = (experiment("prompt=fixed", *QUICK, *more) for more in ((), ("rerun=true",)))
    first = run.run(composed)
    folder, results = folder_of(composed, first.run_id), Path(composed.settings.results_dir)
    before = contents(folder)
    with monkeypatch.context() as patch, pytest.raises(signals.Preempted):
        stopping(patch, "_update", signal.SIGTERM, 3)
        run.run(again)
    assert contents(folder) == before
    assert list((results / "reruns" / first.run_id / "checkpoint").glob("step-*"))
    assert run.run(composed) == first
    second = run.run(again)
    assert "resuming after update 3" in capsys.readouterr().out
    assert (second.score, second.started > first.started) == (first.score, second.started != first.started)
    assert not (results / "reruns").exists()
    after = contents(folder)
    assert sorted(after) == sorted(before)
    for name in ("prompt.safetensors", "predictions.parquet", "config.yaml"):
        assert (after[name] == before[name]) == (name != "config.yaml"), "rerun is in the configuration"


def test_a_rerun_that_was_killed_while_it_replaced_the_run_is_completed(
    experiment: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = experiment("prompt=fixed", *QUICK, "rerun=true")
    first = run.run(again)
    replace, results = records.replace_run, Path(again.settings.results_dir)
    left = []  # the record of the rerun

    def killed(directory: Path, rerun: Path) -> None:
        left.append(records.load(rerun))
        (rerun / "predictions.parquet").replace(directory / "predictions.parquet")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(records, "replace_run", killed)
        run.run(again)
    assert records.load(folder_of(again, first.run_id)) == first
    monkeypatch.setattr(run, "_run", None)  # nothing is trained again
    second = run.run(again)
    assert second.run_id == first.run_id and [second] == left
    assert not (results / "reruns").exists() and replace


def test_two_identical_runs_leave_identical_bytes(experiment: Build, tmp_path: Path) -> None:
    files: set[bytes] = set()
    umask = os.umask(0o027)
    try:
        for number in range(3):
            composed = experiment("prompt=dynamic", *QUICK, f"results_dir={tmp_path / str(number)}")
            path = folder_of(composed, run.run(composed).run_id) / "prompt.safetensors"
            files.add(path.read_bytes())
            assert path.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(umask)
    assert len(files) == 1


# --------------------------------------------------------------------------------------------- claims


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_removed_claims_are_made_again_and_stop_nobody(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claimed(tmp_path, RUN):
        shutil.rmtree(tmp_path / "claims")
        until(lambda: holder(tmp_path, RUN))
        with monkeypatch.context() as patch:

            def fails(_: Path) -> list[Path]:
                raise OSError(116, "Stale file handle")

            patch.setattr(claims, "_all", fails)
            time.sleep(0.1)
        with pytest.raises(BusyError), claimed(tmp_path, RUN):
            pass
    assert not list((tmp_path / "claims").iterdir())


def test_a_run_whose_removed_claim_another_process_has_taken_stops(tmp_path: Path, fast: None) -> None:
    def take(generation: int) -> Path:
        path = tmp_path / "claims" / f"{RUN}.{generation}.json"
        path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "other"}), "utf-8")
        return path

    for generation in (0, 5):
        with pytest.raises(BusyError, match="taken over"), claimed(tmp_path, RUN):
            for path in (tmp_path / "claims").iterdir():
                path.unlink()
            other = take(generation)
            for _ in range(1000):
                time.sleep(0.01)
        assert other.is_file()
        other.unlink()


@pytest.mark.parametrize("days", [-2, 1])
def test_a_claim_of_another_day_holds_nothing(tmp_path: Path, days: int) -> None:
    path = tmp_path / "claims" / f"{RUN}.0.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "released": False}), "utf-8")
    os.utime(path, (time.time() + days * 86400 + 9,) * 2)
    assert holder(tmp_path, RUN) is None
    with claimed(tmp_path, RUN):
        pass
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    "text", ["", "42", "[]", "{}", '{"host": 1, "pid": "x"}', '{"host": "a", "pid": 1e9}', "\ud83d"]
)
def test_odd_claims_hold_for_a_moment_only(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claims" / f"{RUN}.0.json"
    path.parent.mkdir()
    path.write_text(text, "utf-8", "surrogatepass")
    (path.parent / f"{RUN}.many.json").write_text("", "utf-8")
    (path.parent / f"{RUN}.7.json").mkdir()
    assert holder(tmp_path, RUN) == "process ? on some"
    os.utime(path, (time.time() - claims.HEARTBEAT_SECONDS - 5,) * 2)
    with claimed(tmp_path, RUN):
        assert str(os.getpid()) in str(holder(tmp_path, RUN))


def test_a_full_disk_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(json, "dump", full)
        claims._take(tmp_path / "claims", RUN)
    assert not list((tmp_path / "claims").iterdir())


def test_what_killed_processes_left_is_removed(experiment: Build, tmp_path: Path) -> None:
    composed = experiment("prompt=fixed", *QUICK)
    first = run.run(composed)
    results = Path(composed.settings.results_dir)
    folder = folder_of(composed, first.run_id)
    (folder / "record.json").unlink()
    (folder / ".record.json.1.tmp").write_text("half")
    old = results / "claims" / "another-run.3.json"
    old.write_text("{}")
    os.utime(old, (0, 0))
    assert dataclasses.replace(run.run(composed), **incidental(first)) == first
    assert not list(folder.glob(".*")) and not list((results / "claims").iterdir())


def incidental(record: records.RunRecord) -> dict[str, Any]:
    names = (
        "started",
        "train_seconds",
        "eval_seconds",
        "total_seconds",
        "peak_memory_mb",
        "command",
        "config",
    )
    return {name: getattr(record, name) for name in names}


def test_predictions_are_those_of_an_undisturbed_run_after_any_of_it(
    experiment: Build, tmp_path: Path
) -> None:
    """Stopped in an update, its last checkpoint cut, its claims removed: it ends as if nothing had been."""
    whole = experiment("prompt=dynamic", *QUICK)
    other = experiment("prompt=dynamic", *QUICK, f"results_dir={tmp_path / 'other'}")
    record = run.run(whole)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(signals.Preempted):
        stopping(patch, "_update", signal.SIGHUP, 4)
        run.run(other)
    folder = folder_of(other, record.run_id)
    cut(max((folder / "checkpoint").glob("step-*")) / "optimizer.pt")
    shutil.rmtree(tmp_path / "other" / "claims")
    again = run.run(other)
    assert any("is damaged" in text for text in again.warnings)
    tables = [pd.read_parquet(folder_of(e, record.run_id) / "predictions.parquet") for e in (whole, other)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_full_disk_is_said_in_one_paragraph_and_the_run_goes_on(
    experiment: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dp_bench.commands import train

    composed = experiment("prompt=fixed", *QUICK)
    monkeypatch.setattr(train.config, "build", lambda cfg, composer: composed)

    def full(path: Path) -> None:
        if path.name.endswith(".tmp") and Path(composed.settings.results_dir, "runs") in path.parents:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(records, "sync", full)
        assert train.run_one(None, config.Composer()) == 1
    said = capsys.readouterr().err
    assert "No space left" in said and "make room" in said and "Traceback" not in said
    assert train.run_one(None, config.Composer()) == 0
