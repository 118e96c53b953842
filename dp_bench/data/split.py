"""Hold out a part of the training set to select on, so that the split that is reported stays untouched.

Examples with one `source` share a text and stay on one side: MultiRC has some sixty answers to a passage, and
a held-out answer to a passage that was trained on says little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dp_bench.types import UserError

Rows = NDArray[np.int64]


def held_out(
    sources: Sequence[str], labels: Sequence[int], fraction: float, maximum: int, seed: int
) -> tuple[Rows, Rows]:
    """Return the rows to train on and the rows held out, both ascending.

    About min(fraction * n, maximum) rows are held out, at least 1; the last source taken may exceed that. The
    shares of the labels are kept as far as whole sources allow: of CB's 250 training rows only 16 are
    neutral. The draw depends on the seed and on the order of the rows.
    """
    if len(sources) != len(labels):
        raise ValueError(f"{len(sources)} sources for {len(labels)} labels")
    rows_of: dict[str, list[int]] = {}
    for row, source in enumerate(sources):
        rows_of.setdefault(source, []).append(row)
    if len(rows_of) < 2:
        raise UserError(
            f"Nothing can be held out to select on: all {len(sources)} training examples share one text. "
            "Raise data.limit, or set trainer.selection=validation."
        )
    target = max(1, min(round(fraction * len(sources)), maximum))
    taken: list[int] = []
    for source in _stratified(rows_of, labels, seed)[:-1]:  # one source at least stays to train on
        if len(taken) >= target:
            break
        taken += rows_of[source]
    held = np.array(sorted(taken), dtype=np.int64)
    return np.setdiff1d(np.arange(len(sources), dtype=np.int64), held), held


def _stratified(rows_of: dict[str, list[int]], labels: Sequence[int], seed: int) -> list[str]:
    """Return the sources in a random order of which every beginning has about the same mixture of labels.

    A source belongs to the stratum of its rarest label. Within a stratum of m sources in random order, number
    i comes at (i + 1/2) / m of the way; sorting all by that place interleaves the strata evenly.
    """
    frequency = Counter(labels)
    strata: dict[int, list[str]] = {}
    for source, rows in rows_of.items():
        rarest = min((labels[row] for row in rows), key=lambda label: (frequency[label], label))
        strata.setdefault(rarest, []).append(source)
    generator = np.random.default_rng(seed)
    places: list[tuple[float, str]] = []
    for label in sorted(strata):
        order = generator.permutation(len(strata[label]))
        places += [((i + 0.5) / len(order), strata[label][index]) for i, index in enumerate(order)]
    return [source for _, source in sorted(places, key=lambda place: place[0])]
