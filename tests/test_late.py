"""Late prompts (LPT) against sequences that grow at a layer, and what they leave alone below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_batch
from helpers.backbones import DIMS, batch_of, nothing, settings_of
from helpers.configs import problems
from helpers.prompts import build_prompt
from torch import Tensor

import dp_bench
from dp_bench import config
from dp_bench.anatomy import attention_of
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone
from dp_bench.backbones.probe import find_layers
from dp_bench.config import Experiment
from dp_bench.export import to_dir, to_peft
from dp_bench.prompts.layout import insert
from dp_bench.run import run
from dp_bench.settings import SplitOrder
from dp_bench.types import Batch, LatePrompt, Prompted, UserError

P = 3
EXACT = {"atol": 1e-10, "rtol": 1e-10}


def exact(kind: str) -> dict[str, float]:
    """Rotary positions and their norms are computed in fp32, whatever the type of the weights."""
    return {"atol": 1e-6, "rtol": 1e-5} if kind in ("llama", "qwen2", "qwen3") else EXACT


KINDS = ("lpt", "lpt_generated", "lpt_pooled")
QUICK = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=3")


def make(kind: str) -> Backbone:
    loaded = load_backbone(settings_of(kind), device=torch.device("cpu"), dtype=torch.float32, dropout=False)
    return loaded.double()


def text_of(kind: str, lengths: list[int]) -> Batch:
    return make_batch(lengths) if kind == "t5" else batch_of(lengths)


def prompted(backbone: Backbone, batch: Batch, late: LatePrompt | None) -> Prompted:
    output = replace(nothing(backbone, batch), layers=late)
    return insert(backbone.embed(batch.ids_BT), batch, output, SplitOrder.paper)


def piece(name: str, widths: tuple[int, ...], *words: str) -> Any:
    typed = ["data.dir=.", f"prompt={name}", "prompt.init=uniform", f"prompt.num_tokens={P}", *words]
    dims = dp_bench.types.Dims(width=8, vocab_size=0, layer_widths=widths)
    found = build_prompt(config.build(config.compose(typed)), dims, None).double().layers
    torch.manual_seed(0)
    for parameter in found.parameters():
        parameter.data.normal_()
    return found


# ----------------------------------------------------------------------------- sequences that grow


def grown(backbone: Backbone, x: Tensor, late: LatePrompt, num_read: int) -> Tensor:
    """Return the states of one text [1,T,D] by the layers of transformers, called one by one: T states below
    the prompt, P + T from its layer on. Only the first `num_read` are shown to the generator."""
    lm, stack = backbone.lm, backbone.stacks[0]
    kind = lm.config.model_type
    lm.set_attn_implementation("eager")
    length = x.shape[1]

    def causal(n: int) -> Tensor:
        return torch.full((n, n), torch.finfo(x.dtype).min, dtype=x.dtype).triu(1)[None, None]

    position = torch.arange(length)[None]
    if kind == "t5":
        layers, state = stack.block, x
        attention = layers[0].layer[0].SelfAttention
    elif kind == "bert":
        layers, state = stack.encoder.layer, stack.embeddings(inputs_embeds=x)
    elif kind == "gpt2":
        layers, state = stack.h, x + stack.wpe(position)
    else:
        layers, state = stack.layers, x
    for number, layer in enumerate(layers):
        if number == late.layer:
            mask = torch.ones(1, num_read, dtype=torch.bool)
            state = torch.cat([late.make(state[:, :num_read], mask), state], dim=1)
        n = state.shape[1]
        if kind == "t5":
            bias = attention.compute_bias(n, n, device=x.device)
            state = layer(state, torch.zeros(1, 1, n, n, dtype=x.dtype), bias)[0]
        elif kind == "bert":
            state = layer(state)
        elif kind == "gpt2":
            state = layer(state, attention_mask=causal(n))
        else:
            rotary = stack.rotary_emb(state, torch.arange(n)[None])
            state = layer(state, attention_mask=causal(n), position_embeddings=rotary)
        state = state[0] if isinstance(state, tuple) else state
    last = {"t5": "final_layer_norm", "gpt2": "ln_f", "llama": "norm"}.get(kind)
    return getattr(stack, last)(state) if last else state


@pytest.mark.parametrize("kind", ["t5", "bert", "gpt2", "llama"])
@pytest.mark.parametrize("name", KINDS)
def test_a_late_prompt_is_a_sequence_that_grows_at_its_layer(kind: str, name: str) -> None:
    backbone, lengths = make(kind), [9, 5, 7]
    late = piece(name, find_layers(backbone))(3, None)
    assert late.layer == 1, "half of the layers are below"
    batch = replace(text_of(kind, lengths), answer_B=torch.tensor(lengths) - 1)
    given = prompted(backbone, batch, late)
    found = backbone.encode(given.embeds_BSD, given.mask_BS, late)
    answers = backbone(given)
    choices = torch.tensor([[20, 21, 22], [23, 24, 25]]).expand(3, -1, -1)
    scored = backbone.token_logprobs(given, choices) if backbone.scores_choices else None
    for row, length in enumerate(lengths):
        ids = batch.ids_BT[row : row + 1, :length]
        expected = grown(backbone, backbone.embed(ids), late, length)
        torch.testing.assert_close(found[row, : P + length], expected[0], **exact(kind))
        for number, choice in enumerate(choices[row]):
            before = choice[None, :-1]
            if kind == "t5":  # the decoder reads the vectors, too
                start = backbone.get_buffer("decoder_ids_A")[None]
                read = torch.cat([start, before], 1)
                states = backbone.stacks[1](input_ids=read, encoder_hidden_states=expected)[0]
                states = states[0, start.shape[1] - 1 :]
            else:  # what follows a text is not read by the generator
                states = grown(backbone, backbone.embed(torch.cat([ids, before], 1)), late, length)
                states = states[0, P + length - 1 :]
            if kind != "bert":
                logits = backbone.word_logits(states, torch.arange(len(backbone.embedding_VD)))
                expected_A = logits.log_softmax(-1).gather(1, choice[:, None])[:, 0]
                torch.testing.assert_close(scored[row, number], expected_A.float(), atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(answers[row], states[0], **exact(kind))
        if kind == "bert":
            torch.testing.assert_close(answers[row], expected[0, -1], **exact(kind))


@pytest.mark.parametrize("kind", list(DIMS))
@pytest.mark.parametrize("layer", [0, 1])
def test_below_a_late_prompt_every_model_reads_the_text_alone(kind: str, layer: int) -> None:
    """Also with a length selector, in a batch with padding, and where it repeats texts for their choices."""
    backbone = make(kind)
    widths = find_layers(backbone)
    assert len(widths) == 2
    batch = text_of(kind, [9, 5])
    seen: list[Tensor] = []
    keep = torch.tensor([[1.0, 1, 1], [1, 0, 0]])

    def vectors(states: Tensor, mask: Tensor) -> Tensor:
        seen.append(states)
        return torch.full_like(states[:, :P], 2.0).requires_grad_()

    for number in (layer, 2):  # never at layer 2
        late = LatePrompt(number, P, vectors, keep)
        given = prompted(backbone, batch, late)
        states = backbone.states(given)
        if kind != "t5" and backbone.scores_choices:
            backbone.token_logprobs(given, torch.tensor([[[20, 21]] * 2] * 2))
    alone: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: alone.append(args[0]))
        for module in backbone.stacks[0].modules()
        if module._forward_pre_hooks
    ]
    plain = backbone.encode(backbone.embed(batch.ids_BT), batch.mask_BT)
    for hook in hooks:
        hook.remove()
    for each in seen:
        for row, length in enumerate((9, 5)):
            torch.testing.assert_close(each[row, :length], alone[layer][row, :length], **exact(kind))
            torch.testing.assert_close(states[row, :length], plain[row, :length], **exact(kind))
    assert len(seen) == 1 + (kind != "t5" and backbone.scores_choices)


def test_no_gradient_passes_below_a_late_prompt() -> None:
    backbone = make("gpt2")
    late = piece("lpt", find_layers(backbone), "prompt.layers.layer=1")
    given = prompted(backbone, text_of("gpt2", [6, 4]), late(2, None))
    depth: list[bool] = []
    for layer in backbone.stacks[0].h:
        layer.register_forward_hook(lambda _, args, out: depth.append(out.requires_grad))
    backbone(given).sum().backward()
    assert depth == [False, True] and float(late.prompt_PD.grad.abs().min()) > 0


# ----------------------------------------------------------------------------- generators


def times(layer: Any, x: Tensor) -> Tensor:
    return torch.stack([sum(w * v for w, v in zip(row, x, strict=True)) for row in layer.weight]) + layer.bias


def positive(x: Tensor) -> Tensor:
    return torch.stack([v if v > 0 else 0 * v for v in x])


@pytest.mark.parametrize("read", ["mean", "first", "last"])
def test_the_naive_generator_reads_one_state(read: str) -> None:
    found = piece("lpt_generated", (4, 4), "prompt.layers.hidden=5", f"prompt.layers.read={read}")
    states = torch.randn(2, 7, 4, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    made = found.make(states, mask)
    for row, text in enumerate((states[0, 1:6], states[1, :3])):
        h = {"mean": sum(text) / len(text), "first": text[0], "last": text[-1]}[read]
        flat = times(found.up, positive(times(found.down, h)))
        for i in range(P):
            torch.testing.assert_close(made[row, i], flat[4 * i : 4 * i + 4], **EXACT)


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_the_pooling_generator_has_a_vector_for_each_part_of_a_text(pooling: str) -> None:
    """As torch's adaptive pooling of each text, which the authors' code calls; also of two tokens."""
    found = piece("lpt_pooled", (4, 4), "prompt.layers.hidden=5", f"prompt.layers.pooling={pooling}")
    states = torch.randn(3, 8, 4, dtype=torch.float64)
    lengths = [8, 2, 5]
    mask = torch.arange(8) < torch.tensor(lengths)[:, None]
    made = found.make(states, mask)
    adaptive = {"average": torch.nn.AdaptiveAvgPool1d, "max": torch.nn.AdaptiveMaxPool1d}[pooling](P)
    for row, length in enumerate(lengths):
        narrow = torch.stack([times(found.down, h) for h in states[row, :length]])
        pooled = adaptive(narrow.T[None])[0].T
        for i in range(P):
            torch.testing.assert_close(made[row, i], times(found.up, positive(pooled[i])), **EXACT)


# ----------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prompt=lpt", "prompt.layers.layer=-1"], "prompt.layers.layer=-1 must be a number of layers"),
        (["prompt=lpt", "prompt/position=instance"], "prompt/position has no meaning"),
        (["prompt=lpt_generated", "prompt.layers.read=middle"], "must be mean or first or last"),
        (["prompt=lpt_pooled", "prompt.layers.pooling=sum"], "must be average or max"),
        (["prompt=lpt", "trainer.gradient_checkpointing=true"], "loses what prompt.layers adds"),
    ],
)
def test_what_a_late_prompt_cannot_be_is_refused(words: list[str], told: str) -> None:
    assert any(told in problem for problem in problems("data.dir=.", *words))


def test_a_generator_beside_a_prompt_has_the_rate_of_networks(experiment: Callable[..., Experiment]) -> None:
    words = ("prompt=split", "prompt/layers=late_pooled", "prompt.network_lr=1e-4", *QUICK)
    assert run(experiment(*words)).optimizer["network_lr"] == 1e-4
    prompt = build_prompt(
        experiment(*words), dp_bench.types.Dims(8, 9, layer_widths=(8, 8)), torch.zeros(9, 8)
    )
    assert {id(p) for p in prompt.network_parameters()} == {id(p) for p in prompt.layers.parameters()}


def test_a_layer_that_a_model_does_not_have_is_refused(experiment: Callable[..., Experiment]) -> None:
    with pytest.raises(UserError, match=r"prompt.layers.layer=9: this backbone has 2 layers.*use at most 1"):
        run(experiment("prompt=lpt", *QUICK, "prompt.layers.layer=9"))


def test_a_model_whose_layers_are_not_found_is_refused() -> None:
    backbone = make("gpt2")
    backbone.stacks[0].h = torch.nn.Sequential(*backbone.stacks[0].h)
    with pytest.raises(UserError, match=r"can enter between them.*none was found"):
        find_layers(backbone)


def test_a_late_prompt_stands_beside_vectors_in_the_text(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    record = run(experiment("prompt=split", "prompt/layers=late", *QUICK))
    assert record.trainable_parameters == 2 * 3 * 64
    opened = dp_bench.open_run(tmp_path / "results" / "runs" / record.run_id)
    with pytest.raises(UserError, match="it enters between two layers"):
        to_peft(opened, tmp_path / "out")
    to_dir(opened, tmp_path / "results" / "runs" / record.run_id, tmp_path / "out")
    assert not (tmp_path / "out" / "load.py").exists()
    again = dp_bench.open_run(tmp_path / "out").model.trained_tensors()
    assert all(torch.equal(value, again[name]) for name, value in opened.model.trained_tensors().items())


@pytest.mark.parametrize("kind", ["t5", "bert", "gpt2"])
def test_the_attention_that_a_late_prompt_gets_begins_at_its_layer(kind: str) -> None:
    backbone = make(kind)
    late = piece("lpt", find_layers(backbone))(2, None)
    batch = replace(text_of(kind, [6, 4]), answer_B=torch.tensor([5, 3]))
    found = attention_of(backbone, prompted(backbone, batch, late))
    gets = found.layers_LMP.sum((1, 2)) > 0
    assert gets.tolist() == ([True, True] if kind == "t5" else [False, True])
    assert torch.equal(found.even_LM.sum(1) > 0, gets) and float(found.layers_LMP.max()) < 1
