"""Rows that are there twice: reported ones that were trained on, and equal texts with other labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from dp_bench.data.notes import BOTH_SIDES
from dp_bench.types import Example


def text_key(example: Example) -> int:
    """Return a digest, of 64 bits, of the texts of an example, whatever their case and spaces."""
    texts = "\0".join(" ".join(text.casefold().split()) for text in example.fields.values())
    return int.from_bytes(sha256(texts.encode()).digest()[:8], "big", signed=True)


@dataclass(frozen=True)
class Rows:
    """What is compared of a split: a digest of each example's texts, and its label, -1 where it has none."""

    texts: NDArray[np.int64]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Rows:
        labels = [-1 if example.label is None else example.label for example in examples]
        keys = [text_key(example) for example in examples]
        return cls(np.array(keys, dtype=np.int64), np.array(labels, dtype=np.int64))


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
    def of(cls, train: Rows, report: Rows) -> Overlap:
        labels_of: dict[int, set[int]] = {}
        for text, label in zip(train.texts.tolist(), train.labels.tolist(), strict=True):
            labels_of.setdefault(text, set()).add(label)
        both = np.isin(report.texts, train.texts)
        pairs = zip(report.texts[both].tolist(), report.labels[both].tolist(), strict=True)
        other = sum(labels_of[text] != {label} for text, label in pairs if label >= 0)
        return cls(int(both.sum()), other, _contradicting(train), _contradicting(report))

    def notes(self, num_reported: int) -> Iterator[str]:
        """Say what a reader of the result should know."""
        if self.reported_in_train:
            other = f", {self.with_other_label} of them with another label" if self.with_other_label else ""
            share = f"{100 * self.reported_in_train / num_reported:.1f} %"
            yield (
                f"{BOTH_SIDES}: {self.reported_in_train} of {num_reported} reported examples ({share}) have "
                f"the texts of training examples{other}"
            )
        for name, number in (("training", self.train_contradicts), ("reported", self.reported_contradicts)):
            if number:
                yield f"{number} {name} examples have the texts of others with another label"


def _contradicting(split: Rows) -> int:
    """Return how many examples have the texts of one in the same split that has another label."""
    labelled = split.labels >= 0
    pairs = np.unique(np.stack([split.texts[labelled], split.labels[labelled]], axis=1), axis=0)
    texts, numbers = np.unique(pairs[:, 0], return_counts=True)
    return int(np.isin(split.texts[labelled], texts[numbers > 1]).sum())
