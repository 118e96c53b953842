"""Texts to token ids without special tokens, as fast as the tokenizer's rules allow.

Most tokenizers of this field (T5's, BERT's) split a text at its spaces before they do anything else, so a
word has the same ids wherever it stands. Each word is then tokenised once, and a text is looked up word by
word: MultiRC repeats a paragraph for each of its answers, and takes a tenth of the time. Other tokenizers
(byte-level BPE) are given whole texts. Either way the ids are those of `tokenizer(text)`, and so is what they
cover.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

from dp_bench.data.template import Rendered

MAX_WORDS = 200_000  # remembered at once, some 60 MB


class Tokens:
    """Tokenise texts; keeps what it has seen."""

    def __init__(self, tokenizer: Any) -> None:
        self.backend = tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self.by_words = splits_at_spaces(json.loads(self.backend.to_str()))
        self._ids: dict[str, list[int]] = {}
        self._odd: set[str] = set()  # words that the space beside them may change

    def of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        if not self.by_words:
            return self._whole(texts)
        words_of = self._learned(texts)
        ids_of = self._ids.__getitem__
        found = [
            None if self._is_odd(words) else list(chain.from_iterable(map(ids_of, words)))
            for words in words_of
        ]
        whole = iter(self._whole([text for text, ids in zip(texts, found, strict=True) if ids is None]))
        return [next(whole) if ids is None else ids for ids in found]

    def inside(self, texts: Sequence[Rendered]) -> list[list[int]]:
        """Return the places, among the ids of each text, of those in the field that gives way."""
        words_of = self._learned([text.text for text in texts]) if self.by_words else [None] * len(texts)
        return [
            self._inside_whole(text)
            if words is None or self._is_odd(words)
            else self._inside_words(text, words)
            for text, words in zip(texts, words_of, strict=True)
        ]

    def _whole(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def _learned(self, texts: Sequence[str]) -> list[list[str]]:
        """Split texts into words, all of which are known then."""
        if len(self._ids) > MAX_WORDS:
            self._ids.clear()
        words_of = [text.split(" ") for text in texts]
        new: set[str] = set().union(*words_of).difference(self._ids, self._odd)
        self._odd.update(word for word in new if not _stands_alone(word))
        plain = list(new - self._odd)
        self._ids.update(zip(plain, self._whole(plain), strict=True))
        return words_of

    def _is_odd(self, words: list[str]) -> bool:
        return bool(self._odd) and not self._odd.isdisjoint(words)

    def _inside_words(self, text: Rendered, words: list[str]) -> list[int]:
        """Look at the first and the last word of the field alone; those between are in it as they are."""
        first = text.text.count(" ", 0, text.shorten_start)
        last = text.text.count(" ", 0, text.shorten_end)
        ends = list(accumulate(len(self._ids[word]) for word in words[: last + 1]))
        starts = [0, *ends]
        places = self._inside_word(text, words, first, starts[first])
        if last > first:
            places += range(ends[first], starts[last])
            places += self._inside_word(text, words, last, starts[last])
        return places

    def _inside_word(self, text: Rendered, words: list[str], number: int, place: int) -> list[int]:
        base = sum(map(len, words[:number])) + number  # a space after each word before
        return [place + inner for inner in self._inside_whole(text, words[number], base)]

    def _inside_whole(self, text: Rendered, part: str | None = None, base: int = 0) -> list[int]:
        encoding = self.backend.encode(text.text if part is None else part, add_special_tokens=False)
        return [
            place
            for place, (start, end) in enumerate(encoding.offsets)
            if stands_inside(text, base + start, base + end)
        ]


def stands_inside(text: Rendered, start: int, end: int) -> bool:
    """Tell whether a token is of the field that gives way alone; one that reaches out of it is kept.

    A token may cover the space before its word, as T5's "▁word" does with some tokenizer files: that space is
    in the template and the word in the field, so the first character that is no space decides.
    """
    covered = text.text[start:end]
    first = start + len(covered) - len(covered.lstrip()) if covered.strip() else start
    return text.shorten_start <= first < text.shorten_end and text.shorten_start < end <= text.shorten_end


def _stands_alone(word: str) -> bool:
    """Tell whether a word surely forms no character together with the space beside it.

    Normalisers map whole grapheme clusters; a combining mark joins with the space before it, and some letters
    with the space after. None of those stands below U+0300.
    """
    return not word or max(word[0], word[-1]) < "\u0300"


def splits_at_spaces(description: dict[str, Any]) -> bool:
    """Tell from a tokenizer's JSON description whether a word's ids never depend on the words around it."""
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
    """Return what stands before a word in running text: a space, where the tokenizer makes it a part of the
    word's piece (GPT-2, RoBERTa)."""
    with_space, bare = (tokenizer(text, add_special_tokens=False).input_ids for text in (" yes", "yes"))
    return " " if with_space != bare and len(with_space) <= len(bare) else ""
