"""Paired tests of two rows of a table, over seeds or over examples, with Holm's correction.

A test over seeds generalises to other training runs (over few-shot draws: to other training rows), a test
over examples to other texts. With n seeds or draws, the smallest p of the exact test is 2 / 2^n: 0.0625 for
five.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean, median, stdev
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dp_bench.randomness import derive
from dp_bench.records import RunRecord
from dp_bench.report.frame import MEAN, Cell, Row, Table
from dp_bench.report.runs import SeedAndDraw

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
EXACT_UP_TO = 16  # differences: 65,536 sign vectors
RESAMPLES = 9_999

# Of a run and task: by example id, whether it is right (`correct`) and the text that it is about (`source`);
# None without predictions.
Results = Callable[[RunRecord, str], "pd.DataFrame | None"]


@dataclass(frozen=True)
class ExampleTests:
    """Tests of two rows on the same examples; an example's accuracy is its mean over seeds."""

    num_examples: int
    num_sources: int  # texts that the examples are about; these are resampled
    low: float  # 95 % interval of the difference in accuracy (points), paired bootstrap over sources
    high: float
    p_bootstrap: float
    p_mcnemar: float  # exact, by source; for several seeds an upper bound: twice the median of their p


@dataclass(frozen=True)
class Comparison:
    """Row `a` less row `b` on one task, paired over common seeds or, with several, few-shot draws."""

    a: str
    b: str
    task: str
    n: int  # number of pairs
    over: str  # "seeds" or "draws"
    difference: float  # mean, in score points
    low: float | None  # 95 % t interval over the pairs; None for one pair
    high: float | None
    p: float  # exact sign-flip test over the pairs
    examples: ExampleTests | None = None
    # p (or p_bootstrap, if tested over examples) corrected for all comparisons; None without predictions.
    p_holm: float | None = None

    @property
    def supported(self) -> bool:
        """Return whether the difference is significant after correction."""
        return self.p_holm is not None and self.p_holm < ALPHA


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p of a mean difference, under random signs of the differences.

    Exact up to 16 differences, then over 65,536 draws with a fixed seed that include the observed signs. Sums
    that differ by rounding only are ties and count as extreme; so do differences that are rounding only.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.size <= EXACT_UP_TO:
        flips = (np.arange(2**d.size)[:, None] >> np.arange(d.size)) & 1
    else:
        flips = np.random.default_rng(0).integers(0, 2, (2**EXACT_UP_TO, d.size))
        flips[0] = 0
    sums = np.abs((1 - 2 * flips) @ d)
    rounding = 1e-9 * max(1.0, float(np.abs(d).sum()))
    return float(np.mean(sums >= abs(d.sum()) - rounding))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values with Holm's adjustment, in the given order."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors))
    return [float(p) for p in adjusted[np.argsort(order)]]


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the 95 % t interval of a mean; (None, None) for fewer than two values."""
    if len(values) < 2:
        return None, None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 1 - ALPHA / 2)) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def over_examples(
    a: NDArray[np.bool_], b: NDArray[np.bool_], seed: int, sources: Sequence[str] | None = None
) -> ExampleTests:
    """Compare two rows by which examples they got right, both of shape [seeds, examples].

    Examples about one text are correlated, so texts (`sources`, one per example) are resampled with all their
    examples. Without `sources`, each example is its text.
    """
    num_examples = a.shape[1]
    names = np.arange(num_examples) if sources is None else np.asarray(sources)
    _, source_of = np.unique(names, return_inverse=True)
    sizes = np.bincount(source_of)
    # Integers, so that equal rows differ by exactly 0.
    gains = a.astype(np.int64) - b.astype(np.int64)
    by_source = np.zeros((len(gains), len(sizes)), dtype=np.int64)
    np.add.at(by_source.T, source_of, gains.T)
    total = by_source.sum(0)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, len(sizes), len(sizes)) for _ in range(RESAMPLES))
    ungrouped = len(sizes) == num_examples
    draws = np.array(
        [total[sample].sum() / (num_examples if ungrouped else sizes[sample].sum()) for sample in drawn]
    ) / len(a)
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    tail = min(np.mean(draws <= 0), np.mean(draws >= 0))
    p_bootstrap = min(1.0, float(2 * (tail * RESAMPLES + 1) / (RESAMPLES + 1)))
    exact = [_mcnemar(gain) for gain in by_source]
    # Rüger's rule (1978): valid whatever the dependence of the tests.
    p_mcnemar = exact[0] if len(exact) == 1 else min(1.0, 2 * median(exact))
    return ExampleTests(num_examples, len(sizes), 100 * float(low), 100 * float(high), p_bootstrap, p_mcnemar)


def _mcnemar(gains: NDArray[np.int64]) -> float:
    """Return the exact two-sided p of wins less losses under random signs per source: McNemar's exact test if
    each source has one example."""
    sizes = np.abs(gains[gains != 0])
    reach = int(sizes.sum())
    chances = np.zeros(2 * reach + 1)  # of each sum from -reach to reach
    chances[reach] = 1.0
    for size in sizes:
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    extreme = np.abs(np.arange(-reach, reach + 1)) >= abs(int(gains.sum()))
    return min(1.0, float(chances[extreme].sum()))


def compare(
    table: Table, pairs: Iterable[tuple[Row, Row]], results: Results | None = None
) -> list[Comparison]:
    """Compare pairs of rows on every task and on the mean, with Holm's correction over all comparisons.

    With `results`, the bootstrap p over examples is corrected, over the comparisons with predictions (never
    the mean over tasks).
    """
    comparisons = []
    for a, b in pairs:
        for task in table.columns:
            paired = _differences(table, task, a, b)
            if not paired.n:
                continue
            differences, over = paired.independent, "draws" if len(paired.draws) > 1 else "seeds"
            comparisons.append(
                Comparison(
                    *(a.label, b.label, task, len(differences), over, mean(differences)),
                    *(*interval(differences), sign_flip(differences)),
                    _on_examples(a, b, task, paired.values, results) if results and task != MEAN else None,
                )
            )
    p_values = [(c.examples.p_bootstrap if c.examples else None) if results else c.p for c in comparisons]
    corrected = iter(holm([p for p in p_values if p is not None]))
    return [
        c if p is None else replace(c, p_holm=next(corrected))
        for c, p in zip(comparisons, p_values, strict=True)
    ]


def supported_ranks(table: Table) -> dict[tuple[str, str], int]:
    """Return rank 1 or 2 by row label and task (or MEAN), for the two best rows that are significantly better
    than the next one."""
    pairs: list[tuple[int, str, Row, Row]] = []
    for task in table.columns:
        cells = [(cell.mean, row) for row in table.rows if (cell := row.cell(task, table.tasks))]
        order = [row for _, row in sorted(cells, key=lambda pair: (-pair[0], pair[1].label))]
        pairs += [(rank, task, *two) for rank, two in enumerate(pairwise(order[:3]), 1)]
    paired = [_differences(table, task, a, b) for _, task, a, b in pairs]
    p_values = holm([sign_flip(differences.independent) if differences.n else 1.0 for differences in paired])
    return {(a.label, task): rank for (rank, task, a, _), p in zip(pairs, p_values, strict=True) if p < ALPHA}


def _differences(table: Table, task: str, a: Row, b: Row) -> Cell:
    """Return a less b by common seed and draw, if any. A seedless row has one value for all seeds."""
    cell_a, cell_b = a.cell(task, table.tasks), b.cell(task, table.tasks)
    if cell_a is None or cell_b is None:
        return Cell({})
    differences = {}
    for key in sorted(cell_b.values if a.is_seedless and not b.is_seedless else cell_a.values):
        key_a, key_b = _key_of(a, cell_a, key), _key_of(b, cell_b, key)
        if key_a in cell_a.values and key_b in cell_b.values:
            differences[key] = cell_a.values[key_a] - cell_b.values[key_b]
    return Cell(differences)


def _key_of(row: Row, cell: Cell, key: SeedAndDraw) -> SeedAndDraw:
    """Return where a row has its value at a seed and draw: a seedless row at any seed of the draw, or at its
    only value."""
    on_draw = [other for other in cell.values if other[1] == key[1]] or list(cell.values)
    return on_draw[0] if row.is_seedless and len(on_draw) == 1 else key


def _on_examples(
    a: Row, b: Row, task: str, keys: Collection[SeedAndDraw], results: Results
) -> ExampleTests | None:
    """Test two rows over the examples of a task; None unless all runs have predictions of the same ones."""
    cells = [(row, row.cells[task]) for row in (a, b)]
    read = [results(cell.runs[_key_of(row, cell, key)], task) for row, cell in cells for key in keys]
    found = [frame for frame in read if frame is not None]
    if len(found) < len(read) or not all(frame.index.equals(found[0].index) for frame in found):
        return None
    right = np.array([frame["correct"] for frame in found], dtype=np.bool_)
    seed = derive(0, "bootstrap", a.label, b.label, task)
    return over_examples(right[: len(keys)], right[len(keys) :], seed, found[0]["source"].tolist())
