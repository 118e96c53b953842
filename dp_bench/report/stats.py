"""Do two rows of a table differ? Paired tests over seeds and over examples, corrected for their number.

Over seeds the question is whether another training run would come out the same way; over examples, whether
other texts would. With n seeds the exact test over seeds cannot go under 2 / 2^n: 0.0625 for five.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import mean, median, stdev

import numpy as np
from numpy.typing import NDArray

from dp_bench.randomness import derive
from dp_bench.records import RunRecord
from dp_bench.report.frame import MEAN, Cell, Row, Table, draw_of
from dp_bench.settings import Method

ALPHA = 0.05
EXACT_UP_TO = 16  # seeds: 65,536 ways to flip their signs
RESAMPLES = 9_999

# Right or wrong, by example id, of one run on one task; None where its predictions are not there.
Correct = Callable[[RunRecord, str], Mapping[str, bool] | None]


@dataclass(frozen=True)
class ExampleTests:
    """Two rows on the same examples: each example's accuracy is its mean over the seeds."""

    num_examples: int
    low: float  # 95 % interval of the difference in accuracy, paired bootstrap over examples
    high: float
    p_bootstrap: float
    p_mcnemar: float  # exact; over several seeds twice the median of theirs, which bounds it


@dataclass(frozen=True)
class Comparison:
    """Row `a` less row `b` on one task, over the seeds (and few-shot draws) that both have."""

    a: str
    b: str
    task: str
    n: int
    difference: float
    low: float | None  # 95 % t interval over seeds; None for one seed
    high: float | None
    p: float  # exact sign-flip test over seeds
    examples: ExampleTests | None = None
    p_holm: float = 1.0  # p, or that over examples where it is asked for, corrected for the whole family

    @property
    def supported(self) -> bool:
        return self.p_holm < ALPHA


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p of a mean difference under the hypothesis that each sign could be the other.

    Exact up to 16 differences, then of 65,536 draws with a fixed seed, the observed one among them.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.size <= EXACT_UP_TO:
        flips = (np.arange(2**d.size)[:, None] >> np.arange(d.size)) & 1
    else:
        flips = np.random.default_rng(0).integers(0, 2, (2**EXACT_UP_TO, d.size))
        flips[0] = 0
    sums = np.abs((1 - 2 * flips) @ d)
    return float(np.mean(sums >= abs(d.sum()) * (1 - 1e-12)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors))
    found = np.empty(len(p_values))
    found[order] = adjusted
    return [float(p) for p in found]


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the 95 % t interval of a mean, (None, None) for one value."""
    if len(values) < 2:
        return None, None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 1 - ALPHA / 2)) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def over_examples(a: NDArray[np.bool_], b: NDArray[np.bool_], seed: int) -> ExampleTests:
    """Compare what was right: [seeds, examples] of each row, paired."""
    from scipy.stats import binomtest

    per_example = a.mean(0) - b.mean(0)
    rng = np.random.default_rng(seed)
    size = per_example.size
    draws = np.array([per_example[rng.integers(0, size, size)].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    tail = min(np.mean(draws <= 0), np.mean(draws >= 0))
    p_bootstrap = min(1.0, float(2 * (tail * RESAMPLES + 1) / (RESAMPLES + 1)))
    exact = []
    for own, other in zip(a, b, strict=True):
        wins, losses = int((own & ~other).sum()), int((other & ~own).sum())
        exact.append(float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0)
    p_mcnemar = exact[0] if len(exact) == 1 else min(1.0, 2 * median(exact))  # Rueschendorf (1982)
    return ExampleTests(size, 100 * float(low), 100 * float(high), p_bootstrap, p_mcnemar)


def compare(
    table: Table,
    pairs: Iterable[tuple[Row, Row]],
    *,
    correct: Correct | None = None,
    by_examples: bool = False,
) -> list[Comparison]:
    """Compare pairs of rows on every task and on the mean, corrected over all of it (Holm).

    `correct` gives what was right; with `by_examples` the correction is of the bootstrap over examples, where
    there are predictions, in place of the test over seeds.
    """
    found = []
    for a, b in pairs:
        for task in table.columns:
            values = _paired(a.cell(task, table.tasks), b.cell(task, table.tasks), a, b)
            if not values:
                continue
            differences = [own - other for own, other in values.values()]
            low, high = interval(differences)
            p = sign_flip(differences)
            comparison = Comparison(a.label, b.label, task, len(values), mean(differences), low, high, p)
            if correct is not None and task != MEAN:
                comparison = replace(comparison, examples=_on_examples(a, b, task, values.keys(), correct))
            found.append(comparison)
    own = [c.examples.p_bootstrap if by_examples and c.examples else c.p for c in found]
    return [replace(c, p_holm=p) for c, p in zip(found, holm(own), strict=True)]


def all_pairs(table: Table) -> list[tuple[Row, Row]]:
    return list(combinations(table.rows, 2))


def against(table: Table, reference: Row) -> list[tuple[Row, Row]]:
    """Return every other row with the reference."""
    return [(row, reference) for row in table.rows if row is not reference]


def supported_ranks(table: Table) -> dict[tuple[str, str], int]:
    """Return 1 for the best and 2 for the second best row of a task, or of the mean, where the test tells it
    from the next one; keys are row label and task."""
    pairs, ranked = [], {}
    for task in table.columns:
        cells = [(cell.mean, row) for row in table.rows if (cell := row.cell(task, table.tasks))]
        order = [row for _, row in sorted(cells, key=lambda pair: (-pair[0], pair[1].label))]
        ranked[task] = order
        pairs += [(task, order[place], order[place + 1]) for place in range(min(2, len(order) - 1))]
    p_values = []
    for task, a, b in pairs:
        values = _paired(a.cell(task, table.tasks), b.cell(task, table.tasks), a, b)
        p_values.append(sign_flip([own - other for own, other in values.values()]) if values else 1.0)
    good = {(task, a.label) for (task, a, _), p in zip(pairs, holm(p_values), strict=True) if p < ALPHA}
    found = {}
    for task, order in ranked.items():
        for place, row in enumerate(order[:2]):
            if (task, row.label) in good:
                found[row.label, task] = place + 1
    return found


def _paired(
    a: Cell | None, b: Cell | None, row_a: Row, row_b: Row
) -> dict[tuple[int, int], tuple[float, float]]:
    """Return the values that belong together, by seed and draw. What draws nothing has one value for all."""
    if a is None or b is None:
        return {}
    keys_a, keys_b = a.values.keys(), b.values.keys()
    loose_a, loose_b = is_seedless(row_a), is_seedless(row_b)
    keys = keys_b if loose_a and not loose_b else keys_a if loose_b and not loose_a else keys_a & keys_b
    one_a, one_b = (next(iter(cell.values.values())) if cell.values else 0.0 for cell in (a, b))
    return {
        key: (one_a if loose_a else a.values[key], one_b if loose_b else b.values[key])
        for key in sorted(keys)
    }


def is_seedless(row: Row) -> bool:
    """Say whether a row's one score stands for every seed: nothing of it is drawn."""
    methods = {Method(record.config["prompt"]["method"]) for record in row.records}
    drawn = any(not method.is_seedless for method in methods)
    return not drawn and all(cell.n == 1 for cell in row.cells.values())


def _on_examples(
    a: Row, b: Row, task: str, keys: Iterable[tuple[int, int]], correct: Correct
) -> ExampleTests | None:
    rights: tuple[list[list[bool]], list[list[bool]]] = ([], [])
    ids: list[str] | None = None
    for key in keys:
        found = [_right(row, task, key, correct) for row in (a, b)]
        if found[0] is None or found[1] is None or found[0].keys() != found[1].keys():
            return None
        ids = ids or sorted(found[0])
        if found[0].keys() != set(ids):
            return None
        for own, right in zip(rights, found, strict=True):
            assert right is not None
            own.append([right[name] for name in ids])
    seed = derive(0, "bootstrap", a.label, b.label, task)
    return over_examples(np.array(rights[0], dtype=bool), np.array(rights[1], dtype=bool), seed)


def _right(row: Row, task: str, key: tuple[int, int], correct: Correct) -> Mapping[str, bool] | None:
    for record in row.records:
        if record.task == task and (draw_of(record) == key or is_seedless(row)):
            return correct(record, task)
    return None
