"""A compiled backbone computes the same; one that cannot be compiled goes on as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod
from typing import Any

import pytest
import torch
from helpers.oracles import make
from torch import nn

from dp_bench import run
from dp_bench.compiling import compile_backbone, num_graphs
from dp_bench.config import Experiment

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")


def test_a_compiled_backbone_has_the_same_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for inductor, and not translated, which takes a minute."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    plain, compiled = make("gpt2"), make("gpt2")
    compile_backbone(compiled)
    graphs = num_graphs()
    ids_BT = torch.tensor([[5, 6, 7, 8, 9]])
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    expected, found = (each.encode(each.embed(ids_BT), mask_BT) for each in (plain, compiled))
    torch.compiler.reset()
    assert graphs > 0
    torch.testing.assert_close(found, expected)


def test_a_run_goes_on_where_compiling_fails(
    experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Any:
        raise RuntimeError("no compiler was found")

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=fails))
    quick = ("prompt=fixed", "trainer.max_steps=2", "trainer.eval_every=2", "data.limit=16")
    record = run.run(experiment(*quick, "trainer.compile=true"))
    torch.compiler.reset()
    assert record.status == "done" and record.diagnostics["compiled_graphs"] == 0
    assert any("trainer.compile has no effect" in text for text in record.warnings), record.warnings
