"""Duplicate rows: reported rows that are also trained on, and equal texts with different labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from dp_bench.data.notes import BOTH_SIDES, CONTRADICTING
from dp_bench.types import Example

Row = tuple[int, int]  # a digest of an example's texts, and its label or -1


def text_key(example: Example) -> int:
    """Return a digest of 64 bits of the texts of an example, ignoring case and spacing."""
    texts = "\0".join(" ".join(text.casefold().split()) for text in example.fields.values())
    return int.from_bytes(sha256(texts.encode()).digest()[:8], "big", signed=True)


def row_of(example: Example) -> Row:
    """Return the digest and the label by which examples are compared."""
    return text_key(example), -1 if example.label is None else example.label


@dataclass(frozen=True)
class Overlap:
    """Numbers of examples that have the same texts as others, ignoring case and spacing.

    `reported_in_train` counts reported examples with the texts of a training example, `with_other_label`
    those of them whose label differs. `train_contradicts` and `reported_contradicts` count examples with the
    texts of an example of the same split whose label differs.
    """

    reported_in_train: int
    with_other_label: int
    train_contradicts: int
    reported_contradicts: int

    @classmethod
    def of(cls, train: Iterable[Row], report: Iterable[Row]) -> Overlap:
        """Compare the training with the reported examples; a label of -1 is equal to any."""
        train, report = list(train), list(report)
        known = _labels(train)  # -1 included: examples without a label are duplicates too
        both = [(text, label) for text, label in report if text in known]
        differing = sum(bool(known[text] - {label, -1}) for text, label in both if label >= 0)
        return cls(len(both), differing, _contradicting(train), _contradicting(report))

    def notes(self, num_reported: int) -> Iterator[str]:
        """Yield the notes of a record on these examples."""
        if self.reported_in_train:
            labels = f", {self.with_other_label} of them with another label" if self.with_other_label else ""
            share = f"{100 * self.reported_in_train / num_reported:.1f} %"
            yield (
                f"{BOTH_SIDES}: {self.reported_in_train} of {num_reported} reported examples ({share}) have "
                f"the texts of training examples{labels}"
            )
        counts = (("training", self.train_contradicts), ("reported", self.reported_contradicts))
        contradicting = " and ".join(f"{number} {name}" for name, number in counts if number)
        if contradicting:
            yield f"{CONTRADICTING}: {contradicting} examples have the texts of others with another label"


def _labels(rows: Iterable[Row]) -> dict[int, set[int]]:
    labels_of: dict[int, set[int]] = {}
    for text, label in rows:
        labels_of.setdefault(text, set()).add(label)
    return labels_of


def _contradicting(rows: list[Row]) -> int:
    """Return how many rows have the texts of another row with a different label."""
    labels = _labels(rows)
    return sum(bool(labels[text] - {label, -1}) for text, label in rows if label >= 0)
