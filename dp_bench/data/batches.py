"""Which rows each update sees: a function of the seed and the step, so that a resumed run sees what it would
have seen.

Rows come in a fresh random order each epoch. With `bucket_batches` = k, each stretch of k batches is sorted
by length before it is cut, and the k batches are shuffled: texts of one batch have similar lengths and little
is spent on padding, while over k updates the same rows are seen as without bucketing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dp_bench.randomness import derive

Rows = NDArray[np.int64]


def training_rows(
    lengths: Rows, *, batch_size: int, bucket_batches: int, seed: int, start: int = 0
) -> Iterator[Rows]:
    """Yield the rows of update `start`, `start` + 1, … without end; the first epoch's remainder opens the
    second."""
    num_rows = len(lengths)

    @lru_cache(maxsize=2)
    def epoch(number: int) -> Rows:
        return np.random.default_rng(derive(seed, "order", number)).permutation(num_rows)

    step = start
    while True:
        stretch, place = divmod(step, bucket_batches)
        first = stretch * bucket_batches * batch_size
        at = np.arange(first, first + bucket_batches * batch_size)
        rows = np.concatenate(
            [epoch(int(e))[at[at // num_rows == e] % num_rows] for e in np.unique(at // num_rows)]
        )
        if bucket_batches > 1:
            rows = rows[np.argsort(lengths[rows], kind="stable")]
            shuffle = np.random.default_rng(derive(seed, "buckets", stretch)).permutation(bucket_batches)
        else:
            shuffle = np.arange(1)
        batches = rows.reshape(bucket_batches, batch_size)[shuffle]
        yield from batches[place:]
        step += bucket_batches - place


def evaluation_batches(lengths: Rows, batch_size: int) -> list[Rows]:
    """Cut all rows, longest first, into batches; the longest first so that memory runs out at once or
    never."""
    order = np.argsort(-lengths, kind="stable")
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
