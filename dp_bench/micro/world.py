"""Generate SuperGLUE-shaped tasks in the release's schemas: `generate(task, split)`, `write(folder, task)`.

Every task asks about short scenes ("Anna saw the ice. Ben spoke of joy."): does a statement hold, is a word
used in one sense, which alternative is the cause. Labels are balanced, rows are distinct, val and test rows
that occur in train are dropped, and the combinations of content words do not occur in pretraining
(`scenes.part_of`).

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
from functools import lru_cache
from pathlib import Path
from typing import Any

from dp_bench.micro.records import RECORDS, Size, num_classes

TASKS = tuple(RECORDS)
MIXTURES = ("mix2", "mix3", "mix4", "skewed", "liar")  # in BoolQ's schema
ROWS = {"train": 4000, "val": 500, "test": 500}  # answers for MultiRC, four to a passage
ANSWERS_PER_PASSAGE = 4
SIZES = {
    "easy": Size(num_cues=2, num_fillers=0),
    "default": Size(num_cues=3, num_fillers=0),
    "hard": Size(num_cues=5, num_fillers=1),
}

Record = dict[str, Any]


def generate(task: str, split: str, *, seed: int = 0, difficulty: str = "default") -> list[Record]:
    """Return the records of a split; test has labels too, which `write` hides.

    Raises ValueError for an unknown task, split or difficulty.
    """
    given = ("task", task, TASKS), ("split", split, ROWS), ("difficulty", difficulty, SIZES)
    for name, value, known in given:
        if value not in known:
            raise ValueError(f"{name}={value} is unknown to the micro benchmark; it has {', '.join(known)}")
    records = draw(task, split, seed, difficulty)
    return [number(task, json.loads(record), index) for index, record in enumerate(records)]


def write(folder: Path, task: str, *, seed: int = 0, difficulty: str = "default") -> None:
    """Write the splits of a task into a folder, in the layout of the release: train.jsonl …"""
    for split in ROWS:
        records = generate(task, split, seed=seed, difficulty=difficulty)
        lines = [json.dumps(without_answers(r) if split == "test" else r) + "\n" for r in records]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def code_digest() -> str:
    """Return a digest of the code that the rows depend on, which names their folder in the cache."""
    folder = Path(__file__).parent
    sources = [(folder / name).read_bytes() for name in ("lexicon.py", "scenes.py", "records.py", "world.py")]
    return hashlib.sha256(b"".join(sources)).hexdigest()


@lru_cache(maxsize=64)
def draw(task: str, split: str, seed: int, difficulty: str) -> tuple[str, ...]:
    """Draw the records of a split as JSON without idx, by the arguments only: the same in every process."""
    splits = list(ROWS)
    before = splits[: splits.index(split)]
    earlier = {record for name in before for record in draw(task, name, seed, difficulty)}
    rng = random.Random(f"micro/{task}/{split}/{seed}/{difficulty}")
    records: dict[str, None] = {}
    rows = ROWS[split] // (ANSWERS_PER_PASSAGE if task == "multirc" else 1)
    for label in balanced(rng, num_classes(task, SIZES[difficulty]), rows):
        while True:
            record = json.dumps(RECORDS[task](rng, label, SIZES[difficulty]))
            if record not in earlier and record not in records:
                break
        records[record] = None
    return tuple(records)


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
        record["qas"][0]["idx"] = index
    return record


def without_answers(record: Record) -> Record:
    """Return a record without its labels and ReCoRD's answers, as in the release's test split."""

    def hide(part: Record) -> Record:
        hidden = ("label", "answers") if "query" in part else ("label",)
        return {name: value for name, value in part.items() if name not in hidden}

    without: Record = json.loads(json.dumps(record), object_hook=hide)
    return without
