"""The texts of pretraining: questions with an instruction, questions without one, and texts with gaps.

    "check so up not down ; claim: it was cold. scene: Anna saw the ice."  ->  up

An instruction is the name of an operation and an answer word for each of its outcomes: `so up not down`.
Without answer words the outcome itself is the answer. The label words of a task (yes, no, maybe …) never
occur with the operation that solves the task: the model must transfer the use of answer words to them.
`uninstructed` examples have random answers, so that without an instruction the model guesses.

The name may be missing where text and outcomes identify the operation. Instructions are before the text,
after it or on both sides, with or without random words around them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dp_bench.micro.lexicon import (
    CLAIMS,
    FRAMES,
    LABEL_WORDS,
    NAMES,
    PLAIN_ANSWERS,
    PRETRAINING_MARKERS,
    SENSES,
    SENTINELS,
    TASK_MARKERS,
    VALUE_OF,
    WOMEN,
    words_of,
)
from dp_bench.micro.operations import (
    LAST,
    OPEN_REPORTS,
    OUTCOMES,
    Question,
    Stage,
    ask,
    picked,
    sayings,
    shuffled,
)
from dp_bench.micro.scenes import alternatives, filler, sentence, statement, uses


@dataclass(frozen=True)
class Pair:
    """One example of pretraining: the texts of encoder and decoder."""

    source: str
    target: str


def body(rng: random.Random, operation: str, question: Question, noise: float) -> str:
    """Join the pieces with their markers, with random markers of the tasks, or without markers.

    The markers of options are kept, because they are the outcomes.
    """
    pieces = list(question.pieces)
    fixed = ("choice1", "choice2") if operation == "pick" else ()
    if pieces[-1][0] in ("ask", "claim") and rng.random() < 0.5:
        pieces = pieces[-1:] + pieces[:-1]
    keep_markers = rng.random() > 0.6 * noise
    parts = []
    for name, text in pieces:
        marker = name if keep_markers or name in fixed else rng.choice(TASK_MARKERS)
        end = "." if rng.random() < 0.15 * noise else ""
        bare = name not in fixed and rng.random() < 0.15 * noise
        parts.append(f"{text}{end}" if bare else f"{marker}: {text}{end}")
    return " ".join(parts)


def instructed(rng: random.Random, operation: str | None = None, stage: Stage = LAST) -> Pair:
    """Draw a question with an instruction: the operation and its answer words."""
    operation = operation or stage.operation(rng)
    question = ask(rng, operation, stage)
    text = body(rng, operation, question, stage.noise)
    outcomes = OUTCOMES[operation]
    if not outcomes or rng.random() < stage.bare:
        return Pair(with_instruction(rng, [operation], [], text, stage.noise), question.outcome)
    answers = LABEL_WORDS if operation in OPEN_REPORTS and rng.random() < 0.5 else PLAIN_ANSWERS
    say = dict(zip(outcomes, rng.sample(answers, len(outcomes)), strict=True))
    saying = [word for outcome, answer in shuffled(rng, say.items()) for word in (outcome, answer)]
    name = [] if rng.random() < 0.25 * stage.noise else [operation]
    return Pair(with_instruction(rng, name, saying, text, stage.noise), say[question.outcome])


def with_instruction(rng: random.Random, name: list[str], say: list[str], text: str, noise: float) -> str:
    """Put the instruction before the text, after it, or one part on each side."""
    if rng.random() < 0.3 * noise:
        name, say = stray(rng, name), stray(rng, say)
    before, after = rng.choice(((name + say, []), ([], name + say), (name, say), (say, name)))
    semicolon = ";" if rng.random() < 0.5 else ""
    parts = (*before, semicolon if before else "", text, semicolon if after else "", *after)
    return " ".join(filter(None, parts))


STRAY = (*NAMES, *SENSES, *PRETRAINING_MARKERS, *TASK_MARKERS)


def stray(rng: random.Random, words: list[str]) -> list[str]:
    """Put random words around a part of an instruction."""
    return [*rng.choices(STRAY, k=rng.randrange(4)), *words, *rng.choices(STRAY, k=rng.randrange(3))]


def uninstructed(rng: random.Random, stage: Stage = LAST) -> list[Pair]:
    """Draw a question without an instruction, once with each of its possible answers.

    All of them together teach a uniform guess; one at random would add noise.
    """
    operation = stage.operation(rng)
    text = body(rng, operation, ask(rng, operation, stage), stage.noise)
    if rng.random() < 0.4:
        text = with_instruction(rng, stray(rng, []), stray(rng, []), text, stage.noise)
    kind = rng.random()
    if operation == "who" and kind < 0.5:
        answers = [word for word in words_of(text) if word.capitalize() in NAMES]
    elif kind < 0.6:
        answers = ["yes", "no"]
    elif kind < 0.75:
        answers = ["yes", "no", "maybe"]
    else:
        answers = rng.sample(LABEL_WORDS, 2) if rng.random() < 0.7 else rng.sample(PLAIN_ANSWERS, 2)
    return [Pair(text, answer) for answer in dict.fromkeys(answers)]


def denoising(rng: random.Random, stage: Stage = LAST) -> Pair:
    """Draw a text with spans replaced by sentinels, as T5 is pretrained: the decoder writes the spans.

    Most gaps are where the text must be read: after "heat:", after a claim that is `so` or `not`.
    """
    if rng.random() < 0.3:
        return on_one_topic(rng, stage)
    if rng.random() < 0.3:
        pairs = sayings(rng, stage)
        text = " ".join(word for pair in pairs for word in pair)
        return with_gaps(rng, text, shuffled(rng, pairs), blanks=0.0)
    kind = rng.random()
    gaps: list[tuple[str, str]] = []  # text up to a gap, and the word in it
    if kind < 0.6:
        scene = stage.scene(rng)
        text = scene.text
        if kind < 0.5:
            gaps = [(f"{attribute}:", value) for attribute, value in shuffled(rng, scene.values.items())]
        else:
            outcome = rng.choices(OUTCOMES["judge"], (5, 4, 1))[0]
            gaps = [(statement(rng, CLAIMS, outcome, scene, reach=stage.reach), outcome)]
    elif kind < 0.7:
        same = rng.random() < 0.5
        use = uses(rng, "pretraining", same=same, reach=stage.reach)
        text = " ".join(use.sentences)
        gaps = [(use.word, "same" if same else "different")]
    elif kind < 0.85:
        choice = alternatives(rng, "pretraining", right=rng.randrange(2), claims=CLAIMS, reach=stage.reach)
        question = picked(choice)
        text = body(rng, "pick", question, noise=0.0)
        gaps = [(choice.question, question.outcome)]
    elif kind < 0.92:
        choice = alternatives(rng, "pretraining", right=0, claims=CLAIMS, reach=stage.reach)
        text = f"{choice.premise} {'so' if choice.question == 'effect' else 'because'} {choice.choices[0]}"
    else:
        cues = rng.sample([cue for cues in stage.reach.cues.values() for cue in cues], 3)
        text = filler(rng)
        gaps = [(f"{cue} is", VALUE_OF[cue]) for cue in cues]
        gaps += [(f"{name}:", "she" if name in WOMEN else "he") for name in rng.sample(NAMES, 2)]
    return with_gaps(rng, text, gaps)


def on_one_topic(rng: random.Random, stage: Stage) -> Pair:
    """Draw sentences about one value with gaps, so that its words get similar embeddings."""
    value = rng.choice(tuple(stage.reach.cues))
    cues = rng.sample(stage.reach.cues[value], 3)
    sentences = [sentence(rng, rng.choice(FRAMES), c=cue) for cue in cues]
    sentences.append(sentence(rng, rng.choice(CLAIMS[:7]), v=value))
    rng.shuffle(sentences)
    hidden = rng.sample([*cues, value], 2)
    return gapped((word, word in hidden) for word in words_of(" ".join(sentences)))


def with_gaps(rng: random.Random, text: str, gaps: Sequence[tuple[str, str]], blanks: float = 0.2) -> Pair:
    """Append the gaps, each a text and the hidden word after it, to a text that may have gaps too.

    `blanks` is the probability of a random gap in the text; without `gaps` it gets three.
    """
    words = words_of(text)
    has_blanks = rng.random() < blanks or not gaps
    blank = rng.sample(range(len(words)), 1 if gaps else 3) if has_blanks else []
    pieces = [(word, i in blank) for i, word in enumerate(words)]
    for before, answer in gaps:
        pieces += [*((word, False) for word in words_of(before)), (answer, True), (".", False)]
    return gapped(pieces)


def gapped(pieces: Iterable[tuple[str, bool]]) -> Pair:
    """Replace the words of a text that are hidden by sentinels, after which the decoder writes them."""
    sentinels = iter(SENTINELS)
    source, target = [], []
    for word, hidden in pieces:
        if hidden:
            source.append(next(sentinels))
            target += [source[-1], word]
        else:
            source.append(word)
    return Pair(" ".join(source), " ".join(target))
