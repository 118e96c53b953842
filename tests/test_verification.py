"""Zero-shot of a checkpoint in a folder equals a loop in plain transformers, for every family, word by word.

The loops below know nothing of this package but its templates, which they write out: they read the JSONL
files, tokenise each text as a whole and run one text at a time, without padding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FIXTURES
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from dp_bench import run
from dp_bench.config import Experiment

WIDE = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 1600}
LARGE = {"hidden_size": 32, "intermediate_size": 48, **WIDE}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
SIZES: dict[str, dict[str, Any]] = {
    "t5": {**T5, "tie_word_embeddings": True},
    "t5_1_1": {**T5, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
    "bert": LARGE,
    "roberta": {**LARGE, "max_position_embeddings": 1700},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1600},
    "llama": {**LARGE, "num_key_value_heads": 2},
    "opt": {**WIDE, "hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48},
}
ENCODERS, DECODERS = ("bert", "roberta"), ("gpt2", "llama", "opt")
CUE = {**dict.fromkeys(ENCODERS, " Answer: {mask}"), **dict.fromkeys(DECODERS, " Answer:")}
WORDS = {"cb": ["yes", "no", "maybe"], "boolq": ["no", "yes"]}


# ---------------------------------------------------------------------------------------------- checkpoints


def lines(task: str, stem: str = "val") -> list[dict[str, Any]]:
    folder = {"cb": "CB", "boolq": "BoolQ", "copa": "COPA", "record": "ReCoRD"}[task]
    return [
        json.loads(line) for line in (FIXTURES / folder / f"{stem}.jsonl").read_text("utf-8").splitlines()
    ]


def corpus() -> Iterator[str]:
    for task in ("cb", "boolq", "copa"):
        for row in lines(task, "train"):
            yield from (value for value in row.values() if isinstance(value, str))
    yield from (row["passage"]["text"] for row in lines("record", "train"))
    yield from ["yes no maybe Answer: yes Answer: no Answer: maybe hypothesis: premise:"] * 30


def make_tokenizer(kind: str) -> Any:
    """Train the kind of tokenizer that the family has: pieces, special tokens, and where they stand."""
    around = {"t5": "$A </s>", "t5_1_1": "$A </s>", "bert": "[CLS] $A [SEP]", "roberta": "<s> $A </s>"}
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    size = {"vocab_size": 700, "show_progress": False}
    if kind.startswith("t5"):
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        specials = [*named.values(), "<extra_id_0>"]
        trainer: Any = trainers.UnigramTrainer(special_tokens=specials, unk_token="<unk>", **size)
    elif kind == "bert":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = (
            normalizers.BertNormalizer(),
            pre_tokenizers.BertPreTokenizer(),
        )
        own = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        named = {f"{name}_token": token for name, token in own.items()}
        specials = list(named.values())
        trainer = trainers.WordPieceTrainer(special_tokens=specials, **size)
    elif kind == "llama":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        around["llama"] = "<s> $A"
        specials = list(named.values())
        trainer = trainers.BpeTrainer(special_tokens=specials, **size)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        if kind == "opt":
            around["opt"] = "</s> $A"
        if kind == "gpt2":
            named = dict.fromkeys(("eos_token", "bos_token", "unk_token"), "<|endoftext|>")
        specials = list(dict.fromkeys(named.values()))
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(special_tokens=specials, initial_alphabet=alphabet, **size)
    tokenizer.train_from_iterator(corpus(), trainer)
    if kind in around:
        ends = [(token, tokenizer.token_to_id(token)) for token in specials if token in around[kind]]
        tokenizer.post_processor = TemplateProcessing(single=around[kind], special_tokens=ends)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    if kind == "roberta":  # whose mask takes the space before it
        fast.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True)})
    if kind.startswith("t5"):
        fast.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    return fast


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save a small random model of a family with its tokenizer; weights are large enough to matter, and
    biases and norms differ from their usual first values."""
    made: dict[str, Path] = {}

    def save(kind: str) -> Path:
        if kind in made:
            return made[kind]
        folder = made[kind] = tmp_path_factory.mktemp(kind)
        tokenizer = make_tokenizer(kind)
        ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        ids = {name: value for name, value in ids.items() if value is not None}
        config = AutoConfig.for_model(
            "t5" if kind.startswith("t5") else kind, vocab_size=len(tokenizer), **ids, **SIZES[kind]
        )
        torch.manual_seed(0)
        model = loader(kind).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
                elif not kind.startswith("t5"):
                    parameter.mul_(4.0)
            if kind == "t5_1_1":  # whose head starts with logits in the tens, and their rounding
                model.lm_head.weight.mul_(0.25)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def loader(kind: str) -> Any:
    if kind in DECODERS:
        return AutoModelForCausalLM
    return AutoModelForMaskedLM if kind in ENCODERS else AutoModelForSeq2SeqLM


# ---------------------------------------------------------------------------------------------- plain loops


def texts(task: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each text of a validation file and its whole choices, if it has any."""
    for row in lines(task):
        if task == "cb":
            yield f"hypothesis: {row['hypothesis']}. premise: {row['premise']}", []
        elif task == "boolq":
            yield f"hypothesis: {row['question']}. premise: {row['passage']}", []
        elif task == "copa":
            first, second = row["choice1"], row["choice2"]
            shown = f"choice1: {first} choice2: {second}"
            yield f"{shown} premise: {row['premise']} question: {row['question']}", [first, second]
        else:
            passage = row["passage"]["text"]
            spans = row["passage"]["entities"]
            entities = {passage[span["start"] : span["end"] + 1] for span in spans}
            choices = sorted(entities, key=lambda entity: (passage.find(entity), entity))
            for query in row["qas"]:
                yield f"query: {query['query']}. passage: {passage}", choices


class Plain:
    """A model and a tokenizer as transformers loads them."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.model = loader(kind).from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text).input_ids)

    def first_piece(self, word: str) -> int:
        """Return the first piece of a word in the middle of a text: the tokens of "a" and the word less those
        of "a"."""
        bare = self.tokenizer("a", add_special_tokens=False).input_ids
        return int(self.tokenizer(f"a {word}", add_special_tokens=False).input_ids[len(bare)])

    def word_logits(self, text: str, words: list[str]) -> torch.Tensor:
        if self.kind in ENCODERS:
            ids = self.ids(f"{text} Answer: {self.tokenizer.mask_token}")
            (place,) = [i for i, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
            logits = self.model(input_ids=torch.tensor([ids])).logits[0, place]
        elif self.kind in DECODERS:
            logits = self.model(input_ids=torch.tensor([self.ids(f"{text} Answer:")])).logits[0, -1]
        else:
            logits = self.decoded(text, [])[-1]
        return logits[[self.first_piece(word) for word in words]]

    def decoded(self, text: str, answer: list[int]) -> torch.Tensor:
        """Return T5's logits at the sentinel and at each token of an answer behind it."""
        sentinel = self.tokenizer.convert_tokens_to_ids("<extra_id_0>")
        fed = torch.tensor([[self.model.config.decoder_start_token_id, sentinel, *answer]])
        output = self.model(input_ids=torch.tensor([self.ids(text)]), decoder_input_ids=fed)
        logits: torch.Tensor = output.logits[0, 1:]
        return logits

    def choice_score(self, text: str, choice: str) -> float:
        """Return the mean log-probability of the tokens of a whole choice."""
        if self.kind in DECODERS:
            begun, whole = self.ids(f"{text} Answer:"), self.ids(f"{text} Answer: {choice}")
            assert whole[: len(begun)] == begun
            answer = whole[len(begun) :]
            logits = self.model(input_ids=torch.tensor([whole])).logits[0, len(begun) - 1 : -1]
        else:
            answer = self.ids(choice)  # and `</s>`
            logits = self.decoded(text, answer[:-1])
        found = logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
        return float(found.mean())


CASES = [(kind, task) for kind in SIZES for task in ("cb", "boolq", "copa", "record")]


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "task"),
    [(k, t) for k, t in CASES if t in WORDS or k not in ENCODERS],  # which score words alone
)
def test_zero_shot_of_a_local_checkpoint_equals_a_plain_loop(
    kind: str, task: str, checkpoint: Callable[[str], Path], experiment: Callable[..., Experiment]
) -> None:
    folder = checkpoint(kind)
    cue = [f"backbone.answer_cue='{CUE[kind]}'"] if kind in CUE else []
    composed = experiment(
        *(f"task={task}", "prompt=zero_shot", "backbone=local", f"backbone.name_or_path={folder}", *cue),
        "task.max_length=1500",  # of pieces of this small a vocabulary; nothing is shortened
    )
    record = run.run(composed)
    assert record.share_truncated["report"] == 0 and record.checkpoint["name_or_path"] == str(folder)
    table = pd.read_parquet(
        Path(composed.settings.results_dir) / "runs" / record.run_id / "predictions.parquet"
    )
    plain, known = Plain(kind, folder), list(texts(task))
    assert len(table) == len(known) > 5
    for number, (text, choices) in enumerate(known):
        if task in WORDS:
            names = WORDS[task]
            logits = plain.word_logits(text, names)
        else:
            names = [str(place) for place in range(len(choices))]
            logits = torch.tensor([plain.choice_score(text, choice) for choice in choices])
        expected = logits.double().log_softmax(0).numpy()
        row = table.iloc[number]
        found = row[[f"score_{name}" for name in names]].to_numpy(dtype=float)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0, err_msg=text)
        assert row["prediction"] == int(expected.argmax())
        others = {name for name in table if name.startswith("score_")} - {f"score_{name}" for name in names}
        assert all(row[name] == -np.inf for name in others), "another example's choices"
    assert np.ptp(table[[name for name in table if name.startswith("score_")]].to_numpy()[:, 0]) > 1e-3
