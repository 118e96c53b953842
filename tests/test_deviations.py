"""What docs/deviations.md says of the originals, and that their form is a setting where it says so."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers.prompts import build_prompt
from torch import nn

from dp_bench import config
from dp_bench.effective import OptimizerUsed
from dp_bench.optim import make_optimizer
from dp_bench.types import Dims

D = 16
DIMS = Dims(width=D, vocab_size=50, special_ids=(0,), summary_width=D)


def vectors(*words: str, **dims: Any) -> Any:
    experiment = config.build(config.compose(["data.dir=.", "prompt.init=uniform", *words]))
    return build_prompt(experiment, dataclasses.replace(DIMS, **dims), None).vectors


class TheirEncoder(nn.Module):
    """THUDM/P-tuning: LAMA/p_tuning/prompt_encoder.py, and PT-Fewshot/pet/wrapper.py for SuperGLUE."""

    def __init__(self, num_tokens: int, *, superglue: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, D)
        lstm = D if superglue else D // 2
        self.lstm_head = nn.LSTM(
            input_size=D, hidden_size=lstm, num_layers=2, bidirectional=True, batch_first=True
        )
        self.mlp_head = nn.Sequential(nn.Linear(2 * lstm, D), nn.ReLU(), nn.Linear(D, D))

    def forward(self) -> torch.Tensor:
        found: torch.Tensor = self.mlp_head(self.lstm_head(self.embedding.weight[None])[0]).squeeze()
        return found


@pytest.mark.parametrize(
    ("superglue", "words"),
    [
        (False, []),
        (True, [f"prompt.vectors.hidden={D}", f"+prompt.vectors.mlp_hidden={D}"]),
    ],
)
def test_p_tunings_encoder_is_that_of_lama_and_by_a_setting_that_of_superglue(
    superglue: bool, words: list[str]
) -> None:
    torch.manual_seed(0)
    ours = vectors("prompt=p_tuning", "prompt.num_tokens=6", *words)
    theirs = TheirEncoder(6, superglue=superglue)
    own = [ours.prompt_PD, *ours.lstm.parameters(), *ours.mlp.parameters()]
    with torch.no_grad():
        for here, there in zip(own, theirs.parameters(), strict=True):
            there.copy_(here)  # which also compares the shapes: no value is broadcast
            assert here.shape == there.shape
    found = ours(None, torch.zeros(2, dtype=torch.long)).vectors_BPD
    torch.testing.assert_close(found[1], theirs(), atol=1e-6, rtol=0)


def test_adafactor_factors_a_prompt_and_decays_by_rate_times_learning_rate() -> None:
    """t5x keeps a prompt's second moment whole and multiplies by 1 - 1e-5, whatever the learning rate."""
    prompt = nn.Parameter(torch.rand(20, 64) + 1)
    before = prompt.detach().clone()
    settings = OptimizerUsed("adafactor", lr=0.3, weight_decay=1e-5 / 0.3)
    optimizer = make_optimizer(settings, [prompt])
    prompt.grad = torch.zeros_like(prompt)
    optimizer.step()
    torch.testing.assert_close(prompt.detach(), before * (1 - 1e-5), atol=1e-6, rtol=0)
    assert float((before - prompt.detach()).min()) > 5e-6, "they did decay"
    state = optimizer.state[prompt]
    assert state["exp_avg_sq_row"].shape == (20,) and state["exp_avg_sq_col"].shape == (64,)
    assert "exp_avg_sq" not in state


def test_keys_of_l2p_point_anywhere_or_as_the_authors_do_between_the_axes() -> None:
    """U(0, 0.01), the initialiser of their code, has the directions of U(0, 1), and cosines see no length."""
    words = ("prompt=l2p_pool", "prompt.num_tokens=10")
    ours, theirs = (
        vectors(*words, summary_width=200),
        vectors(*words, "+prompt.vectors.positive_keys=true", summary_width=200),
    )
    cosines = [
        torch.cosine_similarity(own.keys_KD.detach()[:, None], own.keys_KD.detach()[None], dim=-1)
        for own in (ours, theirs)
    ]
    apart = ~torch.eye(10, dtype=torch.bool)
    assert float(ours.keys_KD.detach().min()) < 0 <= float(theirs.keys_KD.detach().min())
    assert float(cosines[0][apart].mean().abs()) < 0.1
    assert float(cosines[1][apart].mean()) == pytest.approx(0.75, abs=0.05)  # (1/2)^2 / (1/3)
