"""Columns of tables: each is known in one place, and packages add others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from helpers.packages import install
from helpers.records import make_record

from dp_bench import records
from dp_bench.cli import main
from dp_bench.records import RunRecord
from dp_bench.report.columns import SHIPPED, columns

ENERGY = """
from dp_bench.report.columns import Column, CellView

energy = Column(
    "energy",
    "energy (Wh)",
    "of training, at 100 W",
    lambda row, tasks: CellView(f"{sum(r.train_seconds for r in row.records) / 36:g} on {len(tasks)}"),
    is_budget=True,
    csv="train_seconds",
    notes=lambda table: [f"energy of {len(table.rows)} rows is estimated"],
)
"""
Install = Callable[[str], None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package whose entry point names this object of its module."""

    def call(entry: str) -> None:
        install(
            tmp_path / "site",
            "energy_column",
            ENERGY,
            f"[dp_bench.columns]\nadded = energy_column:{entry}\n",
        )
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        columns.cache_clear()

    yield call
    columns.cache_clear()
    sys.modules.pop("energy_column", None)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for task, seed, seconds in (("rte", 0, 36.0), ("rte", 1, 72.0), ("cb", 0, 18.0)):
        record = make_record(f"task={task}", f"seed={seed}", train_seconds=seconds)
        records.save(record, tmp_path / "runs" / record.run_id)
    return tmp_path


def code_of(*words: str) -> object:
    with pytest.raises(SystemExit) as stop:
        main(words)
    return stop.value.code


def test_a_column_of_another_package_is_shown_listed_and_written(
    installed: Install, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed("energy")
    assert code_of("tables", "--results-dir", str(results), "--columns", "energy", "--format", "csv") == 0
    said = capsys.readouterr().out
    assert "| prompt | CB | RTE | mean | energy (Wh) |" in said
    assert "| 3.5 on 2 |" in said
    assert ". energy of 1 rows is estimated\n" in said
    head, *lines = (results / "tables" / "tables.csv").read_text("utf-8").splitlines()
    assert head.endswith(",train_seconds")
    assert [line.rsplit(",", 1)[-1] for line in lines] == ["18.0000", "54.0000"]
    assert code_of("tables", "--results-dir", str(results), "--budget") == 0
    assert "| energy (Wh) |" in capsys.readouterr().out
    assert code_of("list", "columns") == 0
    assert "energy\tenergy (Wh)\tof training, at 100 W\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("enrgy", "does not load"),
        ("CellView", "must name a dp_bench.report.columns.Column"),
    ],
)
def test_an_entry_point_that_is_no_column_is_named(
    installed: Install, results: Path, entry: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(entry)
    assert code_of("tables", "--results-dir", str(results)) == 2
    said = capsys.readouterr().err
    assert f"energy_column:{entry}" in said
    assert message in said


def test_help_and_list_name_every_column(installed: Install, capsys: pytest.CaptureFixture[str]) -> None:
    installed("energy")
    known = columns().values()
    assert [column.name for column in known] == [*(column.name for column in SHIPPED), "energy"]
    assert code_of("tables", "--help") == 0
    said = capsys.readouterr().out
    for column in known:
        assert f"\n  {column.name:<10}{column.title}: {column.help}\n" in said
    assert ", ".join(column.name for column in known if column.is_budget) in " ".join(said.split())
    assert code_of("list", "columns") == 0
    lines = [tuple(line.split("\t")) for line in capsys.readouterr().out.splitlines()]
    assert lines == [(column.name, column.title, column.help) for column in known]


def test_shipped_columns_have_names_of_their_own_and_fields_that_exist() -> None:
    assert len({column.name for column in SHIPPED}) == len({c.title for c in SHIPPED}) == len(SHIPPED)
    of_fields = {column.csv for column in SHIPPED if column.number is None}
    assert of_fields - {None} <= {field.name for field in fields(RunRecord)}
