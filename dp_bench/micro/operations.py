"""What the tiny T5 is asked in pretraining: operations, their outcomes, and questions drawn for them.

`find`, `about` and `say` solve no task. They teach the look-ups that the others are made of (the
cue a claim speaks of; what to say for an outcome), which are otherwise learned late or never, because a
yes or a no tells so little.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    "pick": ("choice1", "choice2"),  # the option that goes with the scene
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


Drawn = tuple[tuple[tuple[str, str], ...], str]  # pieces and outcome


def ask(rng: random.Random, operation: str, stage: Stage = LAST) -> Question:
    """Draw a question of an operation, from the content that belongs to pretraining."""
    if operation in ATTRIBUTES:
        found = some_scene(rng, stage, about=(operation,))
        return Question(operation, (("scene", found.text),), found.values[operation])
    return Question(operation, *ASKS[operation](rng, stage))


def ask_check(rng: random.Random, stage: Stage) -> Drawn:
    found = some_scene(rng, stage)
    outcome = rng.choices(("so", "not", "open"), (5, 3, 2))[0]
    claim = statement(rng, found, outcome, stage.reach)
    return (("scene", found.text), ("claim", claim)), "so" if outcome == "so" else "not"


def ask_judge(rng: random.Random, stage: Stage) -> Drawn:
    found = some_scene(rng, stage)
    outcome = rng.choice(OUTCOMES["judge"])
    return (("scene", found.text), ("claim", statement(rng, found, outcome, stage.reach))), outcome


def ask_compare(rng: random.Random, stage: Stage) -> Drawn:
    use = uses(rng, "pretraining", same=rng.random() < 0.5, num_fillers=few(rng, stage), reach=stage.reach)
    pieces = (("line", use.sentences[0]), ("line", use.sentences[1]), ("item", use.word))
    return pieces, "same" if use.same else "different"


def ask_pick(rng: random.Random, stage: Stage) -> Drawn:
    choice = some_alternatives(rng, stage)
    return options(choice), OUTCOMES["pick"][choice.right]


def ask_refer(rng: random.Random, stage: Stage) -> Drawn:
    refers = rng.random() < 0.5
    person = reference(rng, "pretraining", refers=refers, num_fillers=few(rng, stage), reach=stage.reach)
    asked = f'does the pronoun "{person.pronoun}" refer to "{person.person}"?'
    return (("scene", person.text), ("ask", asked)), "so" if refers else "not"


def ask_who(rng: random.Random, stage: Stage) -> Drawn:
    if rng.random() < 0.4:
        person = reference(rng, "pretraining", refers=True, num_fillers=few(rng, stage), reach=stage.reach)
        asked = f'who does the pronoun "{person.pronoun}" refer to?'
        return (("scene", person.text), ("ask", asked)), person.person.lower()
    found = some_scene(rng, stage, distinct_names=True)
    place = rng.randrange(len(found.names))
    query = sentence(rng, rng.choice(QUERIES + FRAMES), n="@placeholder", c=found.cues[place])
    return (("scene", found.text), ("ask", query)), found.names[place].lower()


def ask_find(rng: random.Random, stage: Stage) -> Drawn:
    if rng.random() < 0.4:
        choice = some_alternatives(rng, stage)
        return options(choice), key_word(choice.choices[choice.right])
    return claimed(rng, stage, lambda value: {value})


def ask_about(rng: random.Random, stage: Stage) -> Drawn:
    return claimed(rng, stage, lambda value: {*ATTRIBUTES[ATTRIBUTE_OF[value]]})


def claimed(rng: random.Random, stage: Stage, wanted: Callable[[str], set[str]]) -> Drawn:
    """Ask for the cue of a value that is `wanted` after a claim; there may be none."""
    found = some_scene(rng, stage)
    outcome = rng.choices(("so", "not", "open"), (5, 3, 2))[0]
    claim = statement(rng, found, outcome, stage.reach)
    values = wanted(key_word(claim))
    shown = next((cue for cue in found.cues if VALUE_OF[cue] in values), "none")
    return (("scene", found.text), ("claim", claim)), shown


def ask_say(rng: random.Random, stage: Stage) -> Drawn:
    pairs = sayings(rng, stage)
    asked, outcome = rng.choice(pairs)
    return (("scene", " ".join(word for pair in pairs for word in pair)), ("ask", asked)), outcome


ASKS: dict[str, Callable[[random.Random, Stage], Drawn]] = {
    "check": ask_check,
    "judge": ask_judge,
    "compare": ask_compare,
    "pick": ask_pick,
    "refer": ask_refer,
    "who": ask_who,
    "find": ask_find,
    "about": ask_about,
    "say": ask_say,
}


def few(rng: random.Random, stage: Stage) -> int:
    return int(rng.random() < stage.fillers)


def some_alternatives(rng: random.Random, stage: Stage) -> Alternatives:
    return alternatives(
        rng,
        "pretraining",
        right=rng.randrange(2),
        claims=CLAIMS,
        num_fillers=few(rng, stage),
        reach=stage.reach,
    )


def key_word(text: str) -> str:
    """Find the cue or the value in a sentence."""
    return next(word for word in words_of(text) if word in VALUE_OF or word in ATTRIBUTE_OF)


def options(choice: Alternatives) -> tuple[tuple[str, str], ...]:
    """Put the premise between its options: T5 sees most easily on which side a word stands."""
    first, second = choice.choices
    return ("choice1", first), ("scene", choice.premise), ("ask", choice.question), ("choice2", second)


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
        num_fillers=few(rng, stage),
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
    return claim_of(rng, value)


def claim_of(rng: random.Random, value: str) -> str:
    return sentence(rng, rng.choice(CLAIMS), v=value, a=ATTRIBUTE_OF[value])


def some_operation(rng: random.Random, stage: Stage) -> str:
    operation = rng.choices(list(stage.weights), list(stage.weights.values()))[0]
    return rng.choice(stage.reach.attributes) if operation == "report" else operation


def shuffled(rng: random.Random, items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    found = list(items)
    rng.shuffle(found)
    return found
