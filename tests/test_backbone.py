"""The frozen T5: an empty prompt is the bare model, padding changes nothing, only label words are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROMPTS, make_batch
from helpers.batches import LENGTHS, WORDS, prompted_model, take
from torch import Tensor

from dp_bench import config
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone, load_tokenizer
from dp_bench.backbones.random_init import byte_tokenizer
from dp_bench.machine import resolve_device, resolve_dtype
from dp_bench.prompts.layout import insert
from dp_bench.settings import BackboneSettings, Precision, SplitOrder, Summary
from dp_bench.summaries import cached_summaries, summarise
from dp_bench.types import Batch, PromptOutput, UserError
from dp_bench.verbalizer import LabelWords, label_word_ids


def settings(*overrides: str) -> BackboneSettings:
    return config.build(config.compose(["data.dir=.", *overrides])).settings.backbone


def bare_logits(backbone: Backbone, batch: Batch) -> Tensor:
    """Run transformers' own forward on token ids and read the whole vocabulary at the answer step."""
    decoder_ids = backbone.get_buffer("decoder_ids_A").expand(len(batch), -1)
    model = backbone.model
    out = model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT.long(), decoder_input_ids=decoder_ids)
    return out.logits[:, -1]


@pytest.mark.parametrize("tied", [False, True])
def test_an_empty_prompt_equals_the_bare_model(make_backbone: Callable[..., Backbone], tied: bool) -> None:
    backbone = make_backbone(tie_word_embeddings=tied, scale_decoder_outputs=tied)
    batch = make_batch(LENGTHS)
    nothing = PromptOutput(torch.zeros(len(batch), 0, 64), torch.ones(len(batch), 1))
    prompted = insert(backbone.embed(batch.ids_BT), batch, nothing, SplitOrder.paper)
    ours = LabelWords(WORDS, backbone.tokenizer)(backbone, prompted, batch)
    words = label_word_ids(WORDS, backbone.tokenizer)
    torch.testing.assert_close(ours, bare_logits(backbone, batch)[:, words])


def test_prefix_and_postfix_equal_transformers_on_concatenated_embeddings(backbone: Backbone) -> None:
    batch = make_batch([7] * 3)
    x = backbone.embed(batch.ids_BT)
    decoder_ids = backbone.get_buffer("decoder_ids_A").expand(3, -1)
    for name in ("fixed", "postfix", "split"):
        model = prompted_model(backbone, f"prompt={name}")
        p = model.prompt.vectors.prompt_PD.expand(3, -1, -1)  # type: ignore[operator]
        j = {"fixed": 4, "postfix": 0, "split": 2}[name]
        embeds = torch.cat([p[:, :j], x[:, :-1], p[:, j:], x[:, -1:]], dim=1)
        out = backbone.model(inputs_embeds=embeds, decoder_input_ids=decoder_ids).logits[:, -1]
        torch.testing.assert_close(model(batch).logits_BC, out[:, label_word_ids(WORDS, backbone.tokenizer)])


@pytest.mark.parametrize("name", PROMPTS)
def test_padding_and_batch_mates_change_no_logits(backbone: Backbone, name: str) -> None:
    model = prompted_model(backbone, f"prompt={name}")
    names = model.prompt.noisy_selectors(training=False, sample_at_eval=False)
    noise = model.prompt.draw_noise(len(LENGTHS), torch.Generator().manual_seed(0), selectors=names)
    batch = replace(make_batch(LENGTHS), noise=noise)
    together = model(batch).logits_BC
    torch.testing.assert_close(model(make_wide(batch, 30)).logits_BC, together, atol=1e-5, rtol=1e-5)
    for row, length in enumerate(LENGTHS):
        alone = take(batch, row, length)
        torch.testing.assert_close(model(alone).logits_BC[0], together[row], atol=1e-5, rtol=1e-5)


def make_wide(batch: Batch, width: int) -> Batch:
    extra = width - batch.ids_BT.shape[1]
    pad = torch.nn.functional.pad
    return dataclasses.replace(
        batch, ids_BT=pad(batch.ids_BT, (0, extra)), mask_BT=pad(batch.mask_BT, (0, extra))
    )


def test_dropped_vectors_do_not_reach_the_answer(backbone: Backbone) -> None:
    batch = make_batch(LENGTHS)
    x = backbone.embed(batch.ids_BT)
    keep = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(len(batch), -1)
    before = torch.nn.functional.one_hot(torch.tensor([4] * len(batch)), 5).float()
    states = []
    for filler in (0.0, 100.0):
        vectors = torch.cat([torch.ones(len(batch), 2, 64), torch.full((len(batch), 2, 64), filler)], dim=1)
        states.append(backbone(insert(x, batch, PromptOutput(vectors, before, keep), SplitOrder.paper)))
    assert torch.equal(*states)


def test_the_gradient_reaches_the_prompt_and_only_the_prompt(backbone: Backbone) -> None:
    model = prompted_model(backbone, "prompt=dynamic")
    names = model.prompt.noisy_selectors(training=True, sample_at_eval=False)
    noise = model.prompt.draw_noise(4, torch.Generator().manual_seed(0), selectors=names)
    model(replace(make_batch(LENGTHS), noise=noise)).logits_BC.pow(2).sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("prompt."):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        else:
            assert not parameter.requires_grad and parameter.grad is None, name


def test_the_selector_gradient_through_the_model_is_that_of_the_naive_sum(backbone: Backbone) -> None:
    """The whole path in float64: one placed layout against the sum over all of them, through a real T5."""
    from helpers.layouts import naive

    model = prompted_model(backbone, "prompt=dynamic").double()
    try:
        batch = make_batch(LENGTHS)
        noise = model.prompt.draw_noise(4, torch.Generator().manual_seed(5), selectors=["position"])
        batch = replace(
            batch, noise={"position": noise["position"].double()}, summary_BD=torch.randn(4, 64).double()
        )
        grads = []
        for place in (insert, None):
            model.zero_grad()
            x = backbone.embed(batch.ids_BT)
            out = model.prompt(batch.summary_BD, batch.task_B, batch.noise, 0.8)
            prompted = insert(x, batch, out, SplitOrder.paper)
            if place is None:
                embeds = naive(out.before_BJ, out.vectors_BPD, x, batch, SplitOrder.paper)
                prompted = dataclasses.replace(prompted, embeds_BSD=embeds)
            logits = backbone.word_logits(backbone(prompted), torch.tensor([10, 20]))
            torch.nn.functional.cross_entropy(logits, batch.label_B).backward()
            grads.append([p.grad.clone() for p in model.prompt.parameters() if p.grad is not None])
        assert len(grads[0]) == 5
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
    finally:
        model.float()


def test_the_frozen_model_stays_in_eval_mode_unless_the_authors_say_so(
    make_backbone: Callable[..., Backbone],
) -> None:
    assert not any(m.training for m in prompted_model(make_backbone()).train().backbone.modules())
    model = prompted_model(make_backbone(dropout=True))
    assert all(m.training for m in model.train().backbone.model.modules())
    assert not any(m.training for m in model.eval().backbone.modules())


def test_the_fingerprint_changes_with_any_weight(make_backbone: Callable[..., Backbone]) -> None:
    one, same, other = make_backbone(), make_backbone(), make_backbone(seed=1)
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    name, weight = next(iter(same.model.named_parameters()))
    weight.data.view(-1)[0] += 1
    assert one.fingerprint() != same.fingerprint(), name


def test_the_summary_is_the_mean_over_real_tokens_and_ignores_padding(backbone: Backbone) -> None:
    batch = make_batch(LENGTHS)
    summary = summarise(backbone, batch.ids_BT, batch.mask_BT, Summary.encoder_mean)
    wide = make_wide(batch, 40)
    padded = summarise(backbone, wide.ids_BT, wide.mask_BT, Summary.encoder_mean)
    torch.testing.assert_close(summary, padded, atol=1e-6, rtol=1e-5)
    for row, length in enumerate(LENGTHS):
        states = backbone.model.encoder(input_ids=batch.ids_BT[row : row + 1, :length]).last_hidden_state
        torch.testing.assert_close(summary[row], states[0].mean(0), atol=1e-6, rtol=1e-5)


def test_the_authors_summary_depends_on_the_padding(backbone: Backbone) -> None:
    batch = make_batch(LENGTHS)
    clean = summarise(backbone, batch.ids_BT, batch.mask_BT, Summary.encoder_mean)
    authors = summarise(backbone, batch.ids_BT, batch.mask_BT, Summary.encoder_mean, pad_to=48)
    wide = make_wide(batch, 48)
    states = backbone.model.encoder(
        input_ids=wide.ids_BT, attention_mask=wide.mask_BT.long()
    ).last_hidden_state
    torch.testing.assert_close(authors, states.mean(1), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(clean, authors, atol=1e-2)


def test_label_words_need_different_first_pieces() -> None:
    tokenizer = byte_tokenizer()
    with pytest.raises(UserError, match=r"same piece.*task\.words"):
        label_word_ids(["yes", "yep"], tokenizer)
    assert label_word_ids(["no", "yes"], tokenizer) == tokenizer("ny", add_special_tokens=False).input_ids


def test_the_byte_tokenizer_reads_any_text_and_knows_its_sentinels() -> None:
    tokenizer = byte_tokenizer()
    text = "Ümläut — 漢字 🙂 <extra_id_0>"
    ids = tokenizer(text).input_ids
    assert ids[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[:-1]).replace(" ", "") == text.replace(" ", "")
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") in ids


def test_the_t5_vocabulary_loads_from_a_folder(shared: Path) -> None:
    tokenizer = load_tokenizer(
        settings("backbone=t5_tiny_random", f"backbone.tokenizer={shared / 't5-tokenizer'}")
    )
    assert tokenizer("Hello world").input_ids == [8774, 296, 1]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 1, 32_100)
    assert tokenizer("<extra_id_0>", add_special_tokens=False).input_ids == [32_099]
    assert len(label_word_ids(WORDS, tokenizer)) == 3


def test_a_saved_checkpoint_loads_from_its_folder(backbone: Backbone, tmp_path: Path) -> None:
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    own = settings("backbone=local", f"backbone.name_or_path={tmp_path}")
    loaded = load_backbone(own, device=torch.device("cpu"), dtype=torch.float32, dropout=False)
    assert loaded.fingerprint() == backbone.fingerprint()
    batch = make_batch(LENGTHS)
    torch.testing.assert_close(bare_logits(loaded, batch), bare_logits(backbone, batch))


def test_an_unreachable_checkpoint_is_one_paragraph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dp_bench.hub.hub_reachable", lambda: False)
    with pytest.raises(UserError, match=r"google/t5-small-lm-adapt.*does not answer.*backbone=local"):
        load_tokenizer(settings("backbone=t5_small"))
    with pytest.raises(UserError, match="neither an existing folder"):
        load_tokenizer(settings("backbone=local", f"backbone.name_or_path={tmp_path / 'absent'}"))
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(settings("backbone=local", f"backbone.name_or_path={tmp_path}"))


def test_another_family_is_refused_with_the_reason(tmp_path: Path) -> None:
    from transformers import ViTConfig

    ViTConfig().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    own = settings("backbone=local", f"backbone.name_or_path={tmp_path}", "backbone.answer_prefix=''")
    with pytest.raises(UserError, match="'vit' model, of which transformers has no"):
        load_backbone(own, device=torch.device("cpu"), dtype=torch.float32, dropout=False)


@pytest.mark.parametrize(("override", "reason"), [("heads=4", "not a setting"), ("d_model=wide", "int")])
def test_impossible_random_dimensions_are_the_users_mistake(override: str, reason: str) -> None:
    own = settings("backbone=t5_tiny_random", f"++backbone.random_init.{override}")
    with pytest.raises(UserError, match=reason):
        load_backbone(own, device=torch.device("cpu"), dtype=torch.float32, dropout=False)


def test_a_missing_device_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="Use device=cpu"):
        resolve_device("cuda:99")


def test_fp32_is_fp32_and_auto_is_one_of_two() -> None:
    cpu = torch.device("cpu")
    assert resolve_dtype(Precision.fp32, cpu) is torch.float32
    assert resolve_dtype(Precision.auto, cpu) in (torch.float32, torch.bfloat16)


def test_cached_summaries_are_those_computed_and_have_a_key_of_their_own(
    make_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    import numpy as np
    from datasets import Dataset

    from dp_bench.data.encoded import EncodedSplit

    batch = make_batch([5, 9, 3, 9, 6])
    rows = [batch.ids_BT[i, : int(batch.mask_BT[i].sum())].tolist() for i in range(5)]
    columns = {
        "input_ids": rows,
        "body_start": [0] * 5,
        "body_end": [len(r) - 1 for r in rows],
        "label": [0] * 5,
        "skill": [-1] * 5,
    }
    split = EncodedSplit(Dataset.from_dict(columns), "some-fingerprint", np.arange(5))
    passes: list[int] = []

    def cached(backbone: Backbone, **changed: object) -> Tensor:
        own: dict[str, object] = {"pad_to": None, "kind": Summary.encoder_mean, **changed}
        return cached_summaries(
            backbone,
            split,
            **own,
            batch_size=2,
            cache_dir=tmp_path,
            weights=backbone.fingerprint(),
            advance=passes.append,  # type: ignore[arg-type]
        )

    backbone = make_backbone()
    first = cached(backbone)
    torch.testing.assert_close(first, summarise(backbone, batch.ids_BT, batch.mask_BT, Summary.encoder_mean))
    assert sum(passes) == 5
    assert torch.equal(cached(make_backbone()), first) and sum(passes) == 5, "read back, not computed"
    cached(make_backbone(seed=1))
    cached(backbone, kind=Summary.embedding_mean)
    cached(backbone, pad_to=20)
    assert sum(passes) == 20, "another checkpoint, kind or padding is another key"


@pytest.mark.parametrize("tied", [False, True])
def test_computing_activations_anew_changes_no_gradient(
    make_backbone: Callable[..., Backbone], tied: bool
) -> None:
    """Exactly the same loss and gradients; each layer is passed once more, in the backward pass."""

    def gradients(*, anew: bool) -> tuple[list[Tensor], int]:
        backbone = make_backbone(tie_word_embeddings=tied)
        if anew:
            backbone.checkpoint_activations()
        passes: list[int] = []
        layer: Any = backbone.model.encoder.block[0]  # type: ignore[union-attr, index]
        layer.layer[0].register_forward_hook(lambda *_: passes.append(1))
        model = prompted_model(backbone, "prompt=dynamic").train()
        noise = {"position": torch.zeros(len(LENGTHS), 5)}
        model(replace(make_batch(LENGTHS), noise=noise)).logits_BC.pow(2).sum().backward()
        summary_pass = 1
        return [p.grad for p in model.prompt.parameters() if p.grad is not None], len(passes) - summary_pass

    (plain, once), (again, twice) = gradients(anew=False), gradients(anew=True)
    assert len(plain) == len(again) > 2
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert (once, twice) == (1, 2)


def test_two_that_need_a_summary_at_once_compute_it_once(
    make_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from time import sleep

    from datasets import Dataset

    from dp_bench.data.encoded import EncodedSplit

    batch = make_batch([5, 9, 3, 9, 6])
    texts = [batch.ids_BT[i, : int(batch.mask_BT[i].sum())].tolist() for i in range(5)]
    columns = {
        "input_ids": texts,
        "body_start": [0] * 5,
        "body_end": [len(t) - 1 for t in texts],
        "label": [0] * 5,
        "skill": [-1] * 5,
    }
    split = EncodedSplit(Dataset.from_dict(columns), "some-fingerprint", np.arange(5))
    computed: list[int] = []

    def slowly(rows: int) -> None:
        sleep(0.1)
        computed.append(rows)

    def summaries(backbone: Backbone) -> Tensor:
        options = {"pad_to": None, "batch_size": 2, "cache_dir": tmp_path, "weights": "same"}
        return cached_summaries(backbone, split, Summary.encoder_mean, advance=slowly, **options)  # type: ignore[arg-type]

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(summaries, [make_backbone() for _ in range(3)]))
    assert sum(computed) == 5
    assert all(torch.equal(own, found[0]) for own in found)


def test_the_fused_activation_is_the_stock_one(make_backbone: Callable[..., Backbone]) -> None:
    from transformers.activations import NewGELUActivation

    x = torch.linspace(-8, 8, 4001, dtype=torch.float64, requires_grad=True)
    (stock,) = torch.autograd.grad(NewGELUActivation()(x).sum(), x)
    (fused,) = torch.autograd.grad(torch.nn.GELU(approximate="tanh")(x).sum(), x)
    torch.testing.assert_close(fused, stock, atol=1e-10, rtol=0)
    kinds = {type(module) for module in make_backbone(feed_forward_proj="gated-gelu").model.modules()}
    assert torch.nn.GELU in kinds and NewGELUActivation not in kinds
