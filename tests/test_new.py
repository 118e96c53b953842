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
    said = capsys.readouterr().out.split("dp-bench train ")[1].splitlines()[0].split()
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n", "has no rows"),
        ("", "is empty"),
        ("text;label\na;b\n", "';' is between them"),
        ("text,text,label\na,b,c\n", "'text' is the name of several columns"),
        ("my text,a b,label\na,c,d\nb,c,e\n", "rename 'my text', 'a b' to one word"),
    ],
)
def test_a_file_that_is_no_table_of_texts_is_answered(tmp_path: Path, content: str, message: str) -> None:
    source = tmp_path / "train.csv"
    source.write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        new_task("mine", source, tmp_path, "label")
    with pytest.raises(UserError, match="there is no such file"):
        new_task("mine", tmp_path / "trian.csv", tmp_path, "label")


def test_numbers_of_rows_are_no_text_and_a_rare_label_is_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{i},some text {i},{'good' if i % 2 else 'bad'}" for i in range(30)]
    content = "\n".join(["ID,text,label", *rows, "30,a text,godo"])
    for stem in ("train", "val"):
        (tmp_path / f"{stem}.csv").write_text(content, "utf-8")
    assert new_task("mine", tmp_path / "train.csv", tmp_path / "made", "label") == 0
    assert "the label 'godo' is that of one row" in capsys.readouterr().err
    assert 'fields: ["text"]' in (tmp_path / "made" / "task" / "mine.yaml").read_text("utf-8")


def test_what_is_wrong_with_labels_is_said_by_field_and_line(tmp_path: Path) -> None:
    folder = tmp_path / "Mine"
    folder.mkdir()
    rows = [f'{i},"a text, {i}\nof two lines",{"xy"[i % 2]}' for i in range(20)]
    for stem in ("train", "val"):
        (folder / f"{stem}.csv").write_text("\n".join(["ID,Text,Category", *rows]), "utf-8")
    assert new_task("mine", folder / "train.csv", tmp_path, "Category") == 0

    def trained(*words: str) -> None:
        names = ["data.train_file=train", "data.validation_file=val", f"data.dir={tmp_path}"]
        more = ["prompt=majority", "backbone=t5_tiny_random", f"results_dir={tmp_path / 'results'}"]
        run(config.experiment(["task=mine", *names, *more, *words], tmp_path))

    with pytest.raises(
        UserError, match=r"no labels in the field 'category'.*ID, Text.*Did you mean Category\?"
    ):
        trained("task.label_field=category")
    rows[19] = rows[19].replace(",y", ",z")
    (folder / "val.csv").write_text("\n".join(["ID,Text,Category", *rows]), "utf-8")
    with pytest.raises(UserError, match=r"val\.csv, line 40: field Category is 'z'"):  # two lines a row
        trained()
    (folder / "val.csv").unlink()
    with pytest.raises(UserError, match=r"val\.csv is missing"):
        trained()
