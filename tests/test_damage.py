"""Whatever is in a file, and whatever is typed: at most one paragraph, and what is sound stays readable.

Each property is tried on the inputs of `make test`; `make soak` tries 100,000 (scripts/soak.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers.damage import RAW, VALUES, YAMLS, damaged
from helpers.inputs import inputs
from helpers.records import make_record
from hypothesis import strategies as st

from dp_bench import config, pack, reading, records
from dp_bench.backbones import files
from dp_bench.commands.status import status
from dp_bench.commands.tables import TableOptions, tables
from dp_bench.config.composer import Composer
from dp_bench.data.cache import cached_folder
from dp_bench.data.source import read_records, split_file
from dp_bench.report import index
from dp_bench.report.examples import ExampleResults
from dp_bench.types import UserError

TASKS = config.options("task")


def put(results: Path, name: str, content: Any) -> None:
    path = results / "runs" / name / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@inputs(100, data=st.data())
def test_a_damaged_record_leaves_the_others_readable(data: Any, tmp_path: Path, capsys: Any) -> None:
    sound = asdict(make_record(f"task={data.draw(st.sampled_from(TASKS))}"))
    put(tmp_path, "sound", sound)
    put(tmp_path, "odd", damaged(sound, data.draw))
    assert sound["run_id"] in [record.run_id for record in index.load_all(tmp_path)]
    assert tables(tmp_path, TableOptions(formats=("md",), columns=["params"])) == 0
    capsys.readouterr()


@inputs(250, content=RAW)
def test_any_status_and_any_plan_can_be_shown(content: bytes, tmp_path: Path, capsys: Any) -> None:
    for path in (tmp_path / "runs" / "one" / "status.json", tmp_path / "sweeps" / "odd.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert status(tmp_path, None) == 0
    capsys.readouterr()


@inputs(450, content=RAW)
def test_any_json_is_an_object_or_one_paragraph(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    for read in (reading.json_object, reading.json_lines):
        try:
            json.dumps(read(path), ensure_ascii=False).encode()
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@inputs(250, content=RAW)
def test_any_data_file_is_rows_or_one_paragraph(content: bytes, tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        path = tmp_path / name
        path.write_bytes(content)
        try:
            list(read_records(split_file(path)))
        except UserError as error:
            assert str(path) in str(error)


@cache
def whole_files(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    """Return a sound file of each binary format, written to a folder, and its reader."""
    import pandas as pd
    import torch
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    pack.write({"a": pack.row_of(asdict(make_record()))}, folder / "records.parquet")
    pd.DataFrame({"id": ["a"], "gold": [0], "prediction": [1]}).to_parquet(folder / "predictions.parquet")
    save_file({"x": torch.zeros(4)}, folder / "model.safetensors")
    readers = {
        "records.parquet": pack.read,
        "predictions.parquet": lambda path: reading.frame(path, ("id", "gold", "prediction")),
        "model.safetensors": reading.tensors,
    }
    return {name: ((folder / name).read_bytes(), read) for name, read in readers.items()}


@inputs(100, data=st.data())
def test_a_damaged_binary_file_is_one_paragraph(data: Any, tmp_path: Path) -> None:
    for name, (whole, read) in whole_files(tmp_path / "whole").items():
        cut, path = data.draw(st.integers(0, len(whole))), tmp_path / name
        path.write_bytes(whole[:cut] + data.draw(st.binary(max_size=4)) + whole[cut + 4 :])
        try:
            read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        files.damage(tmp_path)


@inputs(10, content=YAMLS)
def test_any_yaml_file_composes_or_is_one_paragraph(content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    (folder / "prompt").mkdir(parents=True, exist_ok=True)
    (folder / "prompt" / "mine.yaml").write_bytes(content)
    config.files._options.cache_clear()
    try:
        config.check(["task=rte", "prompt=mine"], Composer(folder))
    except UserError as error:
        assert str(error)


KEYS = (
    *(
        "trainer.lr",
        "trainer.full.lr",
        "trainer.max_steps",
        "trainer.bucket_batches",
        "trainer.temperature.start",
    ),
    *("seed", "seeds.init", "regime.shots", "protocol.summary_pad_to", "prompt.num_tokens", "prompt", "task"),
    *(
        "prompt.position",
        "data.limit",
        "backbone.random_init",
        "task.labels",
        "hydra.run.dir",
        "zz",
        "+zz",
        "~task",
    ),
)


@inputs(100, words=st.lists(st.tuples(st.sampled_from(KEYS), VALUES), min_size=1, max_size=3))
def test_any_overrides_are_sound_or_one_answer(words: list[tuple[str, str]]) -> None:
    try:
        config.check(["task=rte", "prompt=dynamic", *(f"{key}={value}" for key, value in words)])
    except UserError as error:
        assert str(error)


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make",
    [
        fifo,
        Path.mkdir,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("nowhere"),
    ],
    ids=["fifo", "folder", "endless", "loop", "dangling"],
)
def test_what_is_no_file_is_never_waited_for(
    make: Callable[[Path], None], tmp_path: Path, capsys: Any
) -> None:
    put(tmp_path, "sound", asdict(make_record()))
    folder = tmp_path / "runs" / "odd"
    folder.mkdir()
    (tmp_path / "sweeps").mkdir()
    claim = tmp_path / "claims" / "odd.0.json"
    claim.parent.mkdir()
    for path in (folder / "record.json", folder / "status.json", tmp_path / "sweeps" / "odd.json", claim):
        make(path)
    make(folder / "predictions.parquet")
    assert len(index.load_all(tmp_path)) == 1
    assert status(tmp_path, None) == 0
    assert ExampleResults(tmp_path)(make_record(run_id="odd"), "rte") is None
    make(tmp_path / "train.jsonl")
    with pytest.raises(UserError, match="train"):
        list(read_records(split_file(tmp_path / "train.jsonl")))
    capsys.readouterr()


def test_an_index_of_other_content_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "WORTH_IT", 0)
    put(tmp_path, "sound", asdict(make_record()))
    for content in (b"", b"PAR1", os.urandom(40)):
        (tmp_path / index.FILE).write_bytes(content)
        assert len(index.load_all(tmp_path)) == 1
        assert list(pack.read(tmp_path / index.FILE)) == ["sound"]


def test_a_damaged_cache_is_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    for damage in ("{", "[" * 3000, '{"/dev/zero": "a"}', "[]"):
        cached_folder(folder, lambda new: (new / "a").write_text("a"))
        (folder / "manifest.json").write_text(damage)
        assert (cached_folder(folder, lambda new: (new / "a").write_text("b")) / "a").read_text() == "b"
        shutil.rmtree(folder)
    assert records.finished(tmp_path) == []


def test_a_plan_without_tasks_and_a_pack_that_links_to_itself_are_named(tmp_path: Path, capsys: Any) -> None:
    put(tmp_path, "sound", asdict(make_record()))
    (tmp_path / "sweeps").mkdir()
    plan = {"name": "a", "experiments": [], "runs": [{"run_id": "sound", "labels": {}}]}
    (tmp_path / "sweeps" / "a.json").write_text(json.dumps(plan))
    assert status(tmp_path, None) == 0
    assert "labels.task" in capsys.readouterr().err
    (tmp_path / pack.FILE).symlink_to(tmp_path / pack.FILE)
    with pytest.raises(UserError, match=pack.FILE):
        pack.packed_rows(tmp_path)
