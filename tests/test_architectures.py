"""Backbones prove themselves: tiny random models of many architectures, from a folder as a user has them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.backbones import CPU, answers, batch_of, layer_prompt, nothing, output
from tokenizers import pre_tokenizers
from torch import Tensor

from dp_bench import config, run
from dp_bench.backbones import probe
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone, load_tokenizer
from dp_bench.backbones.random_init import byte_tokenizer
from dp_bench.config import Experiment
from dp_bench.methods import peft as peft_methods
from dp_bench.methods.bottleneck import find_feed_forwards
from dp_bench.settings import BackboneSettings
from dp_bench.types import UserError

Build = Callable[..., Experiment]

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 300,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART = {
    "d_model": 32,
    **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")},
    "max_position_embeddings": 300,
    "scale_embedding": True,
}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 300}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mistral": GROUPED,
    "gemma2": GROUPED,
    "gemma3_text": GROUPED,
    "gpt_neox": SIZES,
    "phi": SIZES,
    "olmo": SIZES,
    "smollm3": GROUPED,
    "qwen3": GROUPED,
    "distilbert": DISTIL,
    "electra": {**SIZES, "embedding_size": 16},
    "modernbert": SIZES,
    "mt5": T5,
    "bart": BART,
    "longt5": {**T5, "local_radius": 7, "encoder_attention_type": "local"},
    # Without sites for keys and values.
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "gpt_oss": {
        **GROUPED,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    # Refused.
    "fnet": SIZES,
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
}
MASKED = ("distilbert", "electra", "modernbert", "deberta-v2", "fnet", "bert", "roberta")
SEQ2SEQ = ("mt5", "bart", "longt5", "t5")
WITHOUT_SITES = ("bloom", "deberta-v2", "gpt_oss")
WITH_EXPERTS = ("gpt_oss",)
REFUSED = {
    "fnet": "padding and the other texts of a batch change no answer",
    "xlnet": "what follows a token does not change its state",
}
WORKS = [kind for kind in ARCHITECTURES if kind not in REFUSED]
BOTH = ["encoder"] * 2 + ["decoder", "cross"] * 2
SITES = {
    **dict.fromkeys(WORKS, ["decoder"] * 2),
    **dict.fromkeys(MASKED, ["encoder"] * 2),
    **dict.fromkeys(SEQ2SEQ, BOTH),
    "longt5": BOTH[2:],  # its encoder attends in blocks, by itself
}


def make_folder(kind: str, folder: Path, tokenizer: Any = None, **changes: Any) -> list[str]:
    """Save a tiny model with a tokenizer, of bytes unless one is given; return the words that choose it."""
    import transformers

    sizes = ARCHITECTURES.get(kind, T5 if kind == "t5" else SIZES)
    tokenizer = tokenizer or byte_tokenizer(kind)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    auto, answer = transformers.AutoModelForCausalLM, "backbone.answer_cue=' Answer:'"
    if kind in SEQ2SEQ:
        auto, answer = transformers.AutoModelForSeq2SeqLM, "backbone.answer_prefix=''"
        ids["decoder_start_token_id"] = 0
    elif kind in MASKED:
        auto, answer = transformers.AutoModelForMaskedLM, "backbone.answer_cue=' Answer: {mask}'"
    made = {"vocab_size": len(tokenizer), **ids, **sizes, **changes}
    torch.manual_seed(0)
    auto.from_config(transformers.AutoConfig.for_model(kind, **made)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ["backbone=local", f"backbone.name_or_path={folder}", answer]


def settings_of(words: list[str]) -> BackboneSettings:
    return config.build(config.compose(["data.dir=.", *words])).settings.backbone


def load(words: list[str]) -> Backbone:
    """Load a backbone with weights and biases that are large enough to show what is forgotten."""
    backbone = load_backbone(settings_of(words), device=CPU, dtype=torch.float32, dropout=False)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in backbone.model.parameters():
            weight.add_((0.2 if weight.ndim == 1 else 0.05) * torch.randn(weight.shape, generator=draw))
    return backbone


def stock(backbone: Backbone, lengths: list[int], **read: Tensor) -> Tensor:
    """Return what transformers answers to texts in full, each alone, at the place where it is read."""
    rows = []
    for row, length in enumerate(lengths):
        inputs = {name: value[row : row + 1, :length] for name, value in read.items()}
        if backbone.lm.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = torch.zeros(1, 1, dtype=torch.long)
        logits = backbone.model(**inputs).logits[0]
        rows.append(logits[-1 if backbone.lm.config.is_encoder_decoder else length - 2, :200])
    return torch.stack(rows)


QUICK = (
    *("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=2"),
    *("task.max_length=96", "data.limit=8"),
)
FOUR = "prompt.num_tokens=4"


@pytest.mark.parametrize("kind", WORKS)
def test_an_architecture_answers_and_learns(experiment: Build, tmp_path: Path, kind: str) -> None:
    words = (*make_folder(kind, tmp_path / "model"), *QUICK)
    assert 0 <= run.run(experiment(*words, "prompt=zero_shot")).score <= 100
    record = run.run(experiment(*words, "prompt=fixed", FOUR))
    width = 16 if kind == "electra" else 32  # of its embedding, which is narrower than its states
    assert (record.num_updates, record.trainable_parameters) == (2, 4 * width)


@pytest.mark.parametrize("kind", WORKS)
def test_an_architecture_equals_stock_transformers(tmp_path: Path, kind: str) -> None:
    """Texts in one padded batch, and vectors before them, against each text alone in plain transformers."""
    backbone, lengths = load(make_folder(kind, tmp_path)), [9, 5, 7]
    batch = batch_of(lengths)
    vectors_PD = torch.randn(3, backbone.dims.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = answers(backbone, batch, nothing(backbone, batch))
        backbone.lm.set_attn_implementation("eager")
        right = stock(backbone, lengths, input_ids=batch.ids_BT)
        torch.testing.assert_close(found, right, atol=2e-5, rtol=1e-4)
        x_BTD = backbone.embed(batch.ids_BT)
        embeds = torch.cat([x_BTD[:, :1], vectors_PD.expand(3, -1, -1), x_BTD[:, 1:]], dim=1)
        right = stock(backbone, [n + 3 for n in lengths], inputs_embeds=embeds)
        found = answers(backbone, batch, output(batch, vectors_PD, 3))
        torch.testing.assert_close(found, right, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in WORKS if kind not in WITHOUT_SITES])
def test_every_site_of_an_architecture_gets_keys_and_values(tmp_path: Path, kind: str) -> None:
    backbone, batch = load(make_folder(kind, tmp_path)), batch_of([9, 5, 7])
    assert [site.kind for site in probe.find_sites(backbone)] == SITES[kind]
    layers = layer_prompt(backbone, 3, 2)
    prompt = dataclasses.replace(nothing(backbone, batch), layers=layers)
    answers(backbone, batch, prompt).pow(2).sum().backward()
    assert all(value is not None and float(value.grad.abs().max()) > 0 for value in layers.values)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", WITHOUT_SITES)
def test_attentions_that_take_no_keys_refuse_layers_alone(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"lacks a property .*keys and values.*prompt=fixed"):
        probe.find_sites(load(make_folder(kind, tmp_path)))


@pytest.mark.parametrize("kind", REFUSED)
def test_an_architecture_is_refused_by_the_property_that_it_lacks(
    experiment: Build, tmp_path: Path, kind: str
) -> None:
    words = (*make_folder(kind, tmp_path / "model"), *QUICK)
    with pytest.raises(UserError, match=f"'{kind}' model, lacks a property .*: {REFUSED[kind]}"):
        run.run(experiment(*words, "prompt=fixed", FOUR))


# ------------------------------------------------------------------------------------------ properties


def before(backbone: Backbone, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the stack that reads embeddings is given."""

    def hook(_: Any, args: Any, given: dict[str, Any]) -> Any:
        return args, {**given, **(change(given) if given.get("inputs_embeds") is not None else {})}

    backbone.stacks[0].register_forward_pre_hook(hook, with_kwargs=True)


def forget_order(backbone: Backbone) -> None:
    tables = [p for name, p in backbone.model.named_parameters() if "position_embeddings" in name]
    assert len(tables) == 1
    tables[0].data.zero_()


BREAKS: dict[str, tuple[str, Callable[[Backbone], None]]] = {
    "scaled": (
        "same answer as their tokens",
        lambda broken: before(broken, lambda given: {"inputs_embeds": 1.1 * given["inputs_embeds"]}),
    ),
    "unmasked": (
        "padding and the other texts",
        lambda broken: before(
            broken, lambda given: {"attention_mask": torch.ones_like(given["attention_mask"])}
        ),
    ),
    "unordered": ("a vector that is moved", forget_order),
    "detached": (
        "a gradient reaches",
        lambda broken: before(broken, lambda given: {"inputs_embeds": given["inputs_embeds"].detach()}),
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_the_probe_sees_what_is_broken(tmp_path: Path, broken: str) -> None:
    name, break_it = BREAKS[broken]
    backbone = load(make_folder("bert", tmp_path / "model"))
    state = torch.get_rng_state()
    probe.prove(backbone, "whole", tmp_path)
    break_it(backbone)
    with pytest.raises(UserError, match=f"lacks a property .*{name}"):
        probe.prove(backbone, "broken", tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_was_proved_is_remembered_for_these_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(probe, "PROPERTIES", {"any": lambda probed: asked.append(probed.fingerprint())})
    backbone = load(make_folder("bert", tmp_path / "model"))
    for weights in ("one", "other", "one"):
        probe.prove(backbone, weights, tmp_path)
    assert len(asked) == 2
    monkeypatch.setattr(probe, "PROBE_VERSION", 0)
    probe.prove(backbone, "one", tmp_path)
    assert len(asked) == 3


def test_a_type_of_two_families_is_what_the_user_says(tmp_path: Path) -> None:
    """A BERT is read as an encoder; as a decoder it would see what it is to say."""
    words = make_folder("bert", tmp_path / "model")
    assert type(load(words)).__name__ == "EncoderOnly"
    backbone = load([*words, "backbone.family=decoder_only"])
    with pytest.raises(UserError, match="what follows a token does not change its state"):
        probe.prove(backbone, backbone.fingerprint(), tmp_path)
    causal = json.loads((tmp_path / "model" / "config.json").read_text())
    causal |= {"is_decoder": True, "architectures": ["BertLMHeadModel"]}
    (tmp_path / "model" / "config.json").write_text(json.dumps(causal))
    backbone = load(words)
    assert type(backbone).__name__ == "DecoderOnly"
    probe.prove(backbone, backbone.fingerprint(), tmp_path)


@pytest.mark.parametrize(
    ("kind", "offset"), [("roberta", 1), ("bart", 0), ("distilbert", 0), ("mistral", None)]
)
def test_the_table_of_positions_is_found_in_the_model(tmp_path: Path, kind: str, offset: int | None) -> None:
    backbone = load(make_folder(kind, tmp_path))
    assert (backbone.num_positions, backbone.trained_positions) == (
        (None, 300) if offset is None else (300 - offset, None)
    )


MATRICES = {
    "mistral": {"q_proj", "v_proj"},
    "gpt_neox": {"query_key_value"},
    "distilbert": {"q_lin", "v_lin"},
    "electra": {"query", "value"},
    "modernbert": {"Wqkv"},
    "mt5": {"q", "v"},
    "bart": {"q_proj", "v_proj"},
}


@pytest.mark.parametrize("kind", MATRICES)
def test_lora_finds_query_and_value_by_looking(tmp_path: Path, kind: str) -> None:
    model = load(make_folder(kind, tmp_path)).model
    found = peft_methods._adapted(peft_methods.matrices(model), None, kind)
    assert {name.rsplit(".", 1)[-1] for name in found} == MATRICES[kind]
    assert len(found) == len(SITES[kind]) * (1 if len(MATRICES[kind]) == 1 else 2)


@pytest.mark.parametrize("kind", [kind for kind in WORKS if kind not in WITH_EXPERTS])
def test_bottleneck_adapters_find_the_end_of_every_feed_forward(tmp_path: Path, kind: str) -> None:
    """Its matrix reads the wide states between two matrices; that of an attention here is square."""
    found = find_feed_forwards(load(make_folder(kind, tmp_path)))
    inner = 4 * 32 if kind == "bloom" else 48
    assert [sorted(matrix.weight.shape) for matrix in found] == [[32, inner]] * (4 if kind in SEQ2SEQ else 2)
    assert set(found.values()) == {32}


@pytest.mark.parametrize("kind", WITH_EXPERTS)
def test_layers_with_experts_are_refused_by_what_they_have(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"a feed-forward.*no matrix that all tokens pass.*prompt=lora"):
        find_feed_forwards(load(make_folder(kind, tmp_path)))


@pytest.mark.parametrize(("kind", "is_scaled"), [("bart", True), ("gemma3_text", True), ("mt5", False)])
def test_vectors_that_start_at_words_start_at_what_a_text_has(
    tmp_path: Path, kind: str, is_scaled: bool
) -> None:
    backbone = load(make_folder(kind, tmp_path))
    weight, ids = backbone.lm.get_input_embeddings().weight, torch.arange(3, 9)
    torch.testing.assert_close(backbone.embedding_VD[ids], backbone.embed(ids))
    assert torch.equal(backbone.embedding_VD, weight) is not is_scaled


def test_an_attention_that_a_model_has_not_is_chosen_for_nobody(tmp_path: Path) -> None:
    words = make_folder("gemma2", tmp_path)
    assert load(words).lm.config._attn_implementation == "eager"
    with pytest.raises(UserError, match=r"backbone\.attention=sdpa"):
        load([*words, "backbone.attention=sdpa"])


# ------------------------------------------------------------------------------------------ tokenizers


def strip(folder: Path, **said: Any) -> None:
    """Leave of a checkpoint's folder its weights and configuration alone, as far as its tokenizer goes."""
    for path in folder.glob("*token*"):
        path.unlink()
    if said:
        (folder / "tokenizer_config.json").write_text(json.dumps(said))


def merges_into(folder: Path, *specials: str) -> None:
    """Write the vocabulary files of a byte-level BPE with one merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*specials, *alphabet, "ye"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\ny e\n")


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", *"abcdefghijklmnopqrstuvwxyz:?.,"]
WORDPIECE = "\n".join([*PIECES, *(f"##{piece}" for piece in PIECES[7:])])


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra", "modernbert"])
def test_a_vocab_txt_alone_is_read(experiment: Build, tmp_path: Path, kind: str) -> None:
    """Of a ModernBERT too, whose type does not say that this is what it would mean."""
    words = make_folder(kind, tmp_path / "model")
    strip(tmp_path / "model")
    (tmp_path / "model" / "vocab.txt").write_text(WORDPIECE)
    assert load_tokenizer(settings_of(words))("yes no").input_ids == [2, 5, 6, 3]
    record = run.run(experiment(*words, *QUICK, "prompt=fixed", FOUR))
    assert record.num_updates == 2


@pytest.mark.parametrize("kind", ["gpt2", "roberta", "bart", "qwen3", "mistral"])
def test_a_vocabulary_with_merges_alone_is_read(experiment: Build, tmp_path: Path, kind: str) -> None:
    words = make_folder(kind, tmp_path / "model", pad_token_id=1 if kind == "roberta" else 0)
    strip(tmp_path / "model")
    has_ends = kind in ("roberta", "bart")
    specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if has_ends else ("<|endoftext|>",)
    merges_into(tmp_path / "model", *specials)
    ids = load_tokenizer(settings_of(words))("ye").input_ids
    assert ids == ([0, 5 + 256, 2] if has_ends else [1 + 256])
    record = run.run(experiment(*words, *QUICK, "prompt=fixed", FOUR))
    assert record.num_updates == 2


@pytest.mark.parametrize("task", ["rte", "copa"])
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_tokenizer_with_neither_end_nor_pad_works(
    experiment: Build, tmp_path: Path, kind: str, task: str
) -> None:
    words = make_folder(kind, tmp_path / "model")
    description = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    description["post_processor"] = None
    description["added_tokens"] = []
    strip(tmp_path / "model", tokenizer_class="PreTrainedTokenizerFast")
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(description))
    tokenizer = load_tokenizer(settings_of(words))
    assert tokenizer.eos_token is None and len(tokenizer("ye").input_ids) == 2
    record = run.run(experiment(f"task={task}", *words, *QUICK, "task.max_length=160", "prompt=fixed", FOUR))
    assert record.num_updates == 2


def test_byt5_reads_bytes_by_a_fast_tokenizer(experiment: Build, tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    words = make_folder("t5", tmp_path / "model", ByT5Tokenizer(), vocab_size=384)
    words[-1] = "backbone.answer_prefix='<extra_id_0>'"
    tokenizer, slow = load_tokenizer(settings_of(words)), ByT5Tokenizer()
    assert tokenizer.is_fast and not slow.is_fast
    for text in ("yes", "Ünï 漢字 🙂\n\ttwo  spaces", "to <extra_id_1> or", ""):
        assert tokenizer(text).input_ids == slow(text).input_ids
    assert load(words).get_buffer("decoder_ids_A").tolist() == [
        0,
        *slow.convert_tokens_to_ids(["<extra_id_0>"]),
    ]
    record = run.run(experiment(*words, *QUICK, "prompt=fixed", FOUR))
    assert record.num_updates == 2


def test_an_answer_prefix_that_falls_into_pieces_is_refused(tmp_path: Path) -> None:
    """A BART has no sentinels: its tokenizer would spell one out."""
    words = make_folder("bart", tmp_path, byte_tokenizer("gpt2"))
    with pytest.raises(UserError, match=r"answer_prefix='<extra_id_0>' is not in the vocabulary"):
        load([*words[:2], "backbone.answer_prefix='<extra_id_0>'"])
