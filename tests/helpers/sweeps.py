"""The command line, run in an empty folder."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import FIXTURES

from dp_bench import cli
from dp_bench.sweep import workers
from helpers.processes import Forked

Sweep = Callable[..., tuple[int, str]]


TINY = (
    *("backbone=t5_tiny_random", "trainer=smoke", "trainer.precision=fp32", "device=cpu", "task=rte"),
    *("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=4"),
    f"data.dir={FIXTURES}",
)


# What depends on the hour, the machine's mood or the way a run was started.
INCIDENTAL = {"train_seconds", "eval_seconds", "total_seconds", "peak_memory_mb", "started", "command", "git"}


def essence(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Return what the records say apart from what is incidental, by run id."""
    found = {}
    for path in sorted((results_dir / "runs").glob("*/record.json")):
        content = json.loads(path.read_text("utf-8"))
        own = {k: v for k, v in content.items() if k not in INCIDENTAL}
        own["config"] = {k: v for k, v in own["config"].items() if k != "results_dir"}
        found[path.parent.name] = own
    return found


@pytest.fixture
def sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Run `dp-bench COMMAND WORDS` in an empty folder; give its exit code and what it printed.

    Workers are forked with torch imported. A sweep in another process starts its workers as for a user.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # whatever --jobs is
    monkeypatch.setattr(workers, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Forked}))

    def call(*words: str, command: str = "sweep") -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([command, *words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return int(stop.value.code or 0), captured.out + captured.err

    return call
