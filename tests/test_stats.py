"""Tests between rows, against scipy and the definitions; marks and words only where tests support them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.records import make_record
from scipy import stats as scipy_stats

from dp_bench.records import RunRecord
from dp_bench.report import paper, stats
from dp_bench.report.build import build_tables
from dp_bench.report.controls import CONTROLS, MORE_CONTROLS, control_notes, is_dynamic
from dp_bench.report.examples import source_in
from dp_bench.report.frame import Cell, Row, Table
from dp_bench.report.restarts import with_restarts
from dp_bench.report.sheet import Sheet, SheetOptions, make_sheet


def scored(words: Sequence[str], scores: Sequence[float], **changes: Any) -> list[RunRecord]:
    return [
        make_record(*words, f"seed={seed}", score=score, metrics={"accuracy": score}, **changes)
        for seed, score in enumerate(scores)
    ]


def rows(**scores: Sequence[float]) -> list[RunRecord]:
    """Return runs of prompts on RTE."""
    return [r for prompt, own in scores.items() for r in scored(["task=rte", f"prompt={prompt}"], own)]


def only(made: Sequence[RunRecord], metric: str = "score") -> Table:
    (table,) = build_tables(made, metric)
    return table


def pairs_of(table: Table) -> list[tuple[Row, Row]]:
    return list(combinations(table.rows, 2))


def row(sheet: Sheet, label: str) -> list[str]:
    return next([shown.text for shown in line] for line in sheet.lines if line[0].text == label)


# ---------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("n", [1, 2, 5, 8, 12])
def test_the_sign_flip_test_is_scipys_exact_permutation_test(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.7, 1.0, n)
    known = 1.0
    if n > 1:
        known = scipy_stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
        ).pvalue
    assert stats.sign_flip(differences.tolist()) == pytest.approx(known)


def test_five_seeds_cannot_go_under_a_sixteenth_and_many_are_sampled() -> None:
    assert stats.sign_flip([1, 2, 3, 4, 5]) == 0.0625
    assert stats.sign_flip([0.0] * 5) == 1.0
    assert stats.sign_flip([1.0] * 20) == pytest.approx(2**-16, abs=1e-4)
    noise = np.random.default_rng(0).normal(0, 1, 20).tolist()
    exact = scipy_stats.permutation_test(
        (noise,), np.mean, permutation_type="samples", n_resamples=200_000, rng=0
    ).pvalue
    assert stats.sign_flip(noise) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(
    "differences", [[0.1, 0.2, -0.3], [1, 2, -3, 4, -4], [0.7, -0.7], [60.1 - 60, 60 - 60.1]]
)
def test_sums_that_are_equal_but_for_rounding_are_ties(differences: list[float]) -> None:
    """A sum of zero is what any signs reach at least: exactly 1, in whatever order and scale."""
    for scale in (1.0, 1 / 3, 1e-3):
        for own in (differences, differences[::-1]):
            assert stats.sign_flip([scale * value for value in own]) == 1.0


def all_sums(values: Sequence[Any]) -> list[Any]:
    """Return the sum of the values under each way to give them signs."""
    signs = product((1, -1), repeat=len(values))
    return [sum(sign * value for sign, value in zip(own, values, strict=True)) for own in signs]


def test_the_sign_flip_test_counts_ties_as_fractions_do() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        whole = [Fraction(int(value), 7) for value in rng.integers(-4, 5, 6)]
        flipped = [
            sum(s * d for s, d in zip(signs, whole, strict=True)) for signs in product((1, -1), repeat=6)
        ]
        exact = mean(abs(other) >= abs(sum(whole)) for other in flipped)
        assert stats.sign_flip([float(value) for value in whole]) == pytest.approx(exact, abs=1e-12)


def test_differences_that_are_nothing_but_rounding_are_none() -> None:
    assert stats.sign_flip([1.4e-14] * 8) == 1.0


def test_holm_is_its_definition() -> None:
    p = [0.01, 0.04, 0.03, 0.005, 0.5, 0.04]
    order = sorted(range(6), key=lambda place: p[place])
    slow = [0.0] * 6
    for rank, place in enumerate(order):
        slow[place] = min(1.0, max((6 - k) * p[order[k]] for k in range(rank + 1)))
    assert stats.holm(p) == pytest.approx(slow)
    assert stats.holm([]) == []


def test_the_interval_is_students() -> None:
    values = [61.0, 64.5, 70.25, 59.0]
    low, high = scipy_stats.t.interval(0.95, 3, np.mean(values), scipy_stats.sem(values))
    assert stats.interval(values) == (pytest.approx(low), pytest.approx(high))
    assert stats.interval([3.0]) == (None, None)


def test_tests_over_examples_are_mcnemars_and_a_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    b = rng.random((1, 400)) < 0.6
    a = b ^ (rng.random((1, 400)) < np.where(b, 0.05, 0.25))
    found = stats.over_examples(a, b, seed=1)
    wins, losses = int((a & ~b).sum()), int((b & ~a).sum())
    assert found.p_mcnemar == pytest.approx(scipy_stats.binomtest(wins, wins + losses).pvalue)
    difference = (a.astype(float) - b).ravel()
    known = scipy_stats.bootstrap(
        (difference,), np.mean, method="percentile", n_resamples=9999, rng=2
    ).confidence_interval
    assert found.low == pytest.approx(100 * known.low, abs=0.6)
    assert found.high == pytest.approx(100 * known.high, abs=0.6)
    assert found.p_bootstrap < 0.001
    same = stats.over_examples(a, a, seed=1)
    assert (same.low, same.high, same.p_bootstrap, same.p_mcnemar) == (0.0, 0.0, 1.0, 1.0)


def test_over_several_seeds_mcnemar_is_twice_the_median() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((3, 60)) < 0.8, rng.random((3, 60)) < 0.6
    alone = [stats.over_examples(a[i : i + 1], b[i : i + 1], 0).p_mcnemar for i in range(3)]
    assert stats.over_examples(a, b, 0).p_mcnemar == pytest.approx(min(1.0, 2 * sorted(alone)[1]))


def test_the_test_over_examples_keeps_its_level() -> None:
    """Where two rows do not differ, one test in twenty says that they do."""
    rng = np.random.default_rng(5)
    found = [
        stats.over_examples(rng.random((1, 200)) < 0.7, rng.random((1, 200)) < 0.7, trial)
        for trial in range(60)
    ]
    assert np.mean([own.p_mcnemar < 0.05 for own in found]) < 0.15
    assert np.mean([own.p_bootstrap < 0.05 for own in found]) < 0.18


def test_examples_about_one_text_are_one_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where texts are right or wrong as a whole, a test that takes their answers for independent rejects far
    too often; one that resamples texts does not."""
    monkeypatch.setattr(stats, "RESAMPLES", 399)
    rng = np.random.default_rng(7)
    texts = np.repeat(np.arange(40), 10)
    names = [f"multirc/val/{text}" for text in texts]
    found = []
    for trial in range(150):
        easy = rng.random((2, 40)) < 0.6  # for the one row and for the other
        a, b = (rng.random((1, 400)) < np.where(own[texts], 0.9, 0.3) for own in easy)
        alone, by_text = (stats.over_examples(a, b, trial, sources) for sources in (None, names))
        assert (alone.num_sources, by_text.num_sources) == (400, 40)
        found.append([own for test in (alone, by_text) for own in (test.p_bootstrap, test.p_mcnemar)])
    rejected = (np.array(found) < 0.05).mean(0)
    error = 3 * (0.05 * 0.95 / 150) ** 0.5
    assert (rejected[:2] > 0.2).all(), "what the issue is"
    assert (rejected[2:] < 0.05 + error).all()


def test_mcnemar_by_source_is_the_exact_group_permutation_test() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((1, 60)) < 0.7, rng.random((1, 60)) < 0.5
    names = [str(text) for text in rng.integers(0, 9, 60)]
    gains = [
        sum(int(x) - int(y) for x, y, name in zip(a[0], b[0], names, strict=True) if name == text)
        for text in sorted(set(names))
    ]
    sums = all_sums(gains)
    exact = mean(abs(other) >= abs(sum(gains)) for other in sums)
    assert stats.over_examples(a, b, 0, names).p_mcnemar == pytest.approx(exact, abs=1e-12)
    alone = [str(number) for number in range(60)]
    one, other = stats.over_examples(a, b, 0), stats.over_examples(a, b, 0, alone)
    assert one.p_mcnemar == other.p_mcnemar and one.num_sources == 60


def test_the_source_of_an_example_is_read_in_its_id() -> None:
    assert [source_in(name) for name in ("multirc/val/5/2/1", "record/val/3/0", "rte/val/7")] == [
        *("multirc/val/5", "record/val/3", "rte/val/7")
    ]


# ---------------------------------------------------------------------------------------------- pairing


def drawn(values: Mapping[tuple[int, int], float], prompt: str) -> Row:
    return Row(prompt, {"rte": Cell(dict(values))}, (make_record("task=rte", f"prompt={prompt}"),))


def table_of(*rows: Row) -> Table:
    return replace(only(rows[0].records), rows=rows)


@pytest.mark.parametrize(("draws", "seeds"), [(5, 5), (3, 5), (6, 2), (8, 3)])
def test_over_seeds_and_few_shot_draws_the_test_keeps_its_level(draws: int, seeds: int) -> None:
    """Two rows without a true difference, of which each draw favours one: all its seeds say so."""
    rng = np.random.default_rng(draws)
    places = [(seed, draw) for seed in range(seeds) for draw in range(draws)]
    rejected, as_pairs, trials = 0, 0, 400
    for _ in range(trials):
        favour, noise = rng.normal(0, 3, draws), rng.normal(0, 1, (2, len(places)))
        a = {place: 60 + favour[place[1]] + noise[0, i] for i, place in enumerate(places)}
        b = {place: 60 + noise[1, i] for i, place in enumerate(places)}
        table = table_of(drawn(a, "fixed"), drawn(b, "split"))
        (found,) = stats.compare(table, pairs_of(table))
        assert (found.n, found.over) == (draws, "draws")
        assert found.difference == pytest.approx(mean(a.values()) - mean(b.values()))
        rejected += found.p < 0.05
        if len(places) <= 12:
            as_pairs += stats.sign_flip([a[place] - b[place] for place in places]) < 0.05
    assert rejected / trials < 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5
    if len(places) <= 12:
        assert as_pairs / trials > 0.1, "taken for independent pairs they are not"


def on_draw(record: RunRecord, draw: int, score: float) -> RunRecord:
    regime = {**record.config["regime"], "split_seed": draw}
    named = {"run_id": f"{record.run_id}-{draw}", "config": {**record.config, "regime": regime}}
    return replace(record, **named, score=score, metrics={"accuracy": score})


def test_over_draws_intervals_are_over_draws_too_and_notes_say_so() -> None:
    made = [
        on_draw(record, draw, 50.0 + gain + draw + record.seed / 3)
        for prompt, gain in (("fixed", 0.0), ("split", 9.0), ("majority", -9.0))
        for record in scored(["task=rte", f"prompt={prompt}", "regime=fewshot"], [0.0] * 3)
        for draw in range(8)
        if prompt != "majority" or record.seed == 0
    ]
    table = only(made)
    sheet = make_sheet(table, SheetOptions(columns=("ci",)))
    low, high = stats.interval([50.0 + draw + 1 / 3 for draw in range(8)])
    assert row(sheet, "fixed")[-1] == f"{low:.2f} to {high:.2f}"
    assert {(c.n, c.over) for c in sheet.comparisons} == {(8, "draws")}, "majority has one run a draw"
    assert any("sign-flip test over draws" in note for note in sheet.notes)
    assert any("tests and intervals are over draws" in note for note in sheet.notes)
    assert row(sheet, "split")[1].endswith("†")
    few = make_sheet(only([record for record in made if record.config["regime"]["split_seed"] < 5]))
    assert any("the exact test over 5 draws has p of at least 0.0625" in note for note in few.notes)


def test_only_seeds_that_both_have_are_compared() -> None:
    made = [*rows(fixed=[60, 62, 64]), *scored(["task=rte", "prompt=split"], [61, 61])]
    (found,) = stats.compare(only(made), pairs_of(only(made)))
    assert (found.n, found.difference, found.p) == (2, pytest.approx(mean([-1, 1])), 1.0)
    assert found.a == "fixed" and found.b == "split"


def test_what_draws_nothing_stands_against_every_seed() -> None:
    table = only(rows(majority=[50], fixed=[60, 62, 64]))
    (found,) = stats.compare(table, pairs_of(table))
    assert (found.a, found.n, found.difference) == ("fixed", 3, 12.0)
    assert found.p == 0.25


def test_the_correction_counts_every_comparison_of_the_family() -> None:
    made = rows(fixed=range(60, 70), split=range(61, 71), postfix=[60 + (-1) ** i for i in range(10)])
    table = only(made)
    found = stats.compare(table, pairs_of(table))
    assert [c.p_holm for c in found] == stats.holm([c.p for c in found])
    assert min(c.p for c in found) == pytest.approx(2**-9)


def right(examples: Mapping[str, bool]) -> pd.DataFrame:
    """Return which examples a run got right, as read from its predictions; the source is in the id."""
    sources = [source_in(name) for name in examples]
    return pd.DataFrame({"correct": examples.values(), "source": sources}, index=list(examples))


def test_predictions_decide_where_they_are_asked_for() -> None:
    made = rows(fixed=[50, 50], split=[80, 80])

    def results(record: RunRecord, task: str) -> pd.DataFrame:
        return right({f"{task}/{i:02}": i < record.score for i in range(100)})

    options = SheetOptions(results=results)
    sheet = make_sheet(only(made), options)
    assert row(sheet, "split")[1].endswith("†")
    assert any("paired bootstrap over examples" in note for note in sheet.notes)
    (found,) = sheet.comparisons
    assert found.examples is not None and found.examples.num_examples == 100
    assert found.examples.low > 0
    nothing = make_sheet(only(made), SheetOptions(results=lambda *_: None))
    assert nothing.comparisons[0].examples is None and "†" not in row(nothing, "split")[1]
    assert not any("bootstrap" in note or "Holm" in note for note in nothing.notes), "it was not made"
    assert any(note.startswith("no difference is marked: predictions.parquet") for note in nothing.notes)


def test_tests_over_seeds_and_over_examples_are_never_corrected_together() -> None:
    ten = range(10)
    made = rows(fixed=[60.0 + s for s in ten], split=[70.0 + s for s in ten], postfix=[80.0 + s for s in ten])

    def results(record: RunRecord, task: str) -> pd.DataFrame | None:
        if record.prompt == "postfix":
            return None
        return right({f"multirc/val/{i // 4:02}/{i % 4}": i < 4 * record.score for i in range(400)})

    sheet = make_sheet(only(made), SheetOptions(results=results))
    found = {c.a: c for c in sheet.comparisons}
    assert found["postfix"].p < 0.01 and found["postfix"].p_holm is None and not found["postfix"].supported
    tested = found["split"].examples
    assert tested is not None and (tested.num_sources, tested.num_examples) == (100, 400)
    assert found["split"].p_holm == tested.p_bootstrap, "a family of one"
    (note,) = [note for note in sheet.notes if note.startswith("† differs")]
    assert note.endswith("for 1 tests") and "RTE 100 texts with 400 examples" in note
    assert any(note.startswith("not tested: postfix on RTE") for note in sheet.notes)
    one = make_sheet(only([r for r in made if r.seed == 0]), SheetOptions(results=results))
    assert any(note.startswith("† differs") for note in one.notes), "one run each is enough for examples"


# ---------------------------------------------------------------------------------------------- marks


def test_marks_and_ranks_need_support() -> None:
    ten = rows(
        fixed=[60 + i / 10 for i in range(10)],
        split=[70 + i / 7 for i in range(10)],
        postfix=[60 + i / 10 + (-1) ** i for i in range(10)],
    )
    sheet = make_sheet(only(ten))
    assert row(sheet, "split")[1].endswith("†") and not row(sheet, "postfix")[1].endswith("†")
    ranks = {line[0].text: line[1].rank for line in sheet.lines}
    assert ranks == {"split": 1, "fixed": None, "postfix": None}
    assert any("Holm's correction for 2 tests" in note for note in sheet.notes)
    five = make_sheet(only([record for record in ten if record.seed < 5]))
    assert not any("†" in shown.text or shown.rank for line in five.lines for shown in line)
    assert any("5 seeds has p of at least 0.0625" in note for note in five.notes)


def test_a_reference_is_the_row_of_its_name_and_another_one_is_named_with_its_settings() -> None:
    longer = scored(["task=rte", "prompt=fixed", "trainer.max_steps=99"], [60.0 + seed for seed in range(8)])
    table = only([*rows(fixed=[60.0] * 8, split=[70.0 + seed for seed in range(8)]), *longer])
    for reference in ("fixed", "fixed [max_steps=60]"):
        named = make_sheet(table, SheetOptions(reference=reference))
        assert any(note.startswith("† differs from fixed: ") for note in named.notes)
        assert row(named, "split")[1].endswith("†")
    other = make_sheet(table, SheetOptions(reference="fixed [99 steps]"))
    assert any("differs from fixed [99 steps]: " in note or "differing" in note for note in other.notes)
    rows_of_two = [
        replace(one, label=f"fixed [{n}]", shown=f"fixed [{n}]") for n, one in enumerate(table.rows)
    ]
    (note,) = [
        note
        for note in make_sheet(replace(table, rows=tuple(rows_of_two)), SheetOptions()).notes
        if note.startswith("no row is compared")
    ]
    assert note.endswith('fixed is in 3 rows; name one: --reference "fixed [0]"')
    alone = make_sheet(
        with_restarts(only([*longer, *rows(split=[70.0 + seed for seed in range(8)])]), 2), SheetOptions()
    )
    assert any(note.startswith("† differs from fixed [99 steps]:") for note in alone.notes), alone.notes


def test_a_control_within_reach_is_named_in_words() -> None:
    def note(**scores: Sequence[float]) -> str:
        (text,) = [
            n
            for n in control_notes(only(rows(**scores)))
            if n.startswith("the best dynamic prompt and the best control")
        ]
        return text

    same = [60 + (-1) ** i * i for i in range(8)]
    assert "adap_pos is no better than split on RTE" in note(
        fixed=[60] * 3, split=[65] * 3, adap_pos=[63] * 3
    )
    reach = note(fixed=same, adap_pos=[61 + s % 3 for s in same[::-1]])
    assert "adap_pos is not significantly better than fixed on RTE (p = " in reach and "8 seeds" in reach
    ahead = note(fixed=[60.0 + i for i in range(8)], adap_pos=[70.0 + i for i in range(8)])
    assert "significantly better than every control, the best of them fixed on RTE (p = 0.0078" in ahead
    assert "one seed in common: no test" in note(fixed=[60], adap_pos=[70])


def test_the_best_of_several_restarts_is_not_what_a_prompt_is_held_against() -> None:
    made = [
        replace(record, select_score=record.score)
        for record in rows(fixed=[60.0, 90.0] * 4, adap_pos=[80.0] * 8)
    ]
    notes = control_notes(with_restarts(only(made), 2))
    assert any("adap_pos is" in note and "than fixed on RTE" in note for note in notes), notes


def test_missing_controls_are_named_and_tables_without_dynamic_prompts_left_alone() -> None:
    whole = ("zero_shot", "majority", "linear_probe", "fixed", "postfix", "split", "random_position")
    assert control_notes(only(rows(fixed=[60], split=[61]))) == []
    some = control_notes(only(rows(fixed=[60], adap_ins_len=[61])))
    assert some[0].endswith(": zero_shot, majority, linear_probe, postfix, split, random_position")
    everything = rows(**{name: [60.0] for name in whole}, dynamic=[61.0])
    assert not any("missing here" in note for note in control_notes(only(everything)))


@pytest.mark.parametrize("name", [*CONTROLS, *MORE_CONTROLS])
def test_a_control_is_a_shipped_prompt_that_learns_no_choice(name: str) -> None:
    record = make_record("task=rte", f"prompt={name}")
    assert record.prompt == name
    assert not is_dynamic(record)


# ---------------------------------------------------------------------------------------------- the paper


def test_the_papers_numbers_stand_beside_ours_and_nothing_is_guessed() -> None:
    made = [
        *scored(["task=boolq", "prompt=fixed", "backbone=t5_base"], [62.0, 64.0, 66.0]),
        *scored(["task=cb", "prompt=adap_ins_pos", "backbone=t5_base"], [80.0]),
        *scored(["task=cb", "prompt=l2p_pool", "backbone=t5_base"], [80.0]),
    ]
    sheet = make_sheet(only(made, "accuracy"), SheetOptions(against_paper=True))
    assert sheet.heads[:7] == ["prompt", "BoolQ", "paper", "Δ (p)", "CB", "paper", "Δ (p)"]
    fixed = row(sheet, "fixed")
    spread = 2.0 * (1 + 1 / 3) ** 0.5
    p = 2 * scipy_stats.t.sf((64 - 62.35) / spread, 2)
    assert fixed[1:7] == ["64.00 ± 2.00 (3)", "62.35", f"+1.65 ({p:.2g})", "-", "78.57", "-"]
    assert row(sheet, "adap_ins_pos")[4:7] == ["80.00 (1)", *row(sheet, "adap_ins_pos")[5:7]]
    assert row(sheet, "l2p_pool")[4:7] == ["80.00 (1)", "-", "-"], "the paper has no such row"
    assert any("the best of about 40 noisy evaluations" in line for line in sheet.header.lines())
    assert any(line.startswith("ours: protocol clean") for line in sheet.header.lines())


def test_the_reference_is_the_papers_and_its_means_are_those_of_its_tasks() -> None:
    numbers = paper._numbers()
    cells = {key[:3] for key in numbers}
    assert len({key[0] for key in cells}) == 4 and len(numbers) >= 100
    for key in cells:
        own = [numbers[(*key, task)] for task in ("boolq", "cb", "multirc", "rte", "wic")]
        assert numbers[(*key, "mean")] == pytest.approx(mean(own), abs=0.011)
    assert numbers["t5_small", "full", "fixed", "boolq"] == 67.31


def test_another_benchmark_has_no_number_of_the_paper() -> None:
    made = scored(["task=boolq", "prompt=fixed", "backbone=t5_base", "data=micro"], [62.0, 64.0])
    sheet = make_sheet(only(made, "accuracy"), SheetOptions(against_paper=True))
    assert sheet.heads == ["prompt", "BoolQ"], "no empty columns"
    assert any(note.endswith("has no number for any row of this table") for note in sheet.notes)
    assert not any("paper" in line for line in sheet.header.lines())


def test_columns_of_the_budget_say_what_was_spent() -> None:
    made = [*rows(fixed=[60, 61], majority=[50])]
    sheet = make_sheet(only(made), SheetOptions(columns=("updates", "batch", "trials", "hours", "ci")))
    low, high = stats.interval([60, 61])
    assert row(sheet, "fixed")[-5:] == ["60", "16", "1", "0.01 CPU", f"{low:.2f} to {high:.2f}"]
    assert all(shown.text for line in sheet.lines for shown in line)


def test_the_best_of_several_restarts_is_chosen_by_the_selection_score() -> None:
    scores = [(50.0, 70.0), (90.0, 60.0), (60.0, 55.0), (40.0, 80.0), (99.0, 99.0)]
    runs = [make_record(f"seed={n}", score=s, select_score=own) for n, (s, own) in enumerate(scores)]
    runs.append(make_record("prompt=majority", score=40.0, num_updates=0))
    (table,) = build_tables(runs)
    more = with_restarts(table, 2)
    rows = {row.label: row for row in more.rows}
    label = runs[0].prompt
    assert set(rows) == {label, f"{label}, best of 2", "majority"}
    assert rows[f"{label}, best of 2"].cells["boolq"].values == {(0, 0): 50.0, (2, 0): 40.0}
    assert len(rows[f"{label}, best of 2"].records) == 4
    assert len(with_restarts(table, 6).rows) == 2


def test_over_examples_a_restart_is_the_run_that_was_chosen() -> None:
    made = [
        replace(record, select_score=record.score) for record in rows(fixed=[40.0, 80.0], split=[60.0, 20.0])
    ]

    def results(record: RunRecord, task: str) -> pd.DataFrame:
        return right({f"rte/val/{i:02}": i < record.score for i in range(100)})

    table = with_restarts(only(made), 2)
    best = [row for row in table.rows if row.restarts == 2]
    (found,) = stats.compare(table, [(best[0], best[1])], results=results)
    assert found.difference == 20.0 and found.examples is not None
    assert found.examples.low < 20.0 < found.examples.high and found.examples.low > 5.0


def test_restarts_are_of_one_draw() -> None:
    """(score, selection score) by draw and seed; the best of another draw is no restart of this one."""
    scores = {(0, 0): (50.0, 70.0), (0, 1): (90.0, 60.0), (1, 0): (60.0, 99.0), (1, 1): (40.0, 98.0)}
    few = ("regime=fewshot", "task=rte", "prompt=fixed")
    made = [
        make_record(*few, f"regime.split_seed={draw}", f"seed={seed}", score=score, select_score=selected)
        for (draw, seed), (score, selected) in scores.items()
    ]
    best = {row.label: row for row in with_restarts(only(made), 2).rows}["fixed, best of 2"]
    assert best.cells["rte"].values == {(0, 0): 50.0, (0, 1): 60.0}


def test_a_restart_on_several_tasks_is_the_same_run_for_all_of_them() -> None:
    def entry(score: float, selected: float) -> dict[str, Any]:
        content = {
            "title": "-",
            "score": score,
            "select_score": selected,
            "metrics": {},
            "select_metrics": {},
        }
        return {**content, "num_examples": {"train": 9}, "notes": [], "data_sha256": "d" * 64}

    files = {
        f"{task}/{name}": {"file": f"{name[:3]}.jsonl"}
        for task in ("cb", "rte")
        for name in ("train", "validation")
    }
    runs = [
        {"cb": entry(10.0, 90.0), "rte": entry(11.0, 10.0)},  # 50 in the mean: best on CB alone
        {"cb": entry(20.0, 60.0), "rte": entry(21.0, 60.0)},  # 60
        {"cb": entry(30.0, 10.0), "rte": entry(31.0, 80.0)},  # 45: best on RTE alone
    ]
    words = ("prompt=fixed", "regime=multitask", "regime.tasks=[cb,rte]")
    made = [
        make_record(*words, f"seed={seed}", by_task=own, data_files=files, select_score=99.0 - seed)
        for seed, own in enumerate(runs)
    ]
    rows = {row.label: row for row in with_restarts(only(made), 3).rows}
    best = rows["fixed (multitask), best of 3"]
    assert {task: cell.values for task, cell in best.cells.items()} == {
        **{"cb": {(0, 0): 20.0}, "rte": {(0, 0): 21.0}}
    }
    (alone,) = build_tables(made, tasks=["cb"])
    best = with_restarts(alone, 3).rows[1]
    assert {task: cell.values for task, cell in best.cells.items()} == {"cb": {(0, 0): 20.0}}
