"""Comparison of two runs: what differs, what flipped, and what is missing."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from helpers.records import make_record

from dp_bench import cli, records
from dp_bench.records import RunRecord
from dp_bench.report.pair import Section, compare_runs

GOLD = [0, 1, 0, 1]


def save(
    results: Path, record: RunRecord, predicted: list[int], chances: list[float], first: int = 0
) -> Path:
    """Leave a run as it is on the disk; `chances` are of the predicted choices."""
    folder = results / "runs" / record.run_id
    records.save(record, folder)
    scores = [
        [math.log(p if choice == name else 1 - p) for choice, p in zip(predicted, chances, strict=True)]
        for name in (0, 1)
    ]
    ids = [f"rte/val/{first + number}" for number in range(len(predicted))]
    columns = {"id": ids, "group": ids, "source": ids, "gold": GOLD, "prediction": predicted}
    frame = pd.DataFrame({**columns, "score_no": scores[0], "score_yes": scores[1]})
    frame.to_parquet(folder / "predictions.parquet", index=False)
    return folder


def pair(results: Path, first: int = 0) -> tuple[Path, Path]:
    a, b = make_record("task=rte", "seed=0"), make_record("task=rte", "seed=1", score=50.0)
    return save(results, a, [0, 1, 0, 1], [0.9, 0.6, 0.8, 0.7]), save(
        results, b, [0, 0, 1, 1], [0.9, 0.7, 0.75, 0.7], first
    )


def section(sections: list[Section], title: str) -> Section:
    return next(each for each in sections if each.title.startswith(title))


def test_flips_are_those_that_differ_and_the_most_confident_is_first(tmp_path: Path) -> None:
    flips = section(compare_runs(*pair(tmp_path)), "Flipped")
    assert [row[0] for row in flips.rows] == ["rte/val/2", "rte/val/1"]
    assert flips.rows[0][1:3] == ("entailment", "entailment")
    assert flips.rows[0][4] == "not_entailment"
    assert [flips.rows[0][3], flips.rows[0][5]] == pytest.approx([0.8, 0.75])


def test_the_test_pairs_examples_and_settings_name_only_the_seed(tmp_path: Path) -> None:
    sections = compare_runs(*pair(tmp_path))
    (row,) = section(sections, "Accuracy").rows
    assert row[1:5] == (4, 100.0, 50.0, 50.0)
    assert row[-1] == pytest.approx(0.5)  # McNemar: two wins, no loss
    assert [row[0] for row in section(sections, "Settings").rows] == ["seed"]


def test_other_examples_are_not_paired(tmp_path: Path) -> None:
    sections = compare_runs(*pair(tmp_path, first=1))
    assert "different examples" in section(sections, "Accuracy").notes[0]
    assert not section(sections, "Flipped").rows


def test_a_run_without_predictions_says_so(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    (b / "predictions.parquet").unlink()
    sections = compare_runs(a, b)
    assert section(sections, "Scores").rows[0][2] == 50.0
    assert "B has no predictions" in section(sections, "Accuracy").notes[0]


@pytest.mark.parametrize(("name", "code"), [("o.md", 0), ("o.json", 0), ("o.csv", 0), ("o.txt", 2)])
def test_the_files_hold_every_flip(tmp_path: Path, name: str, code: int) -> None:
    a, b = pair(tmp_path)
    out = tmp_path / name
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", str(a), str(b), "--out", str(out)])
    assert stop.value.code == code
    if code == 0:
        text = out.read_text()
        assert "rte/val/1" in text
        assert "rte/val/2" in text
        assert name != "o.json" or len(json.loads(text)) == 8
        assert name != "o.csv" or ["Runs", "run", "id"] in list(csv.reader(text.splitlines()))
