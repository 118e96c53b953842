"""What a user's files and settings say of labels, words and answers arrives as it is meant, or is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from conftest import FIXTURES, task_settings
from helpers.rows import read_examples, record_row
from helpers.tokenizers import fixture_examples, word_piece_tokenizer
from helpers.trainers import make_trainer
from pyarrow import parquet

from dp_bench import config, identity, records, run
from dp_bench.config import Experiment
from dp_bench.data.encode import encode
from dp_bench.data.source import read_records, split_file
from dp_bench.data.template import Template
from dp_bench.model import Answer
from dp_bench.objective import losses_of, objective
from dp_bench.report.examples import ExampleResults
from dp_bench.settings import Scoring
from dp_bench.types import Batch, UserError

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=2")
Row = dict[str, Any]


def release_with(tmp_path: Path, title: str, stem: str, change: Callable[[int, Row], Row]) -> Path:
    """Copy the fixtures' files of a task, each row of one of them changed."""
    folder = shutil.copytree(FIXTURES / title, tmp_path / "release" / title)
    path = folder / f"{stem}.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    path.write_text(
        "".join(json.dumps(change(i, row)) + "\n" for i, row in enumerate(rows, start=1)), "utf-8"
    )
    return folder.parent


def refusal(own: Experiment) -> str:
    with pytest.raises(UserError) as error:
        run.run(own)
    return str(error.value)


# ---------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("stem", ["train", "val"])
@pytest.mark.parametrize(("task", "title"), [("rte", "RTE"), ("copa", "COPA"), ("wsc", "WSC")])
def test_a_row_without_a_label_is_named_by_its_line(
    task: str, title: str, stem: str, experiment: Build, tmp_path: Path
) -> None:
    release = release_with(
        tmp_path, title, stem, lambda line, row: {k: v for k, v in row.items() if (k, line) != ("label", 3)}
    )
    message = refusal(experiment(f"task={task}", "prompt=fixed", f"data.dir={release}", *QUICK))
    assert f"{release / title / stem}.jsonl, line 3: {task}/{stem}/" in message and "has no label" in message
    assert "hides" not in message


def test_an_answer_without_a_label_is_named(experiment: Build, tmp_path: Path) -> None:
    def change(line: int, row: Row) -> Row:
        if line == 2:
            del row["passage"]["questions"][0]["answers"][1]["label"]
        return row

    release = release_with(tmp_path, "MultiRC", "train", change)
    message = refusal(experiment("task=multirc", "prompt=fixed", f"data.dir={release}", *QUICK))
    assert "train.jsonl, line 2: multirc/train/1/2/6 has no label" in message


def test_many_rows_without_a_label_are_counted(experiment: Build, tmp_path: Path) -> None:
    hidden = range(2, 10)
    release = release_with(
        tmp_path, "RTE", "train", lambda line, row: {**row, "label": None} if line in hidden else row
    )
    for words in ((), ("regime=fewshot", "regime.split=sampled", "regime.shots=2")):
        message = refusal(experiment("prompt=fixed", f"data.dir={release}", *QUICK, *words))
        assert "lines 2, 3, 4, 5, 6 and 3 more: " in message and "without: 8 of 16" in message


@pytest.mark.parametrize("words", [(), ("regime=fewshot", "regime.split=sampled", "regime.shots=2")])
def test_a_file_that_hides_its_labels_is_told_as_one(
    words: tuple[str, ...], experiment: Build, tmp_path: Path
) -> None:
    release = release_with(tmp_path, "RTE", "train", lambda _, row: {**row, "label": -1})
    message = refusal(experiment("prompt=fixed", f"data.dir={release}", *QUICK, *words))
    assert "train.jsonl hides its labels" in message


# ---------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("half", [r"\ud83d", r"\uDE00", r"\ud83d\ud83d", r"\ude00\ud83d"])
def test_half_of_a_surrogate_pair_is_named_by_its_line(half: str, experiment: Build, tmp_path: Path) -> None:
    release = shutil.copytree(FIXTURES / "RTE", tmp_path / "release" / "RTE").parent
    path = release / "RTE" / "train.jsonl"
    lines = path.read_text("utf-8").splitlines()
    lines[3] = lines[3].replace('"premise": "', f'"premise": "Cut {half} here ')
    path.write_text("\n".join(lines), "utf-8")
    message = refusal(experiment("prompt=fixed", f"data.dir={release}", *QUICK))
    message.encode()  # can be printed
    assert f"{path}, line 4: the escape {half[:6].lower()} (" in message and "\n" not in message


def test_whole_pairs_and_what_only_looks_like_half_of_one_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(r'{"text": "\ud83d\ude00 and \\ud83d"}', "utf-8")
    assert list(read_records(split_file(path))) == [(1, 0, {"text": "\U0001f600 and \\ud83d"})]


def test_a_parquet_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    column = pyarrow.array([b"good", b"\xed\xa0\xbd"], pyarrow.binary())
    spoilt = pyarrow.Array.from_buffers(pyarrow.string(), 2, column.buffers())
    parquet.write_table(pyarrow.table({"text": spoilt}), path)
    with pytest.raises(UserError, match=r"train\.parquet: a text after row 0 is not UTF-8"):
        list(read_records(split_file(path)))


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_choice_is_named_by_its_line(text: str, experiment: Build, tmp_path: Path) -> None:
    release = release_with(
        tmp_path, "COPA", "val", lambda line, row: {**row, "choice2": text} if line == 2 else row
    )
    message = refusal(experiment("task=copa", "prompt=fixed", f"data.dir={release}", *QUICK))
    assert "val.jsonl, line 2: field choice2 is a choice and is empty" in message


# ---------------------------------------------------------------------------------------------- ReCoRD


def record_file(tmp_path: Path, *rows: Row) -> Path:
    """Write a release of ReCoRD whose training file ends in these rows."""
    folder = shutil.copytree(FIXTURES / "ReCoRD", tmp_path / "release" / "ReCoRD")
    path = folder / "train.jsonl"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines, *map(json.dumps, rows)]) + "\n", "utf-8")
    return path


def spans(text: str, *words: str, units: str = "utf-32-le") -> list[dict[str, int]]:
    """Say where words stand in a text, in characters or in another encoding's units."""
    width = 4 if units == "utf-32-le" else 2

    def number(part: str) -> int:
        return len(part.encode(units)) // width

    starts = [(number(text[: text.index(word)]), number(word)) for word in words]
    return [{"start": start, "end": start + length - 1} for start, length in starts]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("US", ["U.S.", "the US"]),
        ("u.s", ["U.S.", "the US"]),
        ("The  Bank, of America!", ["Bank of America"]),
        ("America", []),
    ],
)
def test_an_answer_matches_an_entity_as_the_official_script_matches(
    answer: str, right: list[str], tmp_path: Path
) -> None:
    text = "In the US a U.S. court fined Bank of America."
    row = record_row(
        passage={"text": text, "entities": spans(text, "the US", "U.S.", "Bank of America")},
        answers=[{"start": 0, "end": 1, "text": answer}],
    )
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row), "utf-8")
    (example,) = read_examples(task_settings("record"), split_file(path), "train", None)
    assert sorted(example.choices[place] for place in example.golds) == sorted(right)
    assert example.is_unmatched is not bool(right)


def test_entities_that_cut_words_are_told_with_their_lines(experiment: Build, tmp_path: Path) -> None:
    text = "\U0001f600 In Oslo, Ann beat Bob; \u6771\u4eac\u90fd saw it."

    def row(units: str, idx: int, words: tuple[str, ...] = ("Oslo", "Ann", "Bob", "\u6771\u4eac")) -> Row:
        entities = spans(text, *words, units=units)
        own = record_row(
            passage={"text": text, "entities": entities}, answers=[{**entities[1], "text": "Ann"}]
        )
        return {**own, "idx": idx}

    path = record_file(tmp_path, row("utf-32-le", 100), row("utf-16-le", 101))
    number = len(path.read_text("utf-8").splitlines())
    record = run.run(experiment("task=record", "prompt=fixed", f"data.dir={path.parents[1]}", *QUICK))
    cut, unmatched = [
        [told for told in record.warnings if part in told]
        for part in ("inside a word", "none of the choices")
    ]
    assert len(cut) == len(unmatched) == 1
    for told in (*cut, *unmatched):
        assert told.startswith(f"{path}, line {number}: ") and "in 1 of 14 examples" in told


def test_no_entity_of_real_passages_cuts_a_word(shared: Path) -> None:
    for path in sorted((shared / "fewglue" / "ReCoRD").glob("*.jsonl")):
        examples = read_examples(task_settings("record"), split_file(path), "train", None)
        assert examples and not any(e.cuts_words or e.is_unmatched for e in examples)


def test_a_file_none_of_whose_answers_is_an_entity_does_not_hide_its_labels(
    experiment: Build, tmp_path: Path
) -> None:
    def change(_: int, row: Row) -> Row:
        for asked in row["qas"]:
            asked["answers"] = [{"start": 0, "end": 2, "text": "nobody"}]
        return row

    release = release_with(tmp_path, "ReCoRD", "val", change)
    message = refusal(experiment("task=record", "prompt=fixed", f"data.dir={release}", *QUICK))
    assert "val.jsonl, lines 1, 2" in message and "no answer is one of the entities" in message
    assert "hides" not in message


def test_an_empty_entity_is_named_by_its_line(tmp_path: Path) -> None:
    row = record_row(
        passage={"text": "Ann beat Bob.", "entities": [{"start": 0, "end": 2}, {"start": 3, "end": 3}]}
    )
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row), "utf-8")
    with pytest.raises(UserError, match="line 1: the entity ' ' is a choice and is empty"):
        read_examples(task_settings("record"), split_file(path), "train", None)


def test_a_choice_without_a_piece_is_refused(tmp_path: Path) -> None:
    (example, *_) = fixture_examples("copa")
    example = replace(example, choices=("\u200b", "The cup was empty."))
    with pytest.raises(
        UserError, match=rf"{example.id}, line 1 of its file: the choice '\\u200b' has no tokens"
    ):
        encode(
            *([example], Template.of(task_settings("copa")), word_piece_tokenizer()),
            **{"max_length": 480, "cache_dir": tmp_path, "key_parts": {}, "scoring": Scoring.choices},
        )


def likelihood(logits_BC: torch.Tensor, golds: list[list[int]]) -> list[float]:
    """Minus the log of the sum of the probabilities of what is right, by the definition, for each example."""
    shares = logits_BC.double().softmax(1).tolist()
    return [-math.log(sum(own[place] for place in right)) for own, right in zip(shares, golds, strict=True)]


def test_training_maximises_the_probability_of_all_right_entities_together(
    experiment: Build, tmp_path: Path
) -> None:
    trainer = make_trainer(experiment("task=record", "prompt=fixed", *QUICK), tmp_path)
    model, split = trainer.model, trainer.train_splits[0]
    golds = split.encoded.golds
    assert max(map(len, golds)) > 1
    batch = split.batch(np.arange(len(split)), model.backbone.tokenizer.pad_token_id, {})
    seen: list[torch.Tensor] = []

    def keeping(batch: Batch, temperature: float) -> Answer:
        answer: Answer = model(batch, temperature)
        answer.logits_BC.retain_grad()
        seen.append(answer.logits_BC)
        return answer

    found = objective(keeping, model.prompt, batch, 1.0)
    expected = likelihood(seen[0].detach(), golds)
    assert float(found.loss) == pytest.approx(np.mean(expected), rel=1e-5)
    found.to_minimise.backward()
    grad_BC = seen[0].grad
    assert grad_BC is not None
    for own, right in zip(grad_BC, golds, strict=True):
        pushed_down = {place for place, slope in enumerate(own.tolist()) if slope > 0}
        assert all(own[place] < 0 for place in right) and not pushed_down & set(right)
    each = losses_of(seen[0].detach(), batch)
    assert each.tolist() == pytest.approx(expected, rel=1e-5)
    single = replace(batch, gold_BC=None)
    only = [row for row, right in enumerate(golds) if len(right) == 1]
    assert losses_of(seen[0].detach(), single)[only].tolist() == pytest.approx(
        [expected[row] for row in only], rel=1e-5
    )


def test_what_has_one_right_choice_a_text_is_trained_as_it_was(experiment: Build, tmp_path: Path) -> None:
    """Bit by bit: its run ids are those of runs made before."""
    split = make_trainer(experiment("task=copa", "prompt=fixed", *QUICK), tmp_path).train_splits[0]
    assert split.batch(np.arange(4), 0, {}).gold_BC is None


def test_a_revision_names_runs_of_record_and_no_others(experiment: Build) -> None:
    revisions = {
        name: config.build(config.compose([f"task={name}", "data.dir=."])) for name in config.options("task")
    }
    assert {name for name, made in revisions.items() if made.settings.task.revision is not None} == {"record"}
    made = experiment("task=record", "prompt=fixed", "trainer.selection=validation")
    before = deepcopy(made.resolved)
    del before["task"]["revision"]
    assert records.identify(before, "data")[0] != records.identify(made.resolved, "data")[0]
    assert not any(name.startswith("revision") for name in identity.facts(made, ()))


def test_a_users_task_of_records_shape_has_the_revision_too(experiment: Build) -> None:
    made = experiment("task=record", "task.revision=null", "prompt=fixed", "trainer.selection=validation")
    assert identity.facts(made, ())["revision.record"] == "2"
    other = experiment("task=rte", "prompt=fixed", "trainer.selection=validation")
    assert not any(name.startswith("revision") for name in identity.facts(other, ()))


@pytest.mark.parametrize(
    "words", [("task=record",), ("regime=multitask", "regime.tasks=[record,rte,copa]", "prompt.num_tokens=2")]
)
def test_a_prediction_counts_as_right_if_it_is_one_of_the_right_entities(
    words: tuple[str, ...], experiment: Build
) -> None:
    """The share of right examples in predictions.parquet is the accuracy that the run reports."""
    composed = experiment(*words, "prompt=fixed", *QUICK)
    record = run.run(composed)
    results = ExampleResults(Path(composed.settings.results_dir))
    for task in record.by_task or [record.task]:
        found = results(record, task)
        assert found is not None
        accuracy = (
            record.by_task[task]["metrics"]["accuracy"] if record.by_task else record.metrics["accuracy"]
        )
        assert 100 * np.mean(found["correct"]) == pytest.approx(accuracy)
    table = pd.read_parquet(
        Path(composed.settings.results_dir) / "runs" / record.run_id / "predictions.parquet"
    )
    of_record = table[table["golds"].notna()]
    assert len(of_record) == 6 and max(map(len, of_record["golds"])) > 1
    # Of every right entity, not of the first alone.
    last = of_record["golds"].map(max)
    assert (last != of_record["gold"]).any()
    table.loc[of_record.index, "prediction"] = last
    table.to_parquet(Path(composed.settings.results_dir) / "runs" / record.run_id / "predictions.parquet")
    again = ExampleResults(Path(composed.settings.results_dir))(record, "record")
    assert again is not None and all(again["correct"])
