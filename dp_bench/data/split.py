"""Hold out a part of the training set to select on, so that the reported split is not used for it.

Rows that share a text, directly or through others, stay on one side: MultiRC has some sixty answers to a
passage, WiC several pairs with the same sentence, and a held-out row with a sentence of a training row
measures little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dp_bench.data.grouping import components
from dp_bench.settings import TrainerSettings
from dp_bench.types import UserError

Rows = NDArray[np.int64]


def number_held_out(num_rows: int, trainer: TrainerSettings) -> int:
    """Return how many of the training rows are held out to select on: the trainer's share of them, within
    its least and its greatest number, and at least 1."""
    least = min(trainer.heldout_min or 1, num_rows // 2)
    return max(1, min(max(round(trainer.heldout_fraction * num_rows), least), trainer.heldout_max))


def held_out(sources: Sequence[str], labels: Sequence[int], target: int, seed: int) -> tuple[Rows, Rows]:
    """Return the rows to train on and the rows held out, both ascending.

    About `target` of the rows are held out; the last component may exceed that. The shares of the labels are
    kept as far as whole components allow: of CB's 250 training rows only 16 are neutral. The draw depends on
    the seed and on the order of the rows. Raises UserError if all rows are one component.
    """
    rows_of: dict[int, list[int]] = {}
    for row, component in enumerate(components(sources)):
        rows_of.setdefault(component, []).append(row)
    if len(rows_of) < 2:
        raise UserError(
            f"Nothing can be held out to select on: all {len(sources)} training examples share one text or "
            "are linked by shared texts. Raise data.limit, list in task.together only the fields that may "
            "not be on both sides, or set trainer.selection=validation."
        )
    taken: list[int] = []
    for component in _stratified(rows_of, labels, seed)[:-1]:  # at least one remains to train on
        if len(taken) >= target:
            break
        if len(rows_of[component]) <= len(sources) / 2:  # a component of most rows is trained on
            taken += rows_of[component]
    if not taken:  # two components, of which the larger came first
        taken = min(rows_of.values(), key=len)
    held = np.array(sorted(taken), dtype=np.int64)
    return np.setdiff1d(np.arange(len(sources), dtype=np.int64), held), held


def _stratified(rows_of: dict[int, list[int]], labels: Sequence[int], seed: int) -> list[int]:
    """Return the components in a random order, of which any first k have about the same shares of labels.

    A component belongs to the stratum of its rarest label. Component i of m in a stratum, in random order,
    has the rank (i + 1/2) / m; sorting all by rank interleaves the strata evenly.
    """
    frequency = Counter(labels)
    strata: dict[int, list[int]] = {}
    for component, rows in rows_of.items():
        rarest = min((labels[row] for row in rows), key=lambda label: (frequency[label], label))
        strata.setdefault(rarest, []).append(component)
    generator = np.random.default_rng(seed)
    ranked: list[tuple[float, int]] = []
    for label in sorted(strata):
        order = generator.permutation(len(strata[label]))
        ranked += [((i + 0.5) / len(order), strata[label][index]) for i, index in enumerate(order)]
    return [component for _, component in sorted(ranked, key=lambda pair: pair[0])]
