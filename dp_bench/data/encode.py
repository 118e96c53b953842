"""Examples to token ids: rendered, shortened where the template allows, and cached on disk.

A text that is too long loses tokens at the end of one field, as in OpenPrompt, which the authors used;
nothing else is cut. An encoded split is an Arrow file in a folder below `cache_dir/encoded`, named by a
digest of all its inputs. It is written and read in parts: neither the texts nor the ids need to fit into
memory.

This module imports torch and datasets, which take seconds: import it only where a run begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """Encode the examples, or read them from the cache.

    `examples` is iterated once for the cache key and, if the cache lacks it, once more: pass a list, or an
    `ExampleFile`, which holds none of them in memory. The key covers the examples, the template, the
    tokenizer and `max_length` (in tokens, special ones included); `key_parts` adds what only the caller
    knows, such as the file's sha256 and the limit. With `scoring=choices` the choices of each example are
    encoded too, each with the tokenizer's end token if it ends texts with one. `cue` is appended to every
    text, before the special tokens: it is not part of the body and is never shortened; "" makes the last
    token of each text its cue. The answer is read at its mask token, written `{mask}`, or else at its last
    token. Raises UserError if a text is too long even without the field that may be shortened.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, which alone knows the characters of each "
            "token: set backbone.tokenizer to a folder with a tokenizer.json."
        )
    prefix, end = _affixes(tokenizer)
    cue_ids, answer_offset = _cue(cue, tokenizer)
    ends_as_cue = cue == ""
    suffix = [*cue_ids, *end]
    parts = {
        "code": [CODE_VERSION, version("tokenizers"), version("datasets")],
        "examples": _digest_of_examples(examples, scoring),
        "template": [template.text, template.shorten],
        "tokenizer": [_digest_of_tokenizer(tokenizer), prefix, suffix, tokenizer.eos_token_id],
        "max_length": max_length,
        "scoring": scoring.value,
        "caller": dict(key_parts),
        **({} if cue is None else {"word_prefix": word_prefix(tokenizer)}),
        **({"ends_as_cue": True} if ends_as_cue else {}),
    }
    key = sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def write(new: Path) -> None:
        schema = _schema(scoring)
        affixes = (prefix, cue_ids, end)
        with pyarrow.ipc.new_stream(new / DATA, schema) as stream:
            for rows in _encoded(examples, template, tokenizer, max_length, affixes, scoring, ends_as_cue):
                stream.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema=schema))

    folder = cached_folder(cache_dir / "encoded" / key, write)
    dataset = datasets.Dataset.from_file(str(folder / DATA))
    return EncodedSplit(dataset, key, np.arange(len(dataset), dtype=np.int64), answer_offset)


# ---------------------------------------------------------------------------------------------- tokens


def _encoded(
    examples: Iterable[Example],
    template: Template,
    tokenizer: Any,
    max_length: int,
    affixes: tuple[list[int], list[int], list[int]],
    scoring: Scoring,
    ends_as_cue: bool,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of the Arrow file, at most CHUNK at a time."""
    prefix, cue, special = affixes
    suffix = [*cue, *special]
    budget = max_length - len(prefix) - len(suffix)
    tokens = Tokens(tokenizer)
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id in special else []
    before_word = word_prefix(tokenizer)
    unknown = tokenizer.unk_token_id
    remaining = iter(examples)
    while chunk := list(islice(remaining, CHUNK)):
        texts = [template.render(example.fields) for example in chunk]
        bodies, num_cut = _bodies(texts, tokens, budget)
        rows: list[dict[str, Any]] = []
        for example, body, cut in zip(chunk, bodies, num_cut, strict=True):
            if len(body) > budget:
                raise UserError(
                    f"{example.id}: even without {{{template.shorten}}}, which may be shortened, the text "
                    f"has {len(prefix) + len(body) + len(suffix)} tokens, special ones included, more than "
                    f"task.max_length={max_length}. Raise task.max_length."
                )
            rows.append(
                {
                    "id": example.id,
                    "group": example.group,
                    "source": example.source,
                    "input_ids": [*prefix, *body, *suffix],
                    "body_start": len(prefix),
                    "body_end": len(prefix) + len(body) - ends_as_cue,
                    "label": -1 if example.label is None else example.label,
                    "skill": -1 if example.skill is None else example.skill,
                    "num_cut": cut,
                    "num_unknown": 0 if unknown is None else body.count(unknown),
                    "text": text_key(example),
                }
            )
        if scoring.is_whole:
            choices = [before_word + text for example in chunk for text in example.written or example.choices]
            choice_ids = iter(tokens.of(choices))
            for example, row in zip(chunk, rows, strict=True):
                encoded = list(islice(choice_ids, len(example.choices)))
                if not all(encoded):
                    empty = example.choices[encoded.index([])]
                    raise UserError(
                        f"{example.id}, line {example.line} of its file: the choice {empty!r} has no tokens "
                        "under this tokenizer, so it cannot be scored. Change it, or remove the example."
                    )
                row["choices"] = example.choices
                row["choice_ids"] = [[*ids, *end] for ids in encoded]
                row["golds"] = _golds(example)
        yield rows


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


def _cue(cue: str | None, tokenizer: Any) -> tuple[list[int], int | None]:
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


def _affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
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
