"""Tables of records that real runs have left: every run is in one cell, and what a note says is what was."""

from __future__ import annotations

import copy
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from conftest import FIXTURES
from helpers.records import make_record

from dp_bench import config, pack, records, run
from dp_bench.config import Experiment
from dp_bench.records import RunRecord
from dp_bench.report import index, stats
from dp_bench.report.aliases import canonical
from dp_bench.report.build import build_tables
from dp_bench.report.columns import columns
from dp_bench.report.examples import ExampleResults, source_in
from dp_bench.report.expand import by_task
from dp_bench.report.frame import Row, Table, by_seed_and_draw
from dp_bench.report.routes import agreement
from dp_bench.report.sheet import SheetOptions, make_sheet
from dp_bench.report.tables import to_csv, to_markdown
from dp_bench.report.transfer import transfer_tables

pytest.importorskip("peft", reason="the peft extra is not installed: one of the runs is LoRA's")

TINY = (
    *("backbone=t5_tiny_random", "trainer=smoke", "trainer.precision=fp32", "device=cpu"),
    *("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=4"),
    *("task=rte", "prompt=fixed", f"data.dir={FIXTURES}"),
)
MULTI = ("regime=multitask", "regime.tasks=[cb,rte]")
MADE: dict[str, tuple[str, ...]] = {
    "rte 0": ("seed=0",),
    "rte 1": ("seed=1",),
    "rte 2, tried on cb": ("seed=2", "regime.transfer=[cb]"),
    "rte 0 again, tried on cb": ("seed=0", "regime.transfer=[cb]"),
    "cb 0": ("task=cb", "seed=0"),
    "both 0": (*MULTI, "seed=0"),
    "both 1, tried on wic": (*MULTI, "seed=1", "regime.transfer=[wic]"),
    "majority": ("prompt=majority",),
    "fine-tuned": ("prompt=fine_tuning",),
    "lora": ("prompt=lora", "prompt.lr=0.002"),
    "lora, another lr that it does not read": ("prompt=lora", "prompt.lr=0.002", "trainer.lr=0.1", "seed=1"),
    "selectors of their own lr": ("prompt=adap_ins_pos", "prompt.selector_lr=0.01"),
    "in bf16": ("trainer.precision=bf16", "seed=0"),
    "selected on val": ("trainer.selection=validation", "seed=0"),
    "draw 0": ("regime=fewshot", "regime.shots=3"),
    "draw 1": ("regime=fewshot", "regime.shots=3", "regime.split_seed=1"),
    "multirc": ("task=multirc", "prompt=majority"),
}
ROUTES = {0: "0 0 1 1 0 1", 1: "0 1 1 1 0 0"}
Built = dict[str, tuple[Experiment, RunRecord]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, words in MADE.items():
        own = config.build(
            config.compose([*TINY, *words, f"results_dir={folder}/results", f"cache_dir={folder}/cache"])
        )
        found[name] = (own, run.run(own))
    return found


@pytest.fixture(scope="module")
def left(made: Built) -> list[RunRecord]:
    """Return the records as they are read from the disk."""
    own, _ = made["rte 0"]
    return records.load_all(Path(own.settings.results_dir))


def of(left: Sequence[RunRecord], made: Built, *names: str) -> list[RunRecord]:
    ids = {made[name][1].run_id for name in names}
    return [record for record in left if record.run_id in ids]


def rows(tables: Sequence[Table]) -> dict[str, Row]:
    return {row.label: row for table in tables for row in table.rows}


# ---------------------------------------------------------------------------------------------- every run


def check_all_are_there(made: Sequence[RunRecord]) -> None:
    """Every record stands in one cell, as often as its place has a value, or a note names it."""
    tables = build_tables(made)
    stood: Counter[tuple[str, str]] = Counter()
    for table in tables:
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels)
        names = [row.name for row in table.rows]
        text = to_markdown([make_sheet(table)])
        assert all(text.count(f"\n| {name} |") == 1 for name in names), text
        notes = " ".join(table.notes)
        for row in table.rows:
            assert row.cells
            places = by_seed_and_draw(row.records)
            assert {task: set(cell.values) for task, cell in row.cells.items()} == {
                task: set(own) for task, own in places.items()
            }
            for own in places.values():
                for runs in own.values():
                    stood.update((record.run_id, record.task) for record in runs)
                    assert all(record.run_id in notes for record in runs[1:])
    assert stood == Counter((record.run_id, record.task) for record in by_task(made))


def test_every_run_is_in_one_cell_or_named(left: list[RunRecord]) -> None:
    check_all_are_there(left)


def test_every_run_is_in_one_cell_whatever_was_varied() -> None:
    settings: dict[str, list[object]] = {
        "trainer.lr": [0.1, 0.3],
        "trainer.full.lr": [1e-4, 3e-5],
        "trainer.temperature.start": [1.0, 0.9],
        "trainer.precision": ["auto", "bf16"],
        "trainer.heldout_fraction": [0.1, 0.2],
        "prompt.num_tokens": [4, 20],
        "prompt.init_sha256": ["a" * 64, None],
        "regime.split_seed": [0, 1],
        "regime.shots": [None, 16],
        "hpo.name": [None, "lr"],
        "hpo.trials": [2, 6],
        "protocol.frozen_dropout": [False, True],
        "seed": [0, 1, 2],
    }
    names = ("fixed", "lora", "fine_tuning", "majority", "adap_pos", "pool", "adap_ins_vec")
    bases = [make_record("task=rte", f"prompt={name}") for name in names]
    rng = random.Random(0)
    some = {}
    for _ in range(300):
        base = rng.choice(bases)
        resolved = copy.deepcopy(base.config)
        resolved["hpo"]["searched"] = ["trainer.lr"] if base.prompt in ("fixed", "adap_pos") else []
        for key, values in settings.items():
            *path, last = key.split(".")
            node = resolved
            for name in path:
                node = node[name]
            node[last] = rng.choice(values)
        run_id, cell_id = records.identify(resolved, base.data_sha256)
        named = {"run_id": run_id, "cell_id": cell_id, "seed": resolved["seed"], "config": resolved}
        found = {"score": rng.choice([50.0, 60.0, 70.0]), "precision": rng.choice(["float32", "bfloat16"])}
        some[run_id] = replace(base, **named, **found)
    check_all_are_there(list(some.values()))
    text = to_markdown([make_sheet(table) for table in build_tables(some.values())])
    assert "init from aaaaaaaa" in text and "a" * 9 not in text, "no 64 digits"


def test_runs_that_claim_one_place_are_one_or_told_apart_or_said(left: list[RunRecord], made: Built) -> None:
    both = of(left, made, "rte 0", "rte 0 again, tried on cb")
    assert both[0].score == both[1].score
    (table,) = build_tables(both)
    assert table.rows[0].cells["rte"].values == {(0, 0): both[0].score}
    (note,) = [note for note in table.notes if "counted once" in note]
    assert note.startswith("1 run with the settings") and both[1].run_id in note
    routed = [replace(record, seed=seed, routes=routes) for record in both for seed, routes in ROUTES.items()]
    once, twice = (build_tables(some)[0].rows[0] for some in (routed[:2], routed))
    assert agreement(twice, "rte") == agreement(once, "rte") != 1.0, "no run agrees with itself"
    other = replace(both[1], score=both[0].score + 8)
    (table,) = build_tables([both[0], other])
    assert table.rows[0].cells["rte"].values == {(0, 0): pytest.approx(both[0].score + 4)}
    (note,) = [note for note in table.notes if "runs with the same settings differ" in note]
    assert "fixed on RTE, seed 0" in note and both[0].run_id in note and other.run_id in note


# ---------------------------------------------------------------------------------------------- one table


def test_what_a_prompt_is_tried_on_besides_changes_no_row(left: list[RunRecord], made: Built) -> None:
    own = ("rte 0", "rte 1", "rte 2, tried on cb", "cb 0", "both 0", "both 1, tried on wic")
    (table,) = build_tables(of(left, made, *own))
    counts = {row.label: {task: cell.n for task, cell in row.cells.items()} for row in table.rows}
    assert counts == {"fixed": {"rte": 3, "cb": 1}, "fixed (multitask)": {"rte": 2, "cb": 2}}


def test_a_run_on_several_tasks_took_its_time_once(left: list[RunRecord], made: Built) -> None:
    (record,) = of(left, made, "both 0")
    (row,) = build_tables([replace(record, total_seconds=7200.0)])[0].rows
    assert columns()["hours"].value(row, ("cb", "rte")).text == "2.00 CPU"


def test_a_record_has_the_digest_of_what_was_trained_on_and_its_id_that_of_all(made: Built) -> None:
    (_, plain), (_, cb) = made["rte 0"], made["cb 0"]
    own, tried = made["rte 2, tried on cb"]
    assert tried.data_sha256 == plain.data_sha256
    assert tried.transfer["cb"]["data_sha256"] == cb.data_sha256
    both = records.digest_of([plain.data_sha256, cb.data_sha256])
    assert tried.run_id == records.identify(own.resolved, both)[0]
    _, several = made["both 0"]
    digests = [several.by_task[task]["data_sha256"] for task in ("cb", "rte")]
    assert digests == [cb.data_sha256, plain.data_sha256]
    assert several.data_sha256 == made["both 1, tried on wic"][1].data_sha256 == records.digest_of(digests)


def test_older_records_with_one_digest_over_all_files_stand_with_the_others(
    left: list[RunRecord], made: Built
) -> None:
    def older(record: RunRecord) -> RunRecord:
        digests = [record.data_sha256, *(entry["data_sha256"] for entry in record.transfer.values())]
        return replace(record, data_sha256=records.digest_of(digests), optimizer={})

    own = of(left, made, "rte 0", "rte 1", "rte 2, tried on cb", "both 0", "both 1, tried on wic")
    assert to_csv(build_tables(map(older, own))) == to_csv(build_tables(own))
    texts = [
        to_markdown(list(map(make_sheet, build_tables(some)))) for some in (own, [older(r) for r in own])
    ]
    assert texts[0] == texts[1]


def test_transfer_tables_part_what_was_not_trained_alike() -> None:
    def tried(score: float, *words: str) -> RunRecord:
        far = {"title": "CB", "score": score, "metrics": {"accuracy": score}, "num_examples": {"report": 5}}
        transfer = {"cb": {**far, "data_sha256": "c" * 64}}
        files = {**make_record().data_files, "cb/validation": {"file": "val.jsonl"}}
        return make_record(
            *("task=rte", "prompt=fixed", "regime.transfer=[cb]", *words), transfer=transfer, data_files=files
        )

    (table,) = transfer_tables([tried(50.0), tried(70.0, "prompt.num_tokens=7")])
    found = {row.label: row.cells["cb"].mean for row in table.rows}
    assert found == {"RTE [num_tokens=20]": 50.0, "RTE [num_tokens=7]": 70.0}
    again = replace(tried(60.0), run_id="on-other-files", data_sha256="e" * 64)
    tables = transfer_tables([tried(50.0), again])
    assert sorted(row.cells["cb"].mean for table in tables for row in table.rows if "cb" in row.cells) == [
        50.0,
        60.0,
    ], "trained on other files of the task: another row"


# ---------------------------------------------------------------------------------------------- what was used


def test_a_record_says_what_it_was_trained_with_and_the_notes_say_so(
    left: list[RunRecord], made: Built
) -> None:
    used = {name: record.optimizer for name, (_, record) in made.items()}
    shared = {"selector_lr": None, "lr_unit": None, "network_lr": None, "adapter_lr": None}
    prompt = {"name": "adafactor", "lr": 0.3, "weight_decay": 0.0, **shared}
    assert used["rte 0"] == used["both 0"] == used["draw 1"] == prompt
    assert used["lora"] == {"name": "adamw", "lr": 0.002, "weight_decay": 0.0, **shared}
    assert used["fine-tuned"] == {"name": "adamw", "lr": 3e-5, "weight_decay": 0.01, **shared}
    assert used["selectors of their own lr"] == {**prompt, "selector_lr": 0.01}
    assert used["majority"] == {}
    names = ("rte 0", "lora", "fine-tuned", "majority", "selectors of their own lr")
    own = of(left, made, *names, "lora, another lr that it does not read")
    (table,) = build_tables(own)
    assert {label: row.cells["rte"].n for label, row in rows([table]).items()} == {
        **{"fixed": 1, "lora": 2, "fine_tuning": 1, "majority": 1, "adap_ins_pos": 1}
    }
    spent = "at most 2 updates of 4 examples"
    assert [note for note in table.notes if spent in note] == [
        f"adap_ins_pos: {spent}, adafactor, lr 0.3 (0.01 for selectors)",
        f"fine_tuning: {spent}, adamw, lr 3e-05",
        f"fixed: {spent}, adafactor, lr 0.3",
        f"lora: {spent}, adamw, lr 0.002",
    ]
    older = [replace(record, optimizer={}) for record in own]
    assert build_tables(older)[0].notes == table.notes, "of older records it is computed"


def test_runs_in_bf16_and_fp32_share_no_cell(left: list[RunRecord], made: Built) -> None:
    names = ("rte 0", "rte 1", "in bf16", "fine-tuned", "majority")
    found = rows(build_tables(of(left, made, *names)))
    assert {label: row.cells["rte"].n for label, row in found.items()} == {
        **{"fixed [precision=float32]": 2, "fixed [precision=bfloat16]": 1},
        **{"fine_tuning": 1, "majority": 1},  # which have no choice of it
    }


def test_optimism_says_on_how_many_rows_the_two_were_trained(left: list[RunRecord], made: Built) -> None:
    own = of(left, made, "rte 0", "selected on val")
    here, there = (made[name][1].num_examples["train"] for name in ("selected on val", "rte 0"))
    assert here > there
    for table in build_tables(own):
        (note,) = [n for n in make_sheet(table, SheetOptions(columns=["optimism"])).notes if "optimism" in n]
        assert note.endswith(f"trained on more rows: RTE {here} and {there}")
        assert not any("optimism" in note for note in make_sheet(table).notes)


def test_predictions_name_the_texts_and_older_files_are_read_by_their_ids(
    left: list[RunRecord], made: Built, tmp_path: Path
) -> None:
    own, record = made["multirc"]
    folder = Path(own.settings.results_dir)
    frame = pd.read_parquet(folder / "runs" / record.run_id / "predictions.parquet")
    passages = {"/".join(name.split("/")[:3]) for name in frame["id"]}
    assert set(frame["source"]) == passages and len(passages) < len(frame)
    older = tmp_path / "runs" / record.run_id
    older.mkdir(parents=True)
    frame.drop(columns=["source", "group"]).to_parquet(older / "predictions.parquet", index=False)
    for results in (ExampleResults(folder), ExampleResults(tmp_path)):
        found = results(record, "multirc")
        assert found is not None and found.index.tolist() == sorted(frame["id"])
        together = {(source, source_in(name)) for name, source in found["source"].items()}
        assert len(together) == len(passages) == found["source"].nunique()


# ---------------------------------------------------------------------------------------------- names


@pytest.fixture
def aliases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make prompts of the configuration aliases of others."""

    def make(**names: str) -> None:
        shipped = config.config_dir()
        folder = tmp_path / "configs"
        shutil.copytree(shipped / "prompt", folder / "prompt")
        for name, other in names.items():
            text = f"# {name}\ndefaults:\n  - {other}\n  - _self_\n"
            (folder / "prompt" / f"{name}.yaml").write_text(text, "utf-8")
        (folder / "train.yaml").write_text("", "utf-8")
        monkeypatch.setenv("DP_BENCH_CONFIGS", str(folder))

    return make


def under(record: RunRecord, name: str) -> RunRecord:
    """Return the record that the same run left when its prompt was called otherwise."""
    prompt = {**record.config["prompt"], "name": name}
    run_id = record.run_id.replace(record.prompt, name)
    return replace(record, prompt=name, run_id=run_id, config={**record.config, "prompt": prompt})


def test_a_prompt_that_is_an_alias_has_one_row_and_the_papers_number(aliases: Callable[..., None]) -> None:
    words = ("task=cb", "backbone=t5_base")
    made = [
        make_record(*words, f"prompt={name}", f"seed={seed}", score=80.0 + seed)
        for name in ("dynamic", "adap_ins_vec", "fixed")
        for seed in (0, 1)
    ]
    made += [under(record, "adap_ins_vec_pos") for record in made[:2]]
    made += [under(record, "pool") for record in made[2:4]]
    made += [under(make_record(*words, "prompt=adap_ins_vec", "seed=2", score=90.0), "pool")]
    aliases(adap_ins_vec_pos="dynamic", pool="adap_ins_vec")
    (table,) = build_tables(canonical(made))
    assert {row.label: row.cells["cb"].n for row in table.rows} == {
        **{"fixed": 2, "dynamic": 2, "adap_ins_vec": 3}
    }
    assert any(note.startswith("4 runs with the settings and the scores") for note in table.notes)
    assert len(stats.compare(table, combinations(table.rows, 2))) == 3, "Holm counts each method once"
    sheet = make_sheet(table, SheetOptions(against_paper=True))
    beside = {line[0].text: line[2].text for line in sheet.lines}
    assert beside["dynamic"] == "80.36" and beside["fixed"] != "-"


def test_a_shipped_alias_is_no_second_name_in_a_run() -> None:
    from dp_bench.report.aliases import prompt_aliases

    for alias, name in prompt_aliases().items():
        assert config.compose([f"prompt={alias}"]).prompt.name == name
        assert name not in prompt_aliases()


def test_the_index_keeps_what_a_run_was_trained_with(left: list[RunRecord]) -> None:
    rows = {record.run_id: pack.row_of(asdict(record)) for record in left}
    content = dict(pack.contents(rows, Path(index.FILE)))
    assert [content[record.run_id]["optimizer"] for record in left] == [r.optimizer for r in left]
