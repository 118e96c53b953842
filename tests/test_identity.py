"""A run whose rows are parted otherwise than before has another id; one whose rows are not keeps its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SHARED, task_settings

from dp_bench import config, records
from dp_bench.data.grouping import grouping
from dp_bench.data.readers import read_examples
from dp_bench.data.source import split_file
from dp_bench.data.split import held_out
from dp_bench.identity import identify
from dp_bench.run import Sources

RESULTS = Path(__file__).parents[1] / "results"


def write_rte(folder: Path, hypotheses: list[str]) -> Path:
    (folder / "RTE").mkdir(parents=True)
    rows = [
        {"premise": f"Premise {i} says so.", "hypothesis": text, "label": "entailment", "idx": i}
        for i, text in enumerate(hypotheses)
    ]
    for name in ("train", "val"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "RTE" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def run_id(folder: Path, *overrides: str) -> str:
    words = ["task=rte", "prompt=fixed", "backbone=t5_micro", f"data.dir={folder}", *overrides]
    experiment = config.build(config.compose(words))
    sources = Sources.of(experiment)
    return identify(experiment, sources.trained, sources.sha256).run_id


def test_all_committed_records_keep_their_ids() -> None:
    found = [record for folder in sorted(RESULTS.iterdir()) for record in records.load_all(folder)]
    assert len(found) > 1000
    ids = [records.identify(r.config, r.data_sha256, r.facts)[0] for r in found]
    assert ids == [record.run_id for record in found]


def test_the_id_says_how_rows_are_parted_where_that_has_changed(tmp_path: Path) -> None:
    alone = write_rte(tmp_path / "alone", [f"It is number {i}." for i in range(40)])
    shared = write_rte(tmp_path / "shared", [f"It is number {i // 2}." for i in range(40)])
    one_field = "task.together=[premise]"
    assert run_id(alone) == run_id(alone, one_field)
    assert run_id(shared) != run_id(shared, one_field)
    for nothing_held_out in ("trainer.selection=validation", "regime=fewshot regime.split=fewglue"):
        words = nothing_held_out.split()
        assert run_id(shared, *words) == run_id(shared, one_field, *words)


def test_generated_rows_share_their_few_sentences() -> None:
    micro = ["backbone=t5_micro", "data=micro", "trainer=micro", "prompt=fixed"]
    for task in ("boolq", "cb", "rte", "wic"):
        assert config.build(config.compose([f"task={task}", *micro])).settings.task.together is None


@pytest.mark.parametrize("name", ["cb", "rte", "wic", "boolq", "copa"])
def test_no_sentence_of_the_official_rows_is_on_both_sides(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the official SuperGLUE files are not beside the checkout")
    task = task_settings(name)
    assert task.together is not None
    file = split_file(SHARED / "superglue" / task.title / "train.jsonl")
    examples = read_examples(task, file, "train", None)
    labels = [example.label or 0 for example in examples]
    train, held = held_out([example.source for example in examples], labels, 0.1, 500, 0)
    sides = [{examples[row].fields[key] for row in rows for key in task.together} for rows in (train, held)]
    assert not sides[0] & sides[1]
    assert len(held) >= min(500, round(0.1 * len(examples)))
    assert (grouping(task, file, None) is None) == (name == "copa")
    assert grouping(replace(task, together=[task.shorten]), file, None) is None
