"""What SECURITY.md promises: nothing in data, configurations and records runs code or acts on a terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.records import make_record
from rich.table import Table

from dp_bench import config, records
from dp_bench.checks import name_problems
from dp_bench.commands.train import train
from dp_bench.config import jobs
from dp_bench.printing import csv_cell, say, visible
from dp_bench.prompts import catalogue
from dp_bench.report.tables import _csv
from dp_bench.terminal import make_console
from dp_bench.types import UserError

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {path: path.read_text("utf-8") for path in sorted((ROOT / "dp_bench").rglob("*.py"))}
TARGETS = (
    "os.system",
    "setuptools._distutils.spawn.spawn",
    "dp_bench.prompts.vectors.nn.Linear",
    "dp_bench.prompts.catalogue.import_module",
    "hydra.utils.instantiate",
)
SPAWN = "subprocess.run"


def evil(folder: Path, target: str) -> dict[str, Any]:
    return {"_target_": target, "_partial_": False, "cmd": ["touch", str(folder / "ran")]}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize("part", catalogue.PARTS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_record_builds_nothing(part: str, target: str, tmp_path: Path) -> None:
    record = make_record()
    foreign = {**record.config, "prompt": {**record.config["prompt"], part: evil(tmp_path, target)}}
    with pytest.raises(UserError, match=rf"prompt\.{part}: _target_={re.escape(target)} is refused"):
        config.reopen(foreign, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("base", ["zero_shot", "lora", "fixed"])
def test_a_prompt_of_any_method_builds_nothing(base: str, tmp_path: Path) -> None:
    text = f"defaults: [{base}, _self_]\nname: bad\nlayers: {{_target_: {SPAWN}, _partial_: false}}\n"
    folder = write(tmp_path, "prompt/bad.yaml", text)
    with pytest.raises(UserError, match=rf"_target_={SPAWN} is refused"):
        config.check(["prompt=bad"], config.Composer(folder))


@pytest.mark.parametrize(
    "word",
    [
        "hydra.callbacks.x._target_=os.system",
        "+hydra.callbacks.x={_target_:os.system}",
        "hydra.launcher._target_=os.system",
        "hydra.sweeper._target_=os.system",
        "hydra.run.dir=/tmp/elsewhere",
        "hydra.sweep.dir=/tmp/elsewhere",
        "hydra.output_subdir=x",
        "hydra.searchpath=[pkg://antigravity]",
        "hydra/job_logging=default",
        "+hydra.job_logging.handlers.x={'()':os.system}",
        "hydra.job.env_set={LD_PRELOAD:x}",
        "+hydra.launcher.setup=[touch x]",
        "hydra.launcher.submitit_folder=/tmp/elsewhere",
        "hydra.launcher.pre_dispatch=1",
        "'hydra.launcher.partition=\"a\\ntouch x\"'".strip("'"),
        "hydra/launcher=mine",
        "~hydra.output_subdir",
    ],
)
def test_hydra_keys_that_are_typed_are_refused(word: str) -> None:
    with pytest.raises(UserError):
        config.check([word])


@pytest.mark.parametrize(
    "word", ["hydra/launcher=slurm_gpu", "hydra.launcher.partition=a100", "+hydra.launcher.mem_gb=8"]
)
def test_hydra_keys_of_a_job_are_taken(word: str) -> None:
    config.check([word])


@pytest.mark.parametrize(
    "keys",
    [
        "callbacks: {x: {_target_: os.system}}",
        "launcher: {_target_: os.system}",
        "launcher: {pre_dispatch: 'print(1)'}",
        "sweeper: {_target_: os.system}",
        "sweeper: {params: {hydra.run.dir: a}}",
        "sweeper: {params: {' +hydra.callbacks.x': a}}",
        "run: {dir: /tmp/elsewhere}",
        "sweep: {subdir: ../../elsewhere}",
        "output_subdir: x",
        "job_logging: {handlers: {x: {'()': os.system}}}",
        "hydra_logging: {handlers: {x: {'()': os.system}}}",
        "job: {env_set: {LD_PRELOAD: x}}",
        "job: {chdir: true}",
        "searchpath: ['pkg://antigravity']",
    ],
)
@pytest.mark.parametrize("group", ["prompt", "experiment"])
def test_hydra_keys_in_a_file_are_refused(keys: str, group: str, tmp_path: Path) -> None:
    folder = write(tmp_path, f"{group}/bad.yaml", f"# @package _global_\nhydra:\n  {keys}\n")
    with pytest.raises(UserError, match=r"hydra|searchpath"):
        config.check([f"{group}=bad"], config.Composer(folder))


def test_a_launcher_of_a_file_is_refused_before_it_is_built(tmp_path: Path) -> None:
    text = f"_target_: {SPAWN}\nargs: [touch, {tmp_path}/ran]\n"
    folder = write(tmp_path, "hydra/launcher/mine.yaml", text)
    refused = pytest.raises(UserError, match=r"hydra\.launcher\._target_=subprocess\.run is refused")
    with refused, jobs.launcher(lambda cfg: None, ["hydra/launcher=mine"], tmp_path, folder):
        pytest.fail("it was built")
    assert not (tmp_path / "ran").exists()


def test_a_file_at_the_place_of_callbacks_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, "experiment/bad.yaml", "x: {_target_: os.system}\n")
    with pytest.raises(UserError, match=r"hydra\.callbacks\.x\._target_"):
        config.Composer(folder).compose(["+experiment@hydra.callbacks=bad"])


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--config-path", "--config-name"])
def test_flags_of_hydra_that_read_other_files_are_refused(flag: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{flag} is a flag of Hydra"):
        train([flag, str(tmp_path / "job.pickle")])


@pytest.mark.parametrize(
    "name", ["'x[1]'", "a/b", "../x", "'*'", '"a\\tb"', "..", ".", "-x", "''", '"a b"', "n" * 300]
)
@pytest.mark.parametrize("group", ["prompt", "backbone", "task", "trainer", "regime", "protocol"])
def test_names_are_plain(group: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"{group}\.name=.* is no plain name"):
        config.build(config.compose([f"{group}.name={name}"]))


def test_names_of_any_alphabet_and_experiments_in_folders_are_plain() -> None:
    settings = config.experiment(["prompt.name='größe_2.b+c'", "experiment=paper/position"]).settings
    assert not list(name_problems(settings))
    (problem,) = name_problems(replace(settings, experiment="a/../b"))
    assert "experiment='a/../b' is no plain name" in problem


@pytest.mark.parametrize("run_id", ["../x", "a/b", "..", "", "a\n", "x[1]", "n" * 300, 7])
def test_a_run_id_is_the_name_of_a_folder(run_id: object, tmp_path: Path) -> None:
    content = {**vars(make_record()), "run_id": run_id}
    with pytest.raises(UserError, match=r"is no name of a folder|not a text"):
        records.parse(content, tmp_path)


def test_texts_do_not_act(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b]52;c;eA==\x07b\x9b2Jc\u202ed\re"
    table = Table("x", title=text)
    table.add_row(text)
    console = make_console(width=200, force_terminal=True, color_system=None)
    console.print(text)
    console.print(table)
    say(text)
    shown = capsys.readouterr().out
    assert not set("\x1b\x07\x9b\u202e\r") & set(re.sub(r"\x1b\[\d*m", "", shown))
    assert visible("tab\tand\nline ±…é漢") == "tab\tand\nline ±…é漢"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", " =1"])
def test_cells_are_no_formulas(text: str) -> None:
    assert csv_cell(text).startswith("'")
    assert "'" in _csv([{"prompt": text, "n": -1}])


@pytest.mark.parametrize("value", ["-", "-1.5", "+3", "fixed", 2, -1.5, None])
def test_numbers_and_words_stay(value: object) -> None:
    assert csv_cell(value) == value


def test_a_configuration_does_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "xyz")
    for word in ("results_dir=${oc.env:SECRET}", "prompt.name=${oc.env:SECRET,a}"):
        with pytest.raises(UserError, match="does not read the environment"):
            config.check([word])
    record = make_record()
    with pytest.raises(UserError, match="does not read the environment"):
        config.reopen({**record.config, "device": "${oc.env:SECRET}"}, Path())


def test_only_named_variables_are_read() -> None:
    named = {*re.findall(r"`([A-Z_]+)`", (ROOT / "SECURITY.md").read_text("utf-8"))}
    for path, text in SOURCES.items():
        reads = re.findall(r"(?:environ\.get\(|environ\[|getenv\()\"?(\w+)", text)
        assert {"DP_BENCH_CODE" if name == "CODE" else name for name in reads} <= named | {
            "HYDRA_FULL_ERROR"  # written, for Hydra
        }, path


def test_every_pickle_is_read_as_weights_only() -> None:
    for path, text in SOURCES.items():
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, path
        if path.name != "composer.py":  # a copy in memory of what it has composed
            assert not re.search(r"\b(pickle|joblib|dill|marshal|shelve)\.loads?\(", text), path
        assert not re.search(
            r"(?<![\w.])(eval|exec|__import__)\(|yaml\.(unsafe_|full_)?load\((?!content, loader\))", text
        )
