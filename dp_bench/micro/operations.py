"""What the tiny T5 learns to do in pretraining: read a text and an instruction, answer with one word.

    "check so up not down ; claim: it was cold. scene: Anna saw the ice."  ->  up

An instruction is the name of an operation and, for each of its outcomes, what to say: `so up not down`.
Without the latter the outcome itself is the answer. The words a task answers with (yes, no, maybe …) never
occur with the operation that solves the task: the model must carry over what it has learned of saying.
Without any instruction nothing tells what is wanted; `uninstructed` examples teach just that: their answer is
random, so that the model does not act before it is told to.

The name may be missing where text and outcomes leave no doubt, instructions stand before the text, after it
or on both sides, and stray words may stand around them. `find` and `say` solve no task. They teach the two
look-ups that the others are made of (the cue a claim speaks of; what to say for an outcome), which are
otherwise learned late or never, because a yes or a no tells so little.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dp_bench.micro.lexicon import (
    ATTRIBUTE_OF,
    ATTRIBUTES,
    CLAIMS,
    FILLERS,
    FRAMES,
    LABEL_WORDS,
    NAMES,
    PLAIN_ANSWERS,
    PRETRAINING_MARKERS,
    QUERIES,
    SENSES,
    SENTINELS,
    TASK_MARKERS,
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
    "who": (),  # the person beside a cue
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
    "refer": 2,
    "who": 2,
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


@dataclass(frozen=True)
class Pair:
    """One example of pretraining: what the encoder reads and what the decoder writes."""

    operation: str
    source: str
    target: str


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
    elif operation == "say":
        pairs = sayings(rng, stage)
        asked, outcome = rng.choice(pairs)
        pieces = (("scene", " ".join(word for pair in pairs for word in pair)), ("ask", asked))
    elif operation == "find" and rng.random() < 0.4:
        choice = alternatives(
            rng, "pretraining", right=rng.randrange(2), claims=CLAIMS, num_fillers=fillers, reach=stage.reach
        )
        known = {**VALUE_OF, **ATTRIBUTE_OF}
        pieces = options(choice)
        outcome = next(word for word in words_of(choice.choices[choice.right]) if word in known)
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


def body(rng: random.Random, pieces: Sequence[tuple[str, str]], noise: float) -> str:
    """Lay the pieces out with their own markers, with any of the tasks' markers, or with none."""
    pieces = list(pieces)
    if len(pieces) == 2 and rng.random() < 0.5:
        pieces.reverse()
    elif len(pieces) == 4 and rng.random() < 0.5:  # premise and question before the two options
        pieces = pieces[2:] + pieces[:2]
    own_markers = rng.random() > (0.6 if len(pieces) < 4 else 0.3) * noise
    parts = []
    for own, text in pieces:
        marker = own if own_markers else rng.choice(TASK_MARKERS)
        end = "." if rng.random() < 0.15 * noise else ""
        parts.append(f"{text}{end}" if rng.random() < 0.15 * noise else f"{marker}: {text}{end}")
    return " ".join(parts)


def instructed(rng: random.Random, operation: str | None = None, stage: Stage = LAST) -> Pair:
    """Draw a question with an instruction that tells what to do and what to say."""
    operation = operation or some_operation(rng, stage)
    question = ask(rng, operation, stage)
    text = body(rng, question.pieces, stage.noise)
    outcomes = OUTCOMES[operation]
    if not outcomes or rng.random() < stage.bare:
        return Pair(operation, place(rng, [operation], [], text, stage.noise), question.outcome)
    labels = operation in OPEN_REPORTS and rng.random() < 0.5
    say = dict(
        zip(outcomes, rng.sample(LABEL_WORDS if labels else PLAIN_ANSWERS, len(outcomes)), strict=True)
    )
    saying = [word for outcome, answer in shuffled(rng, say.items()) for word in (outcome, answer)]
    name = [] if rng.random() < 0.25 * stage.noise else [operation]
    return Pair(operation, place(rng, name, saying, text, stage.noise), say[question.outcome])


def place(rng: random.Random, name: list[str], say: list[str], text: str, noise: float) -> str:
    """Put the instruction before the text, after it, or one part on each side."""
    if rng.random() < 0.3 * noise:
        name, say = stray(rng, name), stray(rng, say)
    before, after = rng.choice(((name + say, []), ([], name + say), (name, say), (say, name)))
    semicolon = ";" if rng.random() < 0.5 else ""
    return " ".join(
        filter(
            None,
            (
                " ".join(before),
                semicolon if before else "",
                text,
                semicolon if after else "",
                " ".join(after),
            ),
        )
    )


STRAY = (*NAMES, *SENSES, *PRETRAINING_MARKERS, *TASK_MARKERS)


def stray(rng: random.Random, words: list[str]) -> list[str]:
    """Let words that mean nothing stand around a part of an instruction."""
    return [*rng.choices(STRAY, k=rng.randrange(4)), *words, *rng.choices(STRAY, k=rng.randrange(3))]


def some_operation(rng: random.Random, stage: Stage) -> str:
    operation = rng.choices(list(stage.weights), list(stage.weights.values()))[0]
    return rng.choice(stage.reach.attributes) if operation == "report" else operation


def uninstructed(rng: random.Random, stage: Stage = LAST) -> Pair:
    """Draw a question without an instruction; which word answers it cannot be known."""
    operation = some_operation(rng, stage)
    question = ask(rng, operation, stage)
    text = body(rng, question.pieces, stage.noise)
    if rng.random() < 0.4:
        text = place(rng, stray(rng, []), stray(rng, []), text, stage.noise)
    answers = ("yes", "no") if rng.random() < 0.5 else LABEL_WORDS + PLAIN_ANSWERS
    if operation == "who" and rng.random() < 0.5:
        answers = tuple(word for word in words_of(text) if word.capitalize() in NAMES)
    return Pair("none", text, rng.choice(answers))


def denoising(rng: random.Random, stage: Stage = LAST) -> Pair:
    """Draw text with spans replaced by sentinels, as T5 is pretrained: the decoder writes the spans.

    Most gaps stand where reading is needed: after "heat:", after a claim that is `so` or `not`.
    """
    if rng.random() < 0.3:
        return on_one_topic(rng, stage)
    if rng.random() < 0.3:
        pairs = sayings(rng, stage)
        return with_gaps(
            rng, " ".join(word for pair in pairs for word in pair), shuffled(rng, pairs), blanks=0.0
        )
    kind = rng.random()
    gaps: list[tuple[str, str]] = []  # text up to a gap, and the word in it
    if kind < 0.5:
        found = some_scene(rng, stage)
        text = found.text
        gaps = [(f"{attribute}:", value) for attribute, value in shuffled(rng, found.values.items())]
    elif kind < 0.6:
        found = some_scene(rng, stage)
        text = found.text
        outcome = rng.choices(("so", "not", "open"), (5, 4, 1))[0]
        gaps = [(statement(rng, found, outcome, stage.reach), outcome)]
    elif kind < 0.7:
        use = uses(rng, "pretraining", same=rng.random() < 0.5, reach=stage.reach)
        text = " ".join(use.sentences)
        gaps = [(use.word, "same" if use.same else "different")]
    elif kind < 0.8:
        right = rng.randrange(2)
        choice = alternatives(rng, "pretraining", right=right, claims=CLAIMS, reach=stage.reach)
        text = " ".join((choice.premise, *choice.choices))
        gaps = [(choice.question, OUTCOMES["pick"][right])]
    elif kind < 0.9:
        choice = alternatives(rng, "pretraining", right=0, claims=CLAIMS, reach=stage.reach)
        text = f"{choice.premise} {'so' if choice.question == 'effect' else 'because'} {choice.choices[0]}"
    else:
        cues = rng.sample([cue for cues in stage.reach.cues.values() for cue in cues], 3)
        text = sentence(rng, rng.choice(FILLERS))
        gaps = [(f"{cue} is", VALUE_OF[cue]) for cue in cues]
    return with_gaps(rng, text, gaps)


def on_one_topic(rng: random.Random, stage: Stage) -> Pair:
    """Hide words of one value among others of it: words that keep company become alike."""
    value = rng.choice(tuple(stage.reach.cues))
    cues = rng.sample(stage.reach.cues[value], 3)
    sentences = [(sentence(rng, rng.choice(FRAMES), c=cue), cue) for cue in cues]
    sentences.append((sentence(rng, rng.choice(CLAIMS[:7]), v=value), value))
    rng.shuffle(sentences)
    hidden = set(rng.sample([*cues, value], 2))
    sentinels = iter(SENTINELS)
    source, target = [], []
    for text, word in sentences:
        words = words_of(text)
        if word in hidden:
            sentinel = next(sentinels)
            words = [sentinel if one == word else one for one in words]
            target += [sentinel, word]
        source += words
    return Pair("denoising", " ".join(source), " ".join(target))


def with_gaps(rng: random.Random, text: str, gaps: Sequence[tuple[str, str]], blanks: float = 0.2) -> Pair:
    words = words_of(text)
    blank = (
        set(rng.sample(range(len(words)), 1 if gaps else 3)) if rng.random() < blanks or not gaps else set()
    )
    pieces = [(word, i in blank) for i, word in enumerate(words)]
    for before, answer in gaps:
        pieces += [*((word, False) for word in words_of(before)), (answer, True), (".", False)]
    sentinels = iter(SENTINELS)
    source, target = [], []
    for word, hidden in pieces:
        if hidden:
            source.append(next(sentinels))
            target += [source[-1], word]
        else:
            source.append(word)
    return Pair("denoising", " ".join(source), " ".join(target))


def shuffled(rng: random.Random, items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    found = list(items)
    rng.shuffle(found)
    return found
