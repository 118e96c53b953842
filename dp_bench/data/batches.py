"""Which rows each update sees: a function of the seed and the step, so that a resumed run sees what it would
have seen.

Rows of a task come in a fresh random order each epoch. With `bucket_batches` = k, each stretch of k updates
is sorted by length before it is cut, and the k batches are shuffled: texts of one batch have similar lengths
and little is spent on padding, while over k updates the same rows are seen as without bucketing. With several
tasks, how many examples of an update are of which task is drawn from the mixing rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from dp_bench.randomness import derive
from dp_bench.settings import Mixing, RegimeSettings

Rows = NDArray[np.int64]
Rates = NDArray[np.float64]


def mixing_rates(sizes: Sequence[int], regime: RegimeSettings) -> Rates:
    """Return the share of each task in an update, from the numbers of their training rows.

    Raffel et al. (2020), section 3.5.2: proportional to min(rows, cap), to its root at a temperature, or
    equal.
    """
    capped = np.minimum(sizes, regime.mixing_cap or np.inf).astype(np.float64)
    if regime.mixing is Mixing.equal:
        capped = np.ones_like(capped)
    if regime.mixing is Mixing.temperature:
        assert regime.mixing_temperature is not None
        capped = capped ** (1 / regime.mixing_temperature)
    rates: Rates = capped / capped.sum()
    return rates


def training_rows(
    lengths: Sequence[Rows], rates: Rates, *, batch_size: int, bucket_batches: int, seed: int, start: int = 0
) -> Iterator[tuple[Rows, ...]]:
    """Yield the rows of each task, given by their `lengths`, in update `start`, `start` + 1, … without end.

    A task's rows follow one another through its epochs: the remainder of the first opens the second.
    """
    seen = np.zeros(len(lengths), dtype=np.int64)
    for stretch in count():
        counts = _counts(rates, batch_size, bucket_batches, derive(seed, "mixture", stretch))
        if (stretch + 1) * bucket_batches > start:
            chunk_of_update = np.arange(1)
            if bucket_batches > 1:
                shuffle = np.random.default_rng(derive(seed, "buckets", stretch))
                chunk_of_update = shuffle.permutation(bucket_batches)
            parts = [
                _cut(
                    _stream(seed, task, len(lengths), len(own), seen[task], counts[:, task].sum()),
                    own,
                    counts[:, task],
                    chunk_of_update,
                )
                for task, own in enumerate(lengths)
            ]
            yield from list(zip(*parts, strict=True))[max(0, start - stretch * bucket_batches) :]
        seen += counts.sum(0)


def micro_batches(places: Sequence[Rows], size: int) -> list[tuple[int, int, Rows]]:
    """Cut the rows of each task that an update sees into parts of at most `size`: the task, how many rows of
    the update come before, and the part."""
    before = np.cumsum([0, *map(len, places)]).tolist()
    return [
        (task, before[task] + first, rows[first : first + size])
        for task, rows in enumerate(places)
        for first in range(0, len(rows), size)
    ]


def _counts(rates: Rates, batch_size: int, bucket_batches: int, seed: int) -> Rows:
    """Draw the examples of each task in each update of a stretch: [updates, tasks]."""
    if len(rates) == 1:
        return np.full((bucket_batches, 1), batch_size)
    return np.random.default_rng(seed).multinomial(batch_size, rates, size=bucket_batches)


def _stream(seed: int, task: int, num_tasks: int, num_rows: int, first: int, number: int) -> Rows:
    """Return `number` rows of a task's epochs, one after another, from place `first` on."""
    at = np.arange(first, first + number)
    names = ("order",) if num_tasks == 1 else ("order", task)
    epochs = [
        _epoch(derive(seed, *names, int(e)), num_rows)[at[at // num_rows == e] % num_rows]
        for e in np.unique(at // num_rows)
    ]
    return np.concatenate(epochs) if epochs else at


@lru_cache(maxsize=32)
def _epoch(seed: int, num_rows: int) -> Rows:
    return np.random.default_rng(seed).permutation(num_rows)


def _cut(rows: Rows, lengths: Rows, counts: Rows, chunk_of_update: Rows) -> list[Rows]:
    """Sort the rows of a stretch by length and give chunk `chunk_of_update[i]` of them to update i."""
    if len(counts) > 1:
        rows = rows[np.argsort(lengths[rows], kind="stable")]
    ends = np.cumsum(counts[np.argsort(chunk_of_update)])
    chunks = np.split(rows, ends[:-1])
    return [chunks[chunk] for chunk in chunk_of_update]


def evaluation_batches(lengths: Rows, batch_size: int) -> list[Rows]:
    """Cut all rows, longest first, into batches; the longest first so that memory runs out at once or
    never."""
    order = np.argsort(-lengths, kind="stable")
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
