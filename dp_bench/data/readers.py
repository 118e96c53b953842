"""Raw records to Examples: one reader for each shape of record.

`flat` reads one example from each record (BoolQ, CB, COPA, RTE, WiC, AX-b); `rows` does so from each row of a
user's table, which needs no idx; `axg` groups them in pairs; `wsc` finds the two spans in the text; `multirc`
reads one example from each answer, `record` one from each query. `copa`, `wic` and `statements` (ReCoRD) add
what a causal language model reads (`task.formats`).
The nested records of the official release and the flattened rows of the hub give the same Examples with the
same ids. Readers raise UserError for a value that they cannot read, with its file, line and field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from dp_bench.data.normalise import normalised
from dp_bench.data.source import SplitFile, read_records
from dp_bench.data.template import Template
from dp_bench.settings import TaskSettings
from dp_bench.types import Example, UserError

T = TypeVar("T")

NO_SPACES = "\u0e00"  # from Thai on, most scripts write no spaces between words


@dataclass(frozen=True)
class ExampleFile:
    """The first `limit` examples of a file, or all (MultiRC: answers, ReCoRD: queries).

    Each iteration reads the file again, line by line. Ids start with "{task}/{split}/".
    """

    task: TaskSettings
    file: SplitFile
    limit: int | None = None

    def __iter__(self) -> Iterator[Example]:
        task, file = self.task, self.file
        if task.reader not in READERS:
            known = ", ".join(READERS)
            raise UserError(
                f"task={task.name}: reader={task.reader} in its YAML is unknown; use one of {known}."
            )
        records = (_Record(file.path, line, values, number) for line, number, values in read_records(file))
        lines_of_ids: dict[str, int] = {}
        for record, example in islice(READERS[task.reader](task, file.split, records), self.limit):
            if example.id in lines_of_ids:
                raise record.error(
                    f"the idx of {example.id} is already used in line {lines_of_ids[example.id]}"
                )
            lines_of_ids[example.id] = record.line
            yield replace(example, line=record.line)
        if not lines_of_ids:
            raise UserError(f"{file.path} has no records: expected one a line.")


def read_record(
    task: TaskSettings,
    split: str,
    path: Path,
    line: int,
    values: Mapping[str, Any],
    *,
    number: int,
    with_label: bool,
) -> list[Example]:
    """Return the examples of one record: of the release, of the hub, or with the fields of the template only.

    `number` takes the place of a missing idx. Without `with_label` a label is not looked at; with it, a
    record may lack one. Raises UserError as readers do.
    """
    name = task.label_field or "label"
    label = values.get(name) if with_label else None
    if isinstance(label, str) and (not label or label.lstrip("-").isdecimal()):  # of CSV
        label = int(label) if label else None
    record = _Record(path, line, {**values, name: label, **_index(task, values, number)}, number)
    try:
        read = [example for _, example in READERS[task.reader](task, split, iter([record]))]
    except UserError:
        names = dict.fromkeys((*Template.of(task).fields, *task.choices))
        is_plain = all(isinstance(values.get(name), str) for name in names)
        if not is_plain or not (task.choices or task.words):
            raise
        fields = {name: record.text(name) for name in names}
        full_name = f"{task.name}/{split}/{number}"
        index = record.with_label(name).label(task.labels)
        read = [Example(full_name, fields, _choices(task, fields), index, full_name, full_name)]
    return [replace(example, line=line) for example in read]


def _index(task: TaskSettings, values: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the idx that a record lacks; nothing if it has one."""
    raw = values.get("idx")
    if isinstance(raw, dict) or _is_integer(raw):
        return {}
    parts = PARTS.get(task.reader, ())
    if not parts or isinstance(values.get("passage"), dict):
        return {"idx": number}
    hidden: dict[str, Any] = {"answers": []} if "answers" not in values else {}
    return {"idx": {**dict.fromkeys(parts, 0), parts[0]: number}, **hidden}


def _is_integer(raw: Any) -> bool:
    if isinstance(raw, str):
        return raw.isdecimal() and len(raw) < 20
    return isinstance(raw, int) and not isinstance(raw, bool)


@dataclass(frozen=True)
class _Record:
    """A JSON object with its file and line, for messages on what is wrong with it."""

    path: Path
    line: int
    values: dict[str, Any]
    number: int  # of the record in the file, from 0
    inside: str = ""  # "passage.questions[0]." for an object inside the record
    label_field: str = "label"
    added: tuple[str, ...] = ()  # fields that the file does not have

    def text(self, name: str) -> str:
        """Return a string field; raise UserError if it is missing or something else, as all of these do."""
        return self._value(name, str, "a string")

    def integer(self, name: str) -> int:
        """Return an integer, which is a string in CSV, as AX-b's idx is."""
        raw = self.values.get(name)
        return int(raw) if isinstance(raw, str) and _is_integer(raw) else self._value(name, int, "an integer")

    def numbered(self, label_field: str) -> _Record:
        """Return the record as `flat` reads it: without an idx it gets the number of its row, from 0."""
        record = self.with_label(label_field)
        added = () if "idx" in record.values else ("idx",)
        return replace(record, values={"idx": self.number, **record.values}, added=(*record.added, *added))

    def with_label(self, label_field: str) -> _Record:
        """Return the record with the value of `label_field`, where it has one, as its label."""
        raw = self.values.get(label_field)
        label = int(raw) if isinstance(raw, float) and raw.is_integer() else raw
        added = () if "label" in self.values else ("label",)
        values = {**self.values, "label": label}
        return replace(self, values=values, label_field=label_field, added=(*self.added, *added))

    def with_fields(self, **fields: str) -> _Record:
        """Return the record with further fields that were derived from it."""
        return replace(self, values={**self.values, **fields})

    def texts(self, name: str) -> list[str]:
        items = self._items(name)
        return [items.text(item) for item in items.values]

    def child(self, name: str) -> _Record:
        inner = self._value(name, dict, "an object")
        return replace(self, values=inner, inside=f"{self.inside}{name}.")

    def children(self, name: str) -> list[_Record]:
        items = self._items(name)
        return [items.child(item) for item in items.values]

    def _items(self, name: str) -> _Record:
        """Return a list as a record with the fields `name[0]`, `name[1]`, …"""
        items = self._value(name, list, "a list")
        return replace(self, values={f"{name}[{index}]": item for index, item in enumerate(items)})

    def label(self, labels: Sequence[str]) -> int | None:
        """Return the index of the label, or None if it is hidden.

        The hub writes the index, the release the name. If labels are numbers themselves, such as 1 to 5
        stars, a number is read as a name.
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
            f"field {self.inside}{self.label_field} is {_shown(raw)}; allowed are "
            f"{', '.join(labels)}{indices}"
        )

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.path}, line {self.line}: {problem}.")

    def _value(self, name: str, kind: type[T], described: str) -> T:
        if name not in self.values:
            names = ", ".join(name for name in self.values if name not in self.added) or "none"
            raise self.error(f"field {self.inside}{name} is missing; the fields are {names}")
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
        if task.scoring.is_whole:
            _refuse_empty(record, {f"field {field}": fields[field] for field in task.choices})
        source = " ".join(_source(task, text) for text in kept_together(task, fields))
        label = record.label(task.labels)
        skill = record.integer("skill") if "skill" in record.values else None  # of a row of a mixture
        example = Example(name, fields, _choices(task, fields), label, group=name, source=source, skill=skill)
        yield record, example


def _rows(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    """Read the rows of any table: fields are columns, and the label is the column `task.label_field`."""
    return _flat(task, split, (record.numbered(task.label_field or "label") for record in records))


def _copa(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    """Read COPA as sentences to be continued: `opening connector ending`, as the LM Evaluation Harness."""
    return _flat(task, split, (record.with_fields(**_sentence(record)) for record in records))


def _sentence(record: _Record) -> dict[str, str]:
    question = record.text("question")
    if question not in CONNECTORS:
        raise record.error(f"field question is {_shown(question)}; allowed are {', '.join(CONNECTORS)}")
    choices = [record.text(f"choice{number}") for number in (1, 2)]
    return {
        "opening": record.text("premise").strip()[:-1],  # without its full stop
        "connector": CONNECTORS[question],
        # The harness writes two spaces before a choice.
        **{f"ending{n}": f" {text[:1].lower()}{text[1:]}" for n, text in enumerate(choices, start=1)},
    }


CONNECTORS = {"cause": "because", "effect": "therefore"}  # of COPA's questions


def _wic(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    """Read WiC with `form`, the word as it is written in sentence1."""

    def with_form(record: _Record) -> _Record:
        start, end = record.integer("start1"), record.integer("end1")
        return record.with_fields(form=record.text("sentence1")[start:end])

    return _flat(task, split, map(with_form, records))


def kept_together(task: TaskSettings, fields: Mapping[str, str]) -> list[str]:
    """Return the texts that must not occur on both sides of a split, without repetitions.

    These are the fields of `task.together`, without case and extra spaces; if it is null, as for rows that
    are generated from templates, the unchanged field `task.shorten` alone.
    """
    if task.together is None:
        return [fields[task.shorten]]
    return list(dict.fromkeys(" ".join(fields[name].casefold().split()) for name in task.together))


def _source(task: TaskSettings, text: str) -> str:
    """Return the digest by which rows with the same text are recognised."""
    return f"{task.name}/{sha256(text.encode()).hexdigest()[:12]}"


def _refuse_empty(record: _Record, choices: Mapping[str, str]) -> None:
    """Raise UserError for a choice without text; the keys are its names in messages."""
    for name, text in choices.items():
        if not text.strip():
            raise record.error(f"{name} is a choice and is empty: give it a text, or remove the row")


def _choices(task: TaskSettings, fields: Mapping[str, str]) -> tuple[str, ...]:
    if task.scoring.is_whole:
        return tuple(fields[name] for name in task.choices)
    return tuple(task.words)


def _axg(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    """Group the rows in pairs that differ only in the gender of a pronoun, for gender parity.

    Such rows follow each other; the release's `pair_id` identifies a row, not a pair.
    """
    hypotheses: dict[str, str] = {}
    for record, example in _flat(task, split, records):
        group = f"{task.name}/{split}/pair{record.integer('idx') // 2}"
        hypothesis = hypotheses.setdefault(group, example.fields["hypothesis"])
        if example.fields["hypothesis"] != hypothesis:
            idx, other = record.integer("idx"), _shown(example.fields["hypothesis"])
            raise record.error(
                f"idx {idx} and {idx ^ 1} must differ only in the gender of a pronoun, but their hypotheses "
                f"are {other} and {_shown(hypothesis)}"
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
    """Yield each answer: the object with its label, its fields, the idx of passage, question and answer."""
    if "passage" not in record.values:  # a flattened row of the hub is one answer
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
        name = f"{task.name}/{split}/{record.integer('idx')}"
        spans = record.child("target") if "target" in record.values else record
        text = record.text("text")
        (referent, _), (pronoun, start) = (
            _located(text, spans.text(f"span{number}_text"), spans.integer(f"span{number}_index"))
            for number in (1, 2)
        )
        marked = text
        if start is not None:
            marked = f"{text[:start]}*{pronoun}*{text[start + len(pronoun) :]}"
        fields = {"text": text, "marked": marked, "span1_text": referent, "span2_text": pronoun}
        if "joined" in task.fields:
            fields["joined"] = _JOINED.sub("", marked)
        label = record.label(task.labels)
        yield record, Example(name, fields, _choices(task, fields), label, name, _source(task, text))


# Spaces that tokenised text has around quotes and before punctuation; the LM Evaluation Harness removes them.
_JOINED = re.compile(r" (?=n't|['.,)\"])|(?<=[(\"]) ")


def _located(text: str, words: str, number: int) -> tuple[str, int | None]:
    """Find the occurrence of the words that is nearest to word `number` of the text.

    Return them as the text writes them, and where they start: None if the text lacks them.
    Spans of the release may differ from the text: in case, by a final stop, by a line break for a space, or
    by one word. The hub's wsc.fixed corrects some of them; this gives the same spans for both.
    """
    parts = words.rstrip(".").split()
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, parts)) + r"(?!\w)"
    matches = list(re.finditer(pattern, text, re.IGNORECASE)) if parts else []
    if not matches:
        return " ".join(parts), None
    nearest = min(matches, key=lambda match: abs(_word_number(text, match.start()) - number))
    return nearest.group(), nearest.start()


def _word_number(text: str, start: int) -> int:
    """Return the number of words that end before `start`; an opening quote is part of the word after it."""
    return len(f"{text[:start]}.".split()) - 1


def _record(task: TaskSettings, split: str, records: Iterator[_Record]) -> Iterator[tuple[_Record, Example]]:
    """Read one example from each query; its choices are the distinct entities of the passage.

    They are sorted by their first mention: the release lists mentions, the hub sorts alphabetically. Every
    entity that equals an answer by the official normalisation is right. If no answer is an entity, there is
    no gold and the label is None.
    """
    for record in records:
        for query in _queries(record):
            if not query.entities:
                raise record.error("there are no entities to choose from")
            _refuse_empty(record, {f"the entity {_shown(entity)}": entity for entity in query.entities})
            starts = {entity: query.passage.find(entity) for entity in set(query.entities)}
            choices = tuple(sorted(starts, key=lambda entity: (starts[entity], entity)))
            answers = {normalised(answer) for answer in query.answers}
            golds = tuple(index for index, entity in enumerate(choices) if normalised(entity) in answers)
            source = f"{task.name}/{split}/{query.passage_idx}"
            name = f"{source}/{query.query_idx}"
            fields = {"query": query.text, "passage": query.passage}
            label = golds[0] if golds else None
            yield (
                record,
                Example(
                    *(name, fields, choices, label, name, source, golds),
                    is_unmatched=bool(answers) and not golds,
                    cuts_words=query.cuts_words,
                ),
            )


def _statements(
    task: TaskSettings, split: str, records: Iterator[_Record]
) -> Iterator[tuple[_Record, Example]]:
    """Read ReCoRD as the LM Evaluation Harness writes it: an article and its highlights, which the query goes
    on with a choice in the place of @placeholder."""
    for record, example in _record(task, split, records):
        passage, query = (example.fields[name] for name in ("passage", "query"))
        first, *highlights = passage.strip().split("\n@highlight\n")
        article = "".join([f"{first}\n\n", *(f"  - {highlight}.\n" for highlight in highlights)])
        written = tuple(f"  - {query}".replace("@placeholder", choice) for choice in example.choices)
        yield record, replace(example, fields={**example.fields, "article": article}, written=written)


@dataclass(frozen=True)
class _Query:
    passage: str
    text: str
    entities: Sequence[str]
    answers: Sequence[str]  # empty if hidden
    passage_idx: int
    query_idx: int
    cuts_words: bool = False


def _queries(record: _Record) -> Iterator[_Query]:
    if not isinstance(record.values.get("passage"), dict):  # a flattened row of the hub is one query
        idx = record.child("idx")
        texts = record.text("passage"), record.text("query")
        lists = record.texts("entities"), record.texts("answers")
        yield _Query(*texts, *lists, idx.integer("passage"), idx.integer("query"))
        return
    passage = record.child("passage")
    text = passage.text("text")
    spans = [_span(text, entity) for entity in passage.children("entities")]
    entities = [text[start:end] for start, end in spans]
    cuts_words = any(_is_inside_word(text, edge) for span in spans for edge in span)
    for query in record.children("qas"):
        answers = [a.text("text") for a in query.children("answers")] if "answers" in query.values else []
        numbers = record.integer("idx"), query.integer("idx")
        yield _Query(text, query.text("query"), entities, answers, *numbers, cuts_words)


def _span(text: str, entity: _Record) -> tuple[int, int]:
    start, end = entity.integer("start"), entity.integer("end")  # `end` is the last character
    if not 0 <= start <= end < len(text):
        raise entity.error(
            f"field {entity.inside.rstrip('.')} is {start} to {end}, outside of the {len(text)} characters "
            "of the passage"
        )
    return start, end + 1


def _is_inside_word(text: str, edge: int) -> bool:
    """Return whether an edge cuts a word; False for scripts that write no spaces, where it is unknown."""
    pair = text[max(0, edge - 1) : edge + 1]
    return len(pair) == 2 and edge > 0 and pair.isalnum() and max(pair) < NO_SPACES


Reader = Callable[[TaskSettings, str, Iterator[_Record]], Iterator[tuple[_Record, Example]]]
# Of a flattened row's idx.
PARTS = {
    "multirc": ("paragraph", "question", "answer"),
    "record": ("passage", "query"),
    "statements": ("passage", "query"),
}
REVISIONS = {"record": 2}  # of a reader whose examples have changed: task.revision of the shipped tasks
READERS: dict[str, Reader] = {
    "flat": _flat,
    "rows": _rows,
    "axg": _axg,
    "copa": _copa,
    "wic": _wic,
    "wsc": _wsc,
    "multirc": _multirc,
    "record": _record,
    "statements": _statements,
}
