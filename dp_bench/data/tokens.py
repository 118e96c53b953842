"""Texts to token ids without special tokens, as fast as the tokenizer's rules allow.

Most tokenizers of this field (T5's, BERT's) split a text at its spaces before they do anything else, so a
word has the same ids wherever it stands. Each word is then tokenised once, and a text is looked up word by
word: MultiRC repeats a paragraph for each of its answers, and takes a tenth of the time. Other tokenizers
(byte-level BPE) are given whole texts. Either way the ids are those of `tokenizer(text)`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

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
        if len(self._ids) > MAX_WORDS:
            self._ids.clear()
        words_of = [text.split(" ") for text in texts]
        self._learn(set().union(*words_of).difference(self._ids, self._odd))
        ids_of = self._ids.__getitem__
        found = [
            None
            if self._odd and not self._odd.isdisjoint(words)
            else list(chain.from_iterable(map(ids_of, words)))
            for words in words_of
        ]
        whole = iter(self._whole([text for text, ids in zip(texts, found, strict=True) if ids is None]))
        return [next(whole) if ids is None else ids for ids in found]

    def with_offsets(self, texts: Sequence[str]) -> list[Any]:
        """Return the tokenizers library's encodings, which tell the characters that each token covers."""
        encodings: list[Any] = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return encodings

    def _whole(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def _learn(self, words: set[str]) -> None:
        self._odd.update(word for word in words if not _stands_alone(word))
        plain = list(words - self._odd)
        self._ids.update(zip(plain, self._whole(plain), strict=True))


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
