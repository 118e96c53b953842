"""Texts to token ids without special tokens, as fast as the rules of the tokenizer allow.

Many tokenizers (T5's, BERT's) first split a text at its spaces, so that a word has the same ids in every
text. With them each word is tokenised once and texts are looked up word by word: MultiRC, which repeats a
paragraph for each of its answers, takes a tenth of the time. Other tokenizers (byte-level BPE) get whole
texts. In both cases ids and offsets equal those of `tokenizer(text)`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

from dp_bench.data.template import Rendered

MAX_WORDS = 200_000  # kept in memory, some 60 MB


class Tokens:
    """Tokenise texts, keeping the ids of words that have been seen."""

    def __init__(self, tokenizer: Any) -> None:
        self.backend = tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self.by_words = splits_at_spaces(json.loads(self.backend.to_str()))
        self._ids: dict[str, list[int]] = {}
        self._odd: set[str] = set()  # words whose ids may depend on an adjacent space

    def of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        if not self.by_words:
            return self._whole(texts)
        words_of = self._words_with_ids(texts)
        ids_of = self._ids.__getitem__
        looked_up = [
            None if self._is_odd(words) else list(chain.from_iterable(map(ids_of, words)))
            for words in words_of
        ]
        whole = iter(self._whole([text for text, ids in zip(texts, looked_up, strict=True) if ids is None]))
        return [next(whole) if ids is None else ids for ids in looked_up]

    def inside(self, texts: Sequence[Rendered]) -> list[list[int]]:
        """Return, for each text, the indices of its tokens in the field that may be shortened."""
        words_of = self._words_with_ids([t.text for t in texts]) if self.by_words else [None] * len(texts)
        return [
            self._inside_part(text, text.text, 0)
            if words is None or self._is_odd(words)
            else self._inside_words(text, words)
            for text, words in zip(texts, words_of, strict=True)
        ]

    def _whole(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def _words_with_ids(self, texts: Sequence[str]) -> list[list[str]]:
        """Split texts into words, and tokenise those that are new and not odd."""
        if len(self._ids) > MAX_WORDS:
            self._ids.clear()
        words_of = [text.split(" ") for text in texts]
        new: set[str] = set().union(*words_of).difference(self._ids, self._odd)
        self._odd.update(word for word in new if not _is_independent(word))
        plain = list(new - self._odd)
        self._ids.update(zip(plain, self._whole(plain), strict=True))
        return words_of

    def _is_odd(self, words: list[str]) -> bool:
        return bool(self._odd) and not self._odd.isdisjoint(words)

    def _inside_words(self, text: Rendered, words: list[str]) -> list[int]:
        """Tokenise only the first and the last word of the field; the words between are completely inside."""
        first = text.text.count(" ", 0, text.shorten_start)
        last = text.text.count(" ", 0, text.shorten_end)
        starts = [0, *accumulate(len(self._ids[word]) for word in words[: last + 1])]
        indices = list(range(starts[first + 1], starts[last]))
        for number in {first, last}:
            base = sum(map(len, words[:number])) + number  # one space after each word before it
            indices += [starts[number] + index for index in self._inside_part(text, words[number], base)]
        return sorted(indices)

    def _inside_part(self, text: Rendered, part: str, base: int) -> list[int]:
        """Return the indices of the tokens of a part, which starts at character `base` of the text."""
        offsets = self.backend.encode(part, add_special_tokens=False).offsets
        return [i for i, (start, end) in enumerate(offsets) if is_inside(text, base + start, base + end)]


def is_inside(text: Rendered, start: int, end: int) -> bool:
    """Return whether the token text[start:end] lies inside the field that may be shortened.

    A token may cover the space before its word, as T5's "▁word" does with some tokenizer files. That space
    may belong to the template, so the first character that is not a space decides.
    """
    covered = text.text[start:end]
    first = start + len(covered) - len(covered.lstrip()) if covered.strip() else start
    return text.shorten_start <= first < text.shorten_end and text.shorten_start < end <= text.shorten_end


def _is_independent(word: str) -> bool:
    """Return whether a word certainly forms no grapheme cluster with an adjacent space.

    Normalisers map whole grapheme clusters; a combining mark joins with the space before it, and some letters
    with the space after. All of these are U+0300 or higher.
    """
    return not word or max(word[0], word[-1]) < "\u0300"


def splits_at_spaces(description: dict[str, Any]) -> bool:
    """Return whether the ids of a word never depend on other words, by a tokenizer's JSON."""
    splitter = description["pre_tokenizer"] or {"type": None}
    first, *rest = splitter.get("pretokenizers") or [splitter]
    normalizer = description["normalizer"] or {"type": None}
    return (
        first["type"] in ("WhitespaceSplit", "Whitespace", "BertPreTokenizer")
        and all(step.get("prepend_scheme") in (None, "always") for step in rest)
        and normalizer["type"] in (None, "Precompiled", "Lowercase", "BertNormalizer")
        and not any(" " in token["content"] for token in description["added_tokens"])
    )


def word_prefix(tokenizer: Any) -> str:
    """Return the prefix of words inside a text: a space if it is part of their tokens (GPT-2, RoBERTa)."""
    with_space, bare = (tokenizer(text, add_special_tokens=False).input_ids for text in (" yes", "yes"))
    return " " if with_space != bare and len(with_space) <= len(bare) else ""
