"""The shipped tiny T5 solves the tasks with an instruction, guesses without, and is the one of its card."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, T5ForConditionalGeneration

from dp_bench.micro import evaluation, world
from dp_bench.micro.card import AIMS, MARGIN
from dp_bench.micro.examples import instructed
from dp_bench.micro.initial import Settings
from dp_bench.micro.lexicon import LABEL_WORDS
from dp_bench.micro.operations import OPEN_REPORTS
from dp_bench.micro.pretrain import Pretraining, pretrain

Loaded = tuple[T5ForConditionalGeneration, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def backbone() -> Loaded:
    return evaluation.load()


@pytest.mark.parametrize("task", AIMS)
def test_with_an_instruction_it_solves_the_task(backbone: Loaded, task: str) -> None:
    assert evaluation.evaluate(*backbone, task, instruction=True) >= AIMS[task]


@pytest.mark.parametrize("task", world.TASKS)
def test_without_an_instruction_it_guesses(backbone: Loaded, task: str) -> None:
    assert abs(evaluation.evaluate(*backbone, task) - evaluation.chance(task)) <= MARGIN


def test_the_file_is_small_and_the_one_of_the_card() -> None:
    model = evaluation.BACKBONE / "model.safetensors"
    card = (evaluation.BACKBONE / "CARD.md").read_text(encoding="utf-8")
    assert model.stat().st_size <= 4_000_000
    assert re.findall(r"[0-9a-f]{64}", card) == [hashlib.sha256(model.read_bytes()).hexdigest()]


def test_its_tokenizer_knows_every_word_of_every_task(backbone: Loaded) -> None:
    _, tokenizer = backbone
    assert tokenizer.is_fast and (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (
        0,
        1,
        2,
    )
    for task in world.TASKS:
        for example in evaluation.examples(task):
            text = evaluation.task_of(task).template.format(**example.fields)
            encoded = tokenizer(text, return_offsets_mapping=True)
            assert 2 not in encoded["input_ids"] and encoded["input_ids"][-1] == 1, text
            words = [text[start:end].lower() for start, end in encoded["offset_mapping"][:-1]]
            assert words == tokenizer.convert_ids_to_tokens(encoded["input_ids"][:-1])
            assert 2 not in tokenizer.convert_tokens_to_ids([choice.lower() for choice in example.choices])


def test_label_words_never_answer_the_operation_that_solves_a_task() -> None:
    rng = random.Random(1)
    for operation in ("check", "judge", "compare", "pick", "refer", "mood", "size"):
        assert operation not in OPEN_REPORTS
        assert not any(instructed(rng, operation).target in LABEL_WORDS for _ in range(200))
    words = {word for task in world.TASKS for word in evaluation.task_of(task).words}
    assert words and words <= set(LABEL_WORDS)


def test_the_instruction_of_a_mixture_depends_on_the_heading(backbone: Loaded) -> None:
    assert evaluation.instruction_for("mix2", 0) != evaluation.instruction_for("mix2", 1)
    assert evaluation.evaluate(*backbone, "mix2", instruction=True) >= 90
    with pytest.raises(ValueError, match="it has boolq"):
        evaluation.evaluate(*backbone, "axb")


SHORT = Settings(steps=20, log_every=10, held_out=2)


def test_a_short_pretraining_repeats_bit_for_bit() -> None:
    first, second = run(Pretraining(SHORT), 20), run(Pretraining(SHORT), 20)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = run(Pretraining(replace(SHORT, seed=1)), 1)
    assert not torch.equal(first["shared.weight"], other["shared.weight"])


def test_an_interrupted_pretraining_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = run(Pretraining(SHORT), 20)
    with pytest.raises(KeyboardInterrupt):
        pretrain(SHORT, tmp_path, on_step=interrupt_at(15))
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "model.safetensors").exists()
    resumed = Pretraining(SHORT)
    resumed.load(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert resumed.done_steps == 10
    again = run(resumed, 10)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    with pytest.raises(ValueError, match="another pretraining"):
        Pretraining(replace(SHORT, seed=1)).load(torch.load(tmp_path / "checkpoint.pt", weights_only=True))


def run(pretraining: Pretraining, steps: int) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    for _ in range(steps):
        pretraining.step()
    return pretraining.model.state_dict()


def interrupt_at(step: int):  # type: ignore[no-untyped-def]
    def stop(done: int, loss: float) -> None:
        if done == step:
            raise KeyboardInterrupt

    return stop
