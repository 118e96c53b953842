"""The benchmarks' own systems run: what they time is a real update and a real evaluation."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
TEXTS = [[5] * length + [1] for length in (7, 9, 12, 15, 4, 6, 8, 10)]


@pytest.fixture(scope="module")
def given() -> argparse.Namespace:
    return argparse.Namespace(size="tiny", device="cpu", dir=None, tokenizer=None)


@pytest.mark.parametrize("system", ["authors' step", "dp-bench fixed", "dp-bench adap_ins_vec_pos"])
def test_a_system_makes_an_update_and_an_evaluation(
    system: str, given: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench

    built = bench.build(system, TEXTS, "fp32", given)
    (batch,) = built.order([np.arange(len(TEXTS))])
    built.train(batch)
    built.evaluate(batch)
    if system != bench.AUTHORS:
        assert np.isfinite(built.answers()).all()
