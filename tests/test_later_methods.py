"""Methods that came after, against their published equations, written a second time as loops in float64."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from conftest import make_batch
from helpers.backbones import DIMS, batch_of, settings_of
from helpers.configs import problems
from helpers.prompts import build_prompt
from safetensors.torch import load_file
from torch import Tensor

from dp_bench import config
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone
from dp_bench.backbones.probe import find_layers
from dp_bench.config import Experiment
from dp_bench.methods import counts
from dp_bench.model import PromptedModel
from dp_bench.prompts.estimators import forced, gumbel
from dp_bench.prompts.layout import insert
from dp_bench.prompts.router import Router, normal
from dp_bench.records import identify
from dp_bench.run import run
from dp_bench.settings import SplitOrder, Summary
from dp_bench.summaries import summarise, summary_width
from dp_bench.trained import open_run
from dp_bench.types import Dims, PromptOutput, UserError
from dp_bench.verbalizer import LabelWords

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
    piece = vectors_of("idpg", "prompt.vectors.hidden=6")
    found = made(piece, texts)
    for row in range(B):
        hidden = gelu(times(piece.down.weight, texts[row]) + piece.bias)
        flat = times(piece.up.weight, hidden)
        for i in range(P):
            torch.testing.assert_close(found[row, i], flat[i * D : (i + 1) * D] + piece.task_PD[i], **EXACT)


def test_the_layers_of_phm_are_sums_of_kronecker_products_with_shared_rules(texts: Tensor) -> None:
    piece = vectors_of("idpg_phm", "prompt.vectors.rules=4", "prompt.vectors.hidden=8")
    first = kronecker(piece.rules, piece.down)
    second = kronecker(piece.rules, piece.up)
    assert first.shape == (SUMMARY, 8) and second.shape == (8, P * D)
    expected = gelu(texts @ first + piece.bias) @ second
    torch.testing.assert_close(made(piece, texts), expected.reshape(B, P, D) + piece.task_PD, **EXACT)
    named = dict(piece.named_parameters())
    assert sum(p.numel() for p in piece.parameters()) == 4**3 + (SUMMARY * 8 + 8 * P * D) // 4 + 8 + P * D
    assert {id(p) for p in piece.network_parameters()} == {id(p) for n, p in named.items() if n != "task_PD"}


def test_phm_refuses_what_it_cannot_divide() -> None:
    (found,) = problems("data.dir=.", "prompt=idpg_phm", "prompt.vectors.hidden=6", "prompt.vectors.rules=4")
    assert "prompt.vectors.rules=4 must divide prompt.vectors.hidden=6" in found
    with pytest.raises(
        UserError, match="must divide the width of summaries, 16, and the numbers of a prompt, 36"
    ):
        vectors_of("idpg_phm", "prompt.vectors.rules=16", width=9)


def test_a_residual_prompt_is_itself_and_a_normalised_bottleneck_of_it() -> None:
    piece = vectors_of("residual", "prompt.vectors.hidden=6")
    down, _, up, norm = piece.mlp
    found = made(piece, None)
    for i in range(P):
        hidden = times(down.weight, piece.prompt_PD[i]) + down.bias
        hidden = torch.stack([x if x > 0 else 0 * x for x in hidden])
        y = times(up.weight, hidden) + up.bias
        mean = sum(y) / D
        variance = sum((each - mean) ** 2 for each in y) / D
        normed = (y - mean) / (variance + norm.eps) ** 0.5 * norm.weight + norm.bias
        torch.testing.assert_close(found[1, i], piece.prompt_PD[i] + normed, **EXACT)


def test_a_prompt_of_low_rank_is_the_product_of_its_factors_and_starts_near_the_usual_vectors() -> None:
    piece = vectors_of("low_rank", "prompt.vectors.rank=2")
    found = made(piece, None)
    for i in range(P):
        expected = sum(piece.left[i, k] * piece.right[k] for k in range(2))
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
    piece = vectors_of("normalised", f"prompt.vectors.trained_length={str(trained).lower()}")
    found = made(piece, None)
    for i in range(P):
        size = sum(x * x for x in piece.prompt_PD[i]) ** 0.5
        torch.testing.assert_close(found[3, i], piece.length_P[i] * piece.prompt_PD[i] / size, **EXACT)
    assert len(list(piece.parameters())) == 1 + trained
    assert "length_P" in piece.state_dict()


# ---------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_attempt_adds_an_attention_over_sources_and_itself(texts: Tensor, temperature: float | None) -> None:
    words = ("prompt.vectors.num_prompts=3", "prompt.vectors.hidden=6")
    piece = vectors_of("attempt", *words, f"prompt.vectors.temperature={temperature or 'null'}")
    found, weights = piece(texts, torch.zeros(B, dtype=torch.long))[:2]
    for row in range(B):
        x = times(piece.down.weight, texts[row])
        x = times(piece.up.weight, torch.stack([each / (1 + math.exp(-each.item())) for each in x]))
        mean, n = sum(x) / D, D
        h = (x - mean) / (sum((each - mean) ** 2 for each in x) / n + piece.norm.eps) ** 0.5
        h = h * piece.norm.weight + piece.norm.bias
        prompts = [*piece.sources_KPD, piece.prompt_PD]
        maxima = [torch.stack([max(prompt[i, d] for i in range(P)) for d in range(D)]) for prompt in prompts]
        scores = [sum(m * h) / (temperature or D * math.e) for m in maxima]
        total = sum(math.exp(score.item()) for score in scores)
        a = [math.exp(score.item()) / total for score in scores]
        expected = piece.prompt_PD + sum(share * prompt for share, prompt in zip(a, prompts, strict=True))
        torch.testing.assert_close(found[row], expected, **EXACT)
        torch.testing.assert_close(weights[row], torch.tensor(a, dtype=torch.float64), **EXACT)


def test_the_maximum_of_embeddings_leaves_padding_out(backbone: Backbone) -> None:
    batch = make_batch([5, 3])
    found = summarise(backbone, batch.ids_BT, batch.mask_BT, Summary.embedding_max)
    for row, length in ((0, 5), (1, 3)):
        assert torch.equal(found[row], backbone.embed(batch.ids_BT)[row, :length].max(0).values)


def test_sources_are_the_prompts_of_runs_frozen_and_named_by_their_content(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    quick = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=4")
    results = tmp_path / "results" / "runs"
    ids = [run(experiment("prompt=fixed", *quick, f"seed={seed}")).run_id for seed in (0, 1)]
    folders = [tmp_path / name for name in ("first", "second")]
    for name, folder in zip(ids, folders, strict=True):
        shutil.copytree(results / name, folder)
    words = ("prompt=attempt", *quick, "prompt.vectors.num_prompts=2")
    named = experiment(*words, f"prompt.vectors.sources=[{folders[0]},{folders[1]}]")
    record = run(named)
    assert record.trainable_parameters == 4 * 64 + 2 * 101 * 64
    tensors = load_file(results / record.run_id / "prompt.safetensors")
    for source, folder in zip(tensors["vectors.sources_KPD"], folders, strict=True):
        assert torch.equal(source, load_file(folder / "prompt.safetensors")["vectors.prompt_PD"])
    # Its id does not depend on where the sources are, and its record opens without them.
    moved = experiment(*words, f"prompt.vectors.sources=[{results / ids[0]},{results / ids[1]}]")
    assert identify(moved.resolved, "") == identify(named.resolved, "")
    for folder in folders:
        shutil.rmtree(folder)
    reopened = open_run(results / record.run_id)
    assert torch.equal(reopened.model.prompt.vectors.sources_KPD, tensors["vectors.sources_KPD"])
    with pytest.raises(UserError, match=r"first does not exist. Give the folder of a finished run"):
        experiment(*words, f"prompt.vectors.sources=[{folders[0]},{folders[1]}]")
    wrong = experiment(*words, f"prompt.vectors.sources=[{results / ids[0]},{results / record.run_id}]")
    assert run(wrong).num_updates == 2  # the prompt of another run of attempt is a single one, too
    shapes = experiment(
        *words,
        "prompt.num_tokens=5",
        f"prompt.vectors.sources=[{results / ids[0]}]".replace("]", f",{results / ids[1]}]"),
    )
    with pytest.raises(UserError, match="has a prompt of 4 x 64, and 5 x 64 is needed"):
        run(shapes)
    (found,) = problems("data.dir=.", "prompt=attempt", "prompt.vectors.sources=[a,b]")
    assert "names 2 runs and prompt.vectors.num_prompts=4: add prompt.vectors.num_prompts=2" in found


# ---------------------------------------------------------------------------------------------- router


def test_smop_takes_the_most_probable_prompt_times_its_probability(texts: Tensor) -> None:
    typed = [
        "data.dir=.",
        "prompt=smop",
        "prompt.init=uniform",
        f"prompt.num_tokens={P}",
        "prompt.route.balance=0.3",
    ]
    dims = Dims(width=D, vocab_size=0, summary_width=SUMMARY)
    prompt = build_prompt(config.build(config.compose(typed)), dims, None).double()
    route, members = prompt.route, prompt.vectors.prompts_KPD
    assert isinstance(route, Router) and sum(p.numel() for p in route.parameters()) == 4 * SUMMARY
    noise = prompt.draw_noise(B, torch.Generator().manual_seed(1), selectors=["route"])
    task = torch.zeros(B, dtype=torch.long)
    for given in ({}, noise):
        out = prompt(texts, task, given, 1.0)
        shares, chosen = [], []
        for row in range(B):
            logits = times(route.linear.weight, texts[row])
            if given:
                z = normal(given["route"][row, 4:])
                logits = torch.stack([x * (1 + float(each)) for x, each in zip(logits, z, strict=True)])
            p = [math.exp(x.item()) / sum(math.exp(y.item()) for y in logits) for x in logits]
            best = max(range(4), key=lambda k: p[k])
            torch.testing.assert_close(out.vectors_BPD[row], p[best] * members[best], **EXACT)
            shares.append(p)
            chosen.append(best)
        f, mean = ([chosen.count(k) / B for k in range(4)], [sum(p[k] for p in shares) / B for k in range(4)])
        balance = 0.3 * 4 * sum(one * other for one, other in zip(f, mean, strict=True))
        torch.testing.assert_close(out.loss, torch.tensor(balance, dtype=torch.float64), **EXACT)
    out.vectors_BPD.square().sum().backward()
    assert float(route.linear.weight.grad.abs().max()) > 0, "the weight of the choice trains the router"
    outcome_B = torch.tensor([3, 2, 1, 0, 3])
    forced_out = prompt(texts, task, {"route": forced(outcome_B, 4).double()}, 1.0)
    assert forced_out.pool_weights_BK.argmax(1).tolist() == outcome_B.tolist()


def test_noise_of_the_router_is_normal() -> None:
    noise = normal(gumbel((100_000,), torch.Generator().manual_seed(0)))
    assert scipy.stats.kstest(noise.numpy(), "norm").pvalue > 0.01
    assert normal(torch.tensor([-1e9, 1e9])).isfinite().all()


def test_a_router_has_no_other_estimator() -> None:
    (found,) = problems("data.dir=.", "prompt=smop", "prompt.estimator=reinforce")
    assert "the route learns by the weight of its choice" in found


# ---------------------------------------------------------------------------------------------- the text


def test_dept_adds_a_matrix_of_low_rank_to_each_token_by_its_number() -> None:
    typed = [
        "data.dir=.",
        "prompt=dept",
        "prompt.init=uniform",
        "prompt.text.rank=3",
        "prompt.text.max_length=9",
    ]
    prompt = build_prompt(config.build(config.compose(typed)), Dims(width=D, vocab_size=0), None).double()
    text = prompt.text
    x = torch.randn(2, 7, D, dtype=torch.float64)
    assert torch.equal(text(x), x), "it starts as nothing"
    torch.nn.init.normal_(text.right)
    found = text(x)
    for row in range(2):
        for t in range(7):
            update = sum(text.left[t, k] * text.right[k] for k in range(3)) * 8 / 3**0.5
            torch.testing.assert_close(found[row, t], x[row, t] + update, **EXACT)
    assert sum(p.numel() for p in text.parameters()) == 3 * (9 + D)
    assert {id(p) for p in prompt.network_parameters()} == {id(p) for p in text.parameters()}


def test_the_change_goes_with_the_text_wherever_the_prompt_stands(backbone: Backbone) -> None:
    batch = make_batch([6, 4])
    for position in ("fixed", "random"):
        typed = ["data.dir=.", "prompt=dept", "prompt.init=uniform", "prompt.num_tokens=3"]
        experiment = config.build(config.compose([*typed, f"prompt/position={position}"]))
        prompt = build_prompt(experiment, backbone.dims, None)
        torch.nn.init.normal_(prompt.text.right)
        words = [LabelWords(["yes", "no"], backbone.tokenizer)]
        model = PromptedModel(backbone, prompt, words, order=SplitOrder.paper, summary=Summary.encoder_mean)
        noise = {} if position == "fixed" else {"position": forced(torch.tensor([1, 1]), 4)}
        prompted, output = model.prompted(replace(batch, noise=noise))
        x = backbone.embed(batch.ids_BT) + prompt.text.scale * prompt.text.left[:6] @ prompt.text.right
        for row in range(2):
            torch.testing.assert_close(prompted.embeds_BSD[row, prompted.slot_of_text_BT[row]], x[row])
        model(replace(batch, noise=noise)).logits_BC.sum().backward()
        assert float(prompt.text.left.grad[:5].abs().min()) > 0, "which learns"
        assert output.vectors_BPD.shape[1] == 3


def test_a_text_that_is_too_long_for_the_change_is_refused(experiment: Callable[..., Experiment]) -> None:
    with pytest.raises(UserError, match=r"prompt.text.max_length=5: the longest text has \d+ tokens"):
        run(experiment("prompt=dept", "prompt.text.max_length=5"))


# ------------------------------------------------------------------------------------- inside a text

LENGTHS = [4, 9, 2, 6]


def places(num_outcomes: int, body: int) -> list[int]:
    return [j * (body + 1) // num_outcomes for j in range(num_outcomes)]


@pytest.mark.parametrize("num_outcomes", [3, 9, 20])
@pytest.mark.parametrize("start", [0, 1])
def test_inside_a_text_value_and_gradient_are_those_of_the_naive_sum(num_outcomes: int, start: int) -> None:
    torch.manual_seed(num_outcomes)
    batch = make_batch([length + start for length in LENGTHS], start=start)
    shape = batch.ids_BT.shape
    weight = torch.randn(len(LENGTHS), shape[1] + P, D, dtype=torch.float64)
    first = torch.randn(*shape, D, dtype=torch.float64)
    vectors = torch.randn(len(LENGTHS), P, D, dtype=torch.float64)
    outcome = torch.randint(num_outcomes, (len(LENGTHS),))
    grads = []
    for place in ("insert", "naive"):
        x, v = (each.clone().requires_grad_() for each in (first, vectors))
        choice = torch.nn.functional.one_hot(outcome, num_outcomes).double().requires_grad_()
        if place == "insert":
            embeds = insert(x, batch, PromptOutput(v, choice, is_inside=True), SplitOrder.paper).embeds_BSD
        else:
            rows = []
            for b, length in enumerate(LENGTHS):
                at = [start + s for s in places(num_outcomes, length - 1)]
                layouts = [torch.cat([x[b, :s], v[b], x[b, s:]]) for s in at]
                rows.append(sum(choice[b, j] * layout for j, layout in enumerate(layouts)))
            embeds = torch.stack(rows)
        (torch.tanh(embeds) * weight).sum().backward()
        grads.append((embeds.detach(), choice.grad, v.grad, x.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("body", [1, 7, 20])
def test_every_boundary_is_a_place_and_none_is_favoured(body: int) -> None:
    counts = torch.bincount(torch.tensor(places(64, body)))
    assert len(counts) == body + 1 and int(counts.max() - counts.min()) <= 1


def test_slots_masks_and_the_end_are_right_inside_a_text() -> None:
    batch = make_batch(LENGTHS)
    x = batch.ids_BT[..., None].double()
    vectors = torch.full((4, P, 1), 777.0, dtype=torch.float64)
    kept = torch.tensor([[1.0] * k + [0.0] * (P - k) for k in (4, 2, 4, 1)], dtype=torch.float64)
    choice = torch.nn.functional.one_hot(torch.tensor([0, 5, 8, 8]), 9).double()
    prompted = insert(x, batch, PromptOutput(vectors, choice, kept, is_inside=True), SplitOrder.paper)
    ids = prompted.embeds_BSD[..., 0]
    assert torch.equal(ids.gather(1, prompted.slot_of_text_BT), batch.ids_BT.double())
    assert prompted.mask_BS.sum(1).tolist() == [n + k for n, k in zip(LENGTHS, (4, 2, 4, 1), strict=True)]
    for row, length in enumerate(LENGTHS):
        assert int(ids[row, length + P - 1]) == 1, "</s> is last"
        attended = ids[row] * prompted.mask_BS[row]
        assert int((attended == 777).sum()) == int(kept[row].sum())
        assert prompted.mask_BS[row].gather(0, prompted.slot_of_text_BT[row, :length]).all()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prompt=fixed", "prompt.boundaries=8"], "needs a chosen position"),
        (["prompt=inside", "prompt.boundaries=0"], "prompt.boundaries=0 must be at least 1"),
        (["prompt=inside", "prompt/vectors=none", "prompt/layers=table"], "has no meaning"),
        (["prompt=lora", "prompt/adapters=lora"], "trains weights beside a prompt, and prompt=lora has none"),
        (
            ["prompt=fixed", "prompt/adapters=lora", "prompt.adapters.rank=0"],
            "prompt.adapters.rank=0 must be",
        ),
        (
            ["prompt=fixed", "prompt/adapters=bitfit", "prompt.adapters.lr=-1"],
            "prompt.adapters.lr=-1 must be",
        ),
        (
            ["prompt=fixed", "prompt/adapters=lora", "prompt.adapters.method=majority"],
            "use lora or bottleneck or bitfit",
        ),
        (["prompt=p_tuning", "prompt/adapters=lora", "prompt.freeze_backbone=false"], "trains all weights"),
        (["prompt=fixed", "prompt/adapters=lora", "+prompt.adapters.depth=2"], "depth"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(words: list[str], told: str) -> None:
    assert any(told in problem for problem in problems("data.dir=.", *words))


# ---------------------------------------------------------------------------------------------- hybrids


@pytest.mark.parametrize(
    ("adapters", "backbone_name"),
    [("lora", "t5_tiny_random"), ("bottleneck", "t5_tiny_random"), ("bitfit", "bert_tiny_random")],
)
def test_a_prompt_and_adapters_learn_together_and_open_again(
    experiment: Callable[..., Experiment], adapters: str, backbone_name: str, tmp_path: Path
) -> None:
    words = ("trainer.max_steps=3", "trainer.eval_every=3", "trainer.batch_size=4", "prompt.num_tokens=4")
    both = experiment("prompt=dynamic", f"prompt/adapters={adapters}", f"backbone={backbone_name}", *words)
    record = run(both)
    plain = run(experiment("prompt=dynamic", f"backbone={backbone_name}", *words))
    assert record.trainable_parameters > plain.trainable_parameters and record.cell_id != plain.cell_id
    rate = config.option_settings("prompt/adapters", adapters)["lr"]
    assert record.optimizer["adapter_lr"] == rate and plain.optimizer["adapter_lr"] is None
    folder = tmp_path / "results" / "runs" / record.run_id
    tensors = load_file(folder / "prompt.safetensors")
    named = {"lora": "lora_B", "bottleneck": "adapter.up.weight", "bitfit": "bias"}[adapters]
    moved = [value for name, value in tensors.items() if name.startswith("backbone.") and named in name]
    assert moved and any(float(value.abs().max()) > 0 for value in moved)
    opened = open_run(folder)
    # The summary is that of the backbone as it was loaded, whatever the adapters have learned.
    batch = make_batch([7, 5])
    bare = open_run(tmp_path / "results" / "runs" / plain.run_id)
    options = (batch.ids_BT, batch.mask_BT, Summary.encoder_mean)
    mine, theirs = (summarise(each.context.backbone, *options) for each in (opened, bare))
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
    states = [
        each.context.backbone.encode(each.context.backbone.embed(options[0]), options[1])
        for each in (opened, bare)
    ]
    assert not torch.equal(*states)


@pytest.mark.parametrize("adapters", ["lora", "bottleneck"])
def test_the_numbers_of_a_hybrid_are_those_of_both(adapters: str) -> None:
    sizes = counts.T5["base"]
    alone = config.option_settings("prompt", "dynamic"), config.option_settings("prompt", adapters)
    both = {**alone[0], "adapters": config.option_settings("prompt/adapters", adapters)}
    each = [counts.trained(prompt, sizes, 1) for prompt in alone]
    assert counts.trained(both, sizes, 1) == sum(each)
    assert counts.formula(both) == " + ".join(map(counts.formula, alone))


# ---------------------------------------------------------------------------------------------- families

LATER = ("idpg", "idpg_phm", "residual", "low_rank", "normalised", "attempt", "smop", "dept", "inside")
LATE = ("lpt", "lpt_generated", "lpt_pooled")
DEEP = ("m_idpg", "m_idpg_phm")  # for states as wide as embeddings: not ALBERT, not OPT


@pytest.mark.parametrize("kind", list(DIMS))
def test_every_method_learns_on_every_family_and_padding_changes_nothing(kind: str) -> None:
    """All trained numbers get a gradient. Embeddings of ALBERT and OPT are narrower than their states."""
    loaded = load_backbone(settings_of(kind), device=torch.device("cpu"), dtype=torch.float32, dropout=False)
    words = [LabelWords(["yes", "no"], loaded.tokenizer)]
    batch = make_batch([9, 5, 7]) if kind == "t5" else batch_of([9, 5, 7])
    narrow = batch_of([5]) if kind != "t5" else make_batch([5])
    layer_widths = find_layers(loaded)
    for name in (*LATER, *LATE, *(DEEP if {*layer_widths} == {loaded.dims.width} else ())):
        typed = ["data.dir=.", f"prompt={name}", "prompt.num_tokens=4", "prompt.init=uniform"]
        built = config.build(config.compose(typed))
        kind_of_summary = built.settings.prompt.summary
        dims = replace(loaded.dims, summary_width=summary_width(loaded, kind_of_summary))
        dims = replace(dims, layer_widths=layer_widths)
        prompt = build_prompt(built, dims, None)
        for parameter in prompt.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        model = PromptedModel(loaded, prompt, words, order=SplitOrder.paper, summary=kind_of_summary)
        names = prompt.noisy_selectors(training=True, sample_at_eval=False)
        noise = prompt.draw_noise(3, torch.Generator().manual_seed(0), selectors=names)
        model(replace(batch, noise=noise)).logits_BC.square().sum().backward()
        for key, parameter in prompt.named_parameters():
            assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, (kind, name, key)
        row = replace(
            batch,
            **{
                key: value[1:2]
                for key, value in vars(batch).items()
                if isinstance(value, Tensor) and len(value) == 3
            },
        )
        short = replace(
            row,
            ids_BT=row.ids_BT[:, : narrow.ids_BT.shape[1]],
            mask_BT=row.mask_BT[:, : narrow.mask_BT.shape[1]],
        )
        with torch.no_grad():
            together, alone, unpadded = (model(each).logits_BC for each in (batch, row, short))
        torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(unpadded, alone, atol=1e-5, rtol=1e-4)
