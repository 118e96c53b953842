"""Do two rows of a table differ? Paired tests over seeds and over examples, corrected for their number.

Over seeds the question is whether another training run would come out the same way, or over few-shot draws,
whether runs on other rows would; over examples, whether other texts would. With n seeds, or draws, the exact
test cannot go under 2 / 2^n: 0.0625 for five.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import mean, median, stdev

import numpy as np
from numpy.typing import NDArray

from dp_bench.effective import method_of
from dp_bench.randomness import derive
from dp_bench.records import RunRecord
from dp_bench.report.frame import MEAN, Cell, Row, Table, independent
from dp_bench.report.runs import Place, draw_of

ALPHA = 0.05
EXACT_UP_TO = 16  # seeds: 65,536 ways to flip their signs
RESAMPLES = 9_999

# Right or wrong, by example id, of one run on one task; None where its predictions are not there.
Correct = Callable[[RunRecord, str], Mapping[str, bool] | None]
# By example id, what all examples about one text have in common; None where it is not known.
SourceOf = Callable[[RunRecord, str], Mapping[str, str] | None]


@dataclass(frozen=True)
class ExampleTests:
    """Two rows on the same examples: each example's accuracy is its mean over the seeds."""

    num_examples: int
    num_sources: int  # texts that the examples are about: what is resampled
    low: float  # 95 % interval of the difference in accuracy, paired bootstrap over sources
    high: float
    p_bootstrap: float
    p_mcnemar: float  # exact, by source; over several seeds twice the median of theirs, which bounds it


@dataclass(frozen=True)
class Comparison:
    """Row `a` less row `b` on one task, over the seeds that both have, or over several few-shot draws."""

    a: str
    b: str
    task: str
    n: int  # pairs: seeds, or draws
    over: str  # which of the two
    difference: float
    low: float | None  # 95 % t interval over the pairs; None for one
    high: float | None
    p: float  # exact sign-flip test over the pairs
    examples: ExampleTests | None = None
    # p, or that over examples where it is asked for, corrected for the whole family; None where it was not
    # tested over examples.
    p_holm: float | None = None

    @property
    def supported(self) -> bool:
        return self.p_holm is not None and self.p_holm < ALPHA


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p of a mean difference under the hypothesis that each sign could be the other.

    Exact up to 16 differences, then of 65,536 draws with a fixed seed, the observed one among them. Sums that
    are equal but for rounding are ties, and count as no less extreme; so do differences of score points that
    are nothing but rounding.
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


def over_examples(
    a: NDArray[np.bool_], b: NDArray[np.bool_], seed: int, sources: Sequence[str] | None = None
) -> ExampleTests:
    """Compare what was right: [seeds, examples] of each row, paired.

    Answers about one text (`sources`, one an example) are right or wrong together, so that texts are
    resampled, with all their examples; without sources each example is a text.
    """
    num_examples = a.shape[1]
    names = np.arange(num_examples) if sources is None else np.asarray(sources)
    _, source_of = np.unique(names, return_inverse=True)
    sizes = np.bincount(source_of)
    # In whole numbers, so that a difference of nothing is exactly that.
    gains = a.astype(np.int64) - b.astype(np.int64)
    by_source = np.array([np.bincount(source_of, own, len(sizes)).round().astype(np.int64) for own in gains])
    total = by_source.sum(0)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, len(sizes), len(sizes)) for _ in range(RESAMPLES))
    alone = len(sizes) == num_examples
    draws = np.array(
        [total[own].sum() / (num_examples if alone else sizes[own].sum()) for own in drawn]
    ) / len(a)
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    tail = min(np.mean(draws <= 0), np.mean(draws >= 0))
    p_bootstrap = min(1.0, float(2 * (tail * RESAMPLES + 1) / (RESAMPLES + 1)))
    exact = [_mcnemar(own) for own in by_source]
    # Rüger's rule (1978): valid whatever the dependence of the tests.
    p_mcnemar = exact[0] if len(exact) == 1 else min(1.0, 2 * median(exact))
    return ExampleTests(num_examples, len(sizes), 100 * float(low), 100 * float(high), p_bootstrap, p_mcnemar)


def _mcnemar(gains: NDArray[np.int64]) -> float:
    """Return the exact two-sided p of wins less losses, where each source with all its examples could as well
    have gone to the other row. Where each source has one example this is McNemar's exact test."""
    sizes = np.abs(gains[gains != 0])
    if not sizes.size:
        return 1.0
    if (sizes == 1).all():
        from scipy.stats import binomtest

        return float(binomtest(int((gains > 0).sum()), sizes.size).pvalue)
    reach = int(sizes.sum())
    chances = np.zeros(2 * reach + 1)  # of each sum from -reach to reach
    chances[reach] = 1.0
    for size in sizes:
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    extreme = np.abs(np.arange(-reach, reach + 1)) >= abs(int(gains.sum()))
    return min(1.0, float(chances[extreme].sum()))


def source_in(name: str) -> str:
    """Return the text that an example is about, as its id says: `multirc/val/5/2/1` is about passage 5."""
    return "/".join(name.split("/")[:3])


def compare(
    table: Table,
    pairs: Iterable[tuple[Row, Row]],
    *,
    correct: Correct | None = None,
    sources: SourceOf | None = None,
    by_examples: bool = False,
) -> list[Comparison]:
    """Compare pairs of rows on every task and on the mean, corrected over all of it (Holm).

    `correct` gives what was right, and `sources` what each example is about. With `by_examples` the
    correction is of the bootstrap over examples, of those comparisons for which there are predictions; the
    mean over tasks has none.
    """
    found = []
    for a, b in pairs:
        for task in table.columns:
            values = _paired(a.cell(task, table.tasks), b.cell(task, table.tasks), a, b)
            if not values:
                continue
            differences = independent({place: own - other for place, (own, other) in values.items()})
            over = "draws" if len(_draws(values)) > 1 else "seeds"
            comparison = Comparison(
                *(a.label, b.label, task, len(differences), over, mean(differences)),
                *(*interval(differences), sign_flip(differences)),
            )
            if correct is not None and task != MEAN:
                tests = _on_examples(a, b, task, values.keys(), correct, sources)
                comparison = replace(comparison, examples=tests)
            found.append(comparison)
    p_values = [(c.examples.p_bootstrap if c.examples else None) if by_examples else c.p for c in found]
    corrected = iter(holm([p for p in p_values if p is not None]))
    return [
        c if p is None else replace(c, p_holm=next(corrected)) for c, p in zip(found, p_values, strict=True)
    ]


def _draws(places: Iterable[Place]) -> set[int]:
    return {draw for _, draw in places}


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
        differences = independent({place: own - other for place, (own, other) in values.items()})
        p_values.append(sign_flip(differences) if values else 1.0)
    good = {(task, a.label) for (task, a, _), p in zip(pairs, holm(p_values), strict=True) if p < ALPHA}
    found = {}
    for task, order in ranked.items():
        for place, row in enumerate(order[:2]):
            if (task, row.label) in good:
                found[row.label, task] = place + 1
    return found


def _paired(a: Cell | None, b: Cell | None, row_a: Row, row_b: Row) -> dict[Place, tuple[float, float]]:
    """Return the values that belong together, by seed and draw. What draws nothing has one value for all
    seeds."""
    if a is None or b is None:
        return {}
    loose_a, loose_b = is_seedless(row_a), is_seedless(row_b)
    places = b.values if loose_a and not loose_b else a.values
    both = {place: (_value(a, place, loose_a), _value(b, place, loose_b)) for place in sorted(places)}
    return {
        place: (own, other) for place, (own, other) in both.items() if own is not None and other is not None
    }


def _value(cell: Cell, place: Place, is_loose: bool) -> float | None:
    """Return a row's value at a seed and draw; of a row without seeds that on the draw, or its only one."""
    if not is_loose:
        return cell.values.get(place)
    by_draw = {draw: value for (_, draw), value in cell.values.items()}
    return by_draw.get(place[1], next(iter(by_draw.values())) if len(by_draw) == 1 else None)


def is_seedless(row: Row) -> bool:
    """Say whether one score of a row stands for every seed: nothing of it is drawn but few-shot rows."""
    drawn = any(not method_of(record.config).is_seedless for record in row.records)
    return not drawn and all(cell.n == len(_draws(cell.values)) for cell in row.cells.values())


def _on_examples(
    a: Row,
    b: Row,
    task: str,
    places: Iterable[Place],
    correct: Correct,
    sources: SourceOf | None,
) -> ExampleTests | None:
    rights: tuple[list[list[bool]], list[list[bool]]] = ([], [])
    ids: list[str] | None = None
    known: Mapping[str, str] = {}
    for place in places:
        records = [_at(row, task, place) for row in (a, b)]
        found = [None if record is None else correct(record, task) for record in records]
        if found[0] is None or found[1] is None or found[0].keys() != found[1].keys():
            return None
        ids = ids or sorted(found[0])
        if found[0].keys() != set(ids):
            return None
        for own, right in zip(rights, found, strict=True):
            assert right is not None
            own.append([right[name] for name in ids])
        if sources is not None and not known and records[0] is not None:
            known = sources(records[0], task) or {}
    about = [known.get(name) or source_in(name) for name in ids or ()]
    seed = derive(0, "bootstrap", a.label, b.label, task)
    return over_examples(np.array(rights[0], dtype=bool), np.array(rights[1], dtype=bool), seed, about)


def _at(row: Row, task: str, place: Place) -> RunRecord | None:
    """Return the run of a row at a seed and draw; of one without seeds that on the same draw, or any."""
    if row.chosen:
        return row.chosen.get((task, place))
    own = [record for record in row.records if record.task == task]
    found = [record for record in own if draw_of(record) == place]
    if not found and is_seedless(row):
        found = [record for record in own if draw_of(record)[1] == place[1]] or own
    return found[0] if found else None
