"""Every family of backbones, as a tiny random model: against stock transformers, padding, positions,
layers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.backbones import (
    CPU,
    DECODERS,
    DIMS,
    ENCODERS,
    answers,
    batch_of,
    layer_prompt,
    nothing,
    output,
    settings_of,
)
from torch import Tensor

from dp_bench import config, run
from dp_bench.backbones.attention import NAMES
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone
from dp_bench.backbones.random_init import byte_tokenizer
from dp_bench.config import Experiment
from dp_bench.opening import open_model
from dp_bench.progress import Reporter
from dp_bench.prompts.layout import insert
from dp_bench.settings import BackboneSettings, Family, Head, Pooling, SplitOrder
from dp_bench.types import Batch, LayerPrompt, UserError
from dp_bench.verbalizer import Classifier, LabelWords, WholeChoices, make_verbalizer

FAMILIES = tuple(DIMS)


@pytest.fixture(scope="module")
def backbones() -> Callable[..., Backbone]:
    made: dict[Any, Backbone] = {}

    def build(kind: str, **changes: Any) -> Backbone:
        key = (kind, *sorted(changes.items(), key=str))
        if key not in made:
            made[key] = load_backbone(
                settings_of(kind, **changes), device=CPU, dtype=torch.float32, dropout=False
            )
            # Small weights, biases of 0 and norms of 1 would hide what is forgotten.
            draw = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in made[key].model.parameters():
                    if parameter.ndim == 1:
                        parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
                    else:
                        parameter.mul_(1.0 if kind == "t5" else 4.0)
        return made[key]

    return build


def stock(backbone: Backbone, batch: Batch) -> Tensor:
    """The logits that transformers gives for the same text, at the answer."""
    model: Any = backbone.model
    mask = batch.mask_BT.long()
    if isinstance(batch.answer_B, Tensor) and model.config.model_type != "t5":
        logits = model(input_ids=batch.ids_BT, attention_mask=mask).logits
        return logits[torch.arange(len(batch)), batch.answer_B][:, :200]
    start = torch.zeros(len(batch), 1, dtype=torch.long)
    return model(input_ids=batch.ids_BT, attention_mask=mask, decoder_input_ids=start).logits[:, 0, :200]


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_an_empty_prompt_equals_stock_transformers(backbones: Callable[..., Backbone], kind: str) -> None:
    backbone, batch = backbones(kind), batch_of([9, 5, 7])
    ours = answers(backbone, batch, nothing(backbone, batch))
    torch.testing.assert_close(ours, stock(backbone, batch), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_prefix_equals_embeddings_put_together_by_hand(
    backbones: Callable[..., Backbone], kind: str
) -> None:
    backbone, batch = backbones(kind), batch_of([8, 8])
    model: Any = backbone.model
    vectors_PD = torch.randn(3, backbone.dims.width)
    ours = answers(backbone, batch, output(batch, vectors_PD, 3))
    x_BTD = backbone.embed(batch.ids_BT)
    embeds = torch.cat([x_BTD[:, :1], vectors_PD.expand(2, -1, -1), x_BTD[:, 1:]], dim=1)
    if kind == "t5":
        start = torch.zeros(2, 1, dtype=torch.long)
        logits = model(inputs_embeds=embeds, decoder_input_ids=start).logits[:, 0, :200]
    else:
        logits = model(inputs_embeds=embeds).logits[:, 3 + 6, :200]
    torch.testing.assert_close(ours, logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("before", [0, 2, 4])
def test_padding_on_either_side_and_batch_mates_change_nothing(
    backbones: Callable[..., Backbone], kind: str, before: int
) -> None:
    backbone = backbones(kind)
    batch = batch_of([9, 5, 7])
    vectors_PD = torch.randn(4, backbone.dims.width)
    together = answers(backbone, batch, output(batch, vectors_PD, before))
    for row in range(3):
        length = int(batch.mask_BT[row].sum())
        for left in (0, 3):
            ids = torch.nn.functional.pad(batch.ids_BT[row : row + 1, :length], (left, 4))
            mask = torch.nn.functional.pad(batch.mask_BT[row : row + 1, :length], (left, 4))
            start, end = batch.body_start_B[row : row + 1] + left, batch.body_end_B[row : row + 1] + left
            alone = Batch(ids, mask, start, end, *(torch.zeros(1, dtype=torch.long),) * 3, answer_B=end)
            found = answers(backbone, alone, output(alone, vectors_PD, before))
            torch.testing.assert_close(found[0], together[row], atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_moving_the_prompt_changes_the_answer(backbones: Callable[..., Backbone], kind: str) -> None:
    """If text tokens kept their own position ids, a BERT would not notice where the prompt is."""
    backbone, batch = backbones(kind), batch_of([9, 7])
    vectors_PD = torch.randn(4, backbone.dims.width)
    outcomes = [answers(backbone, batch, output(batch, vectors_PD, before)) for before in range(5)]
    for one, other in itertools.pairwise(outcomes):
        assert float((one - other).abs().max()) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", [k for k in FAMILIES if k != "t5"])
def test_a_dropped_vector_takes_no_position(backbones: Callable[..., Backbone], kind: str) -> None:
    """T5 alone counts distances in slots, so that there a dropped vector leaves a gap."""
    backbone, batch = backbones(kind), batch_of([9, 7])
    vectors_PD = torch.randn(4, backbone.dims.width)
    keep_BP = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(2, -1)
    dropped = answers(backbone, batch, output(batch, vectors_PD, 4, keep_BP=keep_BP))
    absent = answers(backbone, batch, output(batch, vectors_PD[:2], 2))
    torch.testing.assert_close(dropped, absent, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------------- layers


NUM_SITES = {**dict.fromkeys(FAMILIES, 2), "t5": 6}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_layer_prompts_change_the_answer_and_get_gradients_at_every_site(
    backbones: Callable[..., Backbone], kind: str, attention: str
) -> None:
    from dp_bench.settings import Attention

    backbone, batch = backbones(kind, attention=Attention(attention)), batch_of([9, 5, 7])
    before = answers(backbone, batch, nothing(backbone, batch))
    layers = layer_prompt(backbone, 3, 2)
    assert len(layers.keys) == NUM_SITES[kind]
    assert backbone.model.config._attn_implementation == NAMES[attention]  # type: ignore[union-attr]
    seam_alone = answers(backbone, batch, nothing(backbone, batch))
    torch.testing.assert_close(seam_alone, before, atol=1e-5, rtol=1e-5)
    prompt = dataclasses.replace(nothing(backbone, batch), layers=layers)
    after = answers(backbone, batch, prompt)
    assert float((after - before).detach().abs().max()) > 1e-3
    after.pow(2).sum().backward()
    for place, (key, value) in enumerate(zip(layers.keys, layers.values, strict=True)):
        assert key is not None and value is not None
        assert value.grad is not None and float(value.grad.abs().max()) > 0, place
        # Of T5's decoder one step attends to itself alone, so keys of a prompt do change its weights.
        assert key.grad is not None and float(key.grad.abs().max()) > 0, place


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_dropped_layer_vectors_equal_absent_ones_and_batch_mates_change_nothing(
    backbones: Callable[..., Backbone], kind: str
) -> None:
    backbone, batch = backbones(kind), batch_of([9, 5, 7])
    whole = layer_prompt(backbone, 3, 4)
    keep_BP = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(3, -1)

    def found(keys: Any, values: Any, keep: Tensor | None) -> Tensor:
        layers = LayerPrompt(tuple(keys), tuple(values), keep)
        return answers(backbone, batch, dataclasses.replace(nothing(backbone, batch), layers=layers))

    first = [[t[:, :, :2] for t in part if t is not None] for part in (whole.keys, whole.values)]
    dropped = found(whole.keys, whole.values, keep_BP)
    torch.testing.assert_close(dropped, found(*first, None), atol=1e-5, rtol=1e-4)
    alone = batch_of([9, 5, 7])
    row = Batch(
        *(getattr(alone, f.name)[1:2, ...] for f in dataclasses.fields(alone)[:7]),
        answer_B=alone.answer_B[1:2],
    )  # type: ignore[index]
    layers = LayerPrompt(tuple(t[:1] for t in first[0]), tuple(t[:1] for t in first[1]), None)
    own = answers(backbone, row, dataclasses.replace(nothing(backbone, row), layers=layers))
    torch.testing.assert_close(own[0], dropped[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "qwen3"])
def test_layer_prompts_of_decoders_equal_past_key_values(
    backbones: Callable[..., Backbone], kind: str
) -> None:
    """Values and gradients; the positions of the text go on from those of the vectors."""
    from transformers import DynamicCache

    backbone, batch = backbones(kind), batch_of([8, 8])
    layers = layer_prompt(backbone, 2, 3)
    ours = answers(backbone, batch, dataclasses.replace(nothing(backbone, batch), layers=layers))
    tensors = [t for pair in zip(layers.keys, layers.values, strict=True) for t in pair if t is not None]
    gradients = torch.autograd.grad(ours.pow(2).sum(), tensors)
    model: Any = backbone.model
    cache = DynamicCache()
    for layer, (key, value) in enumerate(zip(layers.keys, layers.values, strict=True)):
        cache.update(key, value, layer)
    logits = model(
        input_ids=batch.ids_BT,
        attention_mask=torch.ones(2, 3 + 8, dtype=torch.long),
        past_key_values=cache,
    ).logits[:, 6, :200]
    torch.testing.assert_close(ours, logits, atol=1e-5, rtol=1e-4)
    theirs = torch.autograd.grad(logits.pow(2).sum(), tensors)
    for one, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


# ---------------------------------------------------------------------------------------------- scores


@torch.no_grad()
@pytest.mark.parametrize("kind", DECODERS)
def test_a_choice_is_scored_as_the_continuation_of_the_text(
    backbones: Callable[..., Backbone], kind: str
) -> None:
    backbone, batch = backbones(kind), batch_of([9, 6])
    last_B = batch.mask_BT.sum(1) - 1  # a text ends with its cue
    batch = dataclasses.replace(batch, body_end_B=last_B, answer_B=last_B)
    model: Any = backbone.model
    vectors_PD = torch.randn(2, backbone.dims.width)
    choices = torch.randint(3, 200, (2, 2, 3))
    mask = torch.ones(2, 2, 3, dtype=torch.bool)
    mask[1, 1, 2] = False
    with_choices = dataclasses.replace(batch, choice_ids_BCA=choices, choice_mask_BCA=mask)
    prompt = output(batch, vectors_PD, 2)
    prompted = insert(backbone.embed(batch.ids_BT), batch, prompt, SplitOrder.paper)
    found = WholeChoices()(backbone, prompted, with_choices)
    for row in range(2):
        end = int(batch.answer_B[row]) + 1  # type: ignore[index]
        x_TD = backbone.embed(batch.ids_BT[row, :end])
        for choice in range(2):
            tokens = choices[row, choice][mask[row, choice]]
            embeds = torch.cat([x_TD[:1], vectors_PD, x_TD[1:], backbone.embed(tokens[:-1])])
            logprobs = model(inputs_embeds=embeds[None]).logits[0, end + 1 :].log_softmax(-1)
            expected = logprobs.gather(1, tokens[:, None]).mean()
            torch.testing.assert_close(found[row, choice], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_classifier_head_reads_the_text_and_trains(
    backbones: Callable[..., Backbone], kind: str, pooling: Pooling
) -> None:
    from conftest import task_settings

    backbone, batch = backbones(kind, head=Head.classifier, pooling=pooling), batch_of([9, 5])
    head = make_verbalizer(task_settings("cb"), backbone, Head.classifier, seed=0)
    assert isinstance(head, Classifier) and all(p.requires_grad for p in head.parameters())
    again, other = (make_verbalizer(task_settings("cb"), backbone, Head.classifier, seed=s) for s in (0, 1))
    assert torch.equal(head.linear.weight, again.linear.weight)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(head.linear.weight, other.linear.weight)  # type: ignore[union-attr, arg-type]
    prompt = output(batch, torch.randn(3, backbone.dims.width), 3)
    logits_BC = head(backbone, insert(backbone.embed(batch.ids_BT), batch, prompt, SplitOrder.paper), batch)
    assert logits_BC.shape == (2, 3)
    if kind in ENCODERS:
        x = insert(backbone.embed(batch.ids_BT), batch, prompt, SplitOrder.paper)
        states = backbone.encode(x.embeds_BSD, x.mask_BS)
        slots = [
            [int(s) for s, real in zip(x.slot_of_text_BT[r], batch.mask_BT[r], strict=True) if real]
            for r in (0, 1)
        ]
        pooled = [
            states[r, own].mean(0) if pooling is Pooling.mean else states[r, own[0]]
            for r, own in enumerate(slots)
        ]
        torch.testing.assert_close(logits_BC, head.linear(torch.stack(pooled)), atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "gpt2", "opt"])
def test_texts_beyond_the_positions_are_refused(backbones: Callable[..., Backbone], kind: str) -> None:
    backbone, batch = backbones(kind), batch_of([62, 9])
    with pytest.raises(UserError, match=r"lower task\.max_length or prompt\.num_tokens"):
        answers(backbone, batch, output(batch, torch.randn(9, backbone.dims.width), 9))


def test_texts_beyond_the_positions_are_refused_before_anything_is_trained(
    experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dp_bench.methods.tune.Trainer", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(UserError, match="and BertForMaskedLM has 640: lower"):
        run.run(experiment("backbone=bert_tiny_random", "prompt.num_tokens=600"))


def test_a_family_that_is_not_the_checkpoints_is_refused() -> None:
    with pytest.raises(UserError, match=r"backbone\.family=decoder_only"):
        load_backbone(
            settings_of("gpt2", family=Family.encoder_only), device=CPU, dtype=torch.float32, dropout=False
        )
    with pytest.raises(UserError, match="model_type=ethel is unknown"):
        wrong = BackboneSettings(name="x", random_init={"model_type": "ethel"})
        load_backbone(wrong, device=CPU, dtype=torch.float32, dropout=False)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_an_answer_in_the_text_needs_a_cue(kind: str, tmp_path: Path) -> None:
    words = [
        "task=rte",
        f"backbone={kind}_tiny_random",
        "backbone.answer_cue=null",
        "task.format=paper",
        "data.dir=.",
    ]
    with pytest.raises(UserError, match=r"backbone\.answer_cue="):
        open_model(config.experiment(words), tmp_path, Reporter(quiet=True))


def test_an_encoder_scores_no_whole_choices(backbones: Callable[..., Backbone]) -> None:
    from conftest import task_settings

    with pytest.raises(UserError, match=r"task\.scoring=words"):
        make_verbalizer(task_settings("copa"), backbones("bert"), Head.verbalizer, seed=0)


def test_label_words_are_looked_up_as_they_stand_in_running_text() -> None:
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "n", "o", "y", "e", "s", "Ġ", "no", "ye", "yes", "Ġno", "Ġyes"]
    merges = [("n", "o"), ("y", "e"), ("ye", "s"), ("Ġ", "no"), ("Ġ", "yes")]
    backend = Tokenizer(BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    gpt_like = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert LabelWords(["no", "yes"], gpt_like).get_buffer("word_ids_C").tolist() == [10, 11]
    bytes_ids = LabelWords(["no", "yes"], byte_tokenizer()).get_buffer("word_ids_C").tolist()
    assert bytes_ids == byte_tokenizer()("ny", add_special_tokens=False).input_ids
