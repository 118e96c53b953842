"""Deep prompts (M-IDPG) against layers that are called one by one, a text at a time, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_batch
from helpers.backbones import DIMS, batch_of, settings_of
from helpers.configs import problems
from helpers.prompts import build_prompt
from torch import Tensor

import dp_bench
from dp_bench import config, lockstep
from dp_bench.anatomy import attention_of
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone
from dp_bench.backbones.probe import find_layers
from dp_bench.config import Experiment
from dp_bench.export import to_peft
from dp_bench.predicting import why_alone
from dp_bench.prompts import catalogue
from dp_bench.prompts.estimators import forced
from dp_bench.prompts.layout import insert
from dp_bench.prompts.prompt import Prompt
from dp_bench.run import run
from dp_bench.settings import SplitOrder
from dp_bench.types import Batch, Prompted, UserError

P, WIDTH, LENGTHS = 3, 32, [9, 5, 7]
PLACES, KEPT = [0, 3, 1], [3, 1, 2]
DEPTH = {"t5": "num_layers", "gpt2": "n_layer"}
KINDS = ("t5", "bert", "gpt2", "llama")
QUICK = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=3")


def close(kind: str, found: Tensor, expected: Tensor) -> None:
    """Rotary positions are computed in fp32, whatever the type of the weights."""
    size = 1e-6 if kind == "llama" else 1e-10
    torch.testing.assert_close(found, expected, atol=size, rtol=size)


def make(kind: str, layers: int = 3) -> Backbone:
    dims = {"model_type": kind, **DIMS[kind], DEPTH.get(kind, "num_hidden_layers"): layers}
    settings = settings_of(kind, random_init=dims)
    return load_backbone(settings, device=torch.device("cpu"), dtype=torch.float32, dropout=False).double()


def make_prompt(backbone: Backbone, *words: str) -> Prompt:
    """Return a prompt in float64, with weights that are not near 0."""
    typed = ["data.dir=.", "prompt.init=uniform", f"prompt.num_tokens={P}", "prompt.vectors.hidden=8"]
    dims = replace(backbone.dims, layer_widths=find_layers(backbone))
    prompt = build_prompt(config.build(config.compose([*typed, *words])), dims, None).double()
    torch.manual_seed(0)
    for parameter in prompt.parameters():
        parameter.data.normal_(std=0.5)
    return prompt


def text_of(kind: str) -> Batch:
    """Return texts that are answered at their last token, where a model has no decoder."""
    batch = make_batch(LENGTHS) if kind == "t5" else batch_of(LENGTHS)
    return batch if batch.answer_B is not None else replace(batch, answer_B=torch.tensor(LENGTHS) - 1)


# ----------------------------------------------------------------------------- one text, layer by layer


def matrices(prompt: Prompt) -> tuple[Tensor, Tensor]:
    vectors: Any = prompt.vectors
    if hasattr(vectors, "rules"):
        return tuple(
            sum(torch.kron(rule, each) for rule, each in zip(vectors.rules, weights, strict=True))
            for weights in (vectors.down, vectors.up)
        )
    return vectors.down.weight.T, vectors.up.weight.T


def network(prompt: Prompt, x: Tensor, task_PD: Tensor) -> list[Tensor]:
    """Return P vectors of a state or summary [D]."""
    first, second = matrices(prompt)
    hidden = torch.nn.functional.gelu(x @ first + prompt.vectors.bias)
    flat = hidden @ second
    return [flat[i * WIDTH : (i + 1) * WIDTH] + task_PD[i] for i in range(P)]


def order_of(batch: Batch, row: int, place: int, inside: int | None) -> list[tuple[str, int]]:
    start, end = int(batch.body_start_B[row]), int(batch.body_end_B[row])
    text = [("text", t) for t in range(LENGTHS[row])]
    vectors = [("vector", i) for i in range(P)]
    if inside:
        at = start + place * (end - start + 1) // inside
        return [*text[:at], *vectors, *text[at:]]
    return [*text[:start], *vectors[:place], *text[start:end], *vectors[place:], *text[end:]]


def by_hand(
    backbone: Backbone, prompt: Prompt, batch: Batch, row: int, summary: Tensor, inside: int | None, more: Any
) -> tuple[Tensor, list[tuple[str, int]], Tensor]:
    """Return the states of one text [1,S,D], what each slot holds, and which slots are attended to."""
    lm, stack = backbone.lm, backbone.stacks[0]
    kind = lm.config.model_type
    lm.set_attn_implementation("eager")
    order = order_of(batch, row, PLACES[row], inside)
    vectors = network(prompt, summary, prompt.vectors.task_PD)
    embedded = backbone.embed(batch.ids_BT)[row]
    slots = []
    for what, i in order:
        slots.append(embedded[i] if what == "text" else vectors[i] if i < KEPT[row] else 0 * vectors[i])
    order = [*order, *(("choice", i) for i in range(len(more)))]
    x = torch.stack([*slots, *backbone.embed(more)])[None]
    n = len(order)
    is_seen = torch.tensor([what != "vector" or i < KEPT[row] for what, i in order])
    position = (is_seen.long().cumsum(0) - 1).clamp(min=0)[None]
    low = torch.finfo(x.dtype).min
    mask = torch.zeros(n, n, dtype=x.dtype).masked_fill(~is_seen, low)
    if kind in ("gpt2", "llama"):
        mask = mask.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), low)
    mask = mask[None, None]
    if kind == "t5":
        layers, state = stack.block, x
        bias = layers[0].layer[0].SelfAttention.compute_bias(n, n, device=x.device)
    elif kind == "bert":
        layers, state = stack.encoder.layer, stack.embeddings(inputs_embeds=x, position_ids=position)
    elif kind == "gpt2":
        layers, state = stack.h, x + stack.wpe(position)
    else:
        layers, state = stack.layers, x
    for number, layer in enumerate(layers):
        if number > 0:
            of_text = [state[0, s] for s, (what, _) in enumerate(order) if what == "text"]
            read = prompt.layers.read
            h = {"mean": sum(of_text) / len(of_text), "first": of_text[0], "last": of_text[-1]}[read]
            added = network(prompt, h, prompt.layers.task_XPD[number - 1])
            state = torch.stack(
                [
                    state[0, s] + added[i] if what == "vector" and i < KEPT[row] else state[0, s]
                    for s, (what, i) in enumerate(order)
                ]
            )[None]
        if kind == "t5":
            state = layer(state, torch.zeros_like(mask), bias + mask)
        elif kind == "bert":
            state = layer(state, mask)
        elif kind == "gpt2":
            state = layer(state, attention_mask=mask)
        else:
            rotary = stack.rotary_emb(state, position)
            state = layer(state, attention_mask=mask, position_embeddings=rotary)
        state = state[0] if isinstance(state, tuple) else state
    last = {"t5": "final_layer_norm", "gpt2": "ln_f", "llama": "norm"}.get(kind)
    return getattr(stack, last)(state) if last else state, order, is_seen


def read_by_hand(
    backbone: Backbone, batch: Batch, row: int, choice: Tensor, states: Callable[..., Any]
) -> Tensor:
    """Return the states from which a choice is scored, the first of which is the answer's: [A,D]; of a model
    without choices the answer's alone."""
    choice = choice if backbone.scores_choices else choice[:1]
    if backbone.lm.config.model_type == "t5":
        encoded, _, is_seen = states(choice[:0])
        start = backbone.get_buffer("decoder_ids_A")
        decoder_ids = torch.cat([start, choice[:-1]])[None]
        decoder = backbone.stacks[1]
        read = decoder(
            input_ids=decoder_ids, encoder_hidden_states=encoded, encoder_attention_mask=is_seen[None].long()
        )[0]
        return read[0, len(start) - 1 :]
    found, order, _ = states(choice[:-1])
    answer = order.index(("text", int(batch.answer_B[row])))
    return torch.stack([found[0, answer], *found[0, len(order) - len(choice) + 1 :]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "read", "inside"),
    [("m_idpg", "mean", None), ("m_idpg_phm", "first", None), ("m_idpg", "last", 4)],
)
def test_a_deep_prompt_is_added_between_all_layers(
    kind: str, name: str, read: str, inside: int | None
) -> None:
    """Values and gradients, with another place and length for each text, and several rows for its choices."""
    backbone, batch = make(kind), text_of(kind)
    words = ["prompt/position=random", "prompt/length=random", f"prompt.layers.read={read}"]
    more = [f"prompt.boundaries={inside}"] if inside else []
    prompt = make_prompt(backbone, f"prompt={name}", *words, *more)
    assert prompt.layers.task_XPD.shape == (2, P, WIDTH)
    summary = torch.randn(3, WIDTH, dtype=torch.float64)
    noise = {
        "position": forced(torch.tensor(PLACES), inside or P + 1),
        "length": forced(torch.tensor(KEPT), P + 1),
    }
    given = insert(
        backbone.embed(batch.ids_BT), batch, prompt(summary, batch.task_B, noise, 1.0), SplitOrder.paper
    )
    choices = torch.tensor([[20, 21, 22], [23, 24, 25]]).expand(3, -1, -1)
    scored = backbone.token_logprobs(given, choices) if backbone.scores_choices else None
    answers = backbone(given)
    weight = torch.randn(3, WIDTH, dtype=torch.float64)
    parameters = dict(prompt.named_parameters())
    gradients = torch.autograd.grad((answers * weight).sum(), list(parameters.values()))
    expected = []
    for row in range(3):
        for number, choice in enumerate(choices[row]):
            states = read_by_hand(
                backbone,
                batch,
                row,
                choice,
                lambda more, row=row: by_hand(backbone, prompt, batch, row, summary[row], inside, more),
            )
            close(kind, answers[row], states[0])
            if scored is not None:
                logits = backbone.word_logits(states, torch.arange(len(backbone.embedding_VD)))
                expected_A = logits.log_softmax(-1).gather(1, choice[:, None])[:, 0]
                torch.testing.assert_close(scored[row, number], expected_A.float(), atol=1e-5, rtol=1e-5)
        expected.append(states[0])
    total = (torch.stack(expected) * weight).sum()
    for (key, _), found, theirs in zip(
        parameters.items(), gradients, torch.autograd.grad(total, list(parameters.values())), strict=True
    ):
        close(kind, found, theirs)
        each = found if key == "layers.task_XPD" else found[None]
        assert all(float(part.abs().max()) > 1e-4 for part in each), key


@pytest.mark.parametrize("kind", list(DIMS))
def test_without_what_it_adds_every_model_reads_the_prompt_in_the_input(kind: str) -> None:
    """Models whose states are wider than their embeddings have no deep prompt."""
    backbone, batch = make(kind), text_of(kind)
    if kind in ("albert", "opt"):
        with pytest.raises(UserError, match=r"makes vectors of width 16, and the states between .* width 32"):
            make_prompt(backbone, "prompt=m_idpg")
        return
    prompt = make_prompt(backbone, "prompt=m_idpg")
    output = prompt(torch.randn(3, WIDTH, dtype=torch.float64), batch.task_B, {}, 1.0)

    def states(changed: Any) -> Tensor:
        placed = insert(
            backbone.embed(batch.ids_BT), batch, replace(output, layers=changed), SplitOrder.paper
        )
        return backbone.states(placed)

    numbers: list[int] = []

    def nothing(number: int, states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        numbers.append(number)
        assert mask_BS.sum(1).tolist() == LENGTHS, "the slots of the text alone"
        return torch.zeros(3, P, WIDTH, dtype=states_BSD.dtype)

    assert output.layers is not None
    plain, zeros, added = states(None), states(replace(output.layers, make=nothing)), states(output.layers)
    torch.testing.assert_close(zeros, plain, atol=0, rtol=0)
    assert numbers == [1, 2] and not torch.allclose(added, plain)


# ----------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prompt=fixed", "prompt/layers=deep_generated"], "prompt=fixed has none: add prompt/vectors=gener"),
        (["prompt=residual", "prompt/layers=deep_generated"], "prompt=residual has none"),
        (["prompt=lpt", "prompt/layers=deep_generated"], "prompt=lpt has none"),
        (["prompt=m_idpg", "prompt.layers.read=middle"], "must be mean or first or last"),
        (["prompt=m_idpg", "trainer.gradient_checkpointing=true"], "loses what prompt.layers adds"),
        (["prompt=m_idpg", "prompt.erase_label=true"], "changes summaries, and prompt.layers reads states"),
        (["prompt=m_idpg", "prompt.shuffle_input=true"], "changes summaries, and prompt.layers reads states"),
    ],
)
def test_what_a_deep_prompt_cannot_be_is_refused(words: list[str], told: str) -> None:
    assert any(told in problem for problem in problems("data.dir=.", *words))


def test_one_layer_has_no_place_for_a_deep_prompt() -> None:
    with pytest.raises(UserError, match="between layers, and this backbone has one layer"):
        make_prompt(make("bert", layers=1), "prompt=m_idpg")


def test_a_run_shares_the_network_and_opens_again(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    record = run(experiment("prompt=m_idpg_phm", *QUICK))
    sizes = catalogue.Sizes(P, 64, sites={"encoder": 2})
    assert record.trainable_parameters == catalogue.trained(record.config["prompt"], sizes)
    assert record.optimizer["network_lr"] == 5e-3
    opened = dp_bench.open_run(tmp_path / "results" / "runs" / record.run_id)
    prompt = opened.model.prompt
    assert prompt.layers.generate.__self__ is prompt.vectors
    assert sum(value.numel() for value in prompt.state_dict().values()) == record.trainable_parameters
    assert {id(p) for p in prompt.network_parameters()} == {
        id(p) for n, p in prompt.vectors.named_parameters() if n != "task_PD"
    }
    with pytest.raises(UserError, match="its prompt depends on the text"):
        to_peft(opened, tmp_path / "out")
    assert why_alone(opened) == "its prompt is in the layers of the backbone"
    without = {**record.config, "prompt": {**record.config["prompt"], "layers": None}}
    assert lockstep.can_share(without) and not lockstep.can_share(record.config)


@pytest.mark.parametrize("kind", ["t5", "bert", "gpt2"])
def test_a_deep_prompt_gets_attention_in_its_slots_of_the_input(kind: str) -> None:
    backbone, batch = make(kind), text_of(kind)
    output = make_prompt(backbone, "prompt=m_idpg")(
        torch.randn(3, WIDTH, dtype=torch.float64), batch.task_B, {}, 1.0
    )
    given: Prompted = insert(backbone.embed(batch.ids_BT), batch, output, SplitOrder.paper)
    found = attention_of(backbone, given)
    assert found.input_LMP.shape == (3, 3, P) and float(found.input_LMP.min()) > 0
    assert found.layers_LMP.numel() == 0 and float(found.even_LM.min()) > 0
