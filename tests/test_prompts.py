"""What a prompt decides: parameter counts, noise, arg-max at evaluation, lengths, first values."""

from __future__ import annotations

import pytest
import torch
from conftest import PROMPTS
from helpers.prompts import build_prompt
from torch import Tensor

from dp_bench import config
from dp_bench.methods import counts
from dp_bench.prompts.estimators import draw
from dp_bench.prompts.init import initialiser
from dp_bench.prompts.prompt import Prompt
from dp_bench.prompts.selectors import Fixed, PerInstance, PerTask, Random
from dp_bench.prompts.vectors import Pool
from dp_bench.settings import Estimator, Init
from dp_bench.types import Dims, Site

WIDTHS = {"small": 512, "base": 768, "large": 1024, "XL": 2048}
# Number of trained values at l = 20: exact counts from the authors' code, biases included.
PAPER = {
    "fixed": (10_240, 15_360, 20_480, 40_960),
    "adap_pos": (10_261, 15_381, 20_501, 40_981),
    "adap_ins_pos": (21_013, 31_509, 42_005, 83_989),
    "adap_ins_len": (21_013, 31_509, 42_005, 83_989),
    "adap_ins_vec": (43_012, 64_516, 86_020, 172_036),
    "adap_ins_vec prompt.vectors.num_prompts=8": (86_024, 129_032, 172_040, 344_072),
    "adap_pos_ins_vec": (43_033, 64_537, 86_041, 172_057),
    "adap_pos_ins_vec prompt.vectors.num_prompts=8": (86_045, 129_053, 172_061, 344_093),
    "adap_ins_vec_pos": (53_785, 80_665, 107_545, 215_065),
    "adap_ins_vec_pos prompt.vectors.num_prompts=8": (96_797, 145_181, 193_565, 387_101),
}


def build(
    *overrides: str,
    width: int = 8,
    embedding: Tensor | None = None,
    num_tasks: int = 1,
    sites: tuple[Site, ...] = (),
    num_layers: int = 2,
) -> Prompt:
    init = [] if embedding is not None else ["prompt.init=uniform"]
    experiment = config.build(config.compose(["data.dir=.", *init, *overrides]))
    dims = Dims(
        width=width,
        vocab_size=0 if embedding is None else len(embedding),
        num_tasks=num_tasks,
        sites=sites or (Site("encoder", 2, 4), Site("decoder", 2, 4)),
        layer_widths=(width,) * num_layers,
    )
    return build_prompt(experiment, dims, embedding)


def decide(
    prompt: Prompt, num: int = 4, *, noise: dict[str, Tensor] | None = None, seed: int = 0
) -> tuple[Tensor, ...]:
    width = 8
    summary = torch.randn(num, width, generator=torch.Generator().manual_seed(seed))
    nothing = torch.zeros(num, dtype=torch.long)
    out = prompt(summary, nothing, noise or {}, 1.0, nothing)
    return out.vectors_BPD, out.before_BJ, out.keep_BP


@pytest.mark.parametrize("spec", PAPER)
def test_parameter_counts_are_those_of_the_paper(spec: str) -> None:
    name, *overrides = spec.split()
    with torch.device("meta"):
        prompts = [build(f"prompt={name}", *overrides, width=width) for width in WIDTHS.values()]
    assert tuple(sum(p.numel() for p in prompt.parameters()) for prompt in prompts) == PAPER[spec]


@pytest.mark.parametrize("size", list(counts.T5))
@pytest.mark.parametrize("num_tasks", [1, 5])
@pytest.mark.parametrize("name", PROMPTS)
def test_the_formula_of_each_prompt_counts_its_parameters(name: str, num_tasks: int, size: str) -> None:
    """At the widths of T5 1.1, built without memory; those of the paper are in PAPER as well."""
    sizes = counts.T5[size]
    heads = sizes.inner // 64
    sites = [Site(kind, heads, 64) for kind, number in sizes.sites.items() for _ in range(number)]
    with torch.device("meta"):
        prompt = build(
            f"prompt={name}",
            width=sizes.width,
            num_tasks=num_tasks,
            sites=tuple(sites),
            num_layers=sizes.first_layers,
        )
    found = sum(p.numel() for p in prompt.parameters())
    assert found == counts.trained(config.option_settings("prompt", name), sizes, num_tasks)


@pytest.mark.parametrize("name", config.options("prompt"))
def test_every_prompt_and_baseline_has_a_formula(name: str) -> None:
    settings = config.option_settings("prompt", name)
    trains_nothing = settings["method"] in (
        *("zero_shot", "majority", "calibrated", "in_context", "best_template"),
    )
    assert (counts.formula(settings) == "0") == trains_nothing


def test_straight_through_draws_are_exactly_one_hot() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5000, 21) * 3
    noise = -torch.empty_like(logits).exponential_().log()
    for temperature in (1.0, 0.5, 0.1):
        drawn = draw(logits, noise, temperature, Estimator.gumbel_st)
        assert torch.equal(drawn.sort(1).values[:, -1], torch.ones(5000))
        assert torch.equal(drawn.sort(1).values[:, :-1], torch.zeros(5000, 20))


def test_draws_follow_the_softmax_whatever_the_temperature() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0]).expand(40_000, -1)
    noise = -torch.empty_like(logits).exponential_(generator=torch.Generator().manual_seed(1)).log()
    for temperature in (1.0, 0.3):
        shares = draw(logits, noise, temperature, Estimator.gumbel_st).mean(0)
        torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", PROMPTS)
def test_evaluation_draws_only_in_the_random_control(name: str) -> None:
    prompt = build(f"prompt={name}")
    expected = {
        "random_position": ["position"],
        "random_inside": ["position"],
        "random_route": ["route"],
    }.get(name, [])
    assert prompt.noisy_selectors(training=False, sample_at_eval=False) == expected
    noise = prompt.draw_noise(4, torch.Generator().manual_seed(0), selectors=expected)
    first, second = decide(prompt, noise=noise), decide(prompt, noise=noise)
    for one, other in zip(first, second, strict=True):
        assert one is other is None or torch.equal(one, other)


def test_without_noise_the_most_likely_outcome_is_taken() -> None:
    selector = PerInstance(4, Dims(width=8, vocab_size=0))
    summary = torch.randn(16, 8)
    chosen = selector(summary, torch.zeros(16, dtype=torch.long), None, 1.0).argmax(1)
    assert torch.equal(chosen, selector.linear(summary).argmax(1))


def test_random_position_is_uniform_and_learns_nothing() -> None:
    selector = Random(5, Dims(width=8, vocab_size=0))
    noise = -torch.empty(20_000, 5).exponential_(generator=torch.Generator().manual_seed(0)).log()
    shares = selector(None, torch.zeros(20_000, dtype=torch.long), noise, 1.0).mean(0)
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.015, rtol=0)
    assert not list(selector.parameters())


def test_per_task_logits_belong_to_their_task() -> None:
    selector = PerTask(3, Dims(width=8, vocab_size=0, num_tasks=2))
    selector.logits_NJ.data = torch.tensor([[0.0, 5.0, 0.0], [5.0, 0.0, 0.0]])
    assert selector(None, torch.tensor([0, 1, 0]), None, 1.0).argmax(1).tolist() == [1, 0, 1]


def test_a_shared_draw_gives_a_micro_batch_one_outcome() -> None:
    selector = PerTask(6, Dims(width=8, vocab_size=0), shared_draw=True)
    noise = -torch.empty(50, 6).exponential_(generator=torch.Generator().manual_seed(0)).log()
    task = torch.zeros(50, dtype=torch.long)
    assert len(selector(None, task, noise, 1.0).argmax(1).unique()) == 1
    selector.shared_draw = False
    assert len(selector(None, task, noise, 1.0).argmax(1).unique()) > 1


@pytest.mark.parametrize(("outcome", "expected"), [("all", 6), ("half", 3), ("none", 0), (2, 2)])
def test_fixed_outcomes_by_name_and_number(outcome: str | int, expected: int) -> None:
    selector = Fixed(7, Dims(width=8, vocab_size=0), outcome=outcome)
    assert selector(None, torch.zeros(2, dtype=torch.long), None, 1.0).argmax(1).tolist() == [expected] * 2


def test_a_length_keeps_the_first_vectors_and_its_gradients_are_finite() -> None:
    prompt = build("prompt=adap_ins_len", "prompt.num_tokens=6")
    noise = prompt.draw_noise(64, torch.Generator().manual_seed(3), selectors=["length"])
    _, _, keep = decide(prompt, 64, noise=noise)
    lengths = keep.sum(1).long()
    assert torch.equal(keep, (torch.arange(6) < lengths[:, None]).float())
    assert {0, 6} <= set(lengths.tolist()), "from no vector to all of them"
    (keep * torch.randn_like(keep)).sum().backward()
    grads = [p.grad for p in prompt.length.parameters()]
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in grads)


def test_all_kept_means_no_gate_at_all() -> None:
    assert decide(build("prompt=fixed"))[2] is None
    assert decide(build("prompt=fixed", "prompt.length.outcome=half"))[2].sum(1).tolist() == [10.0] * 4


def test_the_pool_is_the_softmax_mixture_of_its_prompts() -> None:
    prompt = build("prompt=adap_ins_vec", "prompt.num_tokens=3")
    assert isinstance(prompt.vectors, Pool)
    summary = torch.randn(5, 8)
    vectors, weights, *_ = prompt.vectors(summary, torch.zeros(5, dtype=torch.long))
    beta = prompt.vectors.linear(summary).softmax(-1)
    expected = torch.stack(
        [sum(beta[b, k] * prompt.vectors.prompts_KPD[k] for k in range(4)) for b in range(5)]
    )
    torch.testing.assert_close(vectors, expected)
    torch.testing.assert_close(weights, beta)


def test_tanh_keeps_pool_weights_within_the_paper_codes_bounds() -> None:
    prompt = build("prompt=adap_ins_vec", "protocol=authors", embedding=torch.randn(100, 8))
    assert isinstance(prompt.vectors, Pool) and prompt.vectors.tanh
    _, weights, *_ = prompt.vectors(1e4 * torch.randn(200, 8), torch.zeros(200, dtype=torch.long))
    assert weights is not None
    assert bool(((weights > 0.042) & (weights < 0.712)).all())  # the bounds of softmax(tanh(.)) for k = 4


def test_authors_protocol_sets_the_switches_of_the_pieces() -> None:
    embedding = torch.randn(100, 8)
    positions = build("prompt=adap_ins_pos", "protocol=authors", embedding=embedding)
    assert isinstance(positions.position, PerInstance) and positions.position.relu
    assert torch.equal(positions.vectors.prompt_PD, embedding[:20])  # type: ignore[arg-type]
    pool = build("prompt=adap_ins_vec", "protocol=authors", embedding=embedding)
    assert torch.equal(pool.vectors.prompts_KPD.reshape(-1, 8), embedding[:80])  # type: ignore[operator]
    both = build("prompt=adap_pos_ins_vec", "protocol=authors", embedding=embedding)
    assert bool((both.vectors.prompts_KPD.abs() <= 0.5).all())  # type: ignore[operator]
    assert isinstance(both.position, PerTask) and both.position.shared_draw
    assert isinstance(both.vectors, Pool) and not both.vectors.tanh


def test_clean_protocol_sets_none_of_them() -> None:
    prompt = build("prompt=adap_ins_vec_pos")
    assert isinstance(prompt.position, PerInstance) and not prompt.position.relu
    assert isinstance(prompt.vectors, Pool) and not prompt.vectors.tanh


def test_vocabulary_rows_are_distinct_and_never_special() -> None:
    embedding = torch.arange(50.0)[:, None].expand(-1, 8)
    dims = Dims(width=8, vocab_size=40, special_ids=(0, 1, 2, 39))
    rows = initialiser(Init.vocab, dims, embedding)(20)[:, 0].tolist()
    assert len(set(rows)) == 20 and not set(rows) & {0, 1, 2, 39, *range(40, 50)}
    assert len(initialiser(Init.vocab, dims, embedding)(100)) == 100, "more rows than vocabulary"


def test_the_seed_decides_the_first_values_and_nothing_else_does() -> None:
    torch.manual_seed(1)
    one = build("prompt=dynamic", "seed=3")
    torch.manual_seed(2)
    same, other = build("prompt=dynamic", "seed=3"), build("prompt=dynamic", "seed=4")
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])


def test_initialisation_from_vocabulary_needs_an_embedding() -> None:
    with pytest.raises(ValueError, match=r"prompt\.init=uniform"):
        initialiser(Init.vocab, Dims(width=8, vocab_size=10), None)
