"""Raw records become Examples; the release's and the hub's shapes give the same ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import task_settings
from helpers.rows import read_examples, record_row

from dp_bench.data.grouping import components
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import locate, split_file
from dp_bench.settings import DataSettings, Scoring, TaskSettings
from dp_bench.types import Example, UserError

REPOSITORY = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures" / "superglue"
SHARED = REPOSITORY.parent / "shared"
ROWS = {
    "boolq": (18, 10),
    "cb": (18, 9),
    "copa": (16, 8),
    "multirc": (29, 18),
    "record": (12, 6),
    "rte": (16, 8),
    "wic": (16, 8),
    "wsc": (16, 8),
    "axb": (16, 12),  # trained on RTE
    "axg": (16, 12),
}
TASKS = tuple(ROWS)
OFFICIAL_ROWS = {
    "boolq": (9427, 3270),
    "cb": (250, 56),
    "copa": (400, 100),
    "multirc": (27243, 4848),
    "rte": (2490, 277),
    "wic": (5428, 638),
    "wsc": (554, 104),
    "axb": (2490, 1104),
    "axg": (2490, 356),
}
FEWGLUE = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")


def read_from(
    task: TaskSettings, directory: Path | None, hub: str = "aps/super_glue", **files: str
) -> list[list[Example]]:
    names = {"train_file": "train", "validation_file": "val", **files}
    data = DataSettings(name="superglue", dir=None if directory is None else str(directory), hub=hub, **names)
    source = locate(task, data)
    return [
        read_examples(task.training, source.train, source.train.split, None),
        read_examples(task, source.validation, source.validation.split, None),
    ]


def one_file(tmp_path: Path, *records: dict[str, Any]) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def failure(task: str, path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_examples(task_settings(task), split_file(path), "train", None)
    return str(error.value)


def hub_rows(task: TaskSettings, path: Path) -> Iterator[dict[str, Any]]:
    """Yield what the hub has for a file of the release: labels as integers, one row an answer or query."""
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if task.reader == "multirc":
            yield from flattened(record)
        elif task.reader == "record":
            yield from flattened_queries(record)
        else:
            label = task.labels.index(str(record["label"]).lower())
            spans = record.pop("target", {})
            kept = {field: record[field] for field in task.fields if field in record}
            yield {**kept, **spans, "idx": int(record["idx"]), "label": label}


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


def flattened_queries(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row a query; entities and answers are sorted sets."""
    text = record["passage"]["text"]
    entities = {text[span["start"] : span["end"] + 1] for span in record["passage"]["entities"]}
    for asked in record["qas"]:
        yield {
            "passage": text,
            "query": asked["query"],
            "entities": sorted(entities),
            "answers": sorted({answer["text"] for answer in asked["answers"]}),
            "idx": {"passage": record["idx"], "query": asked["idx"]},
        }


def wsc_fixed(row: dict[str, Any]) -> dict[str, Any]:
    """Repair the spans as the hub's wsc.fixed does, where they are not in the text."""
    row = dict(row)
    for number in (1, 2):
        span = row[f"span{number}_text"]
        if span not in row["text"]:
            first = row["text"].split()[row[f"span{number}_index"]][0]
            span = (span[0].lower() if first.islower() else span[0].upper()) + span[1:]
            row[f"span{number}_text"] = span.rstrip(".").replace("\n", " ")
    return row


def write_hub_layout(task: TaskSettings, root: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    files = [(task.training, "train", "train"), (task, task.only_file or "val", "validation")]
    for each, stem, split in files:
        folder = root / each.hub_config
        folder.mkdir(parents=True, exist_ok=True)
        rows = list(hub_rows(each, FIXTURES / each.title / f"{stem}.jsonl"))
        if task.hub_config == "wsc.fixed":
            rows = [wsc_fixed(row) for row in rows]
        name = "test" if each.only_file else split
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}-00000-of-00001.parquet")


@pytest.mark.parametrize("name", TASKS)
def test_every_fixture_row_is_read(name: str) -> None:
    task = task_settings(name)
    splits = read_from(task, FIXTURES)
    assert tuple(map(len, splits)) == ROWS[name]
    for examples, own in zip(splits, (task.training, task), strict=True):
        assert len({example.id for example in examples}) == len(examples)
        assert {example.label for example in examples} >= set(range(len(own.labels) or 2))
        assert all(list(example.fields) == own.fields for example in examples)
        if own.scoring is Scoring.words:
            assert all(example.choices == tuple(own.words) for example in examples)
            assert not any(example.golds for example in examples)


@pytest.mark.parametrize("name", TASKS)
def test_release_and_hub_give_the_same_examples(name: str, tmp_path: Path) -> None:
    task = task_settings(name)
    write_hub_layout(task, tmp_path)
    assert read_from(task, None, hub=str(tmp_path)) == read_from(task, FIXTURES)


def test_the_repaired_wsc_of_the_hub_gives_the_same_examples(tmp_path: Path) -> None:
    task = task_settings("wsc")
    expected = read_from(task, FIXTURES)
    task.hub_config = "wsc.fixed"
    write_hub_layout(task, tmp_path)
    assert read_from(task, None, hub=str(tmp_path)) == expected


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


def test_questions_on_one_passage_belong_together() -> None:
    train, _ = read_from(task_settings("boolq"), FIXTURES)
    found = components([example.source for example in train])
    assert all(first == second for first, second in zip(found[::2], found[1::2], strict=True))
    assert len(set(found)) == 9


@pytest.mark.parametrize("name", TASKS)
def test_limit_counts_examples(name: str) -> None:
    task = task_settings(name)
    path = FIXTURES / task.title / f"{task.only_file or 'train'}.jsonl"
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
    assert f"{path}, line 1: field hypothesis is missing; the fields are premise, idx, label." in failure(
        "rte", path
    )


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [("premise", 3, "a string"), ("idx", "first", "an integer"), ("idx", True, "an integer")],
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
    assert "line 2: the idx of rte/train/4 is already used in line 1" in failure(
        "rte", one_file(tmp_path, record, record)
    )


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert "has no records" in failure("rte", one_file(tmp_path))


def test_a_task_with_an_unknown_reader_names_its_file() -> None:
    task = task_settings("rte")
    task.reader = "nested"
    with pytest.raises(
        UserError,
        match=r"task=rte: reader=nested in its YAML is unknown; use one of flat,",
    ):
        read_examples(task, split_file(FIXTURES / "RTE" / "val.jsonl"), "val", None)


# ---------------------------------------------------------------------------------------------- tasks


def test_copas_choices_are_its_own_sentences() -> None:
    train, _ = read_from(task_settings("copa"), FIXTURES)
    assert train[1].choices == ("The oven was switched off.", "The bread stayed flat.")
    assert (train[1].label, train[1].fields["question"]) == (1, "effect")


def test_copa_may_be_answered_by_label_words() -> None:
    task = replace(task_settings("copa"), scoring=Scoring.words, words=["first", "second"])
    train, _ = read_from(task, FIXTURES)
    assert {example.choices for example in train} == {("first", "second")}


def test_a_wsc_pronoun_is_marked_and_spans_are_as_the_text_has_them() -> None:
    train, _ = read_from(task_settings("wsc"), FIXTURES)
    text = "The potter thanked the merchant because she had delivered the clay in time."
    assert train[1].fields == {
        "text": text,
        "marked": text.replace("she", "*she*"),
        "span1_text": "the merchant",  # "The merchant" in the record
        "span2_text": "she",
    }
    assert train[4].fields["span1_text"] == "Ruth"  # "Ruth."
    assert train[8].fields["span1_text"] == "the cart"  # "the\ncart"
    assert train[10].fields["marked"].count("whether *he* had") == 1  # one word off
    assert train[0].source == train[1].source != train[2].source


@pytest.mark.parametrize(
    ("span", "number", "expected"),
    [
        ("it", 0, '*It* bit it, "it" said; Italy.'),
        ("it", 2, 'It bit *it*, "it" said; Italy.'),
        ("IT", 3, 'It bit it, "*it*" said; Italy.'),
        ("it", 99, 'It bit it, "*it*" said; Italy.'),
        ("nobody", 0, 'It bit it, "it" said; Italy.'),
    ],
)
def test_the_nearest_mention_of_a_span_is_meant(
    span: str, number: int, expected: str, tmp_path: Path
) -> None:
    target = {"span1_text": "Italy", "span1_index": 5, "span2_text": span, "span2_index": number}
    record = {"text": 'It bit it, "it" said; Italy.', "target": target, "idx": 0, "label": True}
    (example,) = read_examples(task_settings("wsc"), split_file(one_file(tmp_path, record)), "train", None)
    assert example.fields["marked"] == expected


def test_a_query_chooses_among_the_entities_of_its_passage() -> None:
    train, _ = read_from(task_settings("record"), FIXTURES)
    first, second = train[2:4]
    expected = ("Olaf Brandt", "Brandt", "Fjord Race", "Sundal", "Maria Voss")
    assert first.choices == second.choices == expected
    assert (first.golds, first.label) == ((0, 1), 0)
    assert (second.golds, second.label) == ((4,), 4)
    assert (first.id, first.group, first.source) == ("record/train/1/2", "record/train/1/2", "record/train/1")
    assert "@placeholder" in first.fields["query"]


def read_record(tmp_path: Path, row: dict[str, Any]) -> Example:
    (example,) = read_examples(task_settings("record"), split_file(one_file(tmp_path, row)), "train", None)
    return example


def test_a_query_without_gold_among_its_entities_is_kept_without_label(tmp_path: Path) -> None:
    example = read_record(tmp_path, record_row(answers=[{"start": 4, "end": 7, "text": "beat"}]))
    assert (example.choices, example.label, example.golds) == (("Ann", "Bob"), None, ())


def test_a_query_whose_answers_are_hidden_has_no_label(tmp_path: Path) -> None:
    row = record_row()
    del row["qas"][0]["answers"]
    assert read_record(tmp_path, row).label is None


@pytest.mark.parametrize(
    ("passage", "message"),
    [
        (
            {"entities": [{"start": 9, "end": 13}]},
            "line 1: field passage.entities[0] is 9 to 13, outside of the 13",
        ),
        ({"entities": [{"start": 5, "end": 2}]}, "is 5 to 2, outside"),
        ({"entities": []}, "line 1: there are no entities to choose from"),
        ({"entities": [3]}, "field passage.entities[0] should be an object"),
    ],
)
def test_a_broken_entity_is_named(passage: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in failure("record", one_file(tmp_path, record_row(passage=passage)))


def test_the_diagnostics_are_read_with_their_own_fields_and_trained_with_rtes() -> None:
    for name, fields in (("axb", ["sentence1", "sentence2"]), ("axg", ["premise", "hypothesis"])):
        task = task_settings(name)
        train, report = read_from(task, FIXTURES)
        assert (task.training.name, train) == ("rte", read_from(task_settings("rte"), FIXTURES)[0])
        assert list(report[0].fields) == fields
        assert [example.id for example in report[:2]] == [f"{name}/test/0", f"{name}/test/1"]


def test_two_genders_of_one_sentence_are_a_group() -> None:
    _, report = read_from(task_settings("axg"), FIXTURES)
    assert len({example.group for example in report}) == 6
    for first, second in zip(report[::2], report[1::2], strict=True):
        assert first.group == second.group
        assert first.fields["hypothesis"] == second.fields["hypothesis"]
        assert first.fields["premise"] != second.fields["premise"]


def test_genders_of_two_sentences_are_no_pair(tmp_path: Path) -> None:
    rows = [
        {"premise": f"He saw {word}.", "hypothesis": f"{word} was seen.", "idx": idx, "label": "entailment"}
        for idx, word in enumerate(("ice", "rain"))
    ]
    assert (
        "line 2: idx 1 and 0 must differ only in the gender of a pronoun, but their hypotheses are"
        in failure("axg", one_file(tmp_path, *rows))
    )


def test_a_file_is_read_anew_each_time_it_is_gone_through() -> None:
    task = task_settings("record")
    file = split_file(FIXTURES / "ReCoRD" / "train.jsonl")
    examples = ExampleFile(task, file, 5)
    assert list(examples) == list(examples) == read_examples(task, file, "train", 5)


# ---------------------------------------------------------------------------------------------- real rows

REAL: dict[
    str, tuple[str, int, str, str]
] = {  # the first row that is reported on: id, label, a field, its end
    "boolq": ("boolq/val/0", 0, "question", "does ethanol take more energy make that produces"),
    "cb": ("cb/val/0", 1, "hypothesis", "Valence was helping"),
    "copa": ("copa/val/0", 1, "premise", "The man turned on the faucet."),
    "multirc": ("multirc/val/0/0/0", 0, "answer", "No"),
    "rte": ("rte/val/0", 1, "hypothesis", "Christopher Reeve had an accident."),
    "wic": ("wic/val/0", 0, "sentence1", "An emerging professional class."),
    "wsc": ("wsc/val/0", 0, "marked", "could take his claim away from *him* ."),
    "axb": ("axb/test/0", 1, "sentence2", "The cat did not sit on the mat."),
    "axg": ("axg/test/0", 1, "hypothesis", "The accountant sought help filing taxes."),
}


@pytest.mark.skipif(
    not (SHARED / "superglue").is_dir(), reason="no official SuperGLUE release beside the checkout"
)
@pytest.mark.parametrize("name", REAL)
def test_a_real_row_is_read_as_it_stands(name: str) -> None:
    task = task_settings(name)
    example = read_from(task, SHARED / "superglue")[1][0]
    identifier, label, field, end = REAL[name]
    assert (example.id, example.label) == (identifier, label)
    assert example.fields[field].endswith(end)
    if name == "copa":
        assert example.choices == ("The toilet filled with water.", "Water flowed from the spout.")


@pytest.mark.skipif(not (SHARED / "fewglue").is_dir(), reason="no FewGLUE beside the checkout")
def test_a_real_query_is_read_as_it_stands() -> None:
    example = read_from(task_settings("record"), SHARED / "fewglue", validation_file="dev32")[0][0]
    assert (example.id, example.label, example.golds) == ("record/train/3088/4756", 6, (6,))
    assert example.choices[:3] == ("Hamish Mackay", "Diego Costa", "Costa")
    assert (len(example.choices), example.choices[6]) == (19, "Olimpija Ljubljana")


@pytest.mark.skipif(
    not (SHARED / "superglue").is_dir(), reason="no official SuperGLUE release beside the checkout"
)
@pytest.mark.parametrize("name", OFFICIAL_ROWS)
def test_the_official_release_has_its_published_rows(name: str) -> None:
    splits = read_from(task_settings(name), SHARED / "superglue")
    assert tuple(map(len, splits)) == OFFICIAL_ROWS[name]
    assert not {example.label for examples in splits for example in examples} - set(range(3))
    if name == "cb":
        assert Counter(example.label for example in splits[0]) == {0: 115, 1: 119, 2: 16}


@pytest.mark.skipif(not (SHARED / "fewglue").is_dir(), reason="no FewGLUE beside the checkout")
@pytest.mark.parametrize("name", FEWGLUE)
def test_fewglue_is_read_by_its_own_file_names(name: str) -> None:
    train, dev = read_from(task_settings(name), SHARED / "fewglue", validation_file="dev32")
    assert len({example.source for example in train}) == (31 if name == "wsc" else 32)
    assert all(example.label is not None for example in [*train, *dev])
    assert dev[0].id.startswith(f"{name}/dev32/")
