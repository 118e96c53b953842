"""Every word of the generated world: people, attributes and cues, words with two senses, sentence frames.

A scene does not contain "it was cold" but "Anna saw the ice". `ice` is a *cue* of the value `cold` of the
attribute `heat`. The tiny T5 learns cues in pretraining; the tasks ask about values.
"""

from __future__ import annotations

import re


def words(text: str) -> tuple[str, ...]:
    """Split a text at white space."""
    return tuple(text.split())


WOMEN = words("Anna Clara Dora Emma Gina Iris Julia Kate Lena Mia Nora Olga Petra Rosa Sara Tina")
MEN = words("Adam Ben Carl Dave Emil Fred Hugo Ivan Jack Leo Max Noah Otto Paul Ralf Sam")
NAMES = WOMEN + MEN
PRONOUNS = {"she": WOMEN, "he": MEN}

CUES: dict[str, tuple[str, ...]] = {
    "happy": words("joy smile laughter delight party gift"),
    "sad": words("tear grief sorrow funeral loss regret"),
    "big": words("giant tower whale mountain elephant palace"),
    "small": words("ant crumb pebble seed flea button"),
    "day": words("sun noon dawn lunch breakfast school"),
    "night": words("moon star owl midnight dusk dream"),
    "hot": words("fire oven desert steam lava furnace"),
    "cold": words("ice snow frost winter fridge glacier"),
    "loud": words("thunder drum siren alarm trumpet explosion"),
    "quiet": words("whisper library hush feather murmur cushion"),
    "red": words("rose blood cherry ruby brick tomato"),
    "green": words("grass leaf moss frog emerald lettuce"),
    "blue": words("sky sapphire jeans lagoon ink cobalt"),
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "mood": ("happy", "sad"),
    "size": ("big", "small"),
    "time": ("day", "night"),
    "heat": ("hot", "cold"),
    "sound": ("loud", "quiet"),
    "color": ("red", "green", "blue"),
}
ATTRIBUTE_OF = {value: attribute for attribute, values in ATTRIBUTES.items() for value in values}
VALUE_OF = {cue: value for value, cues in CUES.items() for cue in cues}

SENSES: dict[str, tuple[str, str]] = {  # words of two senses: a cue of one of the values decides
    "bank": ("big", "quiet"),
    "bark": ("loud", "green"),
    "bass": ("loud", "cold"),
    "bat": ("night", "small"),
    "bow": ("happy", "big"),
    "chip": ("small", "hot"),
    "crane": ("big", "sad"),
    "current": ("cold", "blue"),
    "date": ("happy", "day"),
    "iron": ("hot", "quiet"),
    "light": ("day", "small"),
    "match": ("hot", "loud"),
    "mint": ("green", "cold"),
    "mole": ("small", "night"),
    "note": ("sad", "loud"),
    "palm": ("green", "happy"),
    "pitch": ("night", "loud"),
    "ring": ("red", "quiet"),
    "seal": ("cold", "sad"),
    "spring": ("day", "blue"),
    "trunk": ("big", "red"),
    "wave": ("blue", "happy"),
}

FRAMES = (  # {n} a person, {c} a cue
    "{n} saw the {c}.",
    "there was {c} near {n}.",
    "{n} spoke of {c}.",
    "{n} thought about the {c}.",
    "the {c} was close to {n}.",
    "{n} found {c}.",
    "with {n} came the {c}.",
    "{n} wrote about {c}.",
    "near the {c} stood {n}.",
    "{n} and the {c} were there.",
)
FILLERS = (  # without a cue
    "{n} met {m}.",
    "then {n} came with {m}.",
    "{n} spoke to {m}.",
    "{n} stood near {m}.",
)
SENSE_FRAMES = (  # {w} a word of two senses
    "the {w} was near {c}.",
    "{n} saw the {w} and {c}.",
    "{n} spoke of the {w} with {c}.",
    "there was {c} and a {w}.",
    "{n} found a {w} close to the {c}.",
    "with the {c} came the {w}.",
)
PRONOUN_FRAMES = (  # {p} a pronoun; {n} and {m} are of different gender
    "{n} met {m} because {p} saw the {c}.",
    "{n} spoke to {m} and {p} found {c}.",
    "{n} stood near {m} when {p} wrote about the {c}.",
    "{n} came with {m} and then {p} thought about {c}.",
)

# Claims of pretraining and of the tasks use the same words in different orders.
CLAIMS = (
    "it was {v}.",
    "it is {v}.",
    "was it {v}?",
    "it seemed {v}.",
    "{v}.",
    "all seemed {v} there.",
    "something here was {v}.",
    "is something there {v}?",
    "how is the {a}? {v}.",
    "{a} there: so {v}.",
    "what was the {a}? very {v}.",
)
QUESTIONS = ("is it {v} here", "was something {v} there", "was all {v}", "is it so {v}")
HYPOTHESES = ("something there was {v}.", "it is {v} here.", "all was very {v}.", "it seemed so {v}.")
ATTRIBUTE_QUESTIONS = ("what is the {a} here?", "how was the {a} there?", "how seemed the {a}?")
QUERIES = ("it was {n} who saw the {c}", "the {c} was there near {n}")  # ReCoRD
ANSWERS = ("{v}", "very {v}", "so {v}")

TASK_MARKERS = words(
    """premise hypothesis passage question sentence1 sentence2 word answer paragraph choice1 choice2 query
    context entities text report story"""
)
PRETRAINING_MARKERS = words("scene claim ask item line option")

# Words used as answers. In pretraining, the label words of the tasks answer few operations.
PLAIN_ANSWERS = words("plus minus up down left right in out agree deny lock shut odd even sure never")
LABEL_WORDS = words("yes no maybe true false first second cause effect")

OTHER_WORDS = words(
    """say about find none check judge compare pick where who refer same different open not
    does do pronoun to or else and a an the of in on at for entailment contradiction neutral entity
    @ highlight placeholder - * # " ' , . : ; ? ! ( ) because when then so"""
)
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(8))


def words_of(text: str) -> list[str]:
    """Split a text as the tokenizer does: lower case, at white space, every punctuation mark a word."""
    return re.findall(r"[^\W_]+|[^\w\s]|_", text.lower())


def vocabulary() -> list[str]:
    """List every word of the world once, in a fixed order; ids 0, 1, 2 are padding, end and unknown."""
    frames = (
        *FRAMES, *FILLERS, *SENSE_FRAMES, *PRONOUN_FRAMES, *CLAIMS,
        *QUESTIONS, *QUERIES, *HYPOTHESES, *ATTRIBUTE_QUESTIONS, *ANSWERS,
    )  # fmt: skip
    content = [
        *NAMES, *PRONOUNS, *ATTRIBUTES, *ATTRIBUTE_OF, *VALUE_OF, *SENSES,
        *words_of(" ".join(re.sub(r"\{.\}", " ", frame) for frame in frames)),
        *TASK_MARKERS, *PRETRAINING_MARKERS, *PLAIN_ANSWERS, *LABEL_WORDS, *OTHER_WORDS,
    ]  # fmt: skip
    return ["<pad>", "</s>", "<unk>", *dict.fromkeys(word.lower() for word in content)]
