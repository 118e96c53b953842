"""The operations of pretraining, their outcomes, and random questions for them.

`find`, `about` and `say` solve no task. They teach parts of the other operations (the cue of a claim, the
answer word of an outcome), which are otherwise learned late or never: yes or no is a weak signal.
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
    """The difficulty of examples; the first stages have a small world, short scenes and bare outcomes."""

    reach: Reach = EVERYTHING
    scene_lengths: tuple[int, ...] = (0, 3, 5, 1, 1)  # weights of one to five cues
    fillers: float = 0.15  # share of texts with a sentence without a cue
    bare: float = 0.2  # share of instructions without answer words
    noise: float = 1.0  # frequency of missing names, random words and markers of the tasks
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
    """Draw a question of an operation from the content of pretraining."""
    if operation in ATTRIBUTES:
        drawn = some_scene(rng, stage, about=(operation,))
        return Question(operation, (("scene", drawn.text),), drawn.values[operation])
    return Question(operation, *ASKS[operation](rng, stage))


def ask_check(rng: random.Random, stage: Stage) -> Drawn:
    drawn = some_scene(rng, stage)
    outcome = rng.choices(("so", "not", "open"), (5, 3, 2))[0]
    claim = statement(rng, drawn, outcome, stage.reach)
    return (("scene", drawn.text), ("claim", claim)), "so" if outcome == "so" else "not"


def ask_judge(rng: random.Random, stage: Stage) -> Drawn:
    drawn = some_scene(rng, stage)
    outcome = rng.choice(OUTCOMES["judge"])
    return (("scene", drawn.text), ("claim", statement(rng, drawn, outcome, stage.reach))), outcome


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
    query = f'does the pronoun "{person.pronoun}" refer to "{person.person}"?'
    return (("scene", person.text), ("ask", query)), "so" if refers else "not"


def ask_who(rng: random.Random, stage: Stage) -> Drawn:
    if rng.random() < 0.4:
        person = reference(rng, "pretraining", refers=True, num_fillers=few(rng, stage), reach=stage.reach)
        query = f'who does the pronoun "{person.pronoun}" refer to?'
        return (("scene", person.text), ("ask", query)), person.person.lower()
    drawn = some_scene(rng, stage, distinct_names=True)
    index = rng.randrange(len(drawn.names))
    query = sentence(rng, rng.choice(QUERIES + FRAMES), n="@placeholder", c=drawn.cues[index])
    return (("scene", drawn.text), ("ask", query)), drawn.names[index].lower()


def ask_find(rng: random.Random, stage: Stage) -> Drawn:
    if rng.random() < 0.4:
        choice = some_alternatives(rng, stage)
        return options(choice), key_word(choice.choices[choice.right])
    return claimed(rng, stage, lambda value: {value})


def ask_about(rng: random.Random, stage: Stage) -> Drawn:
    return claimed(rng, stage, lambda value: {*ATTRIBUTES[ATTRIBUTE_OF[value]]})


def claimed(rng: random.Random, stage: Stage, values_of: Callable[[str], set[str]]) -> Drawn:
    """Ask for the cue of one of the values that `values_of` returns for a claimed value, or `none`."""
    drawn = some_scene(rng, stage)
    outcome = rng.choices(("so", "not", "open"), (5, 3, 2))[0]
    claim = statement(rng, drawn, outcome, stage.reach)
    values = values_of(key_word(claim))
    cue = next((cue for cue in drawn.cues if VALUE_OF[cue] in values), "none")
    return (("scene", drawn.text), ("claim", claim)), cue


def ask_say(rng: random.Random, stage: Stage) -> Drawn:
    pairs = sayings(rng, stage)
    outcome, answer = rng.choice(pairs)
    return (("scene", " ".join(word for pair in pairs for word in pair)), ("ask", outcome)), answer


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
    """Draw the number of sentences without a cue, 0 or 1."""
    return int(rng.random() < stage.fillers)


def some_alternatives(rng: random.Random, stage: Stage) -> Alternatives:
    """Draw a premise with its alternatives at a stage."""
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
    """Put the premise between its options: relative positions distinguish the sides best."""
    first, second = choice.choices
    return ("choice1", first), ("scene", choice.premise), ("ask", choice.question), ("choice2", second)


def sayings(rng: random.Random, stage: Stage) -> list[tuple[str, str]]:
    """Draw some outcomes, which may be any words, and an answer word for each."""
    if rng.random() < 0.5:
        outcomes = rng.choice([outcomes for outcomes in OUTCOMES.values() if outcomes])
    else:
        words = [cue for cues in stage.reach.cues.values() for cue in cues]
        outcomes = tuple(rng.sample(words, rng.randrange(3, 6)))
    return shuffled(rng, zip(outcomes, rng.sample(PLAIN_ANSWERS, len(outcomes)), strict=True))


def some_scene(
    rng: random.Random, stage: Stage, *, about: Sequence[str] = (), distinct_names: bool = False
) -> Scene:
    """Draw a scene at a stage."""
    return scene(
        rng,
        "pretraining",
        num_cues=rng.choices((1, 2, 3, 4, 5), stage.scene_lengths)[0],
        num_fillers=few(rng, stage),
        about=about,
        distinct_names=distinct_names,
        reach=stage.reach,
    )


def statement(rng: random.Random, drawn: Scene, outcome: str, reach: Reach) -> str:
    """Claim a value that follows from the scene (so), contradicts it (not), or neither (open)."""
    if outcome == "open":
        attribute = rng.choice([name for name in reach.attributes if name not in drawn.values])
        value = rng.choice(ATTRIBUTES[attribute])
    else:
        attribute = rng.choice(tuple(drawn.values))
        value = drawn.values[attribute]
        if outcome == "not":
            value = rng.choice([other for other in ATTRIBUTES[attribute] if other != value])
    return sentence(rng, rng.choice(CLAIMS), v=value, a=ATTRIBUTE_OF[value])


def some_operation(rng: random.Random, stage: Stage) -> str:
    """Draw an operation by the weights of a stage."""
    operation = rng.choices(list(stage.weights), list(stage.weights.values()))[0]
    return rng.choice(stage.reach.attributes) if operation == "report" else operation


def shuffled(rng: random.Random, items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the items in random order."""
    order = list(items)
    rng.shuffle(order)
    return order
