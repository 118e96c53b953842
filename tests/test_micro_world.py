"""The generated benchmark: the release's schemas, balance, no row on two sides, the same rows everywhere."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dp_bench.micro import lexicon, world
from dp_bench.micro.evaluation import examples
from dp_bench.micro.operations import OPERATIONS, ask
from dp_bench.micro.records import num_classes
from dp_bench.micro.scenes import part_of, scene, uses
from dp_bench.tasks import known

# The keys and types of one record of the official release (super.gluebenchmark.com), train split.
SCHEMAS: dict[str, Any] = {
    "boolq": {"question": str, "passage": str, "idx": int, "label": bool},
    "cb": {"premise": str, "hypothesis": str, "label": str, "idx": int},
    "copa": {"premise": str, "choice1": str, "choice2": str, "question": str, "label": int, "idx": int},
    "multirc": {
        "idx": int,
        "version": float,
        "passage": {
            "text": str,
            "questions": [
                {"question": str, "answers": [{"text": str, "idx": int, "label": int}], "idx": int},
            ],
        },
    },
    "record": {
        "source": str,
        "passage": {"text": str, "entities": [{"start": int, "end": int}]},
        "qas": [{"query": str, "answers": [{"start": int, "end": int, "text": str}], "idx": int}],
        "idx": int,
    },
    "rte": {"premise": str, "hypothesis": str, "label": str, "idx": int},
    "wic": {
        "word": str, "sentence1": str, "sentence2": str, "idx": int, "label": bool,
        "start1": int, "start2": int, "end1": int, "end2": int, "version": float,
    },
    "wsc": {
        "text": str, "idx": int, "label": bool,
        "target": {"span1_index": int, "span1_text": str, "span2_index": int, "span2_text": str},
    },
}  # fmt: skip
SCHEMAS.update({name: {**SCHEMAS["boolq"], "skill": int} for name in world.MIXTURES})
CONTENT = {
    "premise",
    "hypothesis",
    "passage",
    "question",
    "sentence1",
    "sentence2",
    "text",
    "choice1",
    "choice2",
}


def schema_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: schema_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        assert all(schema_of(inner) == schema_of(value[0]) for inner in value)
        return [schema_of(value[0])]
    return type(value)


def cues_in(text: str) -> list[str]:
    return [word for word in lexicon.words_of(text) if word in lexicon.VALUE_OF]


@pytest.mark.parametrize("task", world.TASKS)
def test_records_have_the_release_schema(task: str) -> None:
    for split in world.ROWS:
        for record in world.generate(task, split)[:40]:
            assert schema_of(record) == SCHEMAS[task]


def test_schemas_equal_the_real_files_where_they_are() -> None:
    real = Path(os.environ.get("DP_BENCH_SUPERGLUE", Path(__file__).parents[2] / "shared" / "superglue"))
    files = {name: real / task.title for name, task in known().items() if name in SCHEMAS}
    found = [task for task, folder in files.items() if (folder / "train.jsonl").exists()]
    if not found:
        pytest.skip("no SuperGLUE files")
    for task in found:
        for split, ours in (("train", lambda r: r), ("test", world.without_answers)):
            with (files[task] / f"{split}.jsonl").open(encoding="utf-8") as file:
                theirs = schema_of(first_of_lists(json.loads(file.readline())))
            assert schema_of(first_of_lists(ours(world.generate(task, split)[0]))) == theirs, (task, split)


def first_of_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: first_of_lists(inner) for key, inner in value.items()}
    return [first_of_lists(value[0])] if isinstance(value, list) else value


@pytest.mark.parametrize("task", world.TASKS)
def test_sizes_and_labels_are_exact(task: str) -> None:
    for split, rows in world.ROWS.items():
        records = world.generate(task, split)
        labels = Counter(example.label for example in examples(task, split))
        assert labels.total() == rows  # MultiRC counts answers
        assert max(labels.values()) - min(labels.values()) <= (0 if len(labels) == 2 else 1), (
            task,
            split,
            labels,
        )
        assert [record["idx"] for record in records] == list(range(len(records)))


def test_the_first_rows_of_a_split_are_balanced_too() -> None:
    labels = Counter(record["label"] for record in world.generate("cb", "train")[:31])
    assert sorted(labels.values()) == [10, 10, 11]


@pytest.mark.parametrize("task", world.TASKS)
def test_no_row_occurs_twice_or_in_two_splits(task: str) -> None:
    rows = [
        json.dumps({key: value for key, value in record.items() if key not in ("idx", "label")})
        for split in world.ROWS
        for record in strip_numbers(world.generate(task, split))
    ]
    assert len(set(rows)) == len(rows)


def strip_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: strip_numbers(inner) for key, inner in value.items() if key != "idx"}
    return [strip_numbers(inner) for inner in value] if isinstance(value, list) else value


# Changes with the generator; then the card's accuracies and every micro result are stale.
DIGEST = "9df4d644cc7997b2c7391e55edfbda42b641fbaf176a4f39c63d1f0d18615c97"


def digest_of(tasks: Sequence[str]) -> str:
    rows = [world.generate(task, "val")[: 5 if task == "multirc" else 20] for task in tasks]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_rows_are_those_of_the_shipped_generator() -> None:
    assert digest_of(world.TASKS) == DIGEST


def test_rows_are_the_same_in_every_process() -> None:
    body = inspect.getsource(digest_of).replace("Sequence[str]", "list")  # alone: this module imports torch
    program = (
        f"import hashlib, json\nfrom dp_bench.micro import world\n{body}\nprint(digest_of(['wic', 'copa']))"
    )
    salted = os.environ | {"PYTHONHASHSEED": "7"}
    root = Path(world.__file__).parents[2]
    command = [sys.executable, "-c", program]
    other = subprocess.run(command, cwd=root, env=salted, capture_output=True, check=True)
    assert other.stdout.decode().strip() == digest_of(["wic", "copa"])


def test_seeds_and_difficulties_differ() -> None:
    assert world.generate("boolq", "val") != world.generate("boolq", "val", seed=1)
    for difficulty, sentences in (("easy", 2), ("default", 3), ("hard", 6)):
        record = world.generate("boolq", "val", difficulty=difficulty)[0]
        assert record["passage"].count(".") == sentences


def test_wic_spans_mark_the_word() -> None:
    for record in world.generate("wic", "train")[:500]:
        for side in "12":
            text = record[f"sentence{side}"][record[f"start{side}"] : record[f"end{side}"]]
            assert text.lower() == record["word"]


def test_wsc_indices_count_words_and_the_label_follows_the_pronoun() -> None:
    for record in world.generate("wsc", "train")[:500]:
        target, words = record["target"], record["text"].split()
        assert words[target["span1_index"]].strip(".,") == target["span1_text"]
        assert words[target["span2_index"]] == target["span2_text"]
        assert record["label"] == (target["span1_text"] in lexicon.PRONOUNS[target["span2_text"]])


def test_record_offsets_include_their_last_character() -> None:
    for difficulty in world.SIZES:
        for record in world.generate("record", "val", difficulty=difficulty)[:100]:
            text = record["passage"]["text"]
            names = [text[e["start"] : e["end"] + 1] for e in record["passage"]["entities"]]
            assert set(names) <= set(lexicon.NAMES) and len(names) == num_classes(
                "record", world.SIZES[difficulty]
            )
            (answer,) = record["qas"][0]["answers"]
            assert text[answer["start"] : answer["end"] + 1] == answer["text"] in names
            assert "@placeholder" in record["qas"][0]["query"]


def test_answers_follow_from_the_text() -> None:
    for record in world.generate("boolq", "val"):
        value = lexicon.words_of(record["question"])
        (asked,) = (word for word in value if word in lexicon.ATTRIBUTE_OF)
        assert record["label"] == (asked in {lexicon.VALUE_OF[cue] for cue in cues_in(record["passage"])})
    for record in world.generate("wic", "val"):
        first, second = (lexicon.VALUE_OF[cues_in(record[f"sentence{side}"])[0]] for side in "12")
        assert {first, second} <= set(lexicon.SENSES[record["word"]])
        assert record["label"] == (first == second)
    right = {"Report": "happy", "Story": "big", "Context": "day", "Text": "hot"}
    for mixture in ("mix2", "mix3", "mix4", "skewed"):
        for record in world.generate(mixture, "val"):
            values = {lexicon.VALUE_OF[cue] for cue in cues_in(record["passage"])}
            assert record["label"] == (right[record["passage"].split()[0]] in values)


@pytest.mark.parametrize(("task", "number"), [("mix2", 2), ("mix3", 3), ("mix4", 4), ("liar", 2)])
def test_mixtures_use_all_headings_with_both_labels(task: str, number: int) -> None:
    rows = world.generate(task, "train")
    cells = Counter((r["skill"], r["passage"].split()[0], r["label"]) for r in rows)
    assert len(cells) == 2 * number and min(cells.values()) > 0.85 * len(rows) / (2 * number)


def test_a_skewed_mixture_ties_its_headings_to_the_label() -> None:
    rows = world.generate("skewed", "train")
    stories = [row["label"] for row in rows if row["skill"] == 1]
    assert len(stories) / len(rows) == pytest.approx(0.4, abs=0.02)
    assert sum(stories) / len(stories) == pytest.approx(0.75, abs=0.03)


def test_content_combinations_belong_to_one_side() -> None:
    rng = random.Random(0)
    for record in world.generate("boolq", "train")[:300]:
        assert part_of(*sorted(cues_in(record["passage"]))) == "tasks"
    for record in world.generate("wic", "train")[:300]:
        assert part_of(record["word"], *sorted(cues_in(record["sentence1"] + record["sentence2"]))) == "tasks"
    for _ in range(300):
        assert part_of(*sorted(scene(rng, "pretraining").cues)) == "pretraining"
        use = uses(rng, "pretraining", same=False)
        assert part_of(use.word, *sorted(cues_in(" ".join(use.sentences)))) == "pretraining"
    for operation in OPERATIONS:
        for _ in range(50):
            texts = dict.fromkeys(text for _, text in ask(rng, operation).pieces)
            if operation in ("check", "judge", "about") or operation in lexicon.ATTRIBUTES:
                assert part_of(*sorted(cues_in(next(iter(texts))))) == "pretraining"


def test_the_world_is_wide_and_its_words_are_distinct() -> None:
    assert len(lexicon.SENSES) >= 16
    assert all(len(lexicon.CUES[a]) + len(lexicon.CUES[b]) >= 10 for a, b in lexicon.SENSES.values())
    assert all(lexicon.ATTRIBUTE_OF[a] != lexicon.ATTRIBUTE_OF[b] for a, b in lexicon.SENSES.values())
    content = [*lexicon.VALUE_OF, *lexicon.SENSES, *lexicon.ATTRIBUTE_OF, *lexicon.ATTRIBUTES]
    content += [*(name.lower() for name in lexicon.NAMES), *lexicon.PLAIN_ANSWERS]
    assert len(set(content)) == len(content)
    assert sum(map(len, lexicon.CUES.values())) == len(lexicon.VALUE_OF)


def test_write_leaves_the_release_layout_without_test_labels(tmp_path: Path) -> None:
    for folder in ("BoolQ", "MultiRC", "ReCoRD"):
        (tmp_path / folder).mkdir()
        world.write(tmp_path / folder, folder.lower())
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        f"{folder}/{split}.jsonl" for folder in ("BoolQ", "MultiRC", "ReCoRD") for split in world.ROWS
    )
    lines = (tmp_path / "BoolQ" / "val.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == world.generate("boolq", "val")
    assert len((tmp_path / "MultiRC" / "val.jsonl").read_text().splitlines()) == 125
    for folder in ("BoolQ", "MultiRC", "ReCoRD"):
        text = (tmp_path / folder / "test.jsonl").read_text()
        assert '"label"' not in text and ('"answers"' not in text or folder == "MultiRC")


@pytest.mark.parametrize(
    "arguments",
    [
        ("axb", "val", {}),
        ("boolq", "dev", {}),
        ("boolq", "val", {"difficulty": "odd"}),
    ],
)
def test_wrong_arguments_name_what_there_is(arguments: tuple[str, str, dict[str, Any]]) -> None:
    task, split, more = arguments
    with pytest.raises(ValueError, match="it has"):
        world.generate(task, split, **more)
