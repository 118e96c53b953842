"""Estimators against the exact gradient of the expected loss: right in expectation, or measurably wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.configs import problems
from helpers.estimators import J, forced, gradient, make_model, texts
from torch import Tensor

from dp_bench import config, run
from dp_bench.backbones.backbone import Backbone
from dp_bench.config import Experiment
from dp_bench.model import PromptedModel
from dp_bench.objective import objective
from dp_bench.prompts.estimators import REDRAWS, draw, forwards, noise_columns
from dp_bench.settings import Estimator
from dp_bench.types import Batch

ST = (Estimator.gumbel_st, Estimator.st, Estimator.reinmax, Estimator.rao_blackwell)


def gumbel(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -torch.empty(*shape, dtype=torch.float64).exponential_(generator=generator).log()


def mean_gradient(
    estimator: Estimator,
    logits_J: Tensor,
    slope: Callable[[Tensor], Tensor],
    n: int = 200_000,
    tau: float = 1.0,
) -> Tensor:
    """Return the mean over draws of the gradient that an estimator gives the logits, for a loss of the
    one-hot draw whose slope at a draw is `slope`."""
    logits = logits_J.expand(n, -1).clone().requires_grad_()
    noise = gumbel(n, noise_columns(len(logits_J), estimator))
    drawn = draw(logits, noise, tau, estimator)
    (drawn * slope(drawn.detach())).sum().backward()
    assert logits.grad is not None
    return logits.grad.mean(0)


def exact_gradient(logits_J: Tensor, loss_J: Tensor) -> Tensor:
    shares = logits_J.softmax(0)
    return shares * (loss_J - shares @ loss_J)


LOGITS = torch.tensor([0.3, -0.5, 1.1, 0.0], dtype=torch.float64)
COST = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("estimator", ST)
def test_every_draw_is_one_hot_and_a_sample_of_the_softmax(estimator: Estimator) -> None:
    noise = gumbel(40_000, noise_columns(4, estimator))
    drawn = draw(LOGITS.expand(40_000, -1), noise, 0.5, estimator)
    assert torch.equal(drawn.sum(1), torch.ones_like(drawn[:, 0])) and set(drawn.unique().tolist()) == {0, 1}
    torch.testing.assert_close(drawn.mean(0), LOGITS.softmax(0), atol=0.01, rtol=0)


@pytest.mark.parametrize("estimator", [Estimator.st, Estimator.reinmax])
def test_st_and_reinmax_are_right_where_the_loss_is_linear_in_the_draw(estimator: Estimator) -> None:
    found = mean_gradient(estimator, LOGITS, COST.expand_as)
    torch.testing.assert_close(found, exact_gradient(LOGITS, COST), atol=0.01, rtol=0)


def test_reinmax_is_right_to_second_order_and_st_is_not() -> None:
    """For a quadratic loss, f(D) = D A D / 2, whose slope at a draw is A D."""
    torch.manual_seed(1)
    a = torch.randn(4, 4, dtype=torch.float64)
    a = a + a.T
    exact = exact_gradient(LOGITS, a.diagonal() / 2)
    second = mean_gradient(Estimator.reinmax, LOGITS, lambda drawn: drawn @ a)
    first = mean_gradient(Estimator.st, LOGITS, lambda drawn: drawn @ a)
    torch.testing.assert_close(second, exact, atol=0.02, rtol=0)
    assert (first - exact).norm() > 5 * (second - exact).norm()


def test_rao_blackwell_is_the_mean_of_gumbel_with_less_noise() -> None:
    torch.manual_seed(2)
    slope = torch.randn(4, 4, dtype=torch.float64)
    mean = [mean_gradient(e, LOGITS, lambda drawn: drawn @ slope, tau=0.7) for e in (ST[0], ST[3])]
    torch.testing.assert_close(mean[0], mean[1], atol=0.02, rtol=0)

    def spread(estimator: Estimator) -> float:
        logits = LOGITS.expand(20_000, -1).clone().requires_grad_()
        drawn = draw(logits, gumbel(20_000, noise_columns(4, estimator), seed=3), 0.7, estimator)
        (gradient,) = torch.autograd.grad((drawn * (drawn.detach() @ slope)).sum(), logits)
        return float(gradient.var(0).sum())

    assert spread(Estimator.rao_blackwell) < 0.8 * spread(Estimator.gumbel_st)
    assert noise_columns(4, Estimator.rao_blackwell) == 4 * (1 + REDRAWS)


def naive(estimator: Estimator, logits_BJ: Tensor, noise_BX: Tensor, tau: float) -> Tensor:
    """Return the soft part of each straight-through estimator as its paper writes it, in float64."""
    logits, noise = logits_BJ.double(), noise_BX.double()
    number = logits.shape[1]
    own, more = noise[:, :number], noise[:, number:]
    hard = torch.nn.functional.one_hot((logits + own).argmax(1), number).double()
    if estimator is Estimator.gumbel_st:
        return ((logits + own) / tau).softmax(1)
    if estimator is Estimator.st:
        return logits.softmax(1)
    if estimator is Estimator.reinmax:
        half = (hard + (logits / tau).softmax(1)) / 2
        return 2 * ((half.log() - logits).detach() + logits).softmax(1) - logits.softmax(1) / 2
    waits = (-more).exp().reshape(len(logits), -1, number)  # standard exponentials
    weights, z = logits.detach().exp()[:, None], logits.detach().exp().sum(1)[:, None, None]
    first = (waits * hard[:, None]).sum(-1, keepdim=True) / z
    shifted = -torch.where(hard[:, None] > 0, first, waits / weights + first).log()
    return ((logits[:, None] + (shifted - logits.detach()[:, None])) / tau).softmax(-1).mean(1)


def value_and_gradient(
    estimator: Estimator, logits_BJ: Tensor, noise_BX: Tensor, tau: float, slope_BJ: Tensor
) -> tuple[Tensor, Tensor]:
    logits = logits_BJ.clone().requires_grad_()
    drawn = draw(logits, noise_BX.to(logits.dtype), tau, estimator)
    (gradient,) = torch.autograd.grad((drawn * slope_BJ.to(drawn.dtype)).sum(), logits)
    return drawn.detach(), gradient


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("estimator", ST)
def test_straight_through_gradients_are_those_of_the_published_formulas(
    estimator: Estimator, tau: float
) -> None:
    torch.manual_seed(0)
    logits, slope = 3 * torch.randn(50, 6, dtype=torch.float64), torch.randn(50, 6, dtype=torch.float64)
    noise = gumbel(50, noise_columns(6, estimator))
    found = value_and_gradient(estimator, logits, noise, tau, slope)[1]
    theirs = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad((naive(estimator, theirs, noise, tau) * slope).sum(), theirs)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("size", [50.0, 88.8, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("estimator", ST)
def test_large_logits_give_finite_draws_and_gradients_in_fp32(estimator: Estimator, size: float) -> None:
    """exp(88.8) is infinite in fp32. Logits that differ by much, that are all large, and by a little."""
    torch.manual_seed(0)
    spread = size * torch.randn(40, 5)
    level = size + torch.randn(40, 5)
    for logits in (spread, level, -level, torch.cat([level[:, :4], -level[:, 4:]], dim=1)):
        noise = gumbel(40, noise_columns(5, estimator)).float()
        for tau in (0.1, 1.0):
            value, found = value_and_gradient(estimator, logits, noise, tau, torch.randn(40, 5))
            assert torch.isfinite(value).all() and torch.equal(value.sum(1), torch.ones(40))
            assert torch.isfinite(found).all()


@pytest.mark.parametrize("level", [0.0, 60.0, 300.0])
def test_rao_blackwell_depends_on_differences_of_logits_alone(level: float) -> None:
    torch.manual_seed(0)
    logits, slope = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 5, dtype=torch.float64)
    noise = gumbel(30, noise_columns(5, Estimator.rao_blackwell))
    expected = value_and_gradient(Estimator.rao_blackwell, logits, noise, 0.7, slope)[1]
    found = value_and_gradient(Estimator.rao_blackwell, logits + level, noise, 0.7, slope)[1]
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_most_extreme_draws_are_finite(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exponential draw may be 0, once in some 2^24, and -log(0) would be an infinite Gumbel number."""
    from dp_bench.prompts import estimators

    monkeypatch.setattr(Tensor, "exponential_", lambda own, **_: own.zero_())
    noise = estimators.gumbel((8, 5 * (1 + REDRAWS)), torch.Generator(), dtype)
    assert torch.isfinite(noise).all()
    logits = torch.randn(8, 5, dtype=dtype)
    for estimator in ST:
        for factor in (1.0, 1e4):
            found = value_and_gradient(estimator, factor * logits, noise, 0.5, logits)
            assert all(torch.isfinite(part).all() for part in found)


@pytest.mark.parametrize("estimator", list(Estimator))
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_an_update_with_large_position_logits_is_finite(
    make_backbone: Callable[..., Backbone], estimator: Estimator, size: float
) -> None:
    model = make_model(make_backbone, estimator, "adap_ins_pos").float()
    with torch.no_grad():
        for parameter in model.prompt.position.parameters():
            parameter.mul_(size)
    noise = {"position": gumbel(2, noise_columns(J, estimator)).float()}
    batch = replace(batch_with(noise), summary_BD=texts(2).summary_BD.float())  # type: ignore[union-attr]
    found = gradient(model, batch)
    assert torch.isfinite(found).all()


# ---------------------------------------------------------------------------------------------- on a model


def batch_with(noise: dict[str, Tensor], size: int = 2) -> Batch:
    return replace(texts(size), noise=noise)


def log_probs(model: PromptedModel, size: int) -> Tensor:
    """Return the log-probability of every position for every example: [size, J]."""
    rows = []
    for outcome in range(J):
        batch = batch_with({"position": forced(*[outcome] * size)}, size)
        with torch.no_grad():
            rows.append(model(batch).prompt.log_prob_B)
    return torch.stack(rows, dim=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", ["adap_ins_pos", "adap_pos"])
def test_exact_is_the_gradient_of_the_expected_loss(
    make_backbone: Callable[..., Backbone], prompt: str
) -> None:
    """By finite differences of the expectation, computed from the losses and the softmax alone."""
    model = make_model(make_backbone, Estimator.exact, prompt)
    batch = batch_with({"position": torch.zeros(2, J, dtype=torch.float64)})
    found = gradient(model, batch)
    with torch.no_grad():
        losses = torch.stack(
            [
                torch.nn.functional.cross_entropy(
                    model(batch_with({"position": forced(j, j)})).logits_BC, batch.label_B, reduction="none"
                )
                for j in range(J)
            ],
            dim=1,
        )
    parameters = list(model.prompt.position.parameters())

    def expected() -> float:
        return float((log_probs(model, 2).exp() * losses).sum(1).mean())

    slopes = []
    with torch.no_grad():
        for parameter in parameters:
            flat = parameter.view(-1)
            for place in range(min(12, flat.numel())):
                before, step = float(flat[place]), 1e-5
                flat[place] = before + step
                high = expected()
                flat[place] = before - step
                slopes.append((high - expected()) / (2 * step))
                flat[place] = before
    ours = torch.cat([part.view(-1)[:12] for part in found.split([p.numel() for p in parameters])])
    torch.testing.assert_close(ours, torch.tensor(slopes, dtype=torch.float64), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("estimator", [Estimator.reinforce, Estimator.leave_one_out])
@pytest.mark.parametrize("prompt", ["adap_ins_pos", "adap_pos"])
def test_score_functions_are_unbiased(
    make_backbone: Callable[..., Backbone], estimator: Estimator, prompt: str
) -> None:
    """Their mean over all joint draws of two examples, each weighed by its probability, is the exact
    gradient: no Monte-Carlo error."""
    model = make_model(make_backbone, estimator, prompt)
    exact = gradient(
        make_model(make_backbone, Estimator.exact, prompt),
        batch_with({"position": torch.zeros(2, J, dtype=torch.float64)}),
    )
    shares = log_probs(model, 2).exp()
    draws = 2 if estimator is Estimator.leave_one_out else 1
    mean = torch.zeros_like(exact)
    for outcomes in itertools.product(range(J), repeat=2 * draws):
        first, rest = outcomes[:2], outcomes[2:]
        noise = torch.cat([forced(*first), *([forced(*rest)] if rest else [])], dim=1)
        weight = shares[0, first[0]] * shares[1, first[1]]
        weight = weight * (shares[0, rest[0]] * shares[1, rest[1]] if rest else 1.0)
        mean = mean + weight * gradient(model, batch_with({"position": noise}))
    assert (mean - exact).norm() < 1e-3 * exact.norm(), "T5's norms are computed in fp32"


def test_straight_through_positions_are_biased_on_a_real_model(
    make_backbone: Callable[..., Backbone],
) -> None:
    """Moving a prompt is not linear: what docs say of these estimators is measured, not assumed."""
    zeros = torch.zeros(2, J, dtype=torch.float64)
    exact = gradient(
        make_model(make_backbone, Estimator.exact, "adap_ins_pos"), batch_with({"position": zeros})
    )
    for estimator in (Estimator.gumbel_st, Estimator.st):
        model = make_model(make_backbone, estimator, "adap_ins_pos")
        draws = [gradient(model, batch_with({"position": gumbel(2, J, seed=seed)})) for seed in range(400)]
        stacked = torch.stack(draws)
        error = stacked.std(0).norm() / len(draws) ** 0.5
        assert (stacked.mean(0) - exact).norm() > 3 * error, "a bias beyond the Monte-Carlo error"


def test_the_vectors_learn_alike_whatever_teaches_the_position(
    make_backbone: Callable[..., Backbone],
) -> None:
    noise = gumbel(2, J, seed=5)
    gradients = []
    for estimator in (Estimator.gumbel_st, Estimator.reinforce):
        model = make_model(make_backbone, estimator, "adap_ins_pos")
        goal = objective(model, model.prompt, batch_with({"position": noise}), 1.0)
        gradients.append(torch.autograd.grad(goal.to_minimise, list(model.prompt.vectors.parameters()))[0])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("estimator", list(Estimator))
def test_a_run_trains_with_every_estimator_and_records_its_cost(
    experiment: Callable[..., Experiment], estimator: Estimator
) -> None:
    quick = ("trainer.max_steps=3", "trainer.eval_every=3", "trainer.batch_size=4", "prompt.num_tokens=2")
    record = run.run(experiment("prompt=adap_ins_pos", f"prompt.estimator={estimator.value}", *quick))
    assert record.diagnostics["forwards_per_update"] == forwards(3, estimator)
    assert record.num_updates == 3


def test_an_estimator_leaves_ids_alone_unless_it_is_chosen() -> None:
    def flat(*words: str) -> dict[str, Any]:
        return dict(config.build(config.compose(["prompt=adap_ins_pos", *words])).resolved["prompt"])

    assert flat()["estimator"] is None and flat("prompt.estimator=st")["estimator"] == "st"


def test_an_estimator_without_a_selector_is_refused() -> None:
    assert (
        "applies to a learned position, length or route" in problems("prompt=fixed", "prompt.estimator=st")[0]
    )
    both = ("prompt=adap_ins_pos", "prompt/length=task", "prompt.estimator=exact")
    assert "make one of them fixed" in problems(*both)[0]
