"""One record of each task with a given label, in the schema of the SuperGLUE release and without its `idx`.

Labels are booleans (BoolQ, WiC, WSC), strings (CB, RTE) or integers (COPA, answers of MultiRC). The mixtures
have BoolQ's schema and a `skill`, the number of the heading of the passage, which determines the question:

    mix2   a report is right if the mood is happy, a story if the size is big
    mix3   as mix2, and a context if it is day
    mix4   as mix3, and a text if it is hot
    skewed as mix2, but two texts in five are stories, and three in four of those are right
    liar   a report is right if the mood is happy, a story if it is not
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dp_bench.micro.lexicon import (
    ANSWERS,
    ATTRIBUTE_OF,
    ATTRIBUTE_QUESTIONS,
    ATTRIBUTES,
    HYPOTHESES,
    NAMES,
    QUERIES,
    QUESTIONS,
)
from dp_bench.micro.scenes import Scene, alternatives, reference, scene, sentence, statement, uses

HEADINGS = ("Report", "Story", "Context", "Text")
DECIDING = ("mood", "size", "time", "heat")  # attribute of each heading in mixtures of sub-skills
STORIES = (0.2, 0.6)  # of `skewed`: their share of wrong and of right texts


@dataclass(frozen=True)
class Size:
    """The numbers of sentences with and without a cue in a scene."""

    num_cues: int
    num_fillers: int

    def scene(self, rng: random.Random, **given: Any) -> Scene:
        """Draw a scene of this size."""
        return scene(rng, "tasks", num_cues=self.num_cues, num_fillers=self.num_fillers, **given)


Writer = Callable[[random.Random, int, Size], dict[str, Any]]


def stated(rng: random.Random, frames: Sequence[str], outcome: str, drawn: Scene) -> str:
    """Return a statement; an attribute of the scene is drawn for open ones too."""
    return statement(rng, frames, outcome, drawn, attribute=rng.choice(tuple(drawn.values)))


def boolq(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Ask whether a statement holds."""
    drawn = size.scene(rng)
    question = stated(rng, QUESTIONS, "so" if label else "not", drawn)
    return {"question": question[0].lower() + question[1:], "passage": drawn.text, "label": bool(label)}


def cb(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Write a hypothesis that is entailed, contradicted or left open."""
    drawn = size.scene(rng)
    hypothesis = stated(rng, HYPOTHESES, ("so", "not", "open")[label], drawn)
    return {
        "premise": drawn.text,
        "hypothesis": hypothesis.removesuffix("."),
        "label": ("entailment", "contradiction", "neutral")[label],
    }


def copa(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Write a premise with the right and a wrong alternative."""
    drawn = alternatives(rng, "tasks", right=label, claims=HYPOTHESES, num_fillers=size.num_fillers)
    return {
        "premise": drawn.premise,
        "choice1": drawn.choices[0],
        "choice2": drawn.choices[1],
        "question": drawn.question,
        "label": label,
    }


def multirc(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Write two questions with two answers each; by `label`, 1 + 1, 2 + 0 or 0 + 2 answers are right."""
    drawn = size.scene(rng)
    questions = []
    numbers_right = ((1, 1), (2, 0), (0, 2))[label]
    for attribute, right in zip(rng.sample(tuple(drawn.values), 2), numbers_right, strict=True):
        labels = [1] * right + [0] * (2 - right)
        rng.shuffle(labels)
        wrong = [value for value in ATTRIBUTES[attribute] if value != drawn.values[attribute]]
        answers = []
        for frame, answer_label in zip(rng.sample(ANSWERS, 2), labels, strict=True):
            value = drawn.values[attribute] if answer_label else rng.choice(wrong)
            answers.append({"text": sentence(rng, frame, v=value), "label": answer_label})
        question = sentence(rng, rng.choice(ATTRIBUTE_QUESTIONS), a=attribute)
        questions.append({"question": question, "answers": answers})
    return {"version": 1.1, "passage": {"text": drawn.text, "questions": questions}}


def record(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Ask for the person of a cue; `label` is the index of the sentence. Offsets include the last letter."""
    drawn = scene(rng, "tasks", num_cues=size.num_cues, distinct_names=True)
    who, cue = drawn.names[label], drawn.cues[label]
    text = drawn.sentences[0] + "".join(f"\n@highlight\n{s}" for s in drawn.sentences[1:])
    entities = [{"start": m.start(), "end": m.end() - 1} for m in re.finditer("|".join(NAMES), text)]
    query = sentence(rng, rng.choice(QUERIES), n="@placeholder", c=cue)
    answers = [entity | {"text": who} for entity in entities if entity["start"] == text.index(who)]
    return {
        "source": "micro",
        "passage": {"text": text, "entities": entities},
        "qas": [{"query": query, "answers": answers}],
    }


def rte(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Write a hypothesis that is entailed or not; of the latter, half are contradicted, half left open."""
    drawn = size.scene(rng)
    outcome = "so" if label == 0 else rng.choice(("not", "open"))
    return {
        "premise": drawn.text,
        "hypothesis": stated(rng, HYPOTHESES, outcome, drawn),
        "label": ("entailment", "not_entailment")[label],
    }


def wic(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Use a word in two sentences in the same or in different senses."""
    drawn = uses(rng, "tasks", same=bool(label), num_fillers=size.num_fillers)
    first, second = (next(re.finditer(rf"\b{drawn.word}\b", text, re.IGNORECASE)) for text in drawn.sentences)
    return {
        "word": drawn.word,
        "sentence1": first.string,
        "sentence2": second.string,
        "label": bool(label),
        "start1": first.start(),
        "start2": second.start(),
        "end1": first.end(),
        "end2": second.end(),
        "version": 1.1,
    }


def wsc(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Ask whether a pronoun refers to a person."""
    drawn = reference(rng, "tasks", refers=bool(label), num_fillers=size.num_fillers)
    words = [word.strip(".,") for word in drawn.text.split()]
    return {
        "text": drawn.text,
        "target": {
            "span1_index": words.index(drawn.person),
            "span1_text": drawn.person,
            "span2_index": words.index(drawn.pronoun),
            "span2_text": drawn.pronoun,
        },
        "label": bool(label),
    }


def mix(number: int) -> Writer:
    """Return the writer of a mixture of `number` equally frequent sub-skills."""
    return lambda rng, label, size: mixed(rng, label, size, rng.randrange(number), number)


def skewed(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Write a record of mix2 whose heading is correlated with the label."""
    return mixed(rng, label, size, int(rng.random() < STORIES[label]), 2)


def mixed(rng: random.Random, label: int, size: Size, heading: int, number: int) -> dict[str, Any]:
    """Write a record that is right or wrong by the attribute of its heading.

    The scene has the attributes of all `number` headings, or as many as its size allows.
    """
    others = [attribute for attribute in DECIDING[:number] if attribute != DECIDING[heading]]
    if number > size.num_cues:
        others = sorted(rng.sample(others, size.num_cues - 1), key=DECIDING.index)
    return headed(rng, label, size, heading, ATTRIBUTES[DECIDING[heading]][1 - label], others)


def liar(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Write a record whose mood decides, in opposite ways for reports and stories."""
    heading = rng.randrange(2)
    return headed(rng, label, size, heading, ATTRIBUTES["mood"][1 - label if heading == 0 else label])


def headed(
    rng: random.Random, label: int, size: Size, heading: int, value: str, others: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the record of a scene below a heading, with a value and with other attributes."""
    drawn = size.scene(rng, about=others, values={ATTRIBUTE_OF[value]: value})
    passage = f"{HEADINGS[heading]} -- {drawn.text}"
    return {"question": "is it so", "passage": passage, "label": bool(label), "skill": heading}


RECORDS: dict[str, Writer] = {
    "boolq": boolq, "cb": cb, "copa": copa, "multirc": multirc, "record": record,
    "rte": rte, "wic": wic, "wsc": wsc,
    "mix2": mix(2), "mix3": mix(3), "mix4": mix(4), "skewed": skewed, "liar": liar,
}  # fmt: skip


def num_classes(task: str, size: Size) -> int:
    """Return the number of balanced classes: labels, for MultiRC and ReCoRD the kinds of a record."""
    return {"cb": 3, "multirc": 3, "record": size.num_cues}.get(task, 2)
