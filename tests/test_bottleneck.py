"""Bottleneck adapters against their equation, written a second time as loops in float64, on every family."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import make_batch
from helpers.backbones import DIMS, answers, batch_of, nothing
from helpers.oracles import make
from torch import Tensor, nn

from dp_bench import config
from dp_bench.backbones.backbone import Backbone
from dp_bench.methods import counts
from dp_bench.methods.bottleneck import Bottleneck, add_bottlenecks, find_feed_forwards

SIZE = 3
Change = Callable[[Tensor], Tensor]


def texts_of(kind: str) -> Any:
    return make_batch([9, 5, 7]) if kind == "t5" else batch_of([9, 5, 7])


def add(backbone: Backbone, *words: str) -> dict[str, Bottleneck]:
    """Add adapters as a run does; return them by name, in the order of the layers."""
    typed = ["data.dir=.", "prompt=bottleneck", f"prompt.size={SIZE}", *words]
    add_bottlenecks(backbone, config.build(config.compose(typed)).settings)
    return {name: each for name, each in backbone.model.named_modules() if isinstance(each, Bottleneck)}


def logits_of(backbone: Backbone, kind: str) -> Tensor:
    return answers(backbone, batch := texts_of(kind), nothing(backbone, batch))


# ---------------------------------------------------------------------------------------- the equation


def gelu(x: Tensor) -> Tensor:
    """As google-research/adapter-bert writes it."""
    return 0.5 * x * (1 + ((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)).tanh())


def times(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.stack([(row * x).sum() for row in matrix])


def adapted(adapter: Any) -> Change:
    """Return h + W_up gelu(W_down h + b_down) + b_up, one token after the other."""

    def one(h: Tensor) -> Tensor:
        hidden = gelu(times(adapter.down.weight, h) + adapter.down.bias)
        return h + times(adapter.up.weight, hidden) + adapter.up.bias

    return lambda states: torch.stack([one(h) for h in states.flatten(0, -2)]).view(states.shape)


def in_t5(block: Any, change: Change) -> None:
    part = block.layer[-1]
    inner = part.DenseReluDense
    part.forward = lambda x: x + change(inner.wo(inner.wi(part.layer_norm(x)).relu()))


def in_bert(layer: Any, change: Change) -> None:
    inner, outer = layer.intermediate.dense, layer.output
    layer.feed_forward_chunk = lambda x: outer.LayerNorm(
        x + change(outer.dense(nn.functional.gelu(inner(x))))
    )


def in_gpt2(block: Any, change: Change) -> None:
    mlp = block.mlp
    mlp.forward = lambda x: change(mlp.c_proj(gelu(mlp.c_fc(x))))


def in_llama(layer: Any, change: Change) -> None:
    mlp = layer.mlp
    mlp.forward = lambda x: change(mlp.down_proj(nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x)))


WRITTEN: dict[str, tuple[Callable[[Any, Change], None], Callable[[Any], list[Any]]]] = {
    "t5": (in_t5, lambda model: [*model.encoder.block, *model.decoder.block]),
    "bert": (in_bert, lambda model: [*model.bert.encoder.layer]),
    "gpt2": (in_gpt2, lambda model: [*model.transformer.h]),
    "llama": (in_llama, lambda model: [*model.model.layers]),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_an_adapter_computes_the_published_equation_before_the_skip_connection(kind: str) -> None:
    """In value and gradient, against stock layers whose feed-forward is written out."""
    found, plain = make(kind).double(), make(kind).double()
    adapters = list(add(found).values())
    torch.manual_seed(0)
    copies = []
    write, layers_of = WRITTEN[kind]
    layers = layers_of(plain.model)
    assert len(layers) == len(adapters)
    for layer, adapter in zip(layers, adapters, strict=True):
        adapter.double()
        for weight in adapter.parameters():
            nn.init.normal_(weight, std=0.5)
        copies.append(Bottleneck(32, SIZE).double())
        copies[-1].load_state_dict(adapter.state_dict())
        write(layer, adapted(copies[-1]))
    exact = {"atol": 1e-11, "rtol": 1e-10}
    ours, theirs = logits_of(found, kind), logits_of(plain, kind)
    torch.testing.assert_close(ours, theirs, **exact)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for adapter, copy in zip(adapters, copies, strict=True):
        for one, other in zip(adapter.parameters(), copy.parameters(), strict=True):
            assert one.grad is not None and float(one.grad.abs().max()) > 0
            torch.testing.assert_close(one.grad, other.grad, **exact)


# ---------------------------------------------------------------------------------------- every family


@pytest.mark.parametrize("kind", list(DIMS))
def test_the_model_is_unchanged_at_the_start_and_every_adapter_learns(kind: str) -> None:
    backbone = make(kind)
    before = logits_of(backbone, kind)
    adapters = add(backbone)
    trained = {name: p for name, p in backbone.model.named_parameters() if p.requires_grad}
    assert len(adapters) == {"t5": 4, "albert": 1}.get(kind, 2), "ALBERT's layers share their weights"
    assert len(trained) == 4 * len(adapters) and all(".adapter." in name for name in trained)
    sites = {"encoder": 2, "decoder": 2, "cross": 2} if kind == "t5" else {"encoder": len(adapters)}
    settings = {**config.option_settings("prompt", "bottleneck"), "size": SIZE}
    formula = counts.trained(settings, counts.Sizes(0, 32, sites=sites), 1)
    assert sum(p.numel() for p in trained.values()) == formula
    after = logits_of(backbone, kind)
    assert torch.equal(after, before)
    after.square().sum().backward()
    for name, p in trained.items():
        assert p.grad is not None and (float(p.grad.abs().max()) > 0) == (".up." in name), name


def test_weights_of_an_adapter_start_by_the_seed_alone() -> None:
    first, again, other = (add(make("bert"), f"seed={seed}") for seed in (0, 0, 1))
    for name, adapter in first.items():
        assert torch.equal(adapter.down.weight, again[name].down.weight)
        assert not torch.equal(adapter.down.weight, other[name].down.weight)


def test_recomputed_layers_have_the_same_gradients() -> None:
    gradients = []
    for recomputes in (False, True):
        backbone = make("t5")
        adapters = add(backbone)
        torch.manual_seed(0)
        for adapter in adapters.values():
            nn.init.normal_(adapter.up.weight, std=0.5)
        if recomputes:
            backbone.checkpoint_activations()
        backbone.train()
        logits_of(backbone, "t5").square().sum().backward()
        gradients.append([p.grad for adapter in adapters.values() for p in adapter.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_search_for_feed_forwards_leaves_nothing_behind() -> None:
    backbone = make("gpt2")
    state = torch.get_rng_state()
    find_feed_forwards(backbone)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.model.modules())
