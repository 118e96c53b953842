"""Checkpoints that are odd or broken: each runs with its right number, or is refused in one paragraph."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dp_bench import config
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone
from dp_bench.backbones.random_init import byte_tokenizer
from dp_bench.types import UserError
from tests.conftest import make_batch

Tensors = dict[str, torch.Tensor]
KINDS = ("gpt2", "llama", "t5", "bert")
CUE = {"gpt2": "' Answer:'", "llama": "' Answer:'", "bert": "' Answer: {mask}'"}


def make_model(kind: str, **changes: Any) -> Any:
    import transformers

    sizes = {"vocab_size": 400, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    shapes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 640},
        "llama": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        "t5": {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "d_kv": 8},
        "bert": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
    }
    own = {**sizes, **shapes[kind], **({"decoder_start_token_id": 0} if kind == "t5" else {}), **changes}
    made = transformers.AutoConfig.for_model(kind, **own)
    auto = {"t5": transformers.AutoModelForSeq2SeqLM, "bert": transformers.AutoModelForMaskedLM}
    torch.manual_seed(0)
    return auto.get(kind, transformers.AutoModelForCausalLM).from_config(made)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Save a tiny checkpoint, with other tensors or another configuration than the model has."""

    def save(kind: str, change: Callable[[Tensors], Tensors] | None = None, **edits: Any) -> Path:
        folder = tmp_path / kind
        make_model(kind, **edits.pop("model", {})).save_pretrained(folder)
        byte_tokenizer(kind).save_pretrained(folder)
        weights = folder / "model.safetensors"
        if change is not None:
            save_file(change(load_file(weights)), weights, {"format": "pt"})
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **edits}))
        return folder

    return save


def load(folder: Path, *overrides: str) -> Backbone:
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    cue = [f"backbone.answer_cue={CUE[kind]}"] if kind in CUE else ["backbone.answer_prefix=''"]
    chosen = ["backbone=local", f"backbone.name_or_path={folder}", "data.dir=.", *cue, *overrides]
    settings = config.build(config.compose(chosen)).settings.backbone
    return load_backbone(settings, device=torch.device("cpu"), dtype=torch.float32, dropout=False)


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda found: {name: value for name, value in found.items() if not name.endswith(names)}


def renamed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda found: {f"{prefix}{name}": value for name, value in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_checkpoint_is_read_as_it_is(kind: str, checkpoint: Callable[..., Path]) -> None:
    loaded: Any = load(checkpoint(kind)).model
    torch.testing.assert_close(dict(loaded.state_dict()), dict(make_model(kind).state_dict()))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gpt2", "h.1.mlp.c_fc.weight"),
        ("gpt2", "wpe.weight"),
        ("gpt2", "wte.weight"),  # the head too, which is tied to it
        ("llama", "lm_head.weight"),  # untied
        ("llama", "norm.weight"),
        ("t5", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("t5", "decoder.final_layer_norm.weight"),
        ("bert", "cls.predictions.transform.dense.weight"),
        ("bert", "attention.self.query.bias"),
    ],
)
def test_a_tensor_that_is_missing_is_named(kind: str, name: str, checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint(kind, without(name))
    with pytest.raises(UserError, match=rf"lacks weights that this run reads \(\d+ tensors?\): .*{name}"):
        load(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_a_wrapper_around_all_names_is_named(kind: str, prefix: str, checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=f"begin with '{prefix}'"):
        load(checkpoint(kind, renamed(prefix)))


LAYERS = {"gpt2": "n_layer", "llama": "num_hidden_layers", "t5": "num_layers", "bert": "num_hidden_layers"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_of_other_depth_is_refused(kind: str, checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="lacks weights"):
        load(checkpoint(kind, **{LAYERS[kind]: 3}))
    with pytest.raises(UserError, match=r"layers that its config.json leaves out"):
        load(checkpoint(kind, **{LAYERS[kind]: 1}))


def test_other_shapes_are_named_with_both(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"wte.weight is 400x16 there and 500x16 by config.json"):
        load(checkpoint("gpt2", vocab_size=500))
    with pytest.raises(UserError, match=r"down_proj.weight is 16x32 there and 16x48 by config.json"):
        load(checkpoint("llama", intermediate_size=48))


def test_what_no_run_reads_may_be_missing(checkpoint: Callable[..., Path]) -> None:
    classify = ["backbone.head=classifier", "backbone.answer_cue=null"]
    for kind, name in (("llama", "lm_head.weight"), ("bert", "pooler.dense.weight")):
        folder = checkpoint(kind, without(name))
        # What is absent is the same in each process, and so is the fingerprint that caches go by.
        assert load(folder, *classify).fingerprint() == load(folder, *classify).fingerprint()
    with pytest.raises(UserError, match=r"wte.weight"):  # tied, and read as the embedding
        load(checkpoint("gpt2", without("wte.weight")), *classify)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda whole: whole[: len(whole) // 2], r"is cut short: it has \d+ of \d+ bytes"),
    "header": (lambda whole: whole[:40], "is cut short"),
    "empty": (lambda whole: b"", "is empty"),
    "pointer": (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS"),
    "other": (lambda whole: (8).to_bytes(8, "little") + b"no JSON!", "is no safetensors file"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_weights_are_refused_with_what_is_wrong(kind: str, checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("gpt2")
    weights = folder / "model.safetensors"
    damage, message = DAMAGES[kind]
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(UserError, match=f"model.safetensors {message}"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["cut", "empty", "pointer"])
def test_damaged_small_files_are_refused(name: str, kind: str, checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("gpt2")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(DAMAGES[kind][0](whole))
    chosen = ["backbone=local", f"backbone.name_or_path={folder}", "data.dir=.", "backbone.answer_cue=' A:'"]
    settings = config.build(config.compose(chosen)).settings.backbone
    with pytest.raises(UserError, match=f"{folder} holds no"):
        load_backbone(settings, device=torch.device("cpu"), dtype=torch.float32, dropout=False)


def test_code_that_comes_with_a_checkpoint_is_not_run(
    checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint("gpt2", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"})
    (folder / "own.py").write_text("raise SystemExit('was run')")
    load(folder)
    assert "auto_map" in capsys.readouterr().err
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "own"}))
    CUE["own"] = "' Answer:'"
    with pytest.raises(UserError, match="dp-bench never runs"):
        load(folder)


QUANTISED: dict[str, Any] = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "gptqmodel": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "torchao": {"quant_method": "torchao"},
    "compressed_tensors": {"quant_method": "compressed-tensors"},
    "no_method": {"bits": 4},
    "no_mapping": ["4 bits"],
}


@pytest.mark.parametrize("package", QUANTISED)
def test_a_quantisation_whose_package_is_missing_is_one_paragraph(
    checkpoint: Callable[..., Path], package: str
) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(UserError, match="quantised") as caught:
        load(checkpoint("gpt2", quantization_config=QUANTISED[package]))
    assert "\n" not in str(caught.value)


def test_padding_needs_no_row_of_its_own(checkpoint: Callable[..., Path]) -> None:
    plain = load(checkpoint("gpt2"))
    folder = Path(plain.model.config._name_or_path)
    tokenizer = byte_tokenizer("gpt2")
    tokenizer.add_special_tokens(
        {"pad_token": "[PAD]", "additional_special_tokens": [f"<{i}>" for i in range(200)]}
    )
    tokenizer.pad_token = "<199>"
    assert tokenizer.pad_token_id >= 400
    tokenizer.save_pretrained(folder)
    padded = load(folder)
    assert padded.tokenizer.pad_token_id < 400
    batch = make_batch([5, 9])
    padding = torch.where(batch.mask_BT, batch.ids_BT, padded.tokenizer.pad_token_id)
    ours = padded.encode(padded.embed(padding), batch.mask_BT)
    theirs = plain.encode(plain.embed(batch.ids_BT), batch.mask_BT)
    torch.testing.assert_close(ours[batch.mask_BT], theirs[batch.mask_BT])


def test_a_tokenizer_with_neither_pad_nor_end_pads(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("gpt2")
    path = folder / "tokenizer_config.json"
    kept = {k: v for k, v in json.loads(path.read_text()).items() if not k.endswith("_token")}
    path.write_text(json.dumps(kept))
    assert load(folder).tokenizer.pad_token_id == 0


def test_older_vocabulary_files_make_the_same_tokenizer(checkpoint: Callable[..., Path]) -> None:
    from transformers import BertTokenizer

    folder = checkpoint("bert")
    (folder / "tokenizer.json").unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", "answer", ":", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    tokenizer = load(folder).tokenizer
    assert tokenizer("Answers: yes").input_ids == [2, 7, 9, 8, 5, 3]
    assert isinstance(tokenizer, BertTokenizer)
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json or vocab.txt is expected"):
        load(folder)


def test_vocabulary_and_merges_are_both_needed(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("gpt2")
    (folder / "tokenizer.json").unlink()
    alphabet = json.loads(byte_tokenizer("gpt2").backend_tokenizer.to_str())["model"]["vocab"]
    (folder / "vocab.json").write_text(json.dumps({**alphabet, "ab": 300}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    with pytest.raises(UserError, match=r"merges.txt"):
        load(folder)
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    assert load(folder).tokenizer("ab").input_ids == [300]


def test_shards_that_are_missing_are_refused(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("gpt2")
    shutil.rmtree(folder)
    make_model("gpt2").save_pretrained(folder, max_shard_size="20KB")
    byte_tokenizer("gpt2").save_pretrained(folder)
    first, *others = sorted(folder.glob("model-*.safetensors"))
    assert others and load(folder)
    first.unlink()
    with pytest.raises(UserError, match="holds no checkpoint"):
        load(folder)
