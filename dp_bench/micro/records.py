"""One record of each task with a given label, in the schema of the SuperGLUE release and without its `idx`.

The release's labels: booleans (BoolQ, WiC, WSC), strings (CB, RTE), integers (COPA, MultiRC answers). The
mixtures have BoolQ's schema and a `skill`, the number of the heading of the passage, which decides what is
asked:

    mix2   a report is right where the mood is happy, a story where the size is big
    mix3   as mix2, and a context where it is day
    mix4   as mix3, and a text where it is hot
    skewed as mix2, but two texts in five are stories, and three in four of those are right
    liar   a report is right where the mood is happy, a story where it is not
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dp_bench.micro.lexicon import (
    ANSWERS,
    ATTRIBUTE_QUESTIONS,
    ATTRIBUTES,
    HYPOTHESES,
    NAMES,
    QUERIES,
    QUESTIONS,
)
from dp_bench.micro.scenes import Scene, alternatives, reference, scene, sentence, uses

HEADINGS = ("Report", "Story", "Context", "Text")
ASKED = ("mood", "size", "time", "heat")  # of each heading, in mixtures of sub-skills
STORIES = (0.2, 0.6)  # of `skewed`: their share in what is wrong and in what is right


@dataclass(frozen=True)
class Size:
    """How much there is to read."""

    num_cues: int
    num_fillers: int

    def scene(self, rng: random.Random, **given: Any) -> Scene:
        return scene(rng, "tasks", num_cues=self.num_cues, num_fillers=self.num_fillers, **given)


def statement(rng: random.Random, frames: tuple[str, ...], holds: bool | None, found: Scene) -> str:
    """Say something of a scene that holds, that does not, or (None) that the scene leaves open."""
    mentioned = rng.choice(tuple(found.values))
    if holds is None:
        open_ones = [attribute for attribute in ATTRIBUTES if attribute not in found.values]
        value = rng.choice(ATTRIBUTES[rng.choice(open_ones)])
    elif holds:
        value = found.values[mentioned]
    else:
        value = rng.choice([v for v in ATTRIBUTES[mentioned] if v != found.values[mentioned]])
    return sentence(rng, rng.choice(frames), v=value)


def boolq(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    found = size.scene(rng)
    question = statement(rng, QUESTIONS, bool(label), found)
    return {"question": question[0].lower() + question[1:], "passage": found.text, "label": bool(label)}


def cb(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    found = size.scene(rng)
    hypothesis = statement(rng, HYPOTHESES, (True, False, None)[label], found).removesuffix(".")
    return {
        "premise": found.text,
        "hypothesis": hypothesis,
        "label": ("entailment", "contradiction", "neutral")[label],
    }


def copa(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    found = alternatives(rng, "tasks", right=label, claims=HYPOTHESES, num_fillers=size.num_fillers)
    return {
        "premise": found.premise,
        "choice1": found.choices[0],
        "choice2": found.choices[1],
        "question": found.question,
        "label": label,
    }


def multirc(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Two questions of two answers each, two right and two wrong in all: 1 + 1, 2 + 0 or 0 + 2 (`label`)."""
    found = size.scene(rng)
    questions = []
    for attribute, right in zip(
        rng.sample(tuple(found.values), 2), ((1, 1), (2, 0), (0, 2))[label], strict=True
    ):
        labels = [1] * right + [0] * (2 - right)
        rng.shuffle(labels)
        wrong = [value for value in ATTRIBUTES[attribute] if value != found.values[attribute]]
        answers = []
        for frame, answer_label in zip(rng.sample(ANSWERS, 2), labels, strict=True):
            value = found.values[attribute] if answer_label else rng.choice(wrong)
            answers.append({"text": sentence(rng, frame, v=value), "label": answer_label})
        question = sentence(rng, rng.choice(ATTRIBUTE_QUESTIONS), a=attribute)
        questions.append({"question": question, "answers": answers})
    return {"version": 1.1, "passage": {"text": found.text, "questions": questions}}


def record(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Ask who stood beside a cue; `label` is the place of its sentence. Offsets include their last letter."""
    found = scene(rng, "tasks", num_cues=size.num_cues, distinct_names=True)
    who, cue = found.names[label], found.cues[label]
    text = found.sentences[0] + "".join(f"\n@highlight\n{s}" for s in found.sentences[1:])
    places = sorted((text.index(name), name) for name in NAMES if name in text)
    spans = [(name, {"start": start, "end": start + len(name) - 1}) for start, name in places]
    query = sentence(rng, rng.choice(QUERIES), n="@placeholder", c=cue)
    answers = [span | {"text": name} for name, span in spans if name == who]
    return {
        "source": "micro",
        "passage": {"text": text, "entities": [span for _, span in spans]},
        "qas": [{"query": query, "answers": answers}],
    }


def rte(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    """Half of what is not entailed is contradicted, half is left open."""
    found = size.scene(rng)
    holds = True if label == 0 else rng.choice((False, None))
    return {
        "premise": found.text,
        "hypothesis": statement(rng, HYPOTHESES, holds, found),
        "label": ("entailment", "not_entailment")[label],
    }


def wic(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    found = uses(rng, "tasks", same=bool(label), num_fillers=size.num_fillers)
    spans = [span_of(found.word, text) for text in found.sentences]
    return {
        "word": found.word,
        "sentence1": found.sentences[0],
        "sentence2": found.sentences[1],
        "label": bool(label),
        "start1": spans[0][0],
        "start2": spans[1][0],
        "end1": spans[0][1],
        "end2": spans[1][1],
        "version": 1.1,
    }


def wsc(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    found = reference(rng, "tasks", refers=bool(label), num_fillers=size.num_fillers)
    words = [word.strip(".,") for word in found.text.split()]
    return {
        "text": found.text,
        "target": {
            "span1_index": words.index(found.person),
            "span1_text": found.person,
            "span2_index": words.index(found.pronoun),
            "span2_text": found.pronoun,
        },
        "label": bool(label),
    }


def mix(number: int) -> Callable[[random.Random, int, Size], dict[str, Any]]:
    """Return the mixture of so many sub-skills, all of them as frequent."""

    def record(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
        return asked(rng, label, size, rng.randrange(number), number)

    return record


def skewed(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    return asked(rng, label, size, int(rng.random() < STORIES[label]), 2)


def asked(rng: random.Random, label: int, size: Size, heading: int, number: int) -> dict[str, Any]:
    """Write a scene that is right or wrong by the attribute that the heading asks about. The scene has the
    attributes of all headings, as far as it has room for them."""
    deciding = ASKED[heading]
    others = [attribute for attribute in ASKED[:number] if attribute != deciding]
    if number > size.num_cues:
        others = rng.sample(others, size.num_cues - 1)
    about = [attribute for attribute in ASKED if attribute in (deciding, *others)]
    found = size.scene(rng, about=about, values={deciding: ATTRIBUTES[deciding][1 - label]})
    return headed(heading, found, label)


def liar(rng: random.Random, label: int, size: Size) -> dict[str, Any]:
    heading = rng.randrange(2)
    found = size.scene(rng, values={"mood": ATTRIBUTES["mood"][1 - label if heading == 0 else label]})
    return headed(heading, found, label)


def headed(heading: int, found: Scene, label: int) -> dict[str, Any]:
    passage = f"{HEADINGS[heading]} -- {found.text}"
    return {"question": "is it so", "passage": passage, "label": bool(label), "skill": heading}


def span_of(word: str, text: str) -> tuple[int, int]:
    """Find a whole word; the end is exclusive, as in WiC."""
    start = next(
        i for i in range(len(text))
        if text[i:].lower().startswith(word)
        and not text[i - 1 : i].isalpha()
        and not text[i + len(word) : i + len(word) + 1].isalpha()
    )  # fmt: skip
    return start, start + len(word)


RECORDS: dict[str, Callable[[random.Random, int, Size], dict[str, Any]]] = {
    "boolq": boolq, "cb": cb, "copa": copa, "multirc": multirc, "record": record,
    "rte": rte, "wic": wic, "wsc": wsc,
    "mix2": mix(2), "mix3": mix(3), "mix4": mix(4), "skewed": skewed, "liar": liar,
}  # fmt: skip


def num_classes(task: str, size: Size) -> int:
    """Count what is balanced: labels, shapes of a MultiRC passage, places of a ReCoRD answer."""
    return {"cb": 3, "multirc": 3, "record": size.num_cues}.get(task, 2)
