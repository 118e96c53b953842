"""The operations of pretraining, their outcomes, and random questions for them.

`find`, `about` and `say` solve no task. They teach parts of the other operations (the cue of a claim, the
answer word of an outcome), which are otherwise learned late or never: yes or no is a weak signal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from dp_bench.micro.lexicon import (
    ATTRIBUTE_OF,
    ATTRIBUTES,
    CLAIMS,
    FRAMES,
    PLAIN_ANSWERS,
    QUERIES,
    VALUE_OF,
    words_of,
)
from dp_bench.micro.scenes import (
    EVERYTHING,
    Alternatives,
    Reach,
    Scene,
    alternatives,
    reference,
    scene,
    sentence,
    statement,
    uses,
)

T = TypeVar("T")

OUTCOMES: dict[str, tuple[str, ...]] = {
    **ATTRIBUTES,  # report the value of an attribute
    "check": ("so", "not"),  # does the claim follow from the scene
    "judge": ("so", "not", "open"),  # does it follow, is it contradicted, or neither
    "compare": ("same", "different"),  # senses of a word in two sentences
    "pick": ("choice1", "choice2"),  # the option that follows from the scene
    "refer": ("so", "not"),  # does the pronoun mean the person
    "who": (),  # the person in the sentence of a cue, or meant by a pronoun
    "find": (),  # the cue that proves the claim, or none; the word that makes an option right
    "about": (),  # the cue that proves or contradicts the claim, or none
    "say": (),  # the answer word of an outcome
}
OPERATIONS = tuple(OUTCOMES)
OPEN_REPORTS = {*ATTRIBUTES} - {"mood", "size"}  # only these are answered with label words too


@dataclass(frozen=True)
class Stage:
    """The difficulty of examples; the first stages have a small world, short scenes and bare outcomes."""

    reach: Reach = EVERYTHING
    scene_lengths: tuple[int, ...] = (0, 3, 5, 1, 1)  # weights of one to five cues
    fillers: float = 0.15  # share of texts with a sentence without a cue
    bare: float = 0.2  # share of instructions without answer words
    noise: float = 1.0  # frequency of missing names, random words and markers of the tasks
    mixture: str = "report 9 check 12 judge 9 compare 8 pick 8 refer 4 who 4 find 4 about 3 say 4"  # weights

    def draw(self, rng: random.Random, kind: Callable[..., T], **given: object) -> T:
        """Draw from the content of pretraining, perhaps with a sentence without a cue."""
        num_fillers = int(rng.random() < self.fillers)
        return kind(rng, "pretraining", num_fillers=num_fillers, reach=self.reach, **given)

    def scene(self, rng: random.Random, **given: object) -> Scene:
        """Draw a scene."""
        num_cues = rng.choices((1, 2, 3, 4, 5), self.scene_lengths)[0]
        return self.draw(rng, scene, num_cues=num_cues, **given)

    def alternatives(self, rng: random.Random) -> Alternatives:
        """Draw a premise with its alternatives."""
        return self.draw(rng, alternatives, right=rng.randrange(2), claims=CLAIMS)

    def operation(self, rng: random.Random) -> str:
        """Draw an operation by the weights of the mixture."""
        words = self.mixture.split()
        operation = rng.choices(words[::2], [float(weight) for weight in words[1::2]])[0]
        return rng.choice(self.reach.attributes) if operation == "report" else operation


LAST = Stage()


@dataclass(frozen=True)
class Question:
    """Marked pieces of text and the outcome of the operation on them."""

    pieces: tuple[tuple[str, str], ...]  # marker, text
    outcome: str


def ask(rng: random.Random, operation: str, stage: Stage = LAST) -> Question:
    """Draw a question of an operation from the content of pretraining."""
    if operation in ATTRIBUTES:
        drawn = stage.scene(rng, about=(operation,))
        return Question((("scene", drawn.text),), drawn.values[operation])
    return ASKS[operation](rng, stage)


def claimed(rng: random.Random, stage: Stage, even: bool = False) -> tuple[Question, str]:
    """Ask whether a claim follows; return also the cue that proves or contradicts it, or `none`.

    The outcomes are equally frequent if `even`.
    """
    drawn = stage.scene(rng)
    outcomes = OUTCOMES["judge"]
    outcome = rng.choice(outcomes) if even else rng.choices(outcomes, (5, 3, 2))[0]
    claim = statement(rng, CLAIMS, outcome, drawn, reach=stage.reach)
    cue_of = dict(zip(drawn.values, drawn.cues, strict=True))
    question = Question((("scene", drawn.text), ("claim", claim)), outcome)
    return question, cue_of.get(ATTRIBUTE_OF[key_word(claim)], "none")


def check(rng: random.Random, stage: Stage) -> Question:
    question, _ = claimed(rng, stage)
    return replace(question, outcome="so" if question.outcome == "so" else "not")


def judge(rng: random.Random, stage: Stage) -> Question:
    return claimed(rng, stage, even=True)[0]


def compare(rng: random.Random, stage: Stage) -> Question:
    same = rng.random() < 0.5
    use = stage.draw(rng, uses, same=same)
    first, second = use.sentences
    return Question((("line", first), ("line", second), ("item", use.word)), "same" if same else "different")


def pick(rng: random.Random, stage: Stage) -> Question:
    return picked(stage.alternatives(rng))


def refer(rng: random.Random, stage: Stage) -> Question:
    refers = rng.random() < 0.5
    drawn = stage.draw(rng, reference, refers=refers)
    query = f'does the pronoun "{drawn.pronoun}" refer to "{drawn.person}"?'
    return Question((("scene", drawn.text), ("ask", query)), "so" if refers else "not")


def who(rng: random.Random, stage: Stage) -> Question:
    if rng.random() < 0.4:
        person = stage.draw(rng, reference, refers=True)
        query = f'who does the pronoun "{person.pronoun}" refer to?'
        return Question((("scene", person.text), ("ask", query)), person.person.lower())
    drawn = stage.scene(rng, distinct_names=True)
    index = rng.randrange(len(drawn.names))
    query = sentence(rng, rng.choice(QUERIES + FRAMES), n="@placeholder", c=drawn.cues[index])
    return Question((("scene", drawn.text), ("ask", query)), drawn.names[index].lower())


def find(rng: random.Random, stage: Stage) -> Question:
    if rng.random() < 0.4:
        choice = stage.alternatives(rng)
        return replace(picked(choice), outcome=key_word(choice.choices[choice.right]))
    question, cue = claimed(rng, stage)
    return replace(question, outcome=cue if question.outcome == "so" else "none")


def about(rng: random.Random, stage: Stage) -> Question:
    question, cue = claimed(rng, stage)
    return replace(question, outcome=cue)


def say(rng: random.Random, stage: Stage) -> Question:
    pairs = sayings(rng, stage)
    outcome, answer = rng.choice(pairs)
    return Question((("scene", " ".join(word for pair in pairs for word in pair)), ("ask", outcome)), answer)


ASKS = {ask.__name__: ask for ask in (check, judge, compare, pick, refer, who, find, about, say)}


def key_word(text: str) -> str:
    """Find the cue or the value in a sentence."""
    return next(word for word in words_of(text) if word in VALUE_OF or word in ATTRIBUTE_OF)


def picked(choice: Alternatives) -> Question:
    """Put the premise between its options: relative positions distinguish the sides best."""
    first, second = choice.choices
    pieces = ("choice1", first), ("scene", choice.premise), ("ask", choice.question), ("choice2", second)
    return Question(pieces, OUTCOMES["pick"][choice.right])


def sayings(rng: random.Random, stage: Stage) -> list[tuple[str, str]]:
    """Draw some outcomes, which may be any words, and an answer word for each."""
    if rng.random() < 0.5:
        outcomes = rng.choice([outcomes for outcomes in OUTCOMES.values() if outcomes])
    else:
        words = [cue for cues in stage.reach.cues.values() for cue in cues]
        outcomes = tuple(rng.sample(words, rng.randrange(3, 6)))
    return shuffled(rng, zip(outcomes, rng.sample(PLAIN_ANSWERS, len(outcomes)), strict=True))


def shuffled(rng: random.Random, items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the items in random order."""
    order = list(items)
    rng.shuffle(order)
    return order
