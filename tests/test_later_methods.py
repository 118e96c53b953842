"""Methods that came after, against their published equations, written a second time as loops in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.configs import problems
from helpers.prompts import build_prompt
from torch import Tensor

from dp_bench import config
from dp_bench.types import Dims, UserError

B, P, D, SUMMARY = 5, 4, 8, 16
EXACT = {"atol": 1e-12, "rtol": 1e-12}


def vectors_of(name: str, *words: str, width: int = D, seed: int = 0) -> Any:
    """Return the vectors of a prompt in float64, with weights that are not near 0."""
    typed = ["data.dir=.", f"prompt={name}", "prompt.init=uniform", f"prompt.num_tokens={P}", *words]
    dims = Dims(width=width, vocab_size=0, summary_width=SUMMARY)
    prompt = build_prompt(config.build(config.compose(typed)), dims, None).double()
    torch.manual_seed(seed)
    for parameter in prompt.parameters():
        parameter.data.normal_()
    return prompt.vectors


@pytest.fixture
def texts() -> Tensor:
    return torch.randn(B, SUMMARY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(vectors: Any, texts: Tensor | None) -> Tensor:
    found: Tensor = vectors(texts, torch.zeros(B, dtype=torch.long)).vectors_BPD
    assert found.shape == (B, P, D)
    return found


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.special.erf(x / math.sqrt(2)))


def times(matrix: Tensor, x: Tensor) -> Tensor:
    """Return a product of matrix and vector, one number at a time."""
    return torch.stack([sum(matrix[i, j] * x[j] for j in range(len(x))) for i in range(len(matrix))])


def kronecker(rules: Tensor, weights: Tensor) -> Tensor:
    """Return sum_i A_i (x) B_i by the definition of its entries."""
    n, (u, v) = len(rules), weights.shape[1:]
    matrix = torch.zeros(n * u, n * v, dtype=torch.float64)
    for i in range(n):
        for row in range(n * u):
            for column in range(n * v):
                rule = rules[i, row // u, column // v]
                matrix[row, column] += rule * weights[i, row % u, column % v]
    return matrix


def test_idpg_generates_by_a_bottleneck_and_adds_the_tasks_prompt(texts: Tensor) -> None:
    own = vectors_of("idpg", "prompt.vectors.hidden=6")
    found = made(own, texts)
    for row in range(B):
        hidden = gelu(times(own.down.weight, texts[row]) + own.bias)
        flat = times(own.up.weight, hidden)
        for i in range(P):
            torch.testing.assert_close(found[row, i], flat[i * D : (i + 1) * D] + own.task_PD[i], **EXACT)


def test_the_layers_of_phm_are_sums_of_kronecker_products_with_shared_rules(texts: Tensor) -> None:
    own = vectors_of("idpg_phm", "prompt.vectors.phm=4", "prompt.vectors.hidden=8")
    first = kronecker(own.rules, own.down.weight)
    second = kronecker(own.rules, own.up.weight)
    assert first.shape == (SUMMARY, 8) and second.shape == (8, P * D)
    expected = gelu(texts @ first + own.bias) @ second
    torch.testing.assert_close(made(own, texts), expected.reshape(B, P, D) + own.task_PD, **EXACT)
    named = dict(own.named_parameters())
    assert sum(p.numel() for p in own.parameters()) == 4**3 + (SUMMARY * 8 + 8 * P * D) // 4 + 8 + P * D
    assert {id(p) for p in own.network_parameters()} == {id(p) for n, p in named.items() if n != "task_PD"}


def test_phm_refuses_what_it_cannot_divide() -> None:
    (found,) = problems("data.dir=.", "prompt=idpg_phm", "prompt.vectors.hidden=6", "prompt.vectors.phm=4")
    assert "prompt.vectors.phm=4 must divide prompt.vectors.hidden=6" in found
    with pytest.raises(
        UserError, match="must divide the width of summaries, 16, and the numbers of a prompt, 36"
    ):
        vectors_of("idpg_phm", "prompt.vectors.phm=16", width=9)


def test_a_residual_prompt_is_itself_and_a_normalised_bottleneck_of_it() -> None:
    own = vectors_of("residual", "prompt.vectors.hidden=6")
    down, _, up, norm = own.mlp
    found = made(own, None)
    for i in range(P):
        hidden = times(down.weight, own.prompt_PD[i]) + down.bias
        hidden = torch.stack([x if x > 0 else 0 * x for x in hidden])
        y = times(up.weight, hidden) + up.bias
        mean = sum(y) / D
        variance = sum((each - mean) ** 2 for each in y) / D
        normed = (y - mean) / (variance + norm.eps) ** 0.5 * norm.weight + norm.bias
        torch.testing.assert_close(found[1, i], own.prompt_PD[i] + normed, **EXACT)


def test_a_prompt_of_low_rank_is_the_product_of_its_factors_and_starts_near_the_usual_vectors() -> None:
    own = vectors_of("low_rank", "prompt.vectors.rank=2")
    found = made(own, None)
    for i in range(P):
        expected = sum(own.left[i, k] * own.right[k] for k in range(2))
        torch.testing.assert_close(found[2, i], expected, **EXACT)
    typed = ["data.dir=.", "prompt.init=uniform", f"prompt.num_tokens={P}"]
    start = {}
    for name in (
        "prompt=fixed",
        "prompt=low_rank prompt.vectors.rank=2",
        "prompt=low_rank prompt.vectors.rank=4",
    ):
        experiment = config.build(config.compose([*typed, *name.split()]))
        prompt = build_prompt(experiment, Dims(width=D, vocab_size=0), None)
        start[name] = made(prompt.vectors, None)[0].detach()
    usual, two, whole = start.values()
    torch.testing.assert_close(whole, usual, atol=1e-5, rtol=1e-5)
    left_over = torch.linalg.svdvals(usual)[2:].norm()  # Eckart and Young
    torch.testing.assert_close((two - usual).norm(), left_over, atol=1e-5, rtol=1e-5)
    (found_problem,) = problems("data.dir=.", "prompt=low_rank", "prompt.vectors.rank=21")
    assert "prompt.vectors.rank=21 exceeds prompt.num_tokens=20" in found_problem


@pytest.mark.parametrize("trained", [True, False])
def test_a_normalised_prompt_has_directions_and_lengths(trained: bool) -> None:
    own = vectors_of("normalised", f"prompt.vectors.trained_length={str(trained).lower()}")
    found = made(own, None)
    for i in range(P):
        size = sum(x * x for x in own.prompt_PD[i]) ** 0.5
        torch.testing.assert_close(found[3, i], own.length_P[i] * own.prompt_PD[i] / size, **EXACT)
    assert len(list(own.parameters())) == 1 + trained
    assert "length_P" in own.state_dict()
