"""Tokenizers of every kind, made from a few words."""

from __future__ import annotations

from typing import Any

from conftest import FIXTURES, task_settings

from dp_bench.data.source import split_file
from dp_bench.types import Example
from helpers.rows import read_examples

PAD, END, START = 0, 1, 2


def fixture_examples(name: str, stem: str = "train") -> list[Example]:
    task = task_settings(name)
    return read_examples(task, split_file(FIXTURES / task.title / f"{stem}.jsonl"), stem, None)


def _finished(tokenizer: Any, trainer: Any, template: str, *more_texts: str, **roles: str) -> Any:
    """Train a tokenizer on the fixtures' texts; the roles name its special tokens, as in `eos_token`."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    texts = [text for example in fixture_examples("rte") for text in example.fields.values()]
    tokenizer.train_from_iterator([*texts, *more_texts], trainer)
    if template != "$A":
        specials = [(token, tokenizer.token_to_id(token)) for token in template.split() if token != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def byte_level_tokenizer(template: str = "$A </s>", vocab_size: int = 500) -> Any:
    """A byte-level BPE tokenizer with merges learned from the fixtures."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "</s>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return _finished(tokenizer, trainer, template, pad_token="<pad>", eos_token="</s>", bos_token="<s>")


def metaspace_tokenizer() -> Any:
    """A tokenizer whose tokens cover the space before their word, as some T5 files have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _finished(tokenizer, trainer, "$A </s>", "sentence1: sentence2:", **roles)


def word_piece_tokenizer() -> Any:
    """A tokenizer in the manner of BERT's: normalised, split at spaces and punctuation, no end token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    return _finished(tokenizer, trainer, "$A", pad_token="[PAD]", unk_token="[UNK]")
