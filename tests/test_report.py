"""What was not run alike never shares a cell, and a table says the numbers that the records hold."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.records import make_record, random_weights
from rich.console import Console

from dp_bench import records
from dp_bench.commands.tables import TableOptions
from dp_bench.commands.tables import tables as tables_command
from dp_bench.records import RunRecord
from dp_bench.report.build import build_tables
from dp_bench.report.columns import SHIPPED
from dp_bench.report.frame import Table
from dp_bench.report.sheet import Sheet, SheetOptions, cell_text, make_sheet
from dp_bench.report.tables import to_csv, to_markdown, to_terminal
from dp_bench.terminal import make_console
from dp_bench.types import UserError

TASKS = ("boolq", "cb", "multirc", "rte", "wic")
COLUMNS = [column.name for column in SHIPPED]
COSTS = ("total_seconds", "peak_memory_mb")


def scored(overrides: Sequence[str], scores: Sequence[float], **changes: Any) -> list[RunRecord]:
    """Return one record a seed."""
    return [
        make_record(*overrides, f"seed={seed}", score=score, **changes) for seed, score in enumerate(scores)
    ]


@pytest.fixture(scope="module")
def many() -> list[RunRecord]:
    """Runs of three prompts on five tasks, some of them missing; two backbones."""
    numbers = random.Random(0)
    made = []
    for backbone in ("t5_base", "t5_small"):
        for place, prompt in enumerate(("fixed", "adap_pos", "dynamic")):
            for task in TASKS[: 5 - place]:
                made += scored(
                    [f"task={task}", f"prompt={prompt}", f"backbone={backbone}"],
                    [numbers.uniform(40, 90) for _ in range(1 + place)],
                    trainable_parameters=1000 * (place + 1),
                    total_seconds=numbers.uniform(1, 1000),
                    peak_memory_mb=numbers.uniform(1, 1000),
                )
    return made


def only(records: Sequence[RunRecord], metric: str = "score") -> Table:
    (table,) = build_tables(records, metric)
    return table


def sheet(table: Table, *columns: str) -> Sheet:
    return make_sheet(table, SheetOptions(columns=columns))


def grid(table: Table, *columns: str) -> tuple[list[str], list[list[str]]]:
    """Return heads and lines as text."""
    shown = sheet(table, *columns)
    return shown.heads, [[cell.text for cell in line] for line in shown.lines]


def header_text(table: Table) -> str:
    return "\n".join(table.header.lines())


# ---------------------------------------------------------------------------------------------- cells


def test_a_cell_is_mean_sd_and_n_over_seeds() -> None:
    scores = [61.25, 70.5, 64.0, 90.125]
    cell = only(scored(["task=rte"], scores)).rows[0].cells["rte"]
    assert cell.n == 4
    assert cell.mean == pytest.approx(np.mean(scores))
    assert cell.sd == pytest.approx(np.std(scores, ddof=1))
    assert cell_text(cell) == f"{np.mean(scores):.2f} ± {np.std(scores, ddof=1):.2f} (4)"


def test_one_seed_has_no_spread_and_the_table_says_so() -> None:
    table = only(scored(["task=rte"], [61.25]))
    assert table.rows[0].cells["rte"].sd is None
    assert cell_text(table.rows[0].cells["rte"]) == "61.25 (1)"
    assert any(note.startswith("(1): one run") for note in table.notes)
    assert not any("(1): one run" in note for note in only(scored(["task=rte"], [1, 2])).notes)


def test_what_was_not_run_is_a_dash() -> None:
    table = only([*scored(["task=rte", "prompt=fixed"], [60]), *scored(["task=cb", "prompt=split"], [70])])
    heads, lines = grid(table)
    assert heads == ["prompt", "CB", "RTE", "mean"]
    assert sorted(lines) == [["fixed", "-", "60.00 (1)", "-"], ["split", "70.00 (1)", "-", "-"]]


def test_the_mean_needs_all_tasks_of_the_table() -> None:
    whole = [*scored(["task=rte"], [60, 70]), *scored(["task=cb"], [80, 100])]
    part = scored(["task=rte", "prompt=fixed"], [50, 51])
    rows = {row.label: row for row in only([*whole, *part]).rows}
    assert rows["fixed"].average(("cb", "rte")) is None
    average = rows["dynamic"].average(("cb", "rte"))
    assert average is not None
    assert average.values == {(0, 0): 70.0, (1, 0): 85.0}


def test_the_mean_is_taken_over_the_seeds_that_all_tasks_have() -> None:
    ragged = [*scored(["task=rte"], [60, 70, 95]), *scored(["task=cb"], [80, 100])]
    average = only(ragged).rows[0].average(("cb", "rte"))
    assert average is not None
    assert average.values == {(0, 0): 70.0, (1, 0): 85.0}
    apart = [make_record("task=rte", "seed=0"), make_record("task=cb", "seed=1")]
    assert only(apart).rows[0].average(("cb", "rte")) is None


def test_tasks_stand_in_the_order_of_superglue_and_rows_in_that_of_their_parameters(
    many: list[RunRecord],
) -> None:
    for table in build_tables(many):
        assert table.tasks == TASKS
        assert [row.label for row in table.rows] == ["fixed", "adap_pos", "dynamic"]


# ---------------------------------------------------------------------------------------------- apart


@pytest.mark.parametrize(
    "setting",
    [
        "prompt.num_tokens=7",
        "prompt/position=random",
        "trainer.lr=0.1",
        "trainer.max_steps=7",
        "task.max_length=99",
    ],
)
def test_runs_with_other_settings_are_other_rows_that_name_them(setting: str) -> None:
    table = only([*scored(["task=rte"], [60, 61]), *scored(["task=rte", setting], [70, 71])])
    assert [row.cells["rte"].n for row in table.rows] == [2, 2]
    assert len({row.label for row in table.rows}) == 2
    named = setting.partition("=")[0].replace("/", ".").removeprefix("prompt.").removeprefix("trainer.")
    assert all(named in row.label for row in table.rows)


@pytest.mark.parametrize(
    "setting",
    [
        *("backbone=t5_small", "protocol=authors", "trainer.selection=validation", "data.limit=8"),
        "regime=fewshot",
    ],
)
def test_runs_of_another_kind_stand_in_another_table(setting: str) -> None:
    tables = build_tables([*scored(["task=rte"], [60, 61]), *scored(["task=rte", setting], [70, 71])])
    assert sorted(row.cells["rte"].mean for table in tables for row in table.rows) == [60.5, 70.5]
    assert len({header_text(table) for table in tables}) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"data_sha256": "e" * 64},
        {"data": "other"},
        {"checkpoint": {"name_or_path": "some/t5", "fingerprint": "0" * 64}},
        {"data_files": {"validation": {"file": "dev32.jsonl"}}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_runs_on_other_data_or_weights_stand_in_another_table(changes: dict[str, Any]) -> None:
    tables = build_tables([*scored(["task=rte"], [60, 61]), *scored(["task=rte"], [70, 71], **changes)])
    assert sorted(row.cells["rte"].mean for table in tables for row in table.rows) == [60.5, 70.5]
    assert len({header_text(table) for table in tables}) == 2


def test_a_run_that_was_repeated_on_another_device_or_folder_stays_in_its_row() -> None:
    made = [
        make_record("task=rte", "seed=0"),
        make_record("task=rte", "seed=1", "device=cuda", "data.dir=/x"),
    ]
    assert only(made).rows[0].cells["rte"].n == 2


def test_a_piece_that_is_exchanged_is_named_and_not_spelled_out() -> None:
    words = ("task=rte", "prompt=routed")
    made = [make_record(*words), make_record(*words, "prompt/route=instance", "prompt.estimator=reinforce")]
    labels = {row.label for row in only(made).rows}
    assert labels == {
        "routed [estimator=null, route=Ridge]",
        "routed [estimator=reinforce, route=PerInstance]",
    }
    made.append(make_record(*words, "prompt.route.window=99"))
    assert "routed [estimator=null, route=Ridge, route.window=99]" in {row.label for row in only(made).rows}


@pytest.mark.parametrize(
    ("setting", "labels"),
    [
        ("trainer.max_steps=9", ["dynamic [max_steps=9]", "fixed [max_steps=60]"]),
        ("task.max_length=99", ["dynamic [task.max_length=99]", "fixed [task.max_length=480]"]),
        (
            "protocol.frozen_dropout=true",
            ["dynamic [protocol.frozen_dropout=True]", "fixed [protocol.frozen_dropout=False]"],
        ),
    ],
)
def test_rows_that_differ_in_more_than_their_prompts_say_so(setting: str, labels: list[str]) -> None:
    table = only(
        [make_record("task=rte", "prompt=fixed"), make_record("task=rte", "prompt=dynamic", setting)]
    )
    assert sorted(row.label for row in table.rows) == labels
    assert any(note.startswith("every row") for note in table.notes) is not setting.startswith("trainer.")


def test_settings_that_a_row_does_not_go_by_do_not_name_it() -> None:
    made = [
        make_record("task=rte", "prompt=fixed", "trainer.full.lr=0.1"),
        make_record("task=rte", "prompt=postfix"),
        make_record("task=rte", "prompt=fine_tuning", "trainer.lr=0.1"),
    ]
    assert sorted(row.label for row in only(made).rows) == ["fine_tuning", "fixed", "postfix"]
    made.append(make_record("task=rte", "prompt=fine_tuning", "trainer.full.lr=0.1"))
    assert sorted(row.label for row in only(made).rows) == [
        "fine_tuning [full.lr=0.1]",
        "fine_tuning [full.lr=3e-05]",
        "fixed",
        "postfix",
    ]


def test_a_task_that_was_run_with_another_text_leaves_the_other_tasks_in_one_row() -> None:
    made = [make_record(f"task={task}", "prompt=fixed") for task in TASKS]
    shorter = make_record("task=rte", "prompt=fixed", "task.max_length=99")
    rows = {row.label: set(row.cells) for row in only([*made, shorter]).rows}
    assert rows == {
        "fixed": {"boolq", "cb", "multirc", "wic"},
        "fixed [task.max_length=480]": {"rte"},
        "fixed [task.max_length=99]": {"rte"},
    }


def test_the_budget_in_the_notes_is_that_of_the_tasks() -> None:
    alike = only([make_record("task=rte"), make_record("task=cb")])
    assert [note for note in alike.notes if "updates" in note] == [
        "every row: at most 60 updates of 16 examples, adafactor, lr 0.3"
    ]
    unlike = only([make_record("task=rte"), make_record("task=cb", "trainer.max_steps=9")])
    assert [note.split(",")[0] for note in unlike.notes if "updates" in note] == [
        "every row on CB: at most 9 updates of 16 examples",
        "every row on RTE: at most 60 updates of 16 examples",
    ]


# ---------------------------------------------------------------------------------------------- headers


def test_random_weights_are_named() -> None:
    made = scored(["task=rte"], [60])
    assert "RANDOM" not in header_text(only(made))
    assert "RANDOM weights" in header_text(only([random_weights(record) for record in made]))
    csv = to_csv(build_tables([random_weights(record) for record in made]))
    assert pd.read_csv(StringIO(csv))["weights"].tolist() == ["random"]


def test_selection_on_the_reported_split_is_flagged() -> None:
    assert "REPORTED" in header_text(only(scored(["task=rte", "trainer.selection=validation"], [60])))
    assert "REPORTED" not in header_text(only(scored(["task=rte"], [60])))


def test_a_limit_is_in_the_header() -> None:
    assert "first 8 rows of each file" in header_text(only(scored(["task=rte", "data.limit=8"], [60])))


def test_precisions_side_by_side_are_noted() -> None:
    table = only([*scored(["task=rte"], [60]), make_record("task=rte", "seed=1", precision="bfloat16")])
    assert any("bfloat16 and float32" in note for note in table.notes)


# ---------------------------------------------------------------------------------------------- text


def everything(made: Sequence[RunRecord]) -> str:
    tables = build_tables(made)
    shown = [sheet(table, *COLUMNS) for table in tables]
    return to_markdown(shown) + to_csv(tables) + drawn(shown, 100)


def drawn(sheets: Sequence[Sheet], width: int) -> str:
    console = make_console(file=StringIO(), width=width)
    for part in to_terminal(sheets):
        console.print(part)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_order_of_the_records_does_not_matter(many: list[RunRecord]) -> None:
    unlike = [
        make_record("task=rte", "trainer.max_steps=9"),
        make_record("task=cb", data_sha256="e" * 64),
        *(random_weights(record) for record in scored(["task=wic", "prompt.num_tokens=7"], [1, 2])),
    ]
    made = [*many, *unlike]
    expected = everything(made)
    assert everything(made) == expected
    assert everything(made[::-1]) == expected
    for seed in range(3):
        assert everything(random.Random(seed).sample(made, len(made))) == expected


def test_csv_holds_the_numbers_of_the_records(many: list[RunRecord]) -> None:
    frame = pd.read_csv(StringIO(to_csv(build_tables(many), ["seconds", "memory"])))
    raw = pd.DataFrame(
        [
            (r.backbone, r.prompt, r.task, r.score, r.trainable_parameters, r.total_seconds, r.peak_memory_mb)
            for r in many
        ],
        columns=["backbone", "prompt", "task", "score", "trainable_parameters", *COSTS],
    )
    cell = ["backbone", "prompt", "task"]
    grouped = raw.groupby(cell)
    expected = pd.DataFrame(
        {
            "n": grouped["score"].count(),
            "mean": grouped["score"].mean(),
            "sd": grouped["score"].std(),
            **{name: grouped[name].mean() for name in ("trainable_parameters", *COSTS)},
        }
    )
    found = frame.set_index(cell).sort_index()[list(expected.columns)]
    pd.testing.assert_frame_equal(found, expected.sort_index(), check_dtype=False, atol=1e-4, rtol=0)


def test_markdown_has_as_many_cells_in_every_line(many: list[RunRecord]) -> None:
    made = [*many, make_record("task=rte", "task.template='{premise}|{hypothesis}\n'")]
    tables = build_tables(made)
    text = to_markdown([sheet(table, *COLUMNS) for table in tables])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == sum(2 + len(table.rows) for table in tables)
    assert {line.count("|") for line in lines} == {1 + 1 + len(TASKS) + 1 + len(COLUMNS)}
    blocks = [len(block.splitlines()) for block in text.split("\n\n") if block.startswith("|")]
    assert sum(blocks) == len(lines)


def test_columns_show_what_a_row_cost() -> None:
    made = [
        make_record("task=rte", f"seed={seed}", total_seconds=s, peak_memory_mb=m, trainable_parameters=p)
        for seed, (s, m, p) in enumerate([(10.0, 100.0, 1000), (20.0, 300.0, 1000), (60.0, 200.0, 2048)])
    ]
    heads, lines = grid(only(made), "memory", "params", "seconds")
    assert heads[-3:] == ["peak memory (MB)", "trainable parameters", "seconds a run"]
    assert lines[0][-3:] == ["200", "1,000 to 2,048", "30"]


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_name_and_no_number_is_cut_on_a_terminal(many: list[RunRecord], width: int) -> None:
    """What is too wide goes on below: in blocks of whole columns."""
    odd = make_record("task=rte", "backbone=t5_small", "task.words=[oui,non]")
    for table in build_tables([*many, odd]):
        wide = sheet(table, "params", "seconds")
        text = drawn([wide], width)
        assert max(map(len, text.splitlines())) <= width and "…" not in text
        compact = wide.compact()
        for view in (view for line in compact.lines for view in line[1:]):
            assert re.search(rf"(^| ){re.escape(view.text)}( |$)", text, re.MULTILINE), view.text
        longest = max(len(line[0].text) for line in compact.lines)
        for line in compact.lines if longest <= width / 2 else ():
            assert re.search(rf"^{re.escape(line[0].text)} ", text, re.MULTILINE)
        for sentence in (*table.header.lines(), *(word for head in wide.heads for word in head.split())):
            assert squeezed(sentence) in squeezed(text)
        for note in compact.notes:
            assert squeezed(note) in squeezed(text)


def test_a_usual_number_of_runs_is_said_once() -> None:
    table = only(
        [*scored(["task=rte"], [60, 70]), *scored(["task=cb"], [80, 81]), *scored(["task=wic"], [5])]
    )
    full = sheet(table)
    short = full.compact()
    assert [view.text for view in full.lines[0][1:4]] == ["80.50 ± 0.71 (2)", "65.00 ± 7.07 (2)", "5.00 (1)"]
    assert [view.text for view in short.lines[0][1:4]] == ["80.50 ± 0.71", "65.00 ± 7.07", "5.00 (1)"]
    assert "(2 runs where a cell does not say)" in short.notes[0] and "(n runs)" in full.notes[0]


def test_a_note_that_all_tables_have_is_there_once(many: list[RunRecord]) -> None:
    sheets = [sheet(table) for table in build_tables(many)]
    assert len(sheets) == 2
    shared = [note for note in sheets[0].notes if note in sheets[1].notes]
    for text in (to_markdown(sheets), drawn(sheets, 400)):
        assert shared and all(text.count(note.removeprefix("mean")[20:]) == 1 for note in shared)


def test_brackets_and_colons_are_shown_on_a_terminal(many: list[RunRecord]) -> None:
    """Rich would read `[max_steps=9]` as markup and `:warning:` as a picture."""
    odd = [
        make_record("task=rte", "prompt=fixed", "trainer.max_steps=9", score=80.0 + seed, seed=seed)
        for seed in range(7)
    ]
    table = only([*odd, *(make_record("task=rte", "prompt=split", seed=seed) for seed in range(7))])
    table = replace(table, titles={"rte": "RTE [all]"}, notes=(*table.notes, "a :warning: [red]sign[/red]"))
    sheet = make_sheet(table, SheetOptions(reference="fixed [max_steps=9]")).compact()
    for console in (Console(file=StringIO(), width=200), make_console(file=StringIO(), width=200)):
        for part in to_terminal([sheet]):
            console.print(part)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        for sentence in (
            *sheet.header.lines(),
            *sheet.notes,
            *sheet.heads,
            *(line[0].text for line in sheet.lines),
        ):
            assert squeezed(sentence) in squeezed(text)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_notes_say_what_the_cells_are() -> None:
    table = only(scored(["task=rte"], [60, 61, 70]))
    means, medians = (make_sheet(table, SheetOptions(aggregate=how)) for how in ("mean", "median"))
    assert means.notes[0].startswith("mean ± sd over seeds")
    assert medians.notes[0].startswith("median [lowest, highest] over seeds")
    assert not any(
        "±" in text for text in (*medians.notes, *(c.text for line in medians.lines for c in line))
    )


def test_a_source_for_each_seed_is_one_row_and_two_sources_for_a_seed_are_two() -> None:
    def begun(seed: int, digest: str) -> RunRecord:
        record = make_record("task=rte", "prompt=fixed", f"seed={seed}")
        config = {**record.config, "prompt": {**record.config["prompt"], "init_sha256": digest * 64}}
        run_id, cell_id = records.identify(config, record.data_sha256)
        return replace(record, config=config, run_id=run_id, cell_id=cell_id)

    each = only([begun(0, "a"), begun(1, "b"), begun(2, "c")])
    assert [(row.label, row.cells["rte"].n) for row in each.rows] == [("fixed", 3)]
    shared = only([begun(seed, digest) for seed in (0, 1) for digest in "ab"])
    labels = ["fixed [init_sha256=aaaaaaaa]", "fixed [init_sha256=bbbbbbbb]"]
    assert [(row.label, row.cells["rte"].n) for row in shared.rows] == [(label, 2) for label in labels]


def test_two_searches_are_two_rows() -> None:
    """That the second tried more says its label; that both found the same is one run, once."""

    def found(trials: int, lr: float, seed: int, task: str = "rte", **more: str) -> RunRecord:
        words = ("prompt=fixed", "hpo=lr", f"hpo.trials={trials}", f"trainer.lr={lr}", f"seed={seed}")
        return make_record(f"task={task}", *words, score=50.0 + 100 * lr)

    made = [*(found(2, 0.1, seed) for seed in (0, 1)), *(found(6, 0.2, seed) for seed in (0, 1))]
    expected = {"fixed [hpo.trials=2]": (60.0, 2), "fixed [hpo.trials=6]": (70.0, 2)}
    for order in (made, made[::-1]):
        table = only(order)
        assert {row.label: (row.cells["rte"].mean, row.cells["rte"].n) for row in table.rows} == expected
        assert sorted(note for note in table.notes if "updates of" in note) == [
            "fixed [hpo.trials 6]: at most 60 updates of 16 examples, adafactor, lr 0.2",
            "fixed: at most 60 updates of 16 examples, adafactor, lr 0.1",
        ]
    alike = only([*(found(2, 0.1, seed) for seed in (0, 1)), *(found(2, 0.2, seed) for seed in (0, 1))])
    assert {row.label: (row.cells["rte"].mean, row.cells["rte"].n) for row in alike.rows} == {
        **{"fixed [lr=0.1]": (60.0, 2), "fixed [lr=0.2]": (70.0, 2)}
    }, "another space, say: what they found tells them apart"
    several = only([found(2, 0.1, 0), found(2, 0.3, 0, task="cb")])
    assert [row.label for row in several.rows] == ["fixed"], "each task has its own rate"


def test_settings_that_a_run_does_not_read_part_no_rows() -> None:
    def label(*words: str) -> set[str]:
        made = [make_record("task=rte", *words, "seed=0"), make_record("task=rte", words[0], "seed=1")]
        return {row.label for row in only(made).rows}

    for words in (
        ("prompt=lora", "trainer.lr=0.1"),
        ("prompt=lora", "trainer.full.lr=0.1"),
        ("prompt=prefix_tuning", "trainer.optimizer=adamw", "trainer.weight_decay=0.1"),
        ("prompt=fine_tuning", "trainer.lr=0.1"),
        ("prompt=fine_tuning", "trainer.precision=bf16"),
        ("prompt=fixed", "trainer.temperature.start=0.9", "trainer.temperature.end=0.4"),
        ("prompt=adap_pos", "trainer.temperature.anneal=3"),
        ("prompt=fixed", "regime.split_seed=3"),
        ("prompt=majority", "trainer.warmup_steps=3"),
    ):
        assert label(*words) == {words[0].removeprefix("prompt=")}, words
    for words in (
        ("prompt=lora", "prompt.lr=0.1"),
        ("prompt=fixed", "trainer.weight_decay=0.1"),
        ("prompt=fine_tuning", "trainer.full.lr=0.1"),
        ("prompt=adap_pos", "trainer.temperature.start=0.9"),
        ("prompt=fixed", "trainer.heldout_fraction=0.2"),
    ):
        assert len(label(*words)) == 2, words


def test_a_metric_is_shown_instead_of_the_score() -> None:
    made = [
        make_record("task=cb", metrics={"accuracy": 80.0, "macro_f1": 60.0}),
        make_record("task=rte", metrics={"accuracy": 71.0}),
    ]
    rows = only(made, "accuracy").rows
    assert {task: cell.mean for task, cell in rows[0].cells.items()} == {"cb": 80.0, "rte": 71.0}
    assert only(made, "select_score").rows[0].cells["rte"].mean == 51.0
    assert any("accuracy" in note for note in only(made, "accuracy").notes)


# ---------------------------------------------------------------------------------------------- command


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for record in (
        make_record("task=cb", metrics={"accuracy": 80.0, "macro_f1": 60.0}),
        make_record("task=rte", metrics={"accuracy": 71.0}),
    ):
        records.save(record, tmp_path / "runs" / record.run_id)
    return tmp_path


def show(results: Path, **options: Any) -> int:
    return tables_command(results, TableOptions(**options))


def test_tables_are_written_alike_twice(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = []
    assert show(results) == 0
    assert not (results / "tables").exists(), "only --out and --format write"
    for _ in range(2):
        assert show(results, out=results / "tables") == 0
        files = sorted((results / "tables").iterdir())
        assert [file.name for file in files] == ["tables.csv", "tables.md"]
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]
    assert written[0][1].decode().strip() in capsys.readouterr().out


def test_a_metric_that_one_task_lacks_leaves_that_task_out(results: Path) -> None:
    show(results, metric="macro_f1", formats=["md"])
    heads = next(
        line for line in (results / "tables" / "tables.md").read_text("utf-8").splitlines() if "|" in line
    )
    assert heads == "| prompt | CB |"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "acuracy"}, "--metric does not know 'acuracy'. Did you mean accuracy?"),
        ({"formats": ["pdf"]}, "--format does not know 'pdf'"),
        ({"columns": ["second"]}, "--columns does not know 'second'. Did you mean seconds?"),
    ],
    ids=["metric", "format", "columns"],
)
def test_unknown_words_are_answered_with_the_known_ones(
    results: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        show(results, **options)
    assert message in str(caught.value)
    assert not (results / "tables").exists()


def test_no_finished_runs_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no finished runs .* dp-bench train"):
        show(tmp_path)


def test_unfinished_runs_are_counted(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, status in (("a", "running"), ("b", "failed")):
        records.write_status(results / "runs" / name, status)
    show(results)
    assert "not in the tables: 2 runs that are failed, running" in capsys.readouterr().out
