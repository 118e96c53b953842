"""`dp-bench submit`: the zip of the leaderboard has every id of the test files once, in its spelling."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES, task_settings

from dp_bench.commands.submit import submit, submitted
from dp_bench.config import Experiment
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import split_file
from dp_bench.run import run
from dp_bench.types import Example, UserError

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=2", "trainer.eval_every=1")
TITLES = ("BoolQ", "CB", "COPA", "MultiRC", "ReCoRD", "RTE", "WiC", "WSC", "AX-b", "AX-g")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release whose test files are the fixtures' validation files without labels."""
    root = shutil.copytree(FIXTURES, tmp_path / "release")
    for path in root.glob("*/val.jsonl"):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        hidden = "".join(f"{json.dumps(_without_labels(row))}\n" for row in rows)
        path.with_name("test.jsonl").write_text(hidden, "utf-8")
    return root


def _without_labels(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_labels(each) for each in value]
    if not isinstance(value, dict):
        return value
    is_record = "qas" in value
    kept = {key: each for key, each in value.items() if key != "label"}
    if is_record:
        kept["qas"] = [{key: x for key, x in query.items() if key != "answers"} for query in value["qas"]]
        return kept
    return {key: _without_labels(each) for key, each in kept.items()}


def trained(experiment: Build, *words: str) -> str:
    made = experiment(*words, *QUICK)
    return str(Path(made.settings.results_dir) / "runs" / run(made).run_id)


def lines_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    with zipfile.ZipFile(path) as archive:
        return {
            Path(name).stem: [json.loads(line) for line in archive.read(name).decode().splitlines()]
            for name in archive.namelist()
        }


def test_every_task_is_in_the_zip(
    experiment: Build, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.zip"
    several = ("regime=multitask", "regime.tasks=[cb,wsc]", "trainer.selection=heldout")
    runs = [trained(experiment, "prompt=majority"), trained(experiment, "prompt=fixed", *several)]
    options: dict[str, Any] = {"out": out, "data_dir": release, "device": "cpu"}
    with pytest.raises(UserError, match="BoolQ, COPA, MultiRC, ReCoRD, WiC, and"):
        submit(runs, tmp_path, fill_majority=False, **options)
    assert not out.exists()
    assert submit(runs, tmp_path, fill_majority=True, **options) == 0
    shown = capsys.readouterr().out
    assert shown.count("NO RUN") == 5 and "is not the test file of the release" in shown
    files = lines_of(out)
    assert tuple(files) == TITLES
    for title in ("BoolQ", "CB", "COPA", "RTE", "WiC", "WSC", "AX-b", "AX-g"):
        stem = title if title.startswith("AX") else "test"
        rows = [
            json.loads(line) for line in (release / title / f"{stem}.jsonl").read_text("utf-8").splitlines()
        ]
        assert [line["idx"] for line in files[title]] == [int(row["idx"]) for row in rows]
    assert {line["label"] for line in files["WSC"]} <= {"True", "False"}
    assert {line["label"] for line in files["BoolQ"]} <= {"true", "false"}
    assert {line["label"] for line in files["COPA"]} <= {0, 1}
    assert {line["label"] for line in files["AX-b"]} == {line["label"] for line in files["RTE"]}


def test_nested_answers_have_the_ids_of_the_release() -> None:
    task = task_settings("multirc")
    path = FIXTURES / "MultiRC" / "val.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    examples = list(ExampleFile(task, split_file(path)))
    labels = [example.label or 0 for example in examples]
    expected = [
        {
            "idx": row["idx"],
            "passage": {
                "questions": [
                    {
                        "idx": question["idx"],
                        "answers": [{key: a[key] for key in ("idx", "label")} for a in question["answers"]],
                    }
                    for question in row["passage"]["questions"]
                ]
            },
        }
        for row in rows
    ]
    assert submitted(task, examples, labels) == expected


def test_queries_are_answered_by_text() -> None:
    example = Example("record/test/7/31", {}, ("Ann", "Bö"), None, "", "")
    assert submitted(task_settings("record"), [example], [1]) == [{"idx": 31, "label": "Bö"}]


def test_a_diagnostic_is_read_as_the_run_on_rte_reads_its_task(
    experiment: Build, release: Path, tmp_path: Path
) -> None:
    """Rows of RTE under the names of AX-b get the labels that they get as RTE."""
    renamed = {"premise": "sentence1", "hypothesis": "sentence2"}
    rows = [json.loads(line) for line in (release / "RTE" / "test.jsonl").read_text("utf-8").splitlines()]
    lines = [{renamed.get(key, key): value for key, value in row.items()} for row in rows]
    (release / "AX-b" / "AX-b.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    folder = trained(experiment, "prompt=dynamic", "trainer.lr=5")
    out = tmp_path / "out.zip"
    submit([folder], tmp_path, out=out, data_dir=release, fill_majority=True, device="cpu")
    files = lines_of(out)
    assert files["AX-b"] == files["RTE"]


def test_a_task_without_a_test_file_is_said(
    experiment: Build, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = trained(experiment, "prompt=majority"), tmp_path / "out.zip"
    shutil.rmtree(release / "ReCoRD")
    options: dict[str, Any] = {"out": out, "data_dir": release, "fill_majority": True, "device": "cpu"}
    assert submit([folder], tmp_path, **options) == 1
    assert "ReCoRD.jsonl is NOT in the zip" in capsys.readouterr().out and len(lines_of(out)) == 9
    (release / "RTE" / "test.jsonl").unlink()
    with pytest.raises(UserError, match=r"test\.jsonl is missing"):
        submit([folder], tmp_path, **options)
    with pytest.raises(UserError, match="both answer rte"):
        submit([folder, trained(experiment, "prompt=zero_shot")], tmp_path, **options)
    with pytest.raises(UserError, match=r"ends with \.zip"):
        submit([folder], tmp_path, **{**options, "out": tmp_path / "x.tar"})


def test_the_official_test_files(experiment: Build, shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    folder = trained(experiment, "prompt=majority")
    code = submit(
        [folder], tmp_path, out=out, data_dir=shared / "superglue", fill_majority=True, device="cpu"
    )
    files = lines_of(out)
    numbers = {"BoolQ": 3245, "CB": 250, "COPA": 500, "MultiRC": 166, "RTE": 3000, "WiC": 1400, "WSC": 146}
    assert {title: len(files[title]) for title in numbers} == numbers
    assert code == ("ReCoRD" not in files)
