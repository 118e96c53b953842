"""The command line, run in an empty folder."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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
