"""Rows that are there twice: reported ones that were trained on, and equal texts with other labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dp_bench.data.encode import EncodedSplit
from dp_bench.data.notes import BOTH_SIDES


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
    def of(cls, train: EncodedSplit, report: EncodedSplit) -> Overlap:
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


def _contradicting(split: EncodedSplit) -> int:
    """Return how many examples have the texts of one in the same split that has another label."""
    labelled = split.labels >= 0
    pairs = np.unique(np.stack([split.texts[labelled], split.labels[labelled]], axis=1), axis=0)
    texts, numbers = np.unique(pairs[:, 0], return_counts=True)
    return int(np.isin(split.texts[labelled], texts[numbers > 1]).sum())
