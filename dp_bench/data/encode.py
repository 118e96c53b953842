"""Examples to token ids: rendered, shortened where the template allows, and cached on disk.

A text that is too long loses tokens at the end of one field, as in OpenPrompt, which the authors used;
nothing else is cut. An encoded split is an Arrow file in a folder below `cache_dir/encoded`, named by a
digest of all its inputs. It is written and read in parts: neither the texts nor the ids need to fit into
memory.

This module imports torch and datasets, which take seconds: import it only where a run begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.ipc

from dp_bench.data.cache import cached_folder
from dp_bench.data.encoded import EncodedSplit
from dp_bench.data.overlap import text_key
from dp_bench.data.template import Rendered, Template
from dp_bench.data.tokens import Tokens, word_prefix
from dp_bench.settings import Scoring
from dp_bench.types import Example, UserError

CODE_VERSION = 4  # raise it when the same input is encoded differently
CHUNK = 1000  # texts tokenised at once: enough for the tokenizer's threads, little enough for memory
DATA = "data.arrow"
Refuse = Callable[[Example, str], None]  # takes an example that cannot be read, and why


def encode(
    examples: Iterable[Example],
    template: Template,
    tokenizer: Any,
    *,
    max_length: int,
    cache_dir: Path,
    key_parts: Mapping[str, object],
    scoring: Scoring = Scoring.words,
    cue: str | None = None,
) -> EncodedSplit:
    """Encode the examples as `Encoder` does, or read them from the cache.

    `examples` is iterated once for the cache key and, if the cache lacks it, once more: pass a list, or an
    `ExampleFile`, which holds none of them in memory. The key covers the examples, the template, the
    tokenizer and `max_length`; `key_parts` adds what only the caller knows, such as the file's sha256 and
    the limit. Raises UserError as `Encoder` does.
    """
    encoder = Encoder(template, tokenizer, max_length, scoring, cue)
    parts = {
        "code": [CODE_VERSION, version("tokenizers"), version("datasets")],
        "examples": _digest_of_examples(examples, scoring),
        "template": [template.text, template.shorten],
        "tokenizer": [
            _digest_of_tokenizer(tokenizer),
            encoder.prefix,
            encoder.suffix,
            tokenizer.eos_token_id,
        ],
        "max_length": max_length,
        "scoring": scoring.value,
        "caller": dict(key_parts),
        **({} if cue is None else {"word_prefix": word_prefix(tokenizer)}),
        **({"ends_as_cue": True} if cue == "" else {}),
    }
    key = sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def write(new: Path) -> None:
        with pyarrow.ipc.new_stream(new / DATA, encoder.schema) as stream:
            for rows in encoder.batches(examples):
                stream.write_batch(rows)

    folder = cached_folder(cache_dir / "encoded" / key, write)
    dataset = datasets.Dataset.from_file(str(folder / DATA))
    return EncodedSplit(dataset, key, np.arange(len(dataset), dtype=np.int64), encoder.answer_offset)


# ---------------------------------------------------------------------------------------------- tokens


class Encoder:
    """Encode examples with one template and tokenizer.

    `max_length` counts tokens, special ones included. With `scoring=choices` the choices of each example are
    encoded too, each with the tokenizer's end token if it ends texts with one. `cue` is appended to every
    text, before the special tokens: it is not part of the body and is never shortened; "" makes the last
    token of each text its cue. The answer is read at its mask token, written `{mask}`, or else at its last
    token. Raises UserError if a text is too long even without the field that may be shortened.
    """

    def __init__(
        self, template: Template, tokenizer: Any, max_length: int, scoring: Scoring, cue: str | None
    ) -> None:
        if not tokenizer.is_fast:
            raise UserError(
                f"{type(tokenizer).__name__} is not a fast tokenizer, which alone knows the characters of "
                "each token: set backbone.tokenizer to a folder with a tokenizer.json."
            )
        self.template, self.max_length, self.scoring = template, max_length, scoring
        self.prefix, special = affixes(tokenizer)
        cue_tokens, self.answer_offset = cue_ids(cue, tokenizer)
        self.suffix = [*cue_tokens, *special]
        self.ends_as_cue = cue == ""
        self.tokens = Tokens(tokenizer)
        self.end = [tokenizer.eos_token_id] if tokenizer.eos_token_id in special else []
        self.before_word = word_prefix(tokenizer)
        self.unknown = tokenizer.unk_token_id
        self.schema = _schema(scoring)

    def in_memory(self, examples: Iterable[Example], refuse: Refuse | None = None) -> EncodedSplit:
        """Return examples encoded, without a cache and without those that are passed to `refuse`."""
        table = pyarrow.Table.from_batches(list(self.batches(examples, refuse)), self.schema)
        dataset = datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint="0")
        return EncodedSplit(dataset, "", np.arange(len(dataset), dtype=np.int64), self.answer_offset)

    def batches(
        self, examples: Iterable[Example], refuse: Refuse | None = None
    ) -> Iterator[pyarrow.RecordBatch]:
        """Yield the rows of the Arrow file, at most CHUNK at a time. An example that cannot be encoded is
        passed to `refuse` with the reason, or else ends the encoding as a UserError."""
        remaining = iter(examples)
        while chunk := list(islice(remaining, CHUNK)):
            rows = [row for row in self._rows(chunk, refuse or _end) if row]
            yield pyarrow.RecordBatch.from_pylist(rows, schema=self.schema)

    def _rows(self, chunk: Sequence[Example], refuse: Refuse) -> list[dict[str, Any] | None]:
        """Return the rows of examples; None for those refused."""
        budget = self.max_length - len(self.prefix) - len(self.suffix)
        texts = [self.template.render(example.fields) for example in chunk]
        bodies, num_cut = _bodies(texts, self.tokens, budget)
        rows: list[dict[str, Any] | None] = []
        for example, body, cut in zip(chunk, bodies, num_cut, strict=True):
            row: dict[str, Any] = {
                "id": example.id,
                "group": example.group,
                "source": example.source,
                "input_ids": [*self.prefix, *body, *self.suffix],
                "body_start": len(self.prefix),
                "body_end": len(self.prefix) + len(body) - self.ends_as_cue,
                "label": -1 if example.label is None else example.label,
                "skill": -1 if example.skill is None else example.skill,
                "num_cut": cut,
                "num_unknown": 0 if self.unknown is None else body.count(self.unknown),
                "text": text_key(example),
            }
            if len(body) > budget:
                refuse(
                    example,
                    f"{example.id}: even without {{{self.template.shorten}}}, which may be shortened, the "
                    f"text has {len(row['input_ids'])} tokens, special ones included, more than "
                    f"task.max_length={self.max_length}. Raise task.max_length.",
                )
            rows.append(row if len(body) <= budget else None)
        return self._with_choices(chunk, rows, refuse) if self.scoring.is_whole else rows

    def _with_choices(
        self, chunk: Sequence[Example], rows: Sequence[dict[str, Any] | None], refuse: Refuse
    ) -> list[dict[str, Any] | None]:
        """Return the rows with the ids of choices; None where one has no tokens."""
        texts = [self.before_word + text for example in chunk for text in example.written or example.choices]
        choice_ids = iter(self.tokens.of(texts))
        complete: list[dict[str, Any] | None] = []
        for example, row in zip(chunk, rows, strict=True):
            encoded = list(islice(choice_ids, len(example.choices)))
            has_empty = row is not None and not all(encoded)
            if has_empty:
                empty = example.choices[encoded.index([])]
                refuse(
                    example,
                    f"{example.id}, line {example.line} of its file: the choice {empty!r} has no tokens "
                    "under this tokenizer, so it cannot be scored. Change it, or remove the example.",
                )
            choices = {
                "choices": example.choices,
                "choice_ids": [[*ids, *self.end] for ids in encoded],
                "golds": _golds(example),
            }
            complete.append(None if row is None or has_empty else {**row, **choices})
        return complete


def _end(_: Example, reason: str) -> None:
    raise UserError(reason)


def _golds(example: Example) -> tuple[int, ...]:
    return example.golds or (() if example.label is None else (example.label,))


def _bodies(texts: Sequence[Rendered], tokens: Tokens, budget: int) -> tuple[list[list[int]], list[int]]:
    """Return the ids of each text, and by how many tokens it was too long.

    That many are dropped from the end of the `shorten` field, or all of the field if it has fewer.
    """
    bodies = tokens.of([text.text for text in texts])
    num_cut = [max(0, len(body) - budget) for body in bodies]
    too_long = [index for index, cut in enumerate(num_cut) if cut]
    inside_of = tokens.inside([texts[index] for index in too_long])
    for index, inside in zip(too_long, inside_of, strict=True):
        bodies[index] = np.delete(bodies[index], inside[-num_cut[index] :]).tolist()
    return bodies, num_cut


def cue_ids(cue: str | None, tokenizer: Any) -> tuple[list[int], int | None]:
    """Return the ids of an answer cue, and the index of its mask token, or else of its last token."""
    if not cue:
        return [], None if cue is None else 0
    mask = tokenizer.mask_token
    if "{mask}" in cue and mask is None:
        raise UserError(f"The answer cue '{cue}' has a {{mask}}, but this tokenizer has no mask token.")
    ids: list[int] = tokenizer(cue.replace("{mask}", mask or ""), add_special_tokens=False).input_ids
    if not ids:
        raise UserError(f"The answer cue {cue!r} has no token: use something such as ' Answer:'.")
    return ids, ids.index(tokenizer.mask_token_id) if "{mask}" in cue else len(ids) - 1


def affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer adds before and after a text; for T5 none and `</s>`."""
    bare: list[int] = tokenizer("a", add_special_tokens=False).input_ids
    full: list[int] = tokenizer("a").input_ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise ValueError(
        f"{type(tokenizer).__name__} does not put its special tokens around a text: {bare} and {full}"
    )


# ---------------------------------------------------------------------------------------------- cache


def _digest_of_examples(examples: Iterable[Example], scoring: Scoring) -> str:
    digest = sha256()
    for example in examples:
        row: list[Any] = [example.id, example.group, example.source, example.label, dict(example.fields)]
        row += [] if example.skill is None else [example.skill]
        if scoring.is_whole:
            row += [example.choices, _golds(example), *([example.written] if example.written else [])]
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def _digest_of_tokenizer(tokenizer: Any) -> str:
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    # The state of the last call, not of the tokenizer.
    for state in ("truncation", "padding"):
        description.pop(state, None)
    return sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _schema(scoring: Scoring) -> Any:
    text, integer = pyarrow.string(), pyarrow.int32()
    columns = {
        **dict.fromkeys(("id", "group", "source"), text),
        "input_ids": pyarrow.list_(integer),
        **dict.fromkeys(("body_start", "body_end", "label", "skill", "num_cut", "num_unknown"), integer),
        "text": pyarrow.int64(),
    }
    if scoring.is_whole:
        columns["choices"] = pyarrow.list_(text)
        columns["choice_ids"] = pyarrow.list_(pyarrow.list_(integer))
        columns["golds"] = pyarrow.list_(integer)
    return pyarrow.schema(columns)
