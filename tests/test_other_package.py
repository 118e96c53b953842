"""A package outside the tree adds a prompt, a baseline, a task and a column of tables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from helpers.packages import OTHER_PACKAGE, install
from helpers.processes import run_module

from dp_bench import records

KINDS = ("prompts", "tasks", "columns", "methods", "pieces")
TINY = ("backbone=t5_tiny_random", "trainer=smoke", "trainer.max_steps=2", "device=cpu", "seed=0")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip would leave it."""
    site = tmp_path_factory.mktemp("site")
    code, entry_points = (
        (OTHER_PACKAGE / name).read_text("utf-8") for name in ("other_package.py", "entry_points.txt")
    )
    install(site, "other_package", code, entry_points)
    return site


def environment(site: Path) -> dict[str, str]:
    paths = [str(site), str(OTHER_PACKAGE.parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def command(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command where the package is installed."""
    return run_module(["dp_bench", *words], environment(site), Path.cwd())


def dp_bench(site: Path, *words: str) -> str:
    """Return what a command prints that ends well."""
    done = command(site, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(folder: Path, name: str, number: int) -> None:
    moods: Sequence[tuple[str, str]] = [("glad", "the sun is out"), ("sad", "it rains again")]
    table = [{"sentence": f"Day {i}: {moods[i % 2][1]}.", "mood": moods[i % 2][0]} for i in range(number)]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)


def test_a_package_adds_all_four(site: Path, tmp_path: Path) -> None:
    rows(tmp_path / "data" / "Mood", "train", 40)
    rows(tmp_path / "data" / "Mood", "val", 10)
    configs = ["--config-dir", str(OTHER_PACKAGE / "configs")]
    where = [f"data.dir={tmp_path / 'data'}", f"results_dir={tmp_path / 'results'}"]
    for prompt in ("gated", "norms"):
        dp_bench(site, "train", *configs, "task=mood", f"prompt={prompt}", *TINY, *where)
    made = {record.prompt: record for record in records.load_all(tmp_path / "results")}
    gated, norms = made["gated"], made["norms"]
    assert gated.trainable_parameters == 2 * gated.config["prompt"]["num_tokens"] * 64 + 1
    assert norms.trainable_parameters > 0 and norms.optimizer["name"] == "adamw"
    assert gated.task == "mood" and gated.num_examples["report"] == 10

    shown = dp_bench(
        site, "tables", "--results-dir", str(tmp_path / "results"), "--columns", "warnings,params"
    )
    assert "Mood" in shown and "gated" in shown and "norms" in shown and "warnings" in shown

    listed = {kind: dp_bench(site, "list", kind, *configs) for kind in KINDS}
    assert "A prompt with a gated residual. Trains 2 P D + 1" in listed["prompts"]
    assert "mood\tIs a sentence about the weather" in listed["tasks"]
    assert "how much the runs of a row warned of" in listed["columns"]
    fresh = [sys.executable, "-m", "dp_bench", "list", "pieces", *configs]  # as a user begins it
    assert listed["pieces"] == subprocess.check_output(fresh, env=environment(site), text=True)
    assert "norm_tuning" in listed["methods"] and "Gated\tvectors\t2 P D + 1" in listed["pieces"]


def test_a_file_named_on_the_command_line_adds_the_same(tmp_path: Path) -> None:
    code = ["--code", str(OTHER_PACKAGE / "other_package.py"), "--config-dir", str(OTHER_PACKAGE / "configs")]
    words = ["task=rte", "prompt=gated,norms", *TINY, f"data.dir={OTHER_PACKAGE.parent / 'superglue'}"]
    dp_bench(tmp_path, "sweep", *code, *words, f"results_dir={tmp_path}")  # in a worker process
    found = records.load_all(tmp_path)
    assert {record.prompt for record in found} == {"gated", "norms"}
    assert len({record.facts["code"] for record in found}) == 1, "the file is in the run id"
    without = command(tmp_path, "train", *code[2:], "task=rte", "prompt=gated", *TINY)
    assert without.returncode == 2 and "--code FILE" in without.stderr
    twice = command(tmp_path, "list", "pieces", "--code", str(tmp_path / "none.py"))
    assert twice.returncode == 2 and "is not a Python file" in twice.stderr


def test_what_a_package_adds_is_checked(site: Path) -> None:
    words = ["train", "--config-dir", str(OTHER_PACKAGE / "configs"), "task=rte", "prompt=gated", *TINY]
    done = command(site, *words, "+prompt.vectors.open_at=1")
    assert done.returncode == 2 and "must be a number with a point" in done.stderr
    done = command(site, *words, "prompt.method=norm_tunign")
    assert done.returncode == 2 and "Did you mean norm_tuning" in done.stderr
