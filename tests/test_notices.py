"""What a run has to say reaches the terminal and the record: from caches, over a resume, from every rank, and
where a rerun comes to other numbers."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import tampered
from helpers.sweeps import TINY, Sweep, sweep

import dp_bench
from dp_bench import records, run
from dp_bench.config import Experiment
from dp_bench.data import metrics
from dp_bench.progress import Reporter, notice
from dp_bench.trainer import Trainer

assert sweep  # the fixture
Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=2")
PACKAGE = Path(dp_bench.__file__).parent


def damage(cache: Path) -> None:
    """Cut every cached encoding short."""
    for data in (cache / "encoded").glob("*/data.arrow"):
        content = data.read_bytes()
        data.unlink()
        data.write_bytes(content[:100])


def test_a_notice_is_given_once_and_kept_by_the_run_under_way(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter() as outer:
        notice("seen")
        with Reporter() as inner:
            notice("seen inside")
        notice("seen")
        assert (outer.warnings, inner.warnings) == (["seen"], ["seen inside"])
    assert capsys.readouterr().out.count("warning: seen\n") == 1
    with outer:
        assert not outer.warnings, "another run has seen nothing yet"
    notice("no run is under way")
    assert "warning: no run is under way" in capsys.readouterr().err


def test_nothing_in_the_package_warns_by_logging() -> None:
    """The standard module warns nowhere; `logging.config` silences the libraries, as Hydra's jobs do."""
    used = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            used += [path.name for name in names if name == "logging"]
    assert not used


def test_what_a_cache_says_is_printed_by_the_command_and_kept_in_the_record(
    experiment: Build, tmp_path: Path
) -> None:
    """By the command itself, whose libraries are told to be quiet."""
    words = ("prompt=zero_shot", f"cache_dir={tmp_path / 'cache'}")
    run.run(experiment(*words))
    damage(tmp_path / "cache")
    own = experiment(*words, "seed=1", f"results_dir={tmp_path / 'other'}")
    typed = [f"{key}={value}" for key, value in (("data.dir", own.settings.data.dir), ("seed", 1))]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dp_bench", "train", "task=rte", "backbone=t5_tiny_random"),
            *("trainer=smoke", "trainer.precision=fp32", "device=cpu", *words, *typed),
            f"results_dir={tmp_path / 'other'}",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.returncode == 0, done.stderr
    (record,) = records.load_all(tmp_path / "other")
    told = [text for text in record.warnings if "is damaged: it is written again" in text]
    assert len(told) == 2 and all(f"warning: {text}" in done.stdout for text in told)


def test_a_resume_keeps_what_was_said_before_it(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("prompt=fixed", *QUICK, f"cache_dir={tmp_path / 'cache'}")
    run.run(experiment(*words, "prompt=zero_shot", "prompt.num_tokens=0", f"results_dir={tmp_path / 'x'}"))
    damage(tmp_path / "cache")
    update = Trainer._update

    def stop(self: Trainer, places: Any, step: int) -> float:
        if step == 1:
            self._warn(["seen in update 1 alone"])
        if step == 3:
            raise RuntimeError("stopped")
        return update(self, places, step)

    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="stopped"):
        broken.setattr(Trainer, "_update", stop)
        run.run(experiment(*words))
    record = run.run(experiment(*words))
    assert sum("is damaged: it is written again" in text for text in record.warnings) == 2
    assert record.warnings.count("seen in update 1 alone") == 1


def test_a_sweep_passes_on_what_its_workers_say(sweep: Sweep, tmp_path: Path) -> None:
    words = (*TINY, "prompt=fixed", "seed=0", "trainer.lr=1e-7")
    code, said = sweep(*words)
    (record,) = records.load_all(tmp_path / "results")
    assert code == 0 and any("outside what usually works" in text for text in record.warnings)
    assert all(f"warning: {text}" in said for text in record.warnings)
    tampered(tmp_path / "results" / "runs" / record.run_id, score=3.0)
    code, said = sweep(*words, "rerun=true")
    assert code == 0 and "rerun=true gave other results" in said and "was 3.0" in said


def test_ranks_share_what_one_of_them_has_seen(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        "from dp_bench import ranks\n"
        "from dp_bench.progress import Reporter, notice\n"
        "with ranks.process_group(), Reporter(quiet=not ranks.leads()) as report:\n"
        "    notice(f'seen by rank {ranks.rank()}')\n"
        "    notice('seen by both')\n"
        "    found = report.share_warnings()\n"
        "    if ranks.leads():\n"
        "        print(found)\n",
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)},
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "['seen by rank 0', 'seen by both', 'seen by rank 1']", done.stdout + done.stderr
    assert sorted(lines[:-1]) == sorted(
        f"  warning: {text}" for text in ("seen by rank 0", "seen by rank 1", "seen by both")
    )


def test_a_rerun_that_comes_to_another_number_says_so_and_keeps_both(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, again = (experiment("prompt=fixed", *QUICK, *more) for more in ((), ("rerun=true",)))
    first = run.run(own)
    folder = tmp_path / "results" / "runs" / first.run_id
    capsys.readouterr()
    same = run.run(again)
    assert same.warnings == first.warnings and not list(folder.glob("before-*")), "equal numbers: no word"
    assert "rerun=true came to" not in capsys.readouterr().out

    real = metrics.accuracy
    with monkeypatch.context() as other:
        other.setitem(metrics.METRICS, "accuracy", lambda answers: real(answers) / 4 + 1)
        changed = run.run(again)
    (told,) = (text for text in changed.warnings if "rerun=true gave other results" in text)
    assert f"score is {changed.score} and was {first.score}" in told
    assert f"warning: {told}" in capsys.readouterr().out
    kept = records.load(folder / "before-1")
    assert kept is not None and kept.score == first.score != changed.score
    assert (folder / "before-1" / "predictions.parquet").is_file()
    assert records.load_all(tmp_path / "results") == [changed], "the one before is counted nowhere"

    run.run(again)  # the code is as it was: the number goes back, and that is said too
    assert [path.name for path in sorted(folder.glob("before-*"))] == ["before-1", "before-2"]


@pytest.mark.parametrize("part", ["select_metrics", "by_task"])
def test_a_rerun_compares_every_number(experiment: Build, tmp_path: Path, part: str) -> None:
    words = ("prompt=fixed", *QUICK, *(["regime=multitask", "regime.tasks=[rte,cb]"] * (part == "by_task")))
    first = run.run(experiment(*words))
    folder = tmp_path / "results" / "runs" / first.run_id
    if part == "by_task":
        own = {**first.by_task["cb"], "metrics": {**first.by_task["cb"]["metrics"], "accuracy": 7.0}}
        tampered(folder, by_task={**first.by_task, "cb": own})
    else:
        tampered(folder, select_metrics={"accuracy": 7.0})
    again = run.run(experiment(*words, "rerun=true"))
    assert any("was 7.0" in text for text in again.warnings)
    assert (folder / "before-1" / "record.json").is_file()
