"""The content of pretraining and tasks: scenes, uses of two-sense words, cause-effect pairs, pronouns.

The *content* of each (which cues, which word) is hashed: one combination in five belongs to the tasks, the
others to pretraining, so that no task row can have been memorised. Names and frames occur in both.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from dp_bench.micro.lexicon import (
    ATTRIBUTE_OF,
    ATTRIBUTES,
    CUES,
    FILLERS,
    FRAMES,
    MEN,
    NAMES,
    PRONOUN_FRAMES,
    PRONOUNS,
    SENSE_FRAMES,
    SENSES,
    WOMEN,
)

Part = Literal["pretraining", "tasks"]
T = TypeVar("T")


def part_of(*content: str) -> Part:
    """Return the part that a combination of content words belongs to."""
    digest = hashlib.sha256(" ".join(content).encode()).digest()
    return "tasks" if int.from_bytes(digest[:8], "big") % 5 == 0 else "pretraining"


@dataclass(frozen=True)
class Reach:
    """The part of the world to draw from: the first attributes, the first cues of each of their values."""

    num_attributes: int = len(ATTRIBUTES)
    num_cues: int = max(map(len, CUES.values()))

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes."""
        return tuple(ATTRIBUTES)[: self.num_attributes]

    @cached_property
    def cues(self) -> dict[str, tuple[str, ...]]:
        """The cues of each value."""
        return {value: CUES[value][: self.num_cues] for name in self.attributes for value in ATTRIBUTES[name]}

    @cached_property
    def senses(self) -> dict[str, tuple[str, str]]:
        """The values of each word of two senses."""
        return {word: pair for word, pair in SENSES.items() if all(value in self.cues for value in pair)}


EVERYTHING = Reach()


@dataclass(frozen=True)
class Scene:
    """Sentences with one cue each, of different attributes, and perhaps fillers; in reading order."""

    values: dict[str, str]  # attribute -> value, in the order of their sentences
    cues: tuple[str, ...]
    names: tuple[str, ...]  # the person in the sentence of each cue
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences, joined."""
        return " ".join(self.sentences)


@dataclass(frozen=True)
class Uses:
    """A word of two senses in two sentences."""

    word: str
    sentences: tuple[str, str]
    cues: tuple[str, str]
    same: bool


@dataclass(frozen=True)
class Alternatives:
    """A premise and two alternatives, of which `right` is its cause or effect."""

    premise: str
    choices: tuple[str, str]
    question: Literal["cause", "effect"]
    right: int
    content: tuple[str, str]


@dataclass(frozen=True)
class Reference:
    """A sentence with two persons and a pronoun that can mean only one of them."""

    text: str
    person: str  # the one in the question
    pronoun: str
    refers: bool
    content: tuple[str, ...]


def sentence(rng: random.Random, frame: str, **words: str) -> str:
    """Fill a frame and capitalise it; `{n}` and `{m}` are random persons unless given."""
    first, second = rng.sample(NAMES, 2)
    text = frame.format(**({"n": first, "m": second} | words))
    return text[0].upper() + text[1:]


def filler(rng: random.Random) -> str:
    """Draw a sentence without a cue."""
    return sentence(rng, rng.choice(FILLERS))


def scene(
    rng: random.Random,
    part: Part,
    *,
    num_cues: int = 3,
    num_fillers: int = 0,
    about: Collection[str] = (),
    values: dict[str, str] | None = None,
    distinct_names: bool = False,
    reach: Reach = EVERYTHING,
) -> Scene:
    """Draw a scene with the attributes `about`, and with these `values` of attributes, others at random."""
    values = values or {}
    about = [*dict.fromkeys([*values, *about])]

    def draw() -> Scene:
        others = [attribute for attribute in reach.attributes if attribute not in about]
        attributes = [*about, *rng.sample(others, num_cues - len(about))]
        rng.shuffle(attributes)
        chosen = {
            attribute: values.get(attribute) or rng.choice(ATTRIBUTES[attribute]) for attribute in attributes
        }
        cues = tuple(rng.choice(reach.cues[value]) for value in chosen.values())
        names = rng.sample(NAMES, num_cues) if distinct_names else [rng.choice(NAMES) for _ in cues]
        sentences = [
            sentence(rng, rng.choice(FRAMES), n=name, c=cue) for name, cue in zip(names, cues, strict=True)
        ]
        for _ in range(num_fillers):
            sentences.insert(rng.randrange(len(sentences) + 1), filler(rng))
        return Scene(chosen, cues, tuple(names), tuple(sentences))

    return draw_from(part, draw, lambda drawn: sorted(drawn.cues))


def uses(
    rng: random.Random, part: Part, *, same: bool, num_fillers: int = 0, reach: Reach = EVERYTHING
) -> Uses:
    """Draw two sentences with a word in the same sense or in different senses."""

    def draw() -> Uses:
        word = rng.choice(tuple(reach.senses))
        first = rng.randrange(2)
        second = first if same else 1 - first
        if same:
            cues = tuple(rng.sample(reach.cues[reach.senses[word][first]], 2))
        else:
            cues = tuple(rng.choice(reach.cues[reach.senses[word][sense]]) for sense in (first, second))
        texts = []
        for cue in cues:
            text = sentence(rng, rng.choice(SENSE_FRAMES), w=word, c=cue)
            for _ in range(num_fillers):
                text = f"{text} {filler(rng)}" if rng.random() < 0.5 else f"{filler(rng)} {text}"
            texts.append(text)
        return Uses(word, (texts[0], texts[1]), (cues[0], cues[1]), same)

    return draw_from(part, draw, lambda drawn: (drawn.word, *sorted(drawn.cues)))


def alternatives(
    rng: random.Random,
    part: Part,
    *,
    right: int,
    claims: Collection[str],
    num_fillers: int = 0,
    reach: Reach = EVERYTHING,
) -> Alternatives:
    """Draw a cue and its value as cause and effect, and an alternative of another value."""

    def draw() -> Alternatives:
        question: Literal["cause", "effect"] = rng.choice(("cause", "effect"))
        value, wrong_value = rng.sample(tuple(reach.cues), 2)
        cue = rng.choice(reach.cues[value])

        def claim(value: str) -> str:
            return sentence(rng, rng.choice(tuple(claims)), v=value, a=ATTRIBUTE_OF[value])

        if question == "effect":  # the ice was there, so it was cold
            premise, good, bad = sentence(rng, rng.choice(FRAMES), c=cue), claim(value), claim(wrong_value)
            content = (cue, wrong_value)
        else:  # it was cold because of the ice
            wrong = rng.choice(reach.cues[wrong_value])
            premise, good, bad = claim(value), *(sentence(rng, rng.choice(FRAMES), c=c) for c in (cue, wrong))
            content = (cue, wrong)
        for _ in range(num_fillers):
            premise = f"{premise} {filler(rng)}"
        return Alternatives(premise, (good, bad) if right == 0 else (bad, good), question, right, content)

    return draw_from(part, draw, lambda drawn: drawn.content)


def reference(
    rng: random.Random, part: Part, *, refers: bool, num_fillers: int = 0, reach: Reach = EVERYTHING
) -> Reference:
    """Draw a sentence whose pronoun refers to `person`, or to the other person."""

    def draw() -> Reference:
        pair = [rng.choice(WOMEN), rng.choice(MEN)]
        rng.shuffle(pair)
        pronoun = rng.choice(tuple(PRONOUNS))
        cue = rng.choice(reach.cues[rng.choice(tuple(reach.cues))])
        text = sentence(rng, rng.choice(PRONOUN_FRAMES), n=pair[0], m=pair[1], p=pronoun, c=cue)
        for _ in range(num_fillers):
            text = f"{text} {filler(rng)}"
        person = next(name for name in pair if (name in PRONOUNS[pronoun]) == refers)
        return Reference(text, person, pronoun, refers, (*sorted(pair), pronoun, cue))

    return draw_from(part, draw, lambda drawn: drawn.content)


def draw_from(part: Part, draw: Callable[[], T], content: Callable[[T], Collection[str]]) -> T:
    """Draw until the content belongs to `part`."""
    while True:
        drawn = draw()
        if part_of(*content(drawn)) == part:
            return drawn
