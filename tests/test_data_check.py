"""`dp-bench data check` says what is there, what is missing and what is broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from dp_bench import tasks
from dp_bench.commands.data_check import check
from dp_bench.config import option_settings
from dp_bench.types import UserError

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return shutil.copytree(Path(__file__).parent / "fixtures" / "superglue", tmp_path / "release")


def test_every_task_file_is_known_in_the_order_it_asks_for() -> None:
    paths = (REPOSITORY / "configs" / "task").glob("*.yaml")
    contents = [yaml.safe_load(path.read_text("utf-8")) for path in paths]
    assert list(tasks.known()) == [task["name"] for task in sorted(contents, key=lambda task: task["order"])]
    for name, task in tasks.known().items():
        assert (task.train_task is not None) == (task.only_file is not None)
        assert task.files["SuperGLUE"], name


def test_tasks_that_no_file_names_come_last() -> None:
    assert tasks.in_order(["zoo", "axb", "ant", "cb", "cb"]) == ["cb", "axb", "ant", "zoo"]


def test_a_users_task_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "task").mkdir()
    text = "defaults: [rte, _self_]\nname: mine\ntitle: Mine\nreader: rows\nfiles: null\norder: null\n"
    (tmp_path / "task" / "mine.yaml").write_text(text, "utf-8")
    (tmp_path / "Mine").mkdir()
    for stem in ("train", "val"):
        text = f"premise,hypothesis,label\n{stem} a,b,entailment\n{stem} c,d,not_entailment\n"
        (tmp_path / "Mine" / f"{stem}.csv").write_text(text, "utf-8")
    assert check(tmp_path, tmp_path) == 0
    out = capsys.readouterr().out
    assert "train.csv" in out
    assert "Usable: Mine." in out
    with pytest.raises(UserError, match="no folder of a known task"):
        check(tmp_path)


def test_a_whole_folder_is_counted(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(release) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("RTE  ")).split()[1:4] == [
        "train.jsonl",
        "16",
        "all",
    ]
    multirc = next(line for line in lines if line.startswith("MultiRC"))
    assert multirc.split()[1:5] == ["train.jsonl", "6", "12", "29"]
    assert "other (released: 456 rows)" in multirc
    record = next(line for line in lines if line.startswith("ReCoRD"))
    assert record.split()[1:5] == ["train.jsonl", "6", "12", "all"]
    assert next(line for line in lines if line.startswith("AX-b")).split()[1:4] == ["AX-b.jsonl", "12", "all"]
    assert lines[-2] == "Usable: BoolQ, CB, COPA, MultiRC, ReCoRD, RTE, WiC, WSC, AX-b, AX-g."
    assert lines[-1].startswith("Next: dp-bench train task=")


def test_a_broken_file_is_named_and_fails(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = release / "RTE" / "val.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert check(release) == 2
    out = capsys.readouterr().out
    assert f"{path}, line 8: expected one whole JSON object" in out
    assert "RTE/val.jsonl cannot be read" in out


def test_missing_files_are_listed_and_the_rest_is_usable(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (release / "RTE" / "val.jsonl").unlink()
    (release / "CB" / "val.jsonl").rename(release / "CB" / "dev32.jsonl")
    shutil.rmtree(release / "WiC")
    assert check(release) == 0
    out = capsys.readouterr().out
    assert f"RTE: {release}/RTE/val.jsonl is missing." in out
    assert "CB: no val.jsonl, but dev32.jsonl" in out
    assert f"Missing: WiC: expected {release}/WiC/train.jsonl" in out
    assert "Usable: BoolQ, CB, COPA, MultiRC, ReCoRD, WSC." in out  # no RTE to train the diagnostics on


def test_a_folder_without_a_pair_is_not_usable(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in release.glob("*/val.jsonl"):
        path.unlink()
    assert check(release) == 2
    assert "Nothing to train on" in capsys.readouterr().out


def test_a_wrong_folder_is_answered_with_the_right_one(release: Path) -> None:
    with pytest.raises(UserError, match=f"use --dir {release}"):
        check(release.parent)
    with pytest.raises(UserError, match=f"folder of one task: use --dir {release}"):
        check(release / "CB")
    with pytest.raises(UserError, match="is not a folder"):
        check(release / "nowhere")


def test_without_a_folder_the_cache_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert check(None) == 2
    said = capsys.readouterr().out
    assert "hf download aps/super_glue" in said and "Missing: BoolQ, CB" in said
    revision = option_settings("data", "superglue")["revision"]
    folder = tmp_path / "datasets--aps--super_glue" / "snapshots" / revision / "rte"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(b"PAR1")
    assert check(None) == 0
    said = capsys.readouterr().out
    assert f"Usable from the hub's cache {tmp_path}: RTE." in said
    assert "Missing: BoolQ" in said and f"--revision {revision}" in said
    (folder.parent / "axb").mkdir()
    (folder.parent / "axb" / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    assert check(None) == 0
    assert f"Usable from the hub's cache {tmp_path}: RTE, AX-b." in capsys.readouterr().out
    folder.parent.rename(folder.parent.with_name("a" * 40))
    assert check(None) == 2, "a run reads the pinned revision"
    assert "aaaaaaaaaaaa, not read" in capsys.readouterr().out


@pytest.mark.skipif(
    not (SHARED / "superglue").is_dir(), reason="no official SuperGLUE release beside the checkout"
)
def test_the_official_release_is_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(SHARED / "superglue") == 0
    out = capsys.readouterr().out
    assert out.count("official release") == 23
    assert not any(line.split()[-1:] == ["other"] for line in out.splitlines())
    assert "WSC, AX-b, AX-g.\nNext: dp-bench train task=" in out
