"""Raw records to Examples: one reader for each shape of record.

`flat` reads one example from each record (BoolQ, CB, RTE, WiC). `multirc` reads one from each answer, whether
in the nested records of the official release or in the hub's flattened rows; both give the same Examples
under the same ids. A value that cannot be read is the user's to mend, so every message names the file, the
line and the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from dp_bench.data.source import SplitFile, read_records
from dp_bench.settings import TaskSettings
from dp_bench.types import Example, UserError


def read_examples(task: TaskSettings, split_file: SplitFile, split: str, limit: int | None) -> list[Example]:
    """Read the first `limit` examples of a file, or all. For MultiRC an example is an answer.

    Ids start with "{task}/{split}/"; `split_file.split` is what the file itself is called.
    """
    if task.reader not in READERS:
        known = ", ".join(READERS)
        raise UserError(
            f"configs/task/{task.name}.yaml: reader={task.reader} is unknown; use one of {known}."
        )
    records = (_Record(split_file.path, line, values) for line, values in read_records(split_file))
    lines_of_ids: dict[str, int] = {}
    examples = []
    for record, example in islice(READERS[task.reader](task, split, records), limit):
        if example.id in lines_of_ids:
            raise record.error(f"idx of {example.id} was already taken by line {lines_of_ids[example.id]}")
        lines_of_ids[example.id] = record.line
        examples.append(example)
    if not examples:
        raise UserError(f"{split_file.path} holds no records: expected one JSON object a line.")
    return examples


@dataclass(frozen=True)
class _Record:
    """A JSON object that knows where it stands in its file, so that it can say what is wrong with it."""

    path: Path
    line: int
    values: dict[str, Any]
    inside: str = ""  # "passage.questions[0]." for an object within the record

    def text(self, name: str) -> str:
        value: str = self._value(name, str, "a string")
        return value

    def integer(self, name: str) -> int:
        value: int = self._value(name, int, "an integer")
        return value

    def child(self, name: str) -> _Record:
        return _Record(self.path, self.line, self._value(name, dict, "an object"), f"{self.inside}{name}.")

    def children(self, name: str) -> Iterator[_Record]:
        for place, item in enumerate(self._value(name, list, "a list of objects")):
            inside = f"{self.inside}{name}[{place}]"
            if not isinstance(item, dict):
                raise self.error(f"field {inside} should be an object and is {_shown(item)}")
            yield _Record(self.path, self.line, item, f"{inside}.")

    def label(self, labels: Sequence[str]) -> int | None:
        """Return the index of the label; the hub writes just that, the release a name. None where hidden."""
        raw = self.values.get("label")
        if raw is None or (raw == -1 and isinstance(raw, int)):
            return None
        if isinstance(raw, int) and not isinstance(raw, bool):
            if 0 <= raw < len(labels):
                return raw
        elif isinstance(raw, str | bool) and str(raw).lower() in labels:
            return labels.index(str(raw).lower())
        allowed = f"{', '.join(labels)}, or their indices 0 to {len(labels) - 1}"
        raise self.error(f"field {self.inside}label is {_shown(raw)}; allowed are {allowed}")

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.path}, line {self.line}: {problem}.")

    def _value(self, name: str, kind: type, described: str) -> Any:
        if name not in self.values:
            found = ", ".join(self.values) or "nothing"
            raise self.error(f"field {self.inside}{name} is missing; there is {found}")
        value = self.values[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(f"field {self.inside}{name} should be {described} and is {_shown(value)}")
        return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _flat(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    for record in records:
        name = f"{task.name}/{split}/{record.integer('idx')}"
        fields = {field: record.text(field) for field in task.fields}
        # `task.shorten` names the long text that the other fields ask about: BoolQ has several questions on a
        # passage, RTE repeats a premise. Its digest keeps such rows together.
        source = f"{task.name}/{sha256(fields[task.shorten].encode()).hexdigest()[:12]}"
        label = record.label(task.labels)
        yield record, Example(name, fields, tuple(task.words), label, group=name, source=source)


def _multirc(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    for record in records:
        for answer, fields, (passage_idx, question_idx, answer_idx) in _answers(record):
            source = f"{task.name}/{split}/{passage_idx}"
            group = f"{source}/{question_idx}"
            name = f"{group}/{answer_idx}"
            yield record, Example(name, fields, tuple(task.words), answer.label(task.labels), group, source)


def _answers(record: _Record) -> Iterator[tuple[_Record, dict[str, str], tuple[int, int, int]]]:
    """Yield, answer by answer: the object with the label, the fields, the three idx."""
    if "passage" not in record.values:  # the hub's flattened row is one answer
        idx = record.child("idx")
        fields = {name: record.text(name) for name in ("paragraph", "question", "answer")}
        yield record, fields, (idx.integer("paragraph"), idx.integer("question"), idx.integer("answer"))
        return
    passage = record.child("passage")
    for question in passage.children("questions"):
        for answer in question.children("answers"):
            fields = {
                "paragraph": passage.text("text"),
                "question": question.text("question"),
                "answer": answer.text("text"),
            }
            yield answer, fields, (record.integer("idx"), question.integer("idx"), answer.integer("idx"))


Reader = Callable[[TaskSettings, str, Iterator[_Record]], Iterator[tuple[_Record, Example]]]
READERS: dict[str, Reader] = {"flat": _flat, "multirc": _multirc}
