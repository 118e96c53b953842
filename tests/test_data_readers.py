"""Raw records become Examples; the release's and the hub's shapes give the same ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dp_bench.data.readers import read_examples
from dp_bench.data.source import locate, split_file
from dp_bench.settings import DataSettings, TaskSettings
from dp_bench.types import Example, UserError

REPOSITORY = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures" / "superglue"
SHARED = REPOSITORY.parent / "shared"
TASKS = ("boolq", "cb", "multirc", "rte", "wic")
ROWS = {"boolq": (18, 10), "cb": (18, 9), "multirc": (29, 18), "rte": (16, 8), "wic": (16, 8)}
OFFICIAL_ROWS = {
    "boolq": (9427, 3270),
    "cb": (250, 56),
    "multirc": (27243, 4848),
    "rte": (2490, 277),
    "wic": (5428, 638),
}


def task_settings(name: str) -> TaskSettings:
    return TaskSettings(
        **yaml.safe_load((REPOSITORY / "configs" / "task" / f"{name}.yaml").read_text("utf-8"))
    )


def read_from(
    task: TaskSettings, directory: Path | None, hub: str = "aps/super_glue", **files: str
) -> list[list[Example]]:
    names = {"train_file": "train", "validation_file": "val", **files}
    data = DataSettings(name="superglue", dir=None if directory is None else str(directory), hub=hub, **names)
    source = locate(task, data)
    return [read_examples(task, file, file.split, None) for file in (source.train, source.validation)]


def one_file(tmp_path: Path, *records: dict[str, Any]) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def failure(task: str, path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_examples(task_settings(task), split_file(path), "train", None)
    return str(error.value)


def hub_rows(task: TaskSettings, path: Path) -> Iterator[dict[str, Any]]:
    """Yield what the hub has for a file of the release: labels as integers, MultiRC one row an answer."""
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if task.reader == "multirc":
            yield from flattened(record)
        else:
            label = task.labels.index(str(record["label"]).lower())
            yield {**{field: record[field] for field in task.fields}, "idx": record["idx"], "label": label}


def flattened(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for question in record["passage"]["questions"]:
        for answer in question["answers"]:
            yield {
                "paragraph": record["passage"]["text"],
                "question": question["question"],
                "answer": answer["text"],
                "idx": {"paragraph": record["idx"], "question": question["idx"], "answer": answer["idx"]},
                "label": answer["label"],
            }


def write_hub_layout(task: TaskSettings, root: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    folder = root / task.hub_config
    folder.mkdir(parents=True)
    for stem, split in (("train", "train"), ("val", "validation")):
        rows = list(hub_rows(task, FIXTURES / task.title / f"{stem}.jsonl"))
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("name", TASKS)
def test_every_fixture_row_is_read(name: str) -> None:
    task = task_settings(name)
    splits = read_from(task, FIXTURES)
    assert tuple(map(len, splits)) == ROWS[name]
    for examples in splits:
        assert len({example.id for example in examples}) == len(examples)
        assert {example.label for example in examples} == set(range(len(task.labels)))
        assert all(list(example.fields) == task.fields for example in examples)
        assert all(example.choices == tuple(task.words) for example in examples)


@pytest.mark.parametrize("name", TASKS)
def test_release_and_hub_give_the_same_examples(name: str, tmp_path: Path) -> None:
    task = task_settings(name)
    write_hub_layout(task, tmp_path)
    assert read_from(task, None, hub=str(tmp_path)) == read_from(task, FIXTURES)


def test_an_id_says_task_split_and_idx() -> None:
    _, examples = read_from(task_settings("rte"), FIXTURES)
    assert examples[3].id == examples[3].group == "rte/val/3"
    assert examples[3].label == 1


def test_a_multirc_answer_belongs_to_its_question_and_passage() -> None:
    train, _ = read_from(task_settings("multirc"), FIXTURES)
    last = train[-1]
    assert (last.id, last.group, last.source) == (
        "multirc/train/5/11/28",
        "multirc/train/5/11",
        "multirc/train/5",
    )
    assert last.fields["answer"] == "At the foot of the glacier"
    assert len({example.source for example in train}) == 6
    assert len({example.group for example in train}) == 12


def test_questions_on_one_passage_share_their_source() -> None:
    train, _ = read_from(task_settings("boolq"), FIXTURES)
    for first, second in zip(train[::2], train[1::2], strict=True):
        assert first.fields["passage"] == second.fields["passage"]
        assert first.source == second.source
    assert len({example.source for example in train}) == 9


@pytest.mark.parametrize("name", TASKS)
def test_limit_counts_examples(name: str) -> None:
    task, path = task_settings(name), FIXTURES / task_settings(name).title / "train.jsonl"
    whole = read_examples(task, split_file(path), "train", None)
    assert read_examples(task, split_file(path), "train", 7) == whole[:7]
    assert read_examples(task, split_file(path), "train", 10_000) == whole


def test_a_hidden_label_is_none(tmp_path: Path) -> None:
    texts = {"premise": "It rained.", "hypothesis": "It was wet."}
    path = one_file(
        tmp_path, {**texts, "idx": 0}, {**texts, "idx": 1, "label": -1}, {**texts, "idx": 2, "label": None}
    )
    examples = read_examples(task_settings("rte"), split_file(path), "test", None)
    assert [example.label for example in examples] == [None, None, None]
    assert examples[0].id == "rte/test/0"


@pytest.mark.parametrize("label", ["entails", 2, True, 0.0])
def test_an_unknown_label_is_named(label: object, tmp_path: Path) -> None:
    texts = {"premise": "It rained.", "hypothesis": "It was wet."}
    path = one_file(tmp_path, {**texts, "idx": 0, "label": "entailment"}, {**texts, "idx": 1, "label": label})
    text = failure("rte", path)
    assert f"{path}, line 2: field label is {label!r}; allowed are entailment, not_entailment" in text


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = one_file(tmp_path, {"premise": "It rained.", "idx": 0, "label": "entailment"})
    assert f"{path}, line 1: field hypothesis is missing; there is premise, idx, label." in failure(
        "rte", path
    )


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [("premise", 3, "a string"), ("idx", "0", "an integer"), ("idx", True, "an integer")],
)
def test_a_field_of_another_type_is_named(field: str, value: object, kind: str, tmp_path: Path) -> None:
    record = {
        "premise": "It rained.",
        "hypothesis": "It was wet.",
        "idx": 0,
        "label": "entailment",
        field: value,
    }
    assert f"line 1: field {field} should be {kind} and is {value!r}" in failure(
        "rte", one_file(tmp_path, record)
    )


def test_a_field_deep_in_a_multirc_record_is_named(tmp_path: Path) -> None:
    record = json.loads((FIXTURES / "MultiRC" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    del record["passage"]["questions"][1]["answers"][2]["text"]
    text = failure("multirc", one_file(tmp_path, record))
    assert "line 1: field passage.questions[1].answers[2].text is missing" in text


def test_an_idx_that_comes_twice_is_refused(tmp_path: Path) -> None:
    record = {"premise": "It rained.", "hypothesis": "It was wet.", "idx": 4, "label": "entailment"}
    assert "line 2: idx of rte/train/4 was already taken by line 1" in failure(
        "rte", one_file(tmp_path, record, record)
    )


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert "holds no records" in failure("rte", one_file(tmp_path))


def test_a_task_with_an_unknown_reader_names_its_file() -> None:
    task = task_settings("rte")
    task.reader = "nested"
    with pytest.raises(
        UserError, match=r"configs/task/rte\.yaml: reader=nested is unknown; use one of flat, multirc"
    ):
        read_examples(task, split_file(FIXTURES / "RTE" / "val.jsonl"), "val", None)


@pytest.mark.skipif(
    not (SHARED / "superglue").is_dir(), reason="no official SuperGLUE release beside the checkout"
)
@pytest.mark.parametrize("name", TASKS)
def test_the_official_release_has_its_published_rows(name: str) -> None:
    splits = read_from(task_settings(name), SHARED / "superglue")
    assert tuple(map(len, splits)) == OFFICIAL_ROWS[name]
    assert not {example.label for examples in splits for example in examples} - set(range(3))
    if name == "cb":
        assert Counter(example.label for example in splits[0]) == {0: 115, 1: 119, 2: 16}


@pytest.mark.skipif(not (SHARED / "fewglue").is_dir(), reason="no FewGLUE beside the checkout")
@pytest.mark.parametrize("name", TASKS)
def test_fewglue_is_read_by_its_own_file_names(name: str) -> None:
    train, dev = read_from(task_settings(name), SHARED / "fewglue", validation_file="dev32")
    assert len({example.source for example in train}) == 32
    assert dev[0].id.startswith(f"{name}/dev32/")
