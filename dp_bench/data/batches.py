"""Which rows each update sees: a function of seed and step, so that a resumed run sees the same rows.

The rows of a task come in a new random order each epoch. With `bucket_batches` = k, the rows of each k
updates are sorted by length before they are cut into batches, and the k batches are shuffled: a batch has
texts of similar length and little padding, while k updates see the same rows as without bucketing. With
several tasks, the number of examples of each task in an update is drawn from the mixing rates; or tasks take
turns of k updates, and the mixing rates are their chances of a turn.
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
    """Return the share of each task in an update, from its number of training rows.

    Raffel et al. (2020), section 3.5.2: proportional to n = min(rows, cap), to n^(1/temperature), or equal.
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
    lengths: Sequence[Rows],
    rates: Rates,
    *,
    batch_size: int,
    bucket_batches: int,
    seed: int,
    start: int = 0,
    turn: int | None = None,
) -> Iterator[tuple[Rows, ...]]:
    """Yield the rows of each task for update `start`, `start` + 1, … without end.

    `lengths` holds, for each task, the length of each row. Batches cross the end of an epoch: the rows that
    remain of one come first in the next. With a `turn`, so many updates in sequence are of one task.
    """
    seen = np.zeros(len(lengths), dtype=np.int64)
    for stretch in count():
        if turn is None:
            drawn = np.random.default_rng(derive(seed, "mixture", stretch))
            counts = drawn.multinomial(batch_size, rates, size=bucket_batches)  # [updates, tasks]
        else:
            turns = (stretch * bucket_batches + np.arange(bucket_batches)) // turn
            counts = batch_size * np.stack([_whose(int(number), rates, seed) for number in turns])
        if (stretch + 1) * bucket_batches > start:
            shuffle = np.random.default_rng(derive(seed, "buckets", stretch))
            chunk_of_update = shuffle.permutation(bucket_batches)
            parts = [
                _cut(
                    _stream(seed, task, len(lengths), len(task_lengths), seen[task], counts[:, task].sum()),
                    task_lengths,
                    counts[:, task],
                    chunk_of_update,
                )
                for task, task_lengths in enumerate(lengths)
            ]
            yield from list(zip(*parts, strict=True))[max(0, start - stretch * bucket_batches) :]
        seen += counts.sum(0)


def _whose(turn: int, rates: Rates, seed: int) -> Rows:
    """Return 1 for the task that has this turn, and 0 for others."""
    return np.random.default_rng(derive(seed, "turn", turn)).multinomial(1, rates)


def micro_batches(update: Sequence[Rows], size: int) -> list[tuple[int, int, Rows]]:
    """Cut the rows of an update, one array a task, into micro-batches of at most `size` rows.

    Each is returned with its task and the number of rows of the update that come before it.
    """
    before = np.cumsum([0, *map(len, update)]).tolist()
    return [
        (task, before[task] + first, rows[first : first + size])
        for task, rows in enumerate(update)
        for first in range(0, len(rows), size)
    ]


def _stream(seed: int, task: int, num_tasks: int, num_rows: int, first: int, number: int) -> Rows:
    """Return `number` rows of a task's epochs in sequence, beginning with row `first` of the sequence."""
    steps = np.arange(first, first + number)
    names = ("order",) if num_tasks == 1 else ("order", task)
    epochs = [
        _epoch(derive(seed, *names, int(e)), num_rows)[steps[steps // num_rows == e] % num_rows]
        for e in np.unique(steps // num_rows)
    ]
    return np.concatenate(epochs) if epochs else steps


@lru_cache(maxsize=32)
def _epoch(seed: int, num_rows: int) -> Rows:
    return np.random.default_rng(seed).permutation(num_rows)


def _cut(rows: Rows, lengths: Rows, counts: Rows, chunk_of_update: Rows) -> list[Rows]:
    """Sort the rows of a stretch of updates by length; update i gets chunk `chunk_of_update[i]` of them."""
    if len(counts) > 1:
        rows = rows[np.argsort(lengths[rows], kind="stable")]
    ends = np.cumsum(counts[np.argsort(chunk_of_update)])
    chunks = np.split(rows, ends[:-1])
    return [chunks[chunk] for chunk in chunk_of_update]


def evaluation_batches(lengths: Rows, batch_size: int) -> list[Rows]:
    """Cut all rows into batches, the longest first: memory runs out at once or never."""
    order = np.argsort(-lengths, kind="stable")
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
