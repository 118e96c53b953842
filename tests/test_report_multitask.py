"""Tables of runs that speak of several tasks, of few-shot draws, and of two ways to select."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.records import make_record

from dp_bench.records import RunRecord
from dp_bench.report.build import build_tables
from dp_bench.report.sheet import SheetOptions, make_sheet
from dp_bench.report.tables import to_csv, to_markdown
from dp_bench.report.transfer import transfer_tables

SHA = {"cb": "c" * 64, "rte": "d" * 64, "wic": "e" * 64}
TITLES = {"cb": "CB", "rte": "RTE", "wic": "WiC"}


def entry(task: str, score: float) -> dict[str, Any]:
    return {
        "title": TITLES[task],
        "score": score,
        "metrics": {"accuracy": score},
        "select_score": score + 1,
        "select_metrics": {"accuracy": score + 1},
        "num_examples": {"train": 9, "select": 3, "report": 5},
        "notes": [],
        "data_sha256": SHA[task],
    }


def files(*tasks: str) -> dict[str, dict[str, str]]:
    return {f"{t}/{kind}": {"file": f"{kind[:3]}.jsonl"} for t in tasks for kind in ("train", "validation")}


def multitask(*overrides: str, cb: float, rte: float, **changes: Any) -> RunRecord:
    scores = {"cb": entry("cb", cb), "rte": entry("rte", rte)}
    regime = ("regime=multitask", "regime.tasks=[cb,rte]")
    shown = {"score": (cb + rte) / 2, "metrics": {"cb/accuracy": cb, "rte/accuracy": rte}}
    content: dict[str, Any] = {
        "data_files": files("cb", "rte", *changes.get("transfer", {})),
        **shown,
        **changes,
    }
    return make_record(*regime, *overrides, by_task=scores, **content)


def single(task: str, score: float, *overrides: str, **changes: Any) -> RunRecord:
    own = {"data_sha256": SHA[task], "metrics": {"accuracy": score}, "score": score, **changes}
    return make_record(f"task={task}", *overrides, **own)


def test_one_prompt_for_several_tasks_stands_beside_a_prompt_for_each() -> None:
    made = [
        *(single(task, score, "prompt=fixed") for task, score in (("cb", 80.0), ("rte", 60.0))),
        *(multitask("prompt=fixed", f"seed={s}", cb=70.0 + s, rte=50.0 + s) for s in (0, 2)),
    ]
    (table,) = build_tables(made)
    assert table.tasks == ("cb", "rte")
    cells = {row.label: {task: cell.mean for task, cell in row.cells.items()} for row in table.rows}
    assert cells == {"fixed": {"cb": 80.0, "rte": 60.0}, "fixed (multitask)": {"cb": 71.0, "rte": 51.0}}
    (row,) = [row for row in table.rows if row.label == "fixed (multitask)"]
    assert row.average(table.tasks).values == {(0, 0): 60.0, (2, 0): 62.0}  # type: ignore[union-attr]


def test_mixtures_of_other_tasks_or_rates_are_other_rows() -> None:
    made = [
        multitask("prompt=fixed", cb=70.0, rte=50.0),
        multitask("prompt=fixed", "regime.mixing=equal", cb=71.0, rte=51.0),
    ]
    (table,) = build_tables(made)
    labels = [row.label for row in table.rows]
    assert labels == ["fixed (multitask) [mixing=equal]", "fixed (multitask) [mixing=proportional]"]


def test_the_transfer_matrix_has_trained_tasks_in_rows_and_evaluated_ones_in_columns() -> None:
    def transferred(task: str, other: str, own: float, there: float, seed: int) -> RunRecord:
        far = entry(other, there)
        data_files = {**make_record().data_files, **files(other)}
        words = ("prompt=fixed", f"regime.transfer=[{other}]", f"seed={seed}")
        return single(task, own, *words, transfer={other: far}, data_files=data_files)

    made = [
        *(transferred("cb", "rte", 80.0, 52.0 + s, s) for s in (0, 2)),
        transferred("rte", "cb", 60.0, 33.0, 0),
        single("wic", 99.0, "prompt=fixed"),  # was not run elsewhere
        multitask(
            "prompt=fixed", "regime.transfer=[wic]", cb=70.0, rte=50.0, transfer={"wic": entry("wic", 49.0)}
        ),
    ]
    (table,) = transfer_tables(made)
    found = {row.label: {task: cell.mean for task, cell in row.cells.items()} for row in table.rows}
    assert found == {
        "CB": {"cb": 80.0, "rte": 53.0},
        "RTE": {"rte": 60.0, "cb": 33.0},
        "CB + RTE": {"cb": 70.0, "rte": 50.0, "wic": 49.0},
    }
    assert "53.00 ± 1.41 (2)" in (text := to_markdown([make_sheet(table)])) and "| trained on |" in text


def test_optimism_is_the_difference_between_twins_that_selected_otherwise() -> None:
    def selected(how: str, score: float, seed: int) -> RunRecord:
        return single("rte", score, "prompt=fixed", f"trainer.selection={how}", f"seed={seed}")

    made = [
        *(selected("heldout", 60.0 + seed, seed) for seed in (0, 1, 2)),
        *(selected("validation", 63.0 + 2 * seed, seed) for seed in (0, 1)),
    ]
    tables = build_tables(made)
    assert len(tables) == 2
    (alone,) = build_tables(made[:3])
    for table, text in ((tables[0], "+3.50 (2)"), (tables[1], "+3.50 (2)"), (alone, "-")):
        ((*_, shown),) = make_sheet(table, SheetOptions(columns=["optimism"])).lines
        assert shown.text == text


def test_few_shot_draws_are_pooled_and_lopsided_ones_marked() -> None:
    note = "degenerate draw: of the 6 training rows of RTE, 0 entailment"
    made = [
        single(
            "rte",
            50.0 + 3 * draw + seed,
            "prompt=fixed",
            "regime=fewshot",
            f"regime.split_seed={draw}",
            f"seed={seed}",
            notes=[note] if draw else [],
        )
        for draw in (0, 1)
        for seed in (0, 1)
    ]
    (table,) = build_tables(made)
    (row,) = table.rows
    assert row.cells["rte"].n == 4 and row.cells["rte"].mean == pytest.approx(52.0)
    text = to_markdown([make_sheet(table)])
    assert "(4)‡ |" in text and f"‡ {note}" in text and "2 draws of few-shot rows" in text
    assert "0 0/1 1 1/1" in to_csv([table])
