"""Score the frozen tiny T5 on a task, zero-shot or with an instruction in the words of its pretraining.

    from dp_bench.micro.evaluation import load, evaluate
    model, tokenizer = load()
    evaluate(model, tokenizer, "boolq")                      # near chance: the task is not stated
    evaluate(model, tokenizer, "boolq", instruction=True)    # "check so yes not no ;"

Templates and label words are those of `configs/task`; a trained prompt has to replace these few instruction
words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5ForConditionalGeneration

from dp_bench.micro.lexicon import ATTRIBUTES
from dp_bench.micro.records import DECIDING
from dp_bench.micro.world import MIXTURES, generate

BACKBONE = Path(__file__).parent / "backbone"
BOOLQ = "hypothesis: {question}. premise: {passage}"


@dataclass(frozen=True)
class Task:
    """The template of a task, its answer words by label, and the instruction that solves it."""

    template: str
    words: tuple[str, ...]
    instruction: str


TASKS = {
    "boolq": Task(BOOLQ, ("no", "yes"), "check so yes not no"),
    "cb": Task(
        "hypothesis: {hypothesis}. premise: {premise}",
        ("yes", "no", "maybe"),
        "judge so yes not no open maybe",
    ),
    "copa": Task(  # the premise between its choices, as in pretraining: other orders score lower
        "choice1: {choice1} premise: {premise} question: {question} choice2: {choice2}",
        ("first", "second"),
        "pick choice1 first choice2 second",
    ),
    "multirc": Task(
        "question: {question} answer: {answer}. paragraph: {paragraph}", ("no", "yes"), "check so yes not no"
    ),
    "record": Task("query: {query}. passage: {passage}", (), "who"),
    "rte": Task("sentence1: {premise} sentence2: {hypothesis}", ("yes", "no"), "check so yes not no"),
    "wic": Task(
        "sentence1: {sentence1} sentence2: {sentence2} word: {word}",
        ("no", "yes"),
        "compare same yes different no",
    ),
    "wsc": Task(
        '{text} does the pronoun "{span2_text}" refer to "{span1_text}"?',
        ("no", "yes"),
        "refer so yes not no",
    ),
    **{mixture: Task(BOOLQ, ("no", "yes"), "mood happy yes sad no") for mixture in MIXTURES},
}
SKILLS = tuple(  # the instruction for each heading
    f"{attribute} {yes} yes {no} no" for attribute in DECIDING for yes, no in [ATTRIBUTES[attribute]]
)
FOR_STORIES = {"liar": "mood happy no sad yes"}  # if it differs from SKILLS


@dataclass(frozen=True)
class Question:
    """A question to the model, its answer words and the index of the right one."""

    text: str
    words: tuple[str, ...]
    label: int
    instruction: str


def instruction_for(task: str, record: Mapping[str, Any] | None = None) -> str:
    """Return the instruction that solves a task; for a mixture that of the record, by default of reports.

    Raises ValueError for an unknown task.
    """
    if task not in TASKS:
        raise ValueError(f"task={task} is unknown to the micro benchmark; it has {', '.join(TASKS)}")
    if record is not None and record.get("skill"):
        return FOR_STORIES.get(task) or SKILLS[int(record["skill"])]
    return TASKS[task].instruction


def load(directory: Path = BACKBONE) -> tuple[T5ForConditionalGeneration, PreTrainedTokenizerFast]:
    """Load a backbone and its tokenizer from a directory, by default the shipped one."""
    model = T5ForConditionalGeneration.from_pretrained(directory, local_files_only=True).eval()
    return model, AutoTokenizer.from_pretrained(directory, local_files_only=True)


def evaluate(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    task: str,
    split: str = "val",
    *,
    instruction: bool = False,
    after: bool = False,
    difficulty: str = "default",
    seed: int = 0,
) -> float:
    """Return the accuracy in 0..100 of the arg-max over the answer words at the first decoder step.

    With `instruction` the instruction precedes the text, or follows it with `after` too.
    """
    records = generate(task, split, seed=seed, difficulty=difficulty)
    examples = [question for record in records for question in questions(task, record)]
    right = 0
    for start in range(0, len(examples), 100):
        batch = examples[start : start + 100]
        texts = [instructed(question, after) if instruction else question.text for question in batch]
        logits_BV = first_step(model, tokenizer, texts)
        for question, logits_V in zip(batch, logits_BV, strict=True):
            ids = tokenizer.convert_tokens_to_ids(list(question.words))
            right += int(logits_V[ids].argmax()) == question.label
    return 100 * right / len(examples)


def chance(task: str, difficulty: str = "default") -> float:
    """Return the expected accuracy of guessing, in 0..100."""
    if task == "record":
        return 100 / len(next(questions(task, generate(task, "val", rows=1, difficulty=difficulty)[0])).words)
    return 100 / len(TASKS[task].words)


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


@torch.inference_mode()
def first_step(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> torch.Tensor:
    """Return the logits [B,V] of the first decoder step."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    start = torch.full((len(texts), 1), model.config.decoder_start_token_id)
    output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, decoder_input_ids=start)
    logits_BV: torch.Tensor = output.logits[:, 0]
    return logits_BV


def instructed(question: Question, after: bool) -> str:
    """Return the text of a question with its instruction before or after it."""
    parts = (question.instruction, question.text)
    return " ; ".join(reversed(parts) if after else parts)


def questions(task: str, record: Mapping[str, Any]) -> Iterator[Question]:
    """Yield the questions of a raw record: one, or for MultiRC one for each answer."""
    for fields, words, label in parts(task, record):
        text = TASKS[task].template.format(**fields)
        yield Question(text, words or TASKS[task].words, label, instruction_for(task, record))


def parts(task: str, record: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], tuple[str, ...], int]]:
    """Yield template fields, answer words (empty if they are the task's), and label."""
    if task == "multirc":
        for question in record["passage"]["questions"]:
            for answer in question["answers"]:
                fields = {"paragraph": record["passage"]["text"], "question": question["question"]}
                yield fields | {"answer": answer["text"]}, (), answer["label"]
    elif task == "record":
        text = record["passage"]["text"]
        names = [text[span["start"] : span["end"] + 1] for span in record["passage"]["entities"]]
        query = record["qas"][0]
        label = names.index(query["answers"][0]["text"])
        yield {"passage": text, "query": query["query"]}, tuple(name.lower() for name in names), label
    elif task == "wsc":
        yield {"text": record["text"], **record["target"]}, (), int(record["label"])
    else:
        labels = {"cb": ("entailment", "contradiction", "neutral"), "rte": ("entailment", "not_entailment")}
        label = record["label"]
        yield record, (), labels[task].index(label) if task in labels else int(label)
