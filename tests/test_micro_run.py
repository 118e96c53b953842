"""The embedded benchmark as a user meets it: by name, and where data or a checkpoint cannot be had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dp_bench import cli, config, hub, records, run
from dp_bench.config import Experiment
from dp_bench.report.build import build_tables
from dp_bench.report.sheet import SheetOptions, make_sheet
from dp_bench.report.tables import to_markdown
from dp_bench.types import UserError

MICRO = ("backbone=t5_micro", "data=micro", "trainer=micro", "device=cpu")


def compose(tmp_path: Path, *overrides: str) -> Experiment:
    return config.build(config.compose([*MICRO, f"results_dir={tmp_path / 'results'}", *overrides]))


@pytest.mark.parametrize("prompt", ["fixed", "dynamic"])
def test_a_prompt_finds_the_instruction_that_the_backbone_was_pretrained_on(
    tmp_path: Path, prompt: str
) -> None:
    record = run.run(compose(tmp_path, "task=rte", f"prompt={prompt}", "trainer.max_steps=200"))
    assert record.score >= 50 + 15, "majority and 15 points"
    assert record.data == "micro benchmark (generated)"


def test_an_unreachable_hub_ends_on_the_micro_benchmark_and_says_so(tmp_path: Path) -> None:
    """The first thing a newcomer types, on a machine without network."""
    words = ["train", "task=boolq", "prompt=fixed", "trainer.max_steps=20", "device=cpu"]
    child = subprocess.run(
        [sys.executable, "-c", "from dp_bench.cli import main; main()", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(tmp_path / "hf"),
            "DP_BENCH_CACHE": str(tmp_path / "cache"),
        },
        check=False,
    )
    assert child.returncode == 3, child.stderr
    assert (
        "Nothing of what you asked for was run: BoolQ was looked for in the data set aps/super_glue"
        in child.stdout
    )
    assert "on_missing=error stops here instead" in child.stdout
    assert "Traceback" not in child.stderr
    (record,) = records.load_all(tmp_path / "results")
    assert (record.backbone, record.data, record.num_updates) == (
        "t5_micro",
        "micro benchmark (generated)",
        20,
    )
    assert record.config["trainer"]["max_steps"] == 20, "what was typed of the trainer stays"


def test_the_same_rows_are_generated_once_and_found_again(tmp_path: Path) -> None:
    composed = compose(tmp_path, "task=cb", "prompt=majority", f"cache_dir={tmp_path / 'cache'}")
    first = run.run(composed)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "micro").rglob("*.jsonl")}
    again = run.run(
        compose(tmp_path, "task=cb", "prompt=majority", "rerun=true", f"cache_dir={tmp_path / 'cache'}")
    )
    assert again.data_sha256 == first.data_sha256 and again.run_id == first.run_id
    assert {path: path.stat().st_mtime_ns for path in files} == files
    harder = run.run(compose(tmp_path, "task=cb", "prompt=majority", "data.difficulty=hard"))
    assert harder.data_sha256 != first.data_sha256


@pytest.mark.parametrize("mixture", ["mix2", "liar"])
def test_a_mixture_stands_in_place_of_boolq_and_in_a_table_of_its_own(tmp_path: Path, mixture: str) -> None:
    plain = run.run(compose(tmp_path, "task=boolq", "prompt=majority"))
    record = run.run(compose(tmp_path, "task=boolq", "prompt=majority", f"data=micro_{mixture}"))
    assert record.data == f"micro benchmark (generated), mixture {mixture}"
    assert record.data_sha256 != plain.data_sha256
    tables = build_tables(records.load_all(tmp_path / "results"))
    assert len(tables) == 2 and all("generated" in table.header.data for table in tables)
    with pytest.raises(UserError, match="replaces BoolQ"):
        run.run(compose(tmp_path, "task=rte", "prompt=majority", f"data=micro_{mixture}"))


def test_the_committed_table_is_that_of_its_records_and_shows_what_trains() -> None:
    """At least four of five seeds of fixed and of dynamic pass majority and 15 points on each task."""
    folder = Path(__file__).parents[1] / "results" / "micro"
    found = records.load_all(folder)
    (table,) = build_tables(found)
    assert (folder / "tables" / "tables.md").read_text(encoding="utf-8") == to_markdown(
        [make_sheet(table, SheetOptions(columns=["params"]))]
    )
    rows = {row.label: row.cells for row in table.rows}
    assert set(table.tasks) == {"boolq", "cb", "rte", "wic"}
    for task in table.tasks:
        for prompt in ("fixed", "dynamic"):
            scores = rows[prompt][task].values
            assert len(scores) == 5
            passed = [score >= rows["majority"][task].mean + 15 for score in scores.values()]
            assert sum(passed) >= 4, (task, prompt, scores)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["task=boolq"], 3),
        (["task=boolq", "on_missing=micro"], 0),
        (["task=boolq", "backbone=local", "backbone.name_or_path=absent/model"], 2),
        (["task=boolq", "data=superglue", "on_missing=micro"], 0),
        (["task=boolq", "data.hub=nobody/nothing"], 2),
    ],
)
def test_the_benchmark_takes_the_place_of_nothing_that_was_named(
    words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    monkeypatch.setenv("DP_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *words, "prompt=majority", "trainer.max_steps=2", f"cache_dir={tmp_path}"])
    assert ended.value.code == code
    assert len(records.load_all(tmp_path / "results")) == (code != 2)
