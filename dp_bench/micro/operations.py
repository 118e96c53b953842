"""What the tiny T5 is asked in pretraining: operations, their outcomes, and questions drawn for them.

`find`, `about` and `say` solve no task. They teach the look-ups that the others are made of (the cue a
claim speaks of; what to say for an outcome), which are otherwise learned late or never, because a yes or a
no tells so little.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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
    uses,
)

OUTCOMES: dict[str, tuple[str, ...]] = {
    **ATTRIBUTES,  # report the value of an attribute
    "check": ("so", "not"),  # is the claim shown by the scene
    "judge": ("so", "not", "open"),  # is it shown, contradicted, or neither
    "compare": ("same", "different"),  # senses of a word in two sentences
    "pick": ("first", "second"),  # the option that goes with the scene
    "refer": ("so", "not"),  # does the pronoun mean the person
    "who": (),  # the person beside a cue, or meant by a pronoun
    "find": (),  # the cue that shows the claim, or none; the word that makes an option right
    "about": (),  # the cue that shows or contradicts the claim, or none
    "say": (),  # what to say for a given outcome
}
OPERATIONS = tuple(OUTCOMES)
OPEN_REPORTS = {*ATTRIBUTES} - {"mood", "size"}  # answer with label words too; no other operation does
WEIGHTS = {
    "report": 9,
    "check": 12,
    "judge": 9,
    "compare": 8,
    "pick": 8,
    "refer": 4,
    "who": 4,
    "find": 4,
    "about": 3,
    "say": 4,
}


@dataclass(frozen=True)
class Stage:
    """How hard the examples are: pretraining begins in a small world with short scenes and bare outcomes."""

    reach: Reach = EVERYTHING
    scene_lengths: tuple[int, ...] = (0, 3, 5, 1, 1)  # weights of one to five cues
    fillers: float = 0.15  # share of texts with a sentence about nothing
    bare: float = 0.2  # share of instructions that do not tell what to say
    noise: float = 1.0  # of missing names, stray words and other markers than pretraining's own
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)


LAST = Stage()


@dataclass(frozen=True)
class Question:
    """Marked pieces of text and the outcome of the operation on them."""

    operation: str
    pieces: tuple[tuple[str, str], ...]  # marker, text
    outcome: str


def ask(rng: random.Random, operation: str, stage: Stage = LAST) -> Question:
    """Draw a question of an operation, from the content that belongs to pretraining."""
    fillers = int(rng.random() < stage.fillers)
    pieces: tuple[tuple[str, str], ...]
    if operation in ATTRIBUTES:
        found = some_scene(rng, stage, about=(operation,))
        pieces, outcome = (("scene", found.text),), found.values[operation]
    elif operation in ("check", "judge"):
        found = some_scene(rng, stage)
        outcome = rng.choices(("so", "not", "open"), (5, 3, 2) if operation == "check" else (1, 1, 1))[0]
        pieces = (
            ("scene", found.text),
            (rng.choice(("claim", "ask")), statement(rng, found, outcome, stage.reach)),
        )
        outcome = "not" if outcome == "open" and operation == "check" else outcome
    elif operation == "compare":
        use = uses(rng, "pretraining", same=rng.random() < 0.5, num_fillers=fillers, reach=stage.reach)
        pieces = (("line", use.sentences[0]), ("line", use.sentences[1]), ("item", use.word))
        outcome = "same" if use.same else "different"
    elif operation == "pick":
        choice = alternatives(
            rng, "pretraining", right=rng.randrange(2), claims=CLAIMS, num_fillers=fillers, reach=stage.reach
        )
        pieces, outcome = options(choice), OUTCOMES["pick"][choice.right]
    elif operation == "refer":
        person = reference(
            rng, "pretraining", refers=rng.random() < 0.5, num_fillers=fillers, reach=stage.reach
        )
        asked = f'does the pronoun "{person.pronoun}" refer to "{person.person}"?'
        pieces, outcome = (("scene", person.text), ("ask", asked)), "so" if person.refers else "not"
    elif operation == "who" and rng.random() < 0.4:
        person = reference(rng, "pretraining", refers=True, num_fillers=fillers, reach=stage.reach)
        asked = f'who does the pronoun "{person.pronoun}" refer to?'
        pieces, outcome = (("scene", person.text), ("ask", asked)), person.person.lower()
    elif operation == "say":
        pairs = sayings(rng, stage)
        asked, outcome = rng.choice(pairs)
        pieces = (("scene", " ".join(word for pair in pairs for word in pair)), ("ask", asked))
    elif operation == "find" and rng.random() < 0.4:
        choice = alternatives(
            rng, "pretraining", right=rng.randrange(2), claims=CLAIMS, num_fillers=fillers, reach=stage.reach
        )
        pieces, outcome = options(choice), key_word(choice.choices[choice.right])
    elif operation in ("find", "about"):
        found = some_scene(rng, stage)
        claim = statement(rng, found, rng.choices(("so", "not", "open"), (5, 3, 2))[0], stage.reach)
        said = next(word for word in words_of(claim) if word in ATTRIBUTE_OF)
        wanted = {said} if operation == "find" else set(ATTRIBUTES[ATTRIBUTE_OF[said]])
        outcome = next((cue for cue in found.cues if VALUE_OF[cue] in wanted), "none")
        pieces = (("scene", found.text), ("claim", claim))
    else:
        found = some_scene(rng, stage, distinct_names=True)
        place = rng.randrange(len(found.names))
        query = sentence(rng, rng.choice(QUERIES + FRAMES), n="@placeholder", c=found.cues[place])
        pieces, outcome = (("scene", found.text), ("ask", query)), found.names[place].lower()
    return Question(operation, pieces, outcome)


def key_word(text: str) -> str:
    """Find the cue or the value in a sentence."""
    return next(word for word in words_of(text) if word in VALUE_OF or word in ATTRIBUTE_OF)


def options(choice: Alternatives) -> tuple[tuple[str, str], ...]:
    first, second = choice.choices
    return ("choice1", first), ("choice2", second), ("scene", choice.premise), ("ask", choice.question)


def sayings(rng: random.Random, stage: Stage) -> list[tuple[str, str]]:
    """Draw what to say for each of some outcomes, which may be any words."""
    if rng.random() < 0.5:
        outcomes = rng.choice([outcomes for outcomes in OUTCOMES.values() if outcomes])
    else:
        words = [cue for cues in stage.reach.cues.values() for cue in cues]
        outcomes = tuple(rng.sample(words, rng.randrange(3, 6)))
    return shuffled(rng, zip(outcomes, rng.sample(PLAIN_ANSWERS, len(outcomes)), strict=True))


def some_scene(
    rng: random.Random, stage: Stage, *, about: Sequence[str] = (), distinct_names: bool = False
) -> Scene:
    return scene(
        rng,
        "pretraining",
        num_cues=rng.choices((1, 2, 3, 4, 5), stage.scene_lengths)[0],
        num_fillers=int(rng.random() < stage.fillers),
        about=about,
        distinct_names=distinct_names,
        reach=stage.reach,
    )


def statement(rng: random.Random, found: Scene, outcome: str, reach: Reach) -> str:
    """Claim a value that the scene shows (so), contradicts (not) or leaves open."""
    if outcome == "open":
        attribute = rng.choice([attribute for attribute in reach.attributes if attribute not in found.values])
        value = rng.choice(ATTRIBUTES[attribute])
    else:
        attribute = rng.choice(tuple(found.values))
        value = found.values[attribute]
        if outcome == "not":
            value = rng.choice([other for other in ATTRIBUTES[attribute] if other != value])
    return sentence(rng, rng.choice(CLAIMS), v=value, a=attribute)


def some_operation(rng: random.Random, stage: Stage) -> str:
    operation = rng.choices(list(stage.weights), list(stage.weights.values()))[0]
    return rng.choice(stage.reach.attributes) if operation == "report" else operation


def shuffled(rng: random.Random, items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    found = list(items)
    rng.shuffle(found)
    return found
