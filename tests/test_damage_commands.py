"""Commands on damaged data, results and YAML files, and on whatever is typed: an answer, no traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import FIXTURES, task_settings
from helpers.damage import ODD, RAW, VALUES, YAMLS, damaged
from helpers.inputs import inputs
from helpers.records import make_record
from hypothesis import strategies as st

from dp_bench import cli, config, pack
from dp_bench.backbones.load import load_tokenizer
from dp_bench.data.prepare import prepare
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import files_of, locate, split_file
from dp_bench.report import index
from dp_bench.types import UserError

TASKS = config.options("task")
Call = Callable[..., str]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run a command in an empty folder; give what it printed. It ends with one of its exit codes."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        said = "".join(capfd.readouterr())
        assert stop.value.code in (0, 1, 2) and "Traceback" not in said, said
        return said

    return run


# -------------------------------------------------------------------------------------------- data files


@cache
def rows_of(name: str, split: str) -> tuple[str, list[Any]]:
    """Return the file of a split of a task below the data folder, and its rows."""
    task = task_settings(name)
    files = files_of(FIXTURES / task.title)
    path = files.get(split) or next(iter(files.values()))
    lines = path.read_text(encoding="utf-8").splitlines()
    return f"{task.title}/{path.name}", [json.loads(line) for line in lines]


@st.composite
def data_files(draw: st.DrawFn, name: str, split: str) -> tuple[str, bytes]:
    """Return the file of a task, in which one row is damaged, or a line is none."""
    file, rows = rows_of(name, split)
    lines = [json.dumps(row).encode() for row in rows]
    number = draw(st.integers(0, len(lines) - 1))
    if draw(st.booleans()):
        lines[number] = json.dumps(damaged(rows[number], draw)).encode()
    else:
        lines[number] = draw(RAW)
    return file, b"\n".join(lines)


@inputs(560, data=st.data(), name=st.sampled_from(TASKS))
def test_any_row_of_any_task_is_read_or_named(data: Any, name: str, tmp_path: Path) -> None:
    file, content = data.draw(data_files(name, "train"))
    path = tmp_path / Path(file).name
    path.write_bytes(content)
    try:
        for example in ExampleFile(task_settings(name), split_file(path)):
            json.dumps(asdict(example), ensure_ascii=False).encode()
    except UserError as error:
        assert str(path) in str(error)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(config.experiment(["backbone=t5_tiny_random"]).settings.backbone)


@inputs(20, data=st.data(), name=st.sampled_from(TASKS), split=st.sampled_from(["train", "val"]))
def test_any_row_of_any_task_is_encoded_or_named(
    data: Any, name: str, split: str, tmp_path: Path, tokenizer: Any
) -> None:
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(FIXTURES, folder)
    file, content = data.draw(data_files(name, split))
    (folder / file).write_bytes(content)
    words = [f"task={name}", "backbone=t5_tiny_random", "trainer=smoke", f"data.dir={folder}"]
    experiment = config.experiment([*words, f"cache_dir={tmp_path / 'cache'}"])
    settings, task = experiment.settings, experiment.tasks[0]
    try:
        prepare(settings, task, locate(task, settings.data), tokenizer)
    except UserError as error:
        assert str(error)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


# --------------------------------------------------------------------------------------- result folders


@cache
def sound_files() -> dict[str, Any]:
    """Return the files of a results folder by path: trees, or bytes."""
    record = asdict(make_record())
    run = f"runs/{record['run_id']}"
    beat = {"host": "elsewhere", "pid": 1, "token": "x"}
    plan = {
        "name": "a",
        "experiments": ["a/b"],
        "runs": [{"run_id": record["run_id"], "labels": {"task": "rte"}}],
    }
    return {
        f"{run}/record.json": record,
        f"{run}/status.json": {"status": "failed", "time": record["started"], "traceback": "x"},
        f"{run}/metrics.jsonl": {"step": 1, "train_loss": 0.5, "score": 50.0},
        f"{run}/config.yaml": record["config"],
        f"{run}/checkpoint/step-00000001/progress.json": {"step": 1},
        f"claims/{record['run_id']}.0.json": beat,
        "sweeps/a.json": plan,
    }


@cache
def binary_files(folder: Path) -> dict[str, bytes]:
    """Return sound binary files of a results folder by path."""
    record = asdict(make_record())
    pack.write({record["run_id"]: pack.row_of(record)}, folder / "records.parquet")
    pd.DataFrame({"id": ["a"], "gold": [0], "prediction": [1], "score_yes": [0.1]}).to_parquet(
        folder / "predictions"
    )
    packed = (folder / "records.parquet").read_bytes()
    run = f"runs/{record['run_id']}"
    return {
        "records.parquet": packed,
        index.FILE: packed,
        f"{run}/predictions.parquet": (folder / "predictions").read_bytes(),
        f"{run}/prompt.safetensors": b"\2\0\0\0\0\0\0\0{}",
    }


def special(path: Path, kind: str) -> None:
    {
        "fifo": os.mkfifo,
        "folder": Path.mkdir,
        "endless": lambda p: p.symlink_to("/dev/zero"),
        "loop": lambda p: p.symlink_to(p),
        "dangling": lambda p: p.symlink_to("nowhere"),
    }[kind](path)


def fill(folder: Path, draw: Any, scratch: Path) -> None:
    """Write a results folder of which each file is sound, damaged, something else or missing."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in {**sound_files(), **binary_files(scratch)}.items():
        state = draw(st.sampled_from(["sound", "sound", "damaged", "missing", "raw", "special"]))
        path = folder / name
        if state == "missing":
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if state == "special":
            special(path, draw(st.sampled_from(["fifo", "folder", "endless", "loop", "dangling"])))
        elif state == "raw":
            path.write_bytes(draw(RAW))
        elif isinstance(content, bytes):
            cut = draw(st.integers(0, len(content))) if state == "damaged" else len(content)
            path.write_bytes(content[:cut] + (draw(st.binary(max_size=4)) if state == "damaged" else b""))
        else:
            tree = damaged(content, draw) if state == "damaged" else content
            path.write_text(json.dumps(tree) + "\n", encoding="utf-8")


COMMANDS = (
    ("status",),
    ("status", "--experiment", "a/b"),
    ("tables", "--format", "md,csv,tex,html", "--budget"),
    ("tables", "--tests", "examples", "--pairs"),
    ("tables", "--layout", "paper", "--format", "tex,html"),
    ("tables", "--best-of", "2", "--transfer"),
)


@inputs(40, data=st.data(), command=st.sampled_from(COMMANDS))
def test_any_results_folder_has_an_answer(
    data: Any, command: tuple[str, ...], tmp_path: Path, call: Call, tmp_path_factory: Any
) -> None:
    results = tmp_path / "results"
    fill(results, data.draw, tmp_path_factory.getbasetemp())
    call(*command)
    call("list", "runs")


@inputs(10, data=st.data(), command=st.sampled_from(["inspect", "pack", "plot"]))
def test_any_results_folder_is_inspected_packed_and_drawn(
    data: Any, command: str, tmp_path: Path, call: Call, tmp_path_factory: Any
) -> None:
    results = tmp_path / "results"
    fill(results, data.draw, tmp_path_factory.getbasetemp())
    words = {
        "inspect": [make_record().run_id, "--gradients", "--examples=2", "--draws=2"],
        "pack": ["results"],
    }
    call(command, *words.get(command, []))


# ------------------------------------------------------------------------------------------- YAML files


@cache
def shipped() -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return the shipped YAML files: group/name, and content."""
    folder = config.config_dir()
    groups = ("prompt", "task", "backbone")
    names = [f"{group}/{name}" for group in groups for name in config.options(group)]
    return tuple((name, yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8")) or {}) for name in names)


@st.composite
def yaml_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return the group of a YAML file and its content: a shipped one that is damaged, or none at all."""
    name, tree = draw(st.sampled_from(shipped()))
    group = name.split("/", maxsplit=1)[0]
    if draw(st.integers(0, 3)):
        return group, json.dumps(damaged(tree, draw) if tree else draw(ODD)).encode()
    return group, draw(YAMLS)


@inputs(60, file=yaml_files())
def test_any_yaml_file_is_listed_or_named(file: tuple[str, bytes], tmp_path: Path, call: Call) -> None:
    group, content = file
    folder = tmp_path / "mine"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / group).mkdir(parents=True)
    (folder / group / "mine.yaml").write_bytes(content)
    config.files._options.cache_clear()
    config.files.option_file.cache_clear()
    call("list", f"{group}s", "--config-dir", str(folder))


# ------------------------------------------------------------------------------------------- what is typed


@cache
def keys() -> tuple[str, ...]:
    """Return every key of a configuration, groups, keys of Hydra, and what is none."""

    def walk(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in tree.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    known = [*walk(config.plain(config.compose())), *config.GROUPS]
    signed = (f"{sign}{key}" for key in known[::9] for sign in "~+")  # Hydra takes longer for these
    return (*known, *signed, "++x", "hydra.run.dir", "", "=", "a b")


@inputs(40, data=st.data(), name=st.sampled_from(TASKS))
def test_any_setting_is_sound_or_answered(data: Any, name: str) -> None:
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(keys()), VALUES), min_size=1, max_size=3))
    words = [f"task={name}", *(f"{key}={value}" for key, value in pairs)]
    try:
        config.check(words, sweep=False)
        config.experiment(words)
    except UserError as error:
        assert str(error)


# Without train and sweep, which would start what they are asked for.
WORDS = (
    "status tables list data check new task prompt pack inspect plot runs prompts params md x . -1 = 0 "
    "-m --cfg job --help --info --results-dir --columns --format --dry-run --dir --jobs task=rte zz=1 --from"
)


@inputs(10, words=st.lists(st.sampled_from([*WORDS.split(), "", "\ud83d"]), max_size=5))
def test_any_words_have_an_answer(words: list[str], call: Call) -> None:
    call(*words)
