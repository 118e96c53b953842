"""Raw records to Examples: one reader for each shape of record.

`flat` reads one example from each record (BoolQ, CB, COPA, RTE, WiC, AX-b); `rows` does from each row of a
user's table, which needs no idx; `axg` groups them in pairs; `wsc` finds the two spans in the text; `multirc`
reads one example from each answer, `record` one from each query.
The nested records of the official release and the hub's flattened rows give the same Examples under the same
ids. A value that cannot be read is the user's to mend, so every message names the file, the line and the
field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from dp_bench.data.normalise import normalised
from dp_bench.data.source import SplitFile, read_records
from dp_bench.settings import Scoring, TaskSettings
from dp_bench.types import Example, UserError

NO_SPACES = "\u0e00"  # from Thai on, most scripts put no spaces between words


@dataclass(frozen=True)
class ExampleFile:
    """The first `limit` examples of a file, or all: read anew each time one goes through them, and never all
    in memory.

    Ids start with "{task}/{split}/"; `file.split` is what the file itself is called.
    """

    task: TaskSettings
    file: SplitFile
    split: str
    limit: int | None = None

    def __iter__(self) -> Iterator[Example]:
        task, file = self.task, self.file
        if task.reader not in READERS:
            known = ", ".join(READERS)
            raise UserError(
                f"configs/task/{task.name}.yaml: reader={task.reader} is unknown; use one of {known}."
            )
        records = (_Record(file.path, line, values) for line, values in read_records(file))
        lines_of_ids: dict[str, int] = {}
        for record, example in islice(READERS[task.reader](task, self.split, records), self.limit):
            if example.id in lines_of_ids:
                raise record.error(
                    f"idx of {example.id} was already taken by line {lines_of_ids[example.id]}"
                )
            lines_of_ids[example.id] = record.line
            yield replace(example, line=record.line)
        if not lines_of_ids:
            raise UserError(f"{file.path} holds no records: expected one a line.")


def read_examples(task: TaskSettings, split_file: SplitFile, split: str, limit: int | None) -> list[Example]:
    """Read the first `limit` examples of a file, or all. For MultiRC an example is an answer, for ReCoRD a
    query."""
    return list(ExampleFile(task, split_file, split, limit))


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

    def index(self) -> int:
        """Return `idx`, which AX-b writes in quotes."""
        raw = self.values.get("idx")
        return int(raw) if isinstance(raw, str) and raw.isdecimal() else self.integer("idx")

    def numbered(self, label_field: str) -> _Record:
        """Return the record as `flat` reads it: its place in the file is its idx, unless it has one."""
        raw = self.values.get(label_field)
        label = int(raw) if isinstance(raw, float) and raw.is_integer() else raw
        return replace(self, values={"idx": self.line - 1, **self.values, "label": label})

    def skill(self) -> int | None:
        """Return which sub-skill the record takes, where the data is a mixture that says so."""
        return self.integer("skill") if "skill" in self.values else None

    def texts(self, name: str) -> list[str]:
        values: list[str] = self._value(name, list, "a list of strings")
        if not all(isinstance(value, str) for value in values):
            raise self.error(f"field {self.inside}{name} should be a list of strings and is {_shown(values)}")
        return values

    def child(self, name: str) -> _Record:
        return _Record(self.path, self.line, self._value(name, dict, "an object"), f"{self.inside}{name}.")

    def children(self, name: str) -> Iterator[_Record]:
        for place, item in enumerate(self._value(name, list, "a list of objects")):
            inside = f"{self.inside}{name}[{place}]"
            if not isinstance(item, dict):
                raise self.error(f"field {inside} should be an object and is {_shown(item)}")
            yield _Record(self.path, self.line, item, f"{inside}.")

    def label(self, labels: Sequence[str]) -> int | None:
        """Return the index of the label; the hub writes just that, the release a name. None where hidden.

        Of labels that are numbers themselves, such as 1 to 5 stars, a number is the name and no index.
        """
        raw = self.values.get("label")
        lowered = [label.lower() for label in labels]
        if isinstance(raw, str | int) and str(raw).lower() in lowered:
            return lowered.index(str(raw).lower())
        if raw is None or (raw == -1 and isinstance(raw, int)):
            return None
        has_numbers = any(label.lstrip("+-").isdecimal() for label in labels)
        if isinstance(raw, int) and not isinstance(raw, bool) and not has_numbers and 0 <= raw < len(labels):
            return raw
        indices = "" if has_numbers else f", or their indices 0 to {len(labels) - 1}"
        raise self.error(
            f"field {self.inside}label is {_shown(raw)}; allowed are {', '.join(labels)}{indices}"
        )

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
        name = f"{task.name}/{split}/{record.index()}"
        fields = {field: record.text(field) for field in task.fields}
        if task.scoring is Scoring.choices:
            _refuse_empty(record, {f"field {field}": fields[field] for field in task.choices})
        source = " ".join(_source(task, text) for text in kept_together(task, fields))
        label, skill = record.label(task.labels), record.skill()
        example = Example(name, fields, _choices(task, fields), label, group=name, source=source, skill=skill)
        yield record, example


def _rows(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    """Read the rows of any table: a field is a column, and so is the label, by `task.label_field`."""
    return _flat(task, split, (record.numbered(task.label_field or "label") for record in records))


def kept_together(task: TaskSettings, fields: Mapping[str, str]) -> list[str]:
    """Return the texts of which no two sides of a split may have the same one, each once.

    Those are the fields of `task.together`, whatever their case and spaces; without it, as in rows that are
    generated from templates, the field that gives way alone, as it is.
    """
    if task.together is None:
        return [fields[task.shorten]]
    return list(dict.fromkeys(" ".join(fields[name].casefold().split()) for name in task.together))


def _source(task: TaskSettings, text: str) -> str:
    """Name a text by its digest, which keeps the rows that share it together."""
    return f"{task.name}/{sha256(text.encode()).hexdigest()[:12]}"


def _refuse_empty(record: _Record, choices: Mapping[str, str]) -> None:
    """Refuse a choice without text, which has nothing to score; `choices` are by their names in messages."""
    for name, text in choices.items():
        if not text.strip():
            raise record.error(f"{name} is a choice and is empty: give it a text, or take the row out")


def _choices(task: TaskSettings, fields: Mapping[str, str]) -> tuple[str, ...]:
    if task.scoring is Scoring.choices:
        return tuple(fields[name] for name in task.choices)
    return tuple(task.words)


def _axg(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    """Group each two rows that differ in a pronoun's gender alone: they follow each other, and gender parity
    asks whether they are predicted alike. The release's `pair_id` is no name for the pair, but for a row."""
    hypotheses: dict[str, str] = {}
    for record, example in _flat(task, split, records):
        group = f"{task.name}/{split}/pair{record.index() // 2}"
        hypothesis = hypotheses.setdefault(group, example.fields["hypothesis"])
        if example.fields["hypothesis"] != hypothesis:
            raise record.error(
                f"idx {record.index()} and {record.index() ^ 1} are the two genders of one sentence, but "
                f"their hypotheses differ: {_shown(example.fields['hypothesis'])} and {_shown(hypothesis)}"
            )
        yield record, replace(example, group=group)


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


def _wsc(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    for record in records:
        name = f"{task.name}/{split}/{record.index()}"
        spans = record.child("target") if "target" in record.values else record
        text = record.text("text")
        referent, pronoun = (
            _located(text, spans.text(f"span{number}_text"), spans.integer(f"span{number}_index"))
            for number in (1, 2)
        )
        marked = text
        if pronoun.start is not None:
            end = pronoun.start + len(pronoun.text)
            marked = f"{text[: pronoun.start]}*{pronoun.text}*{text[end:]}"
        fields = {"text": text, "marked": marked, "span1_text": referent.text, "span2_text": pronoun.text}
        label = record.label(task.labels)
        yield record, Example(name, fields, _choices(task, fields), label, name, _source(task, text))


@dataclass(frozen=True)
class _Span:
    text: str
    start: int | None  # None where the text has no such words


def _located(text: str, words: str, number: int) -> _Span:
    """Find the words that stand nearest to word `number` of the text, as the text writes them.

    The release's spans are not always what the text says: some differ in case, end in a stop, hold a line
    break for a space, or are one word off. The hub's wsc.fixed mends part of that; so found, both are the
    same.
    """
    wanted = words.rstrip(".").split()
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, wanted)) + r"(?!\w)"
    found = list(re.finditer(pattern, text, re.IGNORECASE)) if wanted else []
    if not found:
        return _Span(" ".join(wanted), None)
    nearest = min(found, key=lambda match: abs(_word_number(text, match.start()) - number))
    return _Span(nearest.group(), nearest.start())


def _word_number(text: str, start: int) -> int:
    """Return how many words end before `start`; an opening quote belongs to the word that it opens."""
    return len(f"{text[:start]}.".split()) - 1


def _record(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    """Make a query one example, whose choices are the entities of the passage, each once.

    They stand in the order of their first mention: the release lists mentions, the hub sorts by letters.
    Every entity that the official script takes for one of the answers is right. A query none of whose answers
    is an entity has no gold, and its label is hidden.
    """
    for record in records:
        nested = isinstance(record.values.get("passage"), dict)
        for asked in _queries(record) if nested else _hub_query(record):
            if not asked.entities:
                raise record.error("there are no entities to choose from")
            _refuse_empty(record, {f"the entity {_shown(entity)}": entity for entity in asked.entities})
            places = {entity: asked.passage.find(entity) for entity in set(asked.entities)}
            choices = tuple(sorted(places, key=lambda entity: (places[entity], entity)))
            answers = {normalised(answer) for answer in asked.answers}
            golds = tuple(place for place, entity in enumerate(choices) if normalised(entity) in answers)
            source = f"{task.name}/{split}/{asked.passage_idx}"
            name = f"{source}/{asked.query_idx}"
            fields = {"query": asked.query, "passage": asked.passage}
            label = golds[0] if golds else None
            yield (
                record,
                Example(
                    *(name, fields, choices, label, name, source, golds),
                    is_unmatched=bool(answers) and not golds,
                    cuts_words=asked.cuts_words,
                ),
            )


@dataclass(frozen=True)
class _Query:
    passage: str
    query: str
    entities: Sequence[str]
    answers: Sequence[str]  # empty where hidden
    passage_idx: int
    query_idx: int
    cuts_words: bool = False


def _queries(record: _Record) -> Iterator[_Query]:
    passage = record.child("passage")
    text = passage.text("text")
    spans = [_span(text, entity) for entity in passage.children("entities")]
    entities = [text[start:end] for start, end in spans]
    cuts_words = any(_is_inside_word(text, edge) for span in spans for edge in span)
    for asked in record.children("qas"):
        answers = [a.text("text") for a in asked.children("answers")] if "answers" in asked.values else []
        numbers = record.integer("idx"), asked.integer("idx")
        yield _Query(text, asked.text("query"), entities, answers, *numbers, cuts_words)


def _hub_query(record: _Record) -> Iterator[_Query]:
    idx = record.child("idx")
    yield _Query(
        record.text("passage"),
        record.text("query"),
        record.texts("entities"),
        record.texts("answers"),
        idx.integer("passage"),
        idx.integer("query"),
    )


def _span(text: str, entity: _Record) -> tuple[int, int]:
    start, end = entity.integer("start"), entity.integer("end")  # `end` is the last character
    if not 0 <= start <= end < len(text):
        raise entity.error(
            f"field {entity.inside.rstrip('.')} is {start} to {end}, outside of the {len(text)} characters "
            "of the passage"
        )
    return start, end + 1


def _is_inside_word(text: str, edge: int) -> bool:
    """Tell whether a word goes on over an edge. Of scripts that write no spaces one cannot know."""
    pair = text[max(0, edge - 1) : edge + 1]
    return len(pair) == 2 and edge > 0 and pair.isalnum() and max(pair) < NO_SPACES


Reader = Callable[[TaskSettings, str, Iterator[_Record]], Iterator[tuple[_Record, Example]]]
REVISIONS = {"record": 2}  # of what a reader makes of the same record; task.revision of the shipped tasks
READERS: dict[str, Reader] = {
    "flat": _flat,
    "rows": _rows,
    "axg": _axg,
    "wsc": _wsc,
    "multirc": _multirc,
    "record": _record,
}
