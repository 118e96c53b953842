"""Examples to token ids: rendered, shortened where the template allows, cached on disk, padded to batches.

A text that is too long loses tokens at the end of one field, as in OpenPrompt, on which the authors built;
nothing else is ever cut. What was encoded once is an Arrow folder below `cache_dir/encoded`, named after a
digest of all that went into it and put in place by a rename, so that any number of processes may ask for it
at once.

This module imports torch and datasets: import it once there is something to run.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from pyarrow import compute

from dp_bench.data.source import file_sha256
from dp_bench.data.template import Rendered, Template
from dp_bench.types import Batch, Example, UserError

CODE_VERSION = 1  # raise it when the same input is to be encoded differently
CHUNK = 1000  # texts tokenised at once: enough for the tokenizer's threads, little enough for memory
MANIFEST = "manifest.json"  # digests of the other files of a cache entry

Places = Sequence[int] | NDArray[np.int64]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """A split in token ids, or some rows of it.

    `dataset` is always the whole split, memory-mapped from the cache, with the columns id, group, source,
    input_ids, body_start, body_end, label (-1 where hidden) and num_cut. `rows` numbers what is selected from
    it; everything below is in that order, and `collate` takes places in that order, as `len` suggests.
    """

    dataset: datasets.Dataset
    fingerprint: str  # of the whole split: with `Batch.row_B` it addresses what is cached per example
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Places) -> EncodedSplit:
        """Return the examples at these places; they keep their row numbers in the whole split."""
        return EncodedSplit(self.dataset, self.fingerprint, self.rows[np.asarray(rows, dtype=np.int64)])

    @cached_property
    def ids(self) -> list[str]:
        return self._strings("id")

    @cached_property
    def groups(self) -> list[str]:
        return self._strings("group")

    @cached_property
    def sources(self) -> list[str]:
        return self._strings("source")

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return self._integers("label")

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, special tokens included."""
        lengths = compute.list_value_length(self._table["input_ids"]).to_numpy()
        return np.asarray(lengths, dtype=np.int64)[self.rows]

    @cached_property
    def num_cut(self) -> NDArray[np.int64]:
        """Tokens that each text lost to the maximum length."""
        return self._integers("num_cut")

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    @property
    def num_truncated(self) -> int:
        return int(np.count_nonzero(self.num_cut))

    @property
    def share_truncated(self) -> float:
        """Share of texts that lost tokens, in 0..1."""
        return self.num_truncated / len(self)

    def collate(self, rows: Places, pad_id: int, task_index: int = 0, pad_to: int | None = None) -> Batch:
        """Return a batch of the examples at these places, padded on the right to `pad_to` or the longest."""
        numbers = self.rows[np.asarray(rows, dtype=np.int64)]
        columns = self._arrow[numbers.tolist()]
        texts = columns["input_ids"].combine_chunks()
        lengths_B = torch.tensor(texts.value_lengths().to_numpy())
        longest = int(lengths_B.max())
        width = longest if pad_to is None else pad_to
        if width < longest:
            raise ValueError(f"pad_to={pad_to} is less than the longest text, {longest} tokens")
        mask_BT = torch.arange(width) < lengths_B[:, None]
        ids_BT = torch.full(mask_BT.shape, pad_id, dtype=torch.int64)
        ids_BT[mask_BT] = torch.tensor(texts.flatten().to_numpy(), dtype=torch.int64)
        start_B, end_B, label_B = (
            torch.tensor(columns[name].to_numpy(), dtype=torch.int64)
            for name in ("body_start", "body_end", "label")
        )
        task_B = torch.full((len(numbers),), task_index, dtype=torch.int64)
        return Batch(ids_BT, mask_BT, start_B, end_B, label_B, torch.from_numpy(numbers), task_B)

    @cached_property
    def _arrow(self) -> datasets.Dataset:
        return self.dataset.with_format("arrow")

    @cached_property
    def _table(self) -> Any:
        return self._arrow[:]

    def _strings(self, column: str) -> list[str]:
        values = self._table[column].to_pylist()
        return [values[row] for row in self.rows]

    def _integers(self, column: str) -> NDArray[np.int64]:
        return np.asarray(self._table[column].to_numpy(), dtype=np.int64)[self.rows]


def encode(
    examples: Sequence[Example],
    template: Template,
    tokenizer: Any,
    *,
    max_length: int,
    cache_dir: Path,
    key_parts: Mapping[str, object],
) -> EncodedSplit:
    """Encode the examples, or take them from the cache.

    The key covers all that goes in: the examples themselves, the template, the tokenizer, `max_length`.
    `key_parts` adds what only the caller knows, such as the sha256 of the file and the limit. `max_length`
    counts the special tokens too. Raises UserError when a text is too long even without the field that gives
    way.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} cannot tell which characters a token covers, as fast tokenizers do: "
            "set backbone.tokenizer to a folder with a tokenizer.json."
        )
    prefix, suffix = _affixes(tokenizer)
    parts = {
        "code": [CODE_VERSION, version("tokenizers"), version("datasets")],
        "examples": _digest_of_examples(examples),
        "template": [template.text, template.shorten],
        "tokenizer": [_digest_of_tokenizer(tokenizer), prefix, suffix],
        "max_length": max_length,
        "caller": dict(key_parts),
    }
    key = sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
    folder = cache_dir / "encoded" / key
    if not _is_intact(folder):
        encoded = _encoded(examples, template, tokenizer, max_length, (prefix, suffix))
        _publish(datasets.Dataset(_table_of(encoded)), folder)
    dataset = datasets.load_from_disk(str(folder))
    return EncodedSplit(dataset, key, np.arange(len(dataset), dtype=np.int64))


# ---------------------------------------------------------------------------------------------- tokens


def _encoded(
    examples: Sequence[Example],
    template: Template,
    tokenizer: Any,
    max_length: int,
    affixes: tuple[list[int], list[int]],
) -> Iterator[dict[str, Any]]:
    """Yield the columns of each example."""
    prefix, suffix = affixes
    budget = max_length - len(prefix) - len(suffix)
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        texts = [template.render(example.fields) for example in chunk]
        # verbose=False: the tokenizer need not warn of long texts, we cut them ourselves.
        tokenized = tokenizer([text.text for text in texts], add_special_tokens=False, verbose=False)
        for example, text, encoding in zip(chunk, texts, tokenized.encodings, strict=True):
            num_cut = max(0, len(encoding.ids) - budget)
            body = _shortened(encoding, text, num_cut)
            if len(body) > budget:
                raise UserError(
                    f"{example.id}: without {{{template.shorten}}}, which gives way, the text still has "
                    f"{len(body)} tokens, more than the {budget} that task.max_length={max_length} leaves "
                    f"beside {len(prefix) + len(suffix)} special ones. Raise task.max_length."
                )
            yield {
                "id": example.id,
                "group": example.group,
                "source": example.source,
                "input_ids": np.array([*prefix, *body, *suffix], dtype=np.int32),
                "body_start": len(prefix),
                "body_end": len(prefix) + len(body),
                "label": -1 if example.label is None else example.label,
                "num_cut": num_cut,
            }


def _shortened(encoding: Any, text: Rendered, num_cut: int) -> list[int]:
    """Drop `num_cut` tokens, or as many as there are, from the end of the field that gives way."""
    ids: list[int] = encoding.ids
    if not num_cut:
        return ids
    inside = [place for place, span in enumerate(encoding.offsets) if _stands_inside(text, *span)]
    dropped = set(inside[-num_cut:])
    return [token for place, token in enumerate(ids) if place not in dropped]


def _stands_inside(text: Rendered, start: int, end: int) -> bool:
    """Tell whether a token is of the field that gives way alone; one that reaches out of it is kept.

    A token may cover the space before its word, as T5's "▁word" does with some tokenizer files: that space is
    in the template and the word in the field, so the first character that is no space decides.
    """
    covered = text.text[start:end]
    first = start + len(covered) - len(covered.lstrip()) if covered.strip() else start
    return text.shorten_start <= first < text.shorten_end and text.shorten_start < end <= text.shorten_end


def _affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text; for T5 none and `</s>`."""
    bare: list[int] = tokenizer("a", add_special_tokens=False).input_ids
    full: list[int] = tokenizer("a").input_ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise ValueError(
        f"{type(tokenizer).__name__} does not put its special tokens around a text: {bare} and {full}"
    )


# ---------------------------------------------------------------------------------------------- cache


def _digest_of_examples(examples: Sequence[Example]) -> str:
    digest = sha256()
    for example in examples:
        row = [example.id, example.group, example.source, example.label, dict(example.fields)]
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def _digest_of_tokenizer(tokenizer: Any) -> str:
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two only say how the tokenizer was called last.
    for state in ("truncation", "padding"):
        description.pop(state, None)
    return sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _table_of(encoded: Iterator[dict[str, Any]]) -> Any:
    rows = list(encoded)
    ends = np.cumsum([0, *(len(row["input_ids"]) for row in rows)])
    tokens = pyarrow.array(np.concatenate([row["input_ids"] for row in rows]))
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("id", "group", "source")}
    columns["input_ids"] = pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), tokens)
    for name in ("body_start", "body_end", "label", "num_cut"):
        columns[name] = pyarrow.array([row[name] for row in rows], pyarrow.int32())
    return pyarrow.table(columns)


def _is_intact(folder: Path) -> bool:
    """Tell whether a cache entry is there and as it was written; a damaged one is reported."""
    if not folder.exists():
        return False
    try:
        digests = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        intact = all(file_sha256(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):  # no manifest, or no JSON, or no file that it names
        intact = False
    if not intact:
        logger.warning("The cached encoding %s is damaged and is made again.", folder)
    return intact


def _publish(dataset: datasets.Dataset, folder: Path) -> None:
    """Write a cache entry beside its place and rename it there, unless another process was faster."""
    datasets.disable_progress_bars()  # a run has its own progress line
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    dataset.save_to_disk(str(temporary))
    digests = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
    (temporary / MANIFEST).write_text(json.dumps(digests, indent=1), encoding="utf-8")
    for _ in range(3):
        try:
            temporary.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # The place is taken: by another process's entry, or by the damaged one that made us write.
        if _is_intact(folder):
            shutil.rmtree(temporary)
            return
        shutil.rmtree(folder, ignore_errors=True)  # another process may be removing it as well
    raise UserError(f"The cached encoding {folder} is damaged and cannot be replaced: remove that folder.")
