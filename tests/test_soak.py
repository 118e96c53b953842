"""The harness of `make soak` and `make compat`: it counts, it notices, and a worker can be measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from helpers.inputs import HangError, inputs, limited, tallies
from hypothesis import strategies as st

SCRIPTS = Path(__file__).parent.parent / "scripts"


def test_inputs_are_counted_and_a_hang_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def property_(number: int) -> None:
        assert number < 10**9

    inputs(7, number=st.integers(0, 9))(property_)()
    assert tallies.pop("property_").tried == 7
    monkeypatch.setenv("DP_BENCH_SOAK_UNTIL", "0")
    inputs(7, number=st.integers(0, 9))(property_)()
    assert "property_" not in tallies, "the time is over"
    with pytest.raises(HangError), limited(0.05, "an input"):
        while True:
            time.sleep(0.01)


def test_what_runs_left_is_compared_without_circumstances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import soak

    for name, seconds, score in (("one", 1, 50), ("same", 2, 50), ("other", 1, 51)):
        folder = tmp_path / name / "runs" / "a"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(f'{{"score": {score}, "total_seconds": {seconds}}}')
        (folder / "predictions.parquet").write_bytes(b"x")
    one, same, other = (soak.left_by(tmp_path / name) for name in ("one", "same", "other"))
    assert len(one) == 2 and not soak._differences(one, same)
    assert soak._differences(one, other) == ["runs/a/record.json"]
    assert soak._differences(one, {}) == sorted(one)
    assert soak.resident_mib(os.getpid()) > 1


def test_bounds_that_cannot_be_had_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import compat

    wanted = ["torch>=2.11", "rich>=13.7", "types-x"]
    assert compat.untrue(wanted, ["torch==2.11.0", "rich==13.8.0"]) == [
        "rich>=13.7 (the lowest that fits the others: 13.8.0)"
    ]
    assert "torch" in compat.requirements()[0] and not any("ruff" in each for each in compat.requirements())
