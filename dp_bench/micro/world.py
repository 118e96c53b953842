"""Generate SuperGLUE-shaped tasks in the release's schemas: `generate(task, split)`, `write(folder, task)`.

Every task asks about short scenes ("Anna saw the ice. Ben spoke of joy."): does a statement hold, is a word
used in one sense, which alternative is the cause. Labels are balanced, rows are distinct, val and test rows
that occur in train are dropped (`overlaps` counts them), and the combinations of content words do not occur
in pretraining (`scenes.part_of`).

`difficulty` sets the length of the texts:

    easy     two cue sentences in a scene
    default  three cue sentences
    hard     five cue sentences and one without a cue; one sentence without a cue beside every other premise
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dp_bench.micro.records import RECORDS, Size, num_classes

MIXTURES = ("mix2", "mix3", "mix4", "skewed", "liar")  # in BoolQ's schema
FOLDERS = {  # of the official release; those of mixtures have their names
    "boolq": "BoolQ", "cb": "CB", "copa": "COPA", "multirc": "MultiRC", "record": "ReCoRD",
    "rte": "RTE", "wic": "WiC", "wsc": "WSC",
    **{name: name for name in MIXTURES},
}  # fmt: skip
TASKS = tuple(FOLDERS)
ROWS = {"train": 4000, "val": 500, "test": 500}  # answers for MultiRC, four to a passage
ANSWERS_PER_PASSAGE = 4
SIZES = {
    "easy": Size(num_cues=2, num_fillers=0),
    "default": Size(num_cues=3, num_fillers=0),
    "hard": Size(num_cues=5, num_fillers=1),
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    """The records of a split, and the numbers of draws dropped as repeats and as rows of an earlier split."""

    records: tuple[str, ...]  # json, without idx
    repeats: int
    in_earlier: int


def generate(
    task: str, split: str, *, seed: int = 0, rows: int | None = None, difficulty: str = "default"
) -> list[Record]:
    """Return the first `rows` records of a split, by default all; test has labels too, which `write` hides.

    Raises ValueError for an unknown task, split or difficulty, or a number of rows that there is not.
    """
    total = num_records(task, split)
    if rows is not None and not 0 < rows <= ROWS[split]:
        raise ValueError(f"rows={rows} is not between 1 and {ROWS[split]}, the size of micro {task}/{split}")
    last = total if rows is None else -(-rows // (ROWS[split] // total))
    drawn = draw(task, split, seed, difficulty)
    return [number(task, json.loads(record), index) for index, record in enumerate(drawn.records[:last])]


def overlaps(task: str, *, seed: int = 0, difficulty: str = "default") -> dict[str, dict[str, int]]:
    """Count, for each split, the draws dropped as repeats within it and as rows of an earlier split."""
    splits = {split: draw(task, split, seed, difficulty) for split in ROWS}
    return {split: {"repeats": d.repeats, "in_earlier_split": d.in_earlier} for split, d in splits.items()}


def write(folder: Path, task: str, *, seed: int = 0, difficulty: str = "default") -> None:
    """Write the splits of a task into a folder, in the layout of the release: train.jsonl …"""
    for split in ROWS:
        records = generate(task, split, seed=seed, difficulty=difficulty)
        lines = [json.dumps(without_answers(r) if split == "test" else r) + "\n" for r in records]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of the code that the rows depend on, which names their folder in the cache."""
    folder = Path(__file__).parent
    sources = [(folder / name).read_bytes() for name in ("lexicon.py", "scenes.py", "records.py", "world.py")]
    return hashlib.sha256(b"".join(sources)).hexdigest()


def check(task: str, split: str, difficulty: str) -> None:
    """Raise ValueError for an unknown task, split or difficulty."""
    for name, value, allowed in (
        ("task", task, TASKS),
        ("split", split, tuple(ROWS)),
        ("difficulty", difficulty, tuple(SIZES)),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value} is unknown to the micro benchmark; it has {', '.join(allowed)}")


def num_records(task: str, split: str) -> int:
    """Return the number of records of a split: passages for MultiRC."""
    check(task, split, "default")
    return ROWS[split] // (ANSWERS_PER_PASSAGE if task == "multirc" else 1)


@lru_cache(maxsize=64)
def draw(task: str, split: str, seed: int, difficulty: str) -> Drawn:
    """Draw a split, by its arguments only: it is the same in every process."""
    check(task, split, difficulty)
    splits = list(ROWS)
    before = splits[: splits.index(split)]
    earlier = {record for name in before for record in draw(task, name, seed, difficulty).records}
    rng = random.Random(f"micro/{task}/{split}/{seed}/{difficulty}")
    seen: dict[str, None] = {}
    repeats = in_earlier = 0
    for label in balanced(rng, num_classes(task, SIZES[difficulty]), num_records(task, split)):
        while True:
            record = json.dumps(RECORDS[task](rng, label, SIZES[difficulty]))
            if record in earlier:
                in_earlier += 1
            elif record in seen:
                repeats += 1
            else:
                seen[record] = None
                break
    return Drawn(tuple(seen), repeats, in_earlier)


def balanced(rng: random.Random, num_classes: int, rows: int) -> Iterator[int]:
    """Yield labels in shuffled blocks of one of each, so that the first rows of a split are balanced too."""
    for start in range(0, rows, num_classes):
        block = list(range(num_classes))
        rng.shuffle(block)
        yield from block[: rows - start]


def number(task: str, record: Record, index: int) -> Record:
    """Add `idx` as in the release; MultiRC and ReCoRD number questions and answers over the whole split."""
    record["idx"] = index
    if task == "multirc":
        for q, question in enumerate(record["passage"]["questions"]):
            question["idx"] = 2 * index + q
            for a, answer in enumerate(question["answers"]):
                answer["idx"] = ANSWERS_PER_PASSAGE * index + 2 * q + a
    if task == "record":
        for q, query in enumerate(record["qas"]):
            query["idx"] = index + q
    return record


def without_answers(record: Record) -> Record:
    """Return a record without its labels, as in the release's test split."""
    hidden = _without("label", record)
    if "qas" in hidden:
        hidden["qas"] = [_without("answers", query) for query in hidden["qas"]]
    passage = hidden.get("passage")
    if isinstance(passage, dict) and "questions" in passage:
        hidden["passage"] = passage | {
            "questions": [
                question | {"answers": [_without("label", answer) for answer in question["answers"]]}
                for question in passage["questions"]
            ]
        }
    return hidden


def _without(key: str, record: Record) -> Record:
    return {name: value for name, value in record.items() if name != key}
