"""The token ids of a split, memory-mapped from the cache, and batches of them.

This module imports torch and datasets, which take seconds: import it only where a run begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from pyarrow import compute
from torch import Tensor

from dp_bench.types import Batch

Indices = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """The token ids of a split, or of some rows of it.

    `dataset` is always the whole split, memory-mapped from the cache, with the columns id, group, source,
    text (a digest of the example's texts), input_ids, body_start, body_end, label and skill (-1 for none),
    num_cut and num_unknown; if whole choices are scored also choices, choice_ids (each with the end token)
    and golds. `rows` are the selected rows of it, in order. All properties are in that order; `select` and
    `collate` take indices into it, 0 to len - 1.
    """

    dataset: datasets.Dataset
    fingerprint: str  # of the whole split; with `Batch.row_B` it is the key of what is cached per example
    rows: NDArray[np.int64]
    answer_offset: int | None = None  # from the body's end to the token at which the answer is read

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Indices) -> EncodedSplit:
        """Return the examples at these indices; `rows` still numbers them in the whole split."""
        return replace(self, rows=self.rows[np.asarray(indices, dtype=np.int64)])

    @cached_property
    def ids(self) -> list[str]:
        return self._lists("id")

    @cached_property
    def groups(self) -> list[str]:
        return self._lists("group")

    @cached_property
    def sources(self) -> list[str]:
        return self._lists("source")

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return self._integers("label")

    @cached_property
    def skills(self) -> NDArray[np.int64] | None:
        """The sub-skill of each example of a mixture; None if the data does not name it."""
        skills = self._integers("skill")
        return None if (skills < 0).any() else skills

    @cached_property
    def choices(self) -> list[list[str]]:
        """The texts of the choices of each example; empty if label words are scored."""
        return self._lists("choices")

    @cached_property
    def golds(self) -> list[list[int]]:
        """The indices of all right choices of each example; empty if label words are scored."""
        return self._lists("golds")

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each text, special tokens included."""
        lengths = compute.list_value_length(self._table["input_ids"]).to_numpy()
        return np.asarray(lengths, dtype=np.int64)[self.rows]

    @cached_property
    def num_cut(self) -> NDArray[np.int64]:
        """The number of tokens by which each text was shortened."""
        return self._integers("num_cut")

    @cached_property
    def texts(self) -> NDArray[np.int64]:
        """A digest of the texts of each example, ignoring case and spacing."""
        return self._integers("text")

    @property
    def share_unknown(self) -> float:
        """The share of unknown tokens, in 0..1."""
        return int(self._integers("num_unknown").sum()) / max(1, int(self.lengths.sum()))

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    @cached_property
    def largest_id(self) -> int:
        """The largest token id of the whole split, choices included."""
        columns = [self._table["input_ids"].combine_chunks().flatten()]
        if "choice_ids" in self._table.column_names:
            columns.append(self._table["choice_ids"].combine_chunks().flatten().flatten())
        return max(int(compute.max(column).as_py() or 0) for column in columns)

    @cached_property
    def longest_choice(self) -> int:
        """The number of tokens of the longest choice; 0 if label words are scored."""
        if "choice_ids" not in self._table.column_names:
            return 0
        choices = self._table["choice_ids"].take(self.rows).combine_chunks().flatten()
        return int(compute.max(compute.list_value_length(choices)).as_py() or 0)

    @cached_property
    def longest_choices(self) -> NDArray[np.int64]:
        """The number of tokens of the longest choice of each example; 0 if label words are scored."""
        ids = self._lists("choice_ids") or [[[]]] * len(self)
        return np.asarray([max(map(len, choices)) for choices in ids], dtype=np.int64)

    @property
    def num_truncated(self) -> int:
        return int(np.count_nonzero(self.num_cut))

    @property
    def share_truncated(self) -> float:
        """The share of texts that were shortened, in 0..1."""
        return self.num_truncated / len(self)

    def collate(self, indices: Indices, pad_id: int, task_index: int = 0, pad_to: int | None = None) -> Batch:
        """Return a batch of the examples at these indices.

        Texts are padded on the right to `pad_to` tokens, by default to the longest. Raises ValueError if
        `pad_to` is less.
        """
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        columns = self._arrow[rows.tolist()]
        texts = columns["input_ids"].combine_chunks()
        lengths_B = torch.tensor(texts.value_lengths().to_numpy())
        longest = int(lengths_B.max())
        width = longest if pad_to is None else pad_to
        if width < longest:
            raise ValueError(f"pad_to={pad_to} is less than the longest text, {longest} tokens")
        mask_BT = torch.arange(width) < lengths_B[:, None]
        ids_BT = torch.full(mask_BT.shape, pad_id, dtype=torch.int64)
        ids_BT[mask_BT] = torch.tensor(texts.flatten().to_numpy(), dtype=torch.int64)
        start_B, end_B, label_B, skill_B = (
            torch.tensor(columns[name].to_numpy(), dtype=torch.int64)
            for name in ("body_start", "body_end", "label", "skill")
        )
        task_B = torch.full((len(rows),), task_index, dtype=torch.int64)
        row_B = torch.from_numpy(rows)
        answer_B = None if self.answer_offset is None else end_B + self.answer_offset
        batch = Batch(
            ids_BT, mask_BT, start_B, end_B, label_B, row_B, task_B, answer_B=answer_B, skill_B=skill_B
        )
        if "choice_ids" not in columns.column_names:
            return batch
        choice_ids_BCA, choice_mask_BCA = _padded_choices(columns["choice_ids"].combine_chunks(), pad_id)
        batch = replace(batch, choice_ids_BCA=choice_ids_BCA, choice_mask_BCA=choice_mask_BCA)
        if not self._has_several_golds:
            return batch
        gold_BC = torch.zeros(choice_ids_BCA.shape[:2], dtype=torch.bool)
        for example, golds in enumerate(columns["golds"].to_pylist()):
            gold_BC[example, golds] = True
        return replace(batch, gold_BC=gold_BC)

    @cached_property
    def _has_several_golds(self) -> bool:
        return bool(compute.any(compute.greater(compute.list_value_length(self._table["golds"]), 1)).as_py())

    @cached_property
    def _arrow(self) -> datasets.Dataset:
        return self.dataset.with_format("arrow")

    @cached_property
    def _table(self) -> Any:
        return self._arrow[:]

    def _lists(self, column: str) -> list[Any]:
        if column not in self._table.column_names:
            return []
        values: list[Any] = self._table[column].take(self.rows).to_pylist()
        return values

    def _integers(self, column: str) -> NDArray[np.int64]:
        return np.asarray(self._table[column].to_numpy(), dtype=np.int64)[self.rows]


def _padded_choices(choices: Any, pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad choices of different number and length; return ids and mask, [B,C,A]."""
    num_choices_B = torch.tensor(choices.value_lengths().to_numpy())
    tokens = choices.flatten()
    is_choice_BC = torch.arange(int(num_choices_B.max())) < num_choices_B[:, None]
    lengths_BC = torch.zeros(is_choice_BC.shape, dtype=torch.int64)
    lengths_BC[is_choice_BC] = torch.tensor(tokens.value_lengths().to_numpy(), dtype=torch.int64)
    mask_BCA = torch.arange(int(lengths_BC.max())) < lengths_BC[:, :, None]
    ids_BCA = torch.full(mask_BCA.shape, pad_id, dtype=torch.int64)
    ids_BCA[mask_BCA] = torch.tensor(tokens.flatten().to_numpy(), dtype=torch.int64)
    return ids_BCA, mask_BCA
