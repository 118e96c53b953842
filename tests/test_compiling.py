"""A compiled backbone computes the same; one that cannot be compiled goes on as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod
from typing import Any

import pytest
import torch
from torch import nn

from dp_bench import run
from dp_bench.config import Experiment

QUICK = ("prompt=fixed", "trainer.max_steps=2", "trainer.eval_every=2", "data.limit=16")


def _fails(*_: object) -> Any:
    raise RuntimeError("no compiler was found")


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("backend", ["eager", _fails])  # "eager": traced as for inductor, not translated
def test_a_compiled_run_scores_as_a_plain_one(
    experiment: Callable[..., Experiment],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    backend: Any,
) -> None:
    plain = run.run(experiment(*QUICK, f"results_dir={tmp_path / 'plain'}"))
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=backend))
    compiled = run.run(experiment(*QUICK, "trainer.compile=true"))
    torch.compiler.reset()
    assert compiled.score == pytest.approx(plain.score)
    assert (compiled.diagnostics["compiled_graphs"] > 0) == (backend == "eager")
    assert any("no compiler was found" in text for text in compiled.warnings) == (backend is _fails)
