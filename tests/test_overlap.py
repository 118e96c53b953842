"""Reported rows that were trained on, and texts with two labels, are counted, said, and marked in tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import task_settings
from helpers.rows import read_examples

from dp_bench.commands.data_check import check
from dp_bench.config import Experiment
from dp_bench.data.overlap import Overlap, row_of
from dp_bench.data.source import split_file
from dp_bench.report.build import build_tables
from dp_bench.report.sheet import make_sheet
from dp_bench.run import run

Build = Callable[..., Experiment]
QUICK = ("prompt=majority",)


def rte(number: int, label: str, text: str | None = None) -> dict[str, Any]:
    said = text or f"Number {number} is said."
    return {"premise": f"The text {said}", "hypothesis": said, "label": label, "idx": number}


def write(folder: Path, **files: list[dict[str, Any]]) -> str:
    (folder / "RTE").mkdir(parents=True)
    for name, rows in files.items():
        text = "".join(json.dumps({**row, "idx": n}) + "\n" for n, row in enumerate(rows))
        (folder / "RTE" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return f"data.dir={folder}"


YES, NO = "entailment", "not_entailment"


def test_a_validation_file_that_is_the_training_file_is_told_and_marked(
    experiment: Build, tmp_path: Path
) -> None:
    rows = [rte(n, (YES, NO)[n % 2]) for n in range(40)]
    record = run(experiment(*QUICK, write(tmp_path, train=rows, val=rows)))
    assert record.overlap["rte"] == {
        "reported_in_train": 40,
        "with_other_label": 0,
        "train_contradicts": 0,
        "reported_contradicts": 0,
    }
    assert any("40 of 40 reported examples (100.0 %)" in note for note in record.notes)
    (table,) = build_tables([record])
    sheet = make_sheet(table)
    assert sheet.lines[0][1].text.endswith("¶")
    assert any(note.startswith("¶") for note in sheet.notes)


def test_texts_are_the_same_whatever_their_case_and_spaces(experiment: Build, tmp_path: Path) -> None:
    train = [rte(n, YES) for n in range(30)] + [rte(0, NO, "number 3 IS  said.")]
    val = [rte(50, YES), rte(4, NO), rte(5, YES), rte(60, YES), rte(60, NO)]
    found = run(experiment(*QUICK, write(tmp_path, train=train, val=val))).overlap["rte"]
    assert found == {
        "reported_in_train": 2,
        "with_other_label": 1,
        "train_contradicts": 2,
        "reported_contradicts": 2,
    }


def test_contradicting_labels_are_marked(experiment: Build, tmp_path: Path) -> None:
    train = [*(rte(n, (YES, NO)[n % 2]) for n in range(30)), rte(0, NO)]
    record = run(experiment(*QUICK, write(tmp_path, train=train, val=[rte(50, YES), rte(51, NO)])))
    sheet = make_sheet(build_tables([record])[0])
    assert sheet.lines[0][1].text.endswith("‖")
    assert any(note.startswith("‖ contradicting labels: 2 training") for note in sheet.notes)


def test_rows_without_a_label_contradict_nothing() -> None:
    found = Overlap.of([(1, 0), (1, -1), (2, -1)], [(1, 0), (2, 1)])
    assert (found.reported_in_train, found.with_other_label, found.train_contradicts) == (2, 0, 0)


def test_a_task_that_is_only_tried_is_compared_with_what_was_trained_on(
    experiment: Build, tmp_path: Path
) -> None:
    where = write(
        tmp_path, train=[rte(n, (YES, NO)[n % 2]) for n in range(30)], val=[rte(50, YES), rte(51, NO)]
    )
    (tmp_path / "AX-b").mkdir()
    asked = [rte(n, YES) for n in (3, 4, 70)]
    rows = [
        {"sentence1": r["premise"], "sentence2": r["hypothesis"], **r, "idx": str(n)}
        for n, r in enumerate(asked)
    ]
    (tmp_path / "AX-b" / "AX-b.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8"
    )
    quick = ("prompt=fixed", "trainer.max_steps=1", "trainer.batch_size=4", "prompt.num_tokens=4")
    record = run(experiment(*quick, where, "regime.transfer=[axb]"))
    assert {name: found["reported_in_train"] for name, found in record.overlap.items()} == {
        "rte": 0,
        "axb": 2,
    }
    assert any(note.startswith("AX-b (not trained on): on both sides: 2 of 3") for note in record.notes)


def test_clean_files_say_nothing(experiment: Build) -> None:
    record = run(experiment(*QUICK))
    assert not any(record.overlap["rte"].values())
    assert record.notes == []
    assert not any(note.startswith("¶") for note in make_sheet(build_tables([record])[0]).notes)


def test_what_a_tokenizer_does_not_know_is_told_before_training(experiment: Build) -> None:
    words = ("backbone=t5_micro", "prompt=zero_shot", "data.limit=16")
    record = run(experiment(*words))
    assert any("tokens of the training texts are unknown to this" in note for note in record.notes)


def test_data_check_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [rte(n, (YES, NO)[n % 2]) for n in range(20)]
    write(tmp_path, train=rows, val=[*rows[:5], rte(90, YES), rte(90, NO)])
    check(tmp_path)
    said = capsys.readouterr().out
    assert (
        "RTE: on both sides: 5 of 7 reported examples (71.4 %) have the texts of training examples." in said
    )
    assert (
        "RTE: contradicting labels: 2 reported examples have the texts of others with another label." in said
    )


@pytest.mark.parametrize("name", ["boolq", "cb", "copa", "multirc", "rte", "wic", "wsc"])
def test_the_official_files_share_no_row(name: str, shared: Path) -> None:
    task = task_settings(name)
    train, report = (
        map(
            row_of,
            read_examples(task, split_file(shared / "superglue" / task.title / f"{stem}.jsonl"), stem, None),
        )
        for stem in ("train", "val")
    )
    found = Overlap.of(train, report)
    assert (found.reported_in_train, found.reported_contradicts) == (0, 0)
    assert found.train_contradicts == (22 if name == "multirc" else 0)
