"""A run is known by what decides its result, and what it leaves is whole or not there."""

from __future__ import annotations

import copy
import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from helpers.records import make_record

from dp_bench import config, records
from dp_bench.records import VOLATILE, flatten, identify, is_volatile, replace_file
from dp_bench.types import UserError

RESOLVED = config.build(config.compose(["trainer=smoke"])).resolved


def changed(key: str, value: Any, *, new: bool = False) -> dict[str, Any]:
    """Return the resolved configuration with one leaf replaced, or added."""
    resolved = copy.deepcopy(RESOLVED)
    *groups, last = key.split(".")
    branch = resolved
    for group in groups:
        branch = branch[group]
    assert new or last in branch
    branch[last] = value
    return resolved


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a saved run."""
    directory = tmp_path / "runs" / "one"
    records.save(make_record(), directory)
    return directory


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("key", VOLATILE)
def test_what_cannot_change_a_result_does_not_change_the_id(key: str) -> None:
    of_a_piece = key.startswith("prompt.vectors.")  # which another piece has
    assert identify(changed(key, "other", new=of_a_piece), "digest") == identify(RESOLVED, "digest")


@pytest.mark.parametrize("key", [key for key in flatten(RESOLVED) if not is_volatile(key) and key != "seed"])
def test_every_other_setting_makes_another_run_and_another_cell(key: str) -> None:
    before, after = identify(RESOLVED, "digest"), identify(changed(key, "other"), "digest")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_other_data_makes_another_run_and_another_cell() -> None:
    before, after = identify(RESOLVED, "digest"), identify(RESOLVED, "another digest")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_seeds_are_runs_of_one_cell() -> None:
    names = [identify(changed("seed", seed), "digest") for seed in range(3)]
    assert len({run_id for run_id, _ in names}) == 3
    assert len({cell_id for _, cell_id in names}) == 1


def test_the_order_of_settings_does_not_change_the_id() -> None:
    backwards = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(RESOLVED.items())
    }
    assert identify(backwards, "digest") == identify(RESOLVED, "digest")


def test_an_id_says_what_was_run() -> None:
    run_id, _ = identify(changed("seed", 7), "digest")
    assert run_id.startswith("boolq-t5_base-dynamic-full-clean-s7-")
    assert "/" not in run_id


def test_identify_leaves_its_argument_alone() -> None:
    before = copy.deepcopy(RESOLVED)
    identify(RESOLVED, "digest")
    assert before == RESOLVED


# ---------------------------------------------------------------------------------------------- files


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old", "utf-8")

    def write(temporary: Path) -> None:
        temporary.write_text("half", "utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, write)
    assert path.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "record.json"
    for text in ("first", "second"):
        records.write_text(path, text)
        assert path.read_text("utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_a_saved_record_is_loaded_as_it_was(run: Path) -> None:
    assert records.load(run) == make_record()


def test_an_unfinished_run_has_no_record(tmp_path: Path) -> None:
    records.write_status(tmp_path, "running")
    assert records.load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_version": 1}', "\xff"])
def test_a_broken_record_is_named(run: Path, text: str) -> None:
    path = run / "record.json"
    path.write_text(text, "latin-1")
    with pytest.raises(UserError, match="Move it away") as caught:
        records.load(run)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_schema_version_is_refused(run: Path, version: object) -> None:
    records.write_json(run / "record.json", {**asdict(make_record()), "schema_version": version})
    with pytest.raises(UserError, match=f"schema version {version}, this dp-bench reads 1"):
        records.load(run)


@pytest.mark.parametrize("field", ["score", "config"])
def test_a_record_that_lacks_a_field_is_refused(run: Path, field: str) -> None:
    content = asdict(make_record())
    del content[field]
    records.write_json(run / "record.json", content)
    with pytest.raises(UserError, match=field):
        records.load(run)


def test_a_record_with_an_unknown_field_is_refused(run: Path) -> None:
    records.write_json(run / "record.json", {**asdict(make_record()), "of_a_later_version": 1})
    with pytest.raises(UserError, match="of_a_later_version"):
        records.load(run)


def test_all_records_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    made = [make_record(f"seed={seed}", f"task={task}") for seed in (2, 0, 1) for task in ("wic", "cb")]
    for record in made:
        records.save(record, tmp_path / "runs" / record.run_id)
    records.write_status(tmp_path / "runs" / "aaa-unfinished", "running")
    found = [record.run_id for record in records.load_all(tmp_path)]
    assert found == sorted(record.run_id for record in made)


def test_no_results_are_no_records(tmp_path: Path) -> None:
    assert records.load_all(tmp_path / "nowhere") == []
    assert records.statuses(tmp_path / "nowhere") == {}


def test_a_broken_status_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one" / "status.json"
    records.write_text(path, "{")
    assert records.statuses(tmp_path)["one"] == {"status": "unreadable"}


def test_text_outside_ascii_survives(tmp_path: Path) -> None:
    records.write_lines(tmp_path / "metrics.jsonl", [{"text": "Ångström ± …"}])
    assert json.loads((tmp_path / "metrics.jsonl").read_text("utf-8")) == {"text": "Ångström ± …"}


# ---------------------------------------------------------------------------------------------- git


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with one commit, which dp_bench seems to run from."""
    root = tmp_path / "checkout"
    (root / "dp_bench").mkdir(parents=True)
    (root / "dp_bench" / "records.py").write_text("# as committed\n", "utf-8")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(root), *who, *words], check=True)
    monkeypatch.setattr(records, "__file__", str(root / "dp_bench" / "records.py"))
    return root


def test_a_checkout_is_named_by_its_commit_and_whether_it_changed(checkout: Path) -> None:
    clean = records.git_state()
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (checkout / "untracked.txt").write_text("does not count", "utf-8")
    assert records.git_state() == clean
    (checkout / "dp_bench" / "records.py").write_text("# changed\n", "utf-8")
    assert records.git_state() == {**clean, "dirty": True}


def test_an_installed_package_inside_some_checkout_has_no_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout / ".venv" / "site-packages" / "dp_bench" / "records.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(records, "__file__", str(installed))
    assert records.git_state() is None


def test_outside_of_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dp_bench").mkdir()
    monkeypatch.setattr(records, "__file__", str(tmp_path / "dp_bench" / "records.py"))
    assert records.git_state() is None


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert records.git_state() is None
