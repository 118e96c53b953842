"""Score the frozen tiny T5 on a task, zero-shot or with an instruction in the words of its pretraining.

    from dp_bench.micro.evaluation import load, evaluate
    model, tokenizer = load()
    evaluate(model, tokenizer, "boolq")                      # near chance: the task is not stated
    evaluate(model, tokenizer, "boolq", instruction=True)    # "check so yes not no ;"

Templates and label words are those of `configs/task`, except for `CHANGES`; a trained prompt has to replace
these few instruction words.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5ForConditionalGeneration

from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import split_file
from dp_bench.micro.lexicon import ATTRIBUTES
from dp_bench.micro.records import DECIDING
from dp_bench.micro.world import MIXTURES, TASKS, generate
from dp_bench.settings import Scoring, TaskSettings
from dp_bench.tasks import known
from dp_bench.types import Example

BACKBONE = Path(__file__).parent / "backbone"
SKILLS = tuple(  # the instruction for each heading
    f"{attribute} {yes} yes {no} no" for attribute in DECIDING for yes, no in [ATTRIBUTES[attribute]]
)
FOR_STORIES = {"liar": "mood happy no sad yes"}  # if it differs from SKILLS
INSTRUCTIONS = {
    "boolq": "check so yes not no",
    "cb": "judge so yes not no open maybe",
    "copa": "pick choice1 first choice2 second",
    "multirc": "check so yes not no",
    "record": "who",
    "rte": "check so yes not no",
    "wic": "compare same yes different no",
    "wsc": "refer so yes not no",
    **dict.fromkeys(MIXTURES, SKILLS[0]),
}
CHANGES: dict[str, dict[str, Any]] = {
    "copa": {  # the premise between its choices, as in pretraining: other orders score lower
        "template": "choice1: {choice1} premise: {premise} question: {question} choice2: {choice2}",
        "scoring": Scoring.words,
        "words": ["first", "second"],
    },
    "wsc": {"template": '{text} does the pronoun "{span2_text}" refer to "{span1_text}"?'},
}


def task_of(name: str) -> TaskSettings:
    """Return the settings of a task of the micro benchmark."""
    return replace(known()["boolq" if name in MIXTURES else name], **CHANGES.get(name, {}))


def examples(name: str, split: str = "val", difficulty: str = "default") -> list[Example]:
    """Return the examples of a task; those of the test split have labels."""
    lines = [json.dumps(record) for record in generate(name, split, difficulty=difficulty)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{split}.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        return list(ExampleFile(task_of(name), split_file(path)))


def instruction_for(name: str, skill: int | None = None) -> str:
    """Return the instruction that solves a task; for a mixture that of a sub-skill, by default of reports."""
    if skill:
        return FOR_STORIES.get(name) or SKILLS[skill]
    return INSTRUCTIONS[name]


def load(directory: Path = BACKBONE) -> tuple[T5ForConditionalGeneration, PreTrainedTokenizerFast]:
    """Load a backbone and its tokenizer from a directory, by default the shipped one."""
    model = T5ForConditionalGeneration.from_pretrained(directory, local_files_only=True).eval()
    return model, AutoTokenizer.from_pretrained(directory, local_files_only=True)


@torch.inference_mode()
def evaluate(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    *,
    instruction: bool = False,
    after: bool = False,
    difficulty: str = "default",
) -> float:
    """Return the accuracy in 0..100 of the arg-max over the answer words at the first decoder step.

    With `instruction` the instruction precedes the text of each example, or follows it with `after` too.
    """
    rows = examples(name, difficulty=difficulty)
    right = 0
    for first in range(0, len(rows), 100):
        batch = rows[first : first + 100]
        texts = [task_of(name).template.format(**row.fields) for row in batch]
        if instruction:
            pairs = [(instruction_for(name, row.skill), text) for row, text in zip(batch, texts, strict=True)]
            texts = [" ; ".join(reversed(pair) if after else pair) for pair in pairs]
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        start_B1 = torch.full((len(batch), 1), model.config.decoder_start_token_id)
        output = model(inputs.input_ids, inputs.attention_mask, decoder_input_ids=start_B1)
        for row, logits_V in zip(batch, output.logits[:, 0], strict=True):
            ids = tokenizer.convert_tokens_to_ids([choice.lower() for choice in row.choices])
            right += int(logits_V[ids].argmax()) == row.label
    return 100 * right / len(rows)


def chance(name: str) -> float:
    """Return the expected accuracy of guessing, in 0..100."""
    return 100 / len(examples(name)[0].choices)


def scores(directory: Path) -> dict[str, dict[str, float]]:
    """Score a backbone on the validation rows of every task, zero-shot and with an instruction."""
    score = partial(evaluate, *load(directory))
    return {
        task: {
            "chance": round(chance(task), 1),
            "zero_shot": round(score(task), 1),
            "instructed": round(score(task, instruction=True), 1),
            "instructed_after": round(score(task, instruction=True, after=True), 1),
            "instructed_hard": round(score(task, instruction=True, difficulty="hard"), 1),
        }
        for task in TASKS
    }
