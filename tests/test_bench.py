"""The benchmarks: what they time is a real update and a real evaluation, and a target says how far it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
TEXTS = [[5] * length + [1] for length in (7, 9, 12, 15, 4, 6, 8, 10) * 2]
PEER, DYNAMIC = "peft PromptTuning", "dp-bench adap_ins_vec_pos"
FAMILIES = ("t5", "decoder", "encoder")
MEASURED = [
    ("t5", "authors' step"),
    ("t5", "dp-bench fixed"),
    *((f, s) for f in FAMILIES for s in (PEER, DYNAMIC)),
]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def build(system: str, family: str, texts: list[list[int]]) -> Any:
    from bench import models, systems

    torch.manual_seed(0)
    return systems.build(system, texts, models.Setup(family, "tiny"))


@pytest.mark.parametrize(("family", "system"), MEASURED)
def test_a_system_makes_an_update_and_an_evaluation(family: str, system: str) -> None:
    built = build(system, family, TEXTS)
    batch = built.order(np.arange(len(TEXTS)).reshape(-1, 16 if family != "t5" else 8))[0]
    built.train(batch)
    built.evaluate(batch)
    if system != "authors' step":
        assert np.isfinite(built.answers()).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_of_a_peer_does_not_depend_on_padding(family: str) -> None:
    alone, padded = (build(PEER, family, texts).answers() for texts in (TEXTS[:1], TEXTS))
    np.testing.assert_allclose(alone[0], padded[0], atol=1e-5)


def test_a_decoder_of_a_peer_learns_the_answer_behind_the_text_alone() -> None:
    from bench import models

    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    ids, label = 7 * mask, torch.tensor([0, 1])
    inputs = models.FAMILIES["decoder"].inputs(ids, mask, label, training=True)
    assert inputs["input_ids"].tolist() == [[7, 7, 150, 0], [7, 7, 7, 4273]]
    assert inputs["labels"].tolist() == [[-100, -100, 150, -100], [-100, -100, -100, 4273]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_a_missed_target_says_by_how_much_and_what_was_tried() -> None:
    from bench import models, protocol, report, systems

    def figure(system: str, train: float, evaluate: float, peak_mb: float = 100) -> protocol.Figure:
        return protocol.Figure(
            system, "fp32", 2, [train] * 3, [evaluate] * 3, [1.0] * 3, [1.0] * 3, peak_mb, [2.0] * 3
        )

    figures = [
        figure(systems.AUTHORS, 1, 1),
        figure(systems.PROMPT_TUNING, 5, 5, peak_mb=50),
        figure(systems.FIXED, 16, 9.4),
        figure(systems.MAIN, 16, 9.4),
    ]
    setup = models.Setup("t5", "small")
    text, good = report.verdicts(setup, figures, {"fp32": [64.0] * 3})
    lines = text.splitlines()
    assert not good
    assert "- train against authors' step, fp32: met: 16.00, at least 15" in lines
    missed = lines.index("- evaluate against authors' step, fp32: missed: 9.40 of 12, 22 % short")
    assert lines[missed + 1].startswith("  tried: ")
    assert "- share of the matrix product in training, fp32: met: 0.50, at least 0.45" in lines
    assert any(line.endswith("fp32: missed: 2.00 of 1.1, 82 % over") for line in lines)
    assert "- train against peft PromptTuning, bf16: not measured" in lines


def test_the_page_on_speed_names_every_benchmark() -> None:
    from bench import __main__ as entry

    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert set(re.findall(r"python scripts/bench (\w+)", page)) == set(entry.COMMANDS)
