"""Backbones prove themselves: tiny random models of many architectures, from a folder as a user has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dp_bench import run
from dp_bench.backbones.load import byte_tokenizer
from dp_bench.config import Experiment

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
}
MASKED = ("distilbert", "electra", "modernbert")
SEQ2SEQ = ("mt5", "bart", "longt5")


def family_of(kind: str) -> tuple[Any, str]:
    import transformers

    if kind in SEQ2SEQ:
        return transformers.AutoModelForSeq2SeqLM, "backbone.answer_prefix=''"
    if kind in MASKED:
        return transformers.AutoModelForMaskedLM, "backbone.answer_cue=' Answer: {mask}'"
    return transformers.AutoModelForCausalLM, "backbone.answer_cue=' Answer:'"


def make_folder(kind: str, folder: Path, **changes: Any) -> list[str]:
    """Save a tiny model with a tokenizer of bytes; return the words that choose it."""
    from transformers import AutoConfig

    tokenizer = byte_tokenizer(kind)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "decoder_start_token_id": 0}
    sizes = {**ARCHITECTURES[kind], "vocab_size": len(tokenizer), **ids, **changes}
    auto, answer = family_of(kind)
    torch.manual_seed(0)
    auto.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ["backbone=local", f"backbone.name_or_path={folder}", answer]


QUICK = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=4")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_an_architecture_answers_and_learns(experiment: Build, tmp_path: Path, kind: str) -> None:
    chosen = make_folder(kind, tmp_path / "model")
    four = "prompt.num_tokens=4"
    words = (*chosen, *QUICK, "task.max_length=200", "data.limit=12")
    assert 0 <= run.run(experiment(*words, "prompt=zero_shot")).score <= 100
    record = run.run(experiment(*words, four, "prompt=fixed"))
    assert record.num_updates == 2 and record.trainable_parameters == 4 * (16 if kind == "electra" else 32)
    layers = run.run(experiment(*words, four, "prompt=p_tuning_v2"))
    assert layers.num_updates == 2
