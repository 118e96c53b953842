"""The content of pretraining and tasks: scenes, uses of two-sense words, cause-effect pairs, pronouns.

The *content* of each (which cues, which word) is hashed: one combination in five belongs to the tasks, the
others to pretraining, so that no task row can have been memorised. Names and frames occur in both.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Concatenate, Literal, ParamSpec, TypeVar

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
P = ParamSpec("P")
T = TypeVar("T")


def part_of(*content: str) -> Part:
    """Return the part that a combination of content words belongs to."""
    digest = hashlib.sha256(" ".join(content).encode()).digest()
    return "tasks" if int.from_bytes(digest[:8], "big") % 5 == 0 else "pretraining"


def of_part(
    draw: Callable[Concatenate[random.Random, P], tuple[Collection[str], T]],
) -> Callable[Concatenate[random.Random, Part, P], T]:
    """Make of a function that draws something and its content one that draws it for a part."""

    @wraps(draw)
    def draw_from(rng: random.Random, part: Part, /, *args: P.args, **given: P.kwargs) -> T:
        while True:
            content, drawn = draw(rng, *args, **given)
            if part_of(*content) == part:
                return drawn

    return draw_from


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
    sentences: list[str]


@dataclass(frozen=True)
class Alternatives:
    """A premise and two alternatives, of which `right` is its cause or effect."""

    premise: str
    choices: tuple[str, str]
    question: str  # cause or effect
    right: int


@dataclass(frozen=True)
class Reference:
    """A sentence with two persons and a pronoun that can mean only one of them."""

    text: str
    person: str  # the one in the question
    pronoun: str


def sentence(rng: random.Random, frame: str, **words: str) -> str:
    """Fill a frame and capitalise it; `{n}` and `{m}` are random persons unless given."""
    first, second = rng.sample(NAMES, 2)
    text = frame.format(**({"n": first, "m": second} | words))
    return text[0].upper() + text[1:]


def filler(rng: random.Random) -> str:
    """Draw a sentence without a cue."""
    return sentence(rng, rng.choice(FILLERS))


def claim(rng: random.Random, frames: Sequence[str], value: str) -> str:
    """Draw a sentence that names a value."""
    return sentence(rng, rng.choice(frames), v=value, a=ATTRIBUTE_OF[value])


@of_part
def scene(
    rng: random.Random,
    *,
    num_cues: int = 3,
    num_fillers: int = 0,
    about: Collection[str] = (),
    values: dict[str, str] | None = None,
    distinct_names: bool = False,
    reach: Reach = EVERYTHING,
) -> tuple[Collection[str], Scene]:
    """Draw a scene with these `values` of attributes and the attributes `about`, others at random."""
    values = values or {}
    given = [*values, *about]
    others = [attribute for attribute in reach.attributes if attribute not in given]
    attributes = [*given, *rng.sample(others, num_cues - len(given))]
    rng.shuffle(attributes)
    chosen = {name: values.get(name) or rng.choice(ATTRIBUTES[name]) for name in attributes}
    cues = tuple(rng.choice(reach.cues[value]) for value in chosen.values())
    names = rng.sample(NAMES, num_cues) if distinct_names else [rng.choice(NAMES) for _ in cues]
    sentences = [
        sentence(rng, rng.choice(FRAMES), n=name, c=cue) for name, cue in zip(names, cues, strict=True)
    ]
    for _ in range(num_fillers):
        sentences.insert(rng.randrange(len(sentences) + 1), filler(rng))
    return sorted(cues), Scene(chosen, cues, tuple(names), tuple(sentences))


def statement(
    rng: random.Random,
    frames: Sequence[str],
    outcome: str,
    drawn: Scene,
    *,
    attribute: str | None = None,
    reach: Reach = EVERYTHING,
) -> str:
    """State a value that follows from a scene (so), contradicts it (not), or neither (open).

    `attribute` is the one of the scene that it is about, by default any; an open statement is about another.
    """
    if outcome == "open":
        attribute = rng.choice([name for name in reach.attributes if name not in drawn.values])
    elif attribute is None:
        attribute = rng.choice(tuple(drawn.values))
    value = drawn.values.get(attribute)
    if value is None or outcome == "not":
        value = rng.choice([other for other in ATTRIBUTES[attribute] if other != value])
    return claim(rng, frames, value)


@of_part
def uses(
    rng: random.Random, *, same: bool, num_fillers: int = 0, reach: Reach = EVERYTHING
) -> tuple[Collection[str], Uses]:
    """Draw two sentences with a word in the same sense or in different senses."""
    word, values = rng.choice(tuple(reach.senses.items()))
    sense = rng.randrange(2)
    if same:
        cues = rng.sample(reach.cues[values[sense]], 2)
    else:
        cues = [rng.choice(reach.cues[value]) for value in (values[sense], values[1 - sense])]
    texts = []
    for cue in cues:
        text = sentence(rng, rng.choice(SENSE_FRAMES), w=word, c=cue)
        for _ in range(num_fillers):
            text = f"{text} {filler(rng)}" if rng.random() < 0.5 else f"{filler(rng)} {text}"
        texts.append(text)
    return (word, *sorted(cues)), Uses(word, texts)


@of_part
def alternatives(
    rng: random.Random, *, right: int, claims: Sequence[str], num_fillers: int = 0, reach: Reach = EVERYTHING
) -> tuple[Collection[str], Alternatives]:
    """Draw a cue and its value as cause and effect, and an alternative of another value."""
    question = rng.choice(("cause", "effect"))
    value, wrong = rng.sample(tuple(reach.cues), 2)
    cue = rng.choice(reach.cues[value])
    if question == "effect":  # the ice was there, so it was cold
        premise = sentence(rng, rng.choice(FRAMES), c=cue)
        good, bad = (claim(rng, claims, each) for each in (value, wrong))
    else:  # it was cold because of the ice
        wrong = rng.choice(reach.cues[wrong])
        premise = claim(rng, claims, value)
        good, bad = (sentence(rng, rng.choice(FRAMES), c=each) for each in (cue, wrong))
    for _ in range(num_fillers):
        premise = f"{premise} {filler(rng)}"
    choices = (good, bad) if right == 0 else (bad, good)
    return (cue, wrong), Alternatives(premise, choices, question, right)


@of_part
def reference(
    rng: random.Random, *, refers: bool, num_fillers: int = 0, reach: Reach = EVERYTHING
) -> tuple[Collection[str], Reference]:
    """Draw a sentence whose pronoun refers to `person`, or to the other person."""
    pair = [rng.choice(WOMEN), rng.choice(MEN)]
    rng.shuffle(pair)
    pronoun = rng.choice(tuple(PRONOUNS))
    cue = rng.choice(reach.cues[rng.choice(tuple(reach.cues))])
    text = sentence(rng, rng.choice(PRONOUN_FRAMES), n=pair[0], m=pair[1], p=pronoun, c=cue)
    for _ in range(num_fillers):
        text = f"{text} {filler(rng)}"
    person = next(name for name in pair if (name in PRONOUNS[pronoun]) == refers)
    return (*sorted(pair), pronoun, cue), Reference(text, person, pronoun)
