"""Rows that are there twice: reported ones that were trained on, and equal texts with other labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from dp_bench.data.notes import BOTH_SIDES, CONTRADICTING
from dp_bench.types import Example

Row = tuple[int, int]  # a digest of an example's texts, and its label, -1 where it has none


def text_key(example: Example) -> int:
    """Return a digest, of 64 bits, of the texts of an example, whatever their case and spaces."""
    texts = "\0".join(" ".join(text.casefold().split()) for text in example.fields.values())
    return int.from_bytes(sha256(texts.encode()).digest()[:8], "big", signed=True)


def row_of(example: Example) -> Row:
    return text_key(example), -1 if example.label is None else example.label


@dataclass(frozen=True)
class Overlap:
    """How many examples have the texts of others, whatever their case and spaces.

    `reported_in_train` of the reported ones have those of training examples, `with_other_label` of these
    another label; `train_contradicts` and `reported_contradicts` have those of examples of their own split
    that have another label.
    """

    reported_in_train: int
    with_other_label: int
    train_contradicts: int
    reported_contradicts: int

    @classmethod
    def of(cls, train: Iterable[Row], report: Iterable[Row]) -> Overlap:
        train, report = list(train), list(report)
        known = _labels(train)  # with -1, so that what has no label is found as well
        both = [(text, label) for text, label in report if text in known]
        other = sum(bool(known[text] - {label, -1}) for text, label in both if label >= 0)
        return cls(len(both), other, _contradicting(train), _contradicting(report))

    @classmethod
    def of_other_task(cls, train: Iterable[Row], report: Iterable[Row]) -> Overlap:
        """Compare with the training examples of tasks whose labels mean something else."""
        report = list(report)
        texts = cls.of(((text, -1) for text, _ in train), report)
        return cls(texts.reported_in_train, 0, 0, _contradicting(report))

    def notes(self, num_reported: int) -> Iterator[str]:
        """Say what a reader of the result should know."""
        if self.reported_in_train:
            other = f", {self.with_other_label} of them with another label" if self.with_other_label else ""
            share = f"{100 * self.reported_in_train / num_reported:.1f} %"
            yield (
                f"{BOTH_SIDES}: {self.reported_in_train} of {num_reported} reported examples ({share}) have "
                f"the texts of training examples{other}"
            )
        counts = (("training", self.train_contradicts), ("reported", self.reported_contradicts))
        found = " and ".join(f"{number} {name}" for name, number in counts if number)
        if found:
            yield f"{CONTRADICTING}: {found} examples have the texts of others with another label"


def _labels(rows: Iterable[Row]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for text, label in rows:
        found.setdefault(text, set()).add(label)
    return found


def _contradicting(rows: list[Row]) -> int:
    """Return how many examples have the texts of one in the same split that has another label."""
    labelled = [(text, label) for text, label in rows if label >= 0]
    labels = _labels(labelled)
    return sum(len(labels[text]) > 1 for text, _ in labelled)
