"""`dp-bench new` writes files that run as they are, and overwrites none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from helpers.packages import describe

from dp_bench import config
from dp_bench.commands.new import new_prompt, new_task
from dp_bench.run import run
from dp_bench.types import UserError


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_task_from_a_file_trains(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "Reviews"
    folder.mkdir()
    for stem in ("train", "val"):
        rows = pandas.DataFrame(
            {"review": [f"{stem} text {i}, so" for i in range(40)], "sentiment": ["good", "bad"] * 20}
        )
        path = folder / f"{stem}{suffix}"
        if suffix == ".csv":
            rows.to_csv(path, index=False)
        elif suffix == ".jsonl":
            rows.to_json(path, orient="records", lines=True)
        else:
            rows.to_parquet(path)
    configs = tmp_path / "own"
    assert new_task("reviews", folder / f"train{suffix}", configs, "sentiment") == 0
    said = capsys.readouterr().out.split("dp-bench train ")[1].split()
    assert said[:2] == ["--config-dir", str(configs)]
    words = [*said[2:], "backbone=t5_tiny_random", "trainer=smoke", "trainer.max_steps=2", "device=cpu"]
    experiment = config.experiment([*words, "prompt=fixed", f"results_dir={tmp_path / 'results'}"], configs)
    assert set(run(experiment).metrics) == {"accuracy", "macro_f1"}
    with pytest.raises(UserError, match=r"task/reviews\.yaml already exists"):
        new_task("reviews", folder / f"train{suffix}", configs, "sentiment")


def test_the_command_has_the_path_as_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "Reviews").mkdir(parents=True)
    for stem in ("train", "val"):
        rows = pandas.DataFrame({"review": ["a", "b"], "sentiment": ["good", "bad"]})
        rows.to_csv(tmp_path / "data" / "Reviews" / f"{stem}.csv", index=False)
    for folder, source, expected in (
        (tmp_path, "data/Reviews/train.csv", "data.dir=data "),
        (tmp_path / "data" / "Reviews", "train.csv", "data.dir=.. "),
        (tmp_path, f"{tmp_path}/data/Reviews/train.csv", f"data.dir={tmp_path / 'data'} "),
    ):
        monkeypatch.chdir(folder)
        assert new_task("reviews", Path(source), tmp_path / source.replace("/", "_"), "sentiment") == 0
        assert expected in capsys.readouterr().out


def test_the_test_of_a_new_prompt_passes(tmp_path: Path) -> None:
    assert new_prompt("mine", tmp_path) == 0
    describe(tmp_path, "mine_prompt", "[dp_bench.pieces]\nmine = mine_prompt:piece\n")
    package = str(Path(config.__file__).parents[2])
    words = (
        "from pathlib import Path; from dp_bench import config;"
        "config.check(['prompt=mine'], config.Composer(Path('.')))"
    )
    for command in (["-m", "pytest", "-q", "test_mine_prompt.py"], ["-c", words]):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{package}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(UserError, match="exists"):
        new_prompt("mine", tmp_path)
