"""The frozen summary of a text, the input of selectors: no gradient, no prompt, no dropout.

Paper: the mean of the encoder's states. The authors' code averages over all 480 positions with padding, so
that short texts have small summaries (docs/protocol.md B5); `pad_to` reproduces that, otherwise the mean is
over real tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor

from dp_bench import finite, ranks, reading
from dp_bench.backbones.backbone import Backbone, at_least_fp32
from dp_bench.data.batches import evaluation_batches
from dp_bench.data.cache import cached_folder, is_intact
from dp_bench.data.encoded import EncodedSplit
from dp_bench.machine import in_smaller_passes
from dp_bench.pooling import state_of
from dp_bench.settings import Summary

CODE_VERSION = 2  # raise it when the same input gets another summary, even by another kernel only
FILE = "summary.safetensors"
OF_EMBEDDINGS = (Summary.embedding_mean, Summary.embedding_max)  # no pass of the encoder


def summary_width(backbone: Backbone, kind: Summary) -> int:
    """Return the width D of summaries of a kind."""
    return backbone.dims.width if kind in OF_EMBEDDINGS else backbone.dims.summary_width


@torch.no_grad()
def summarise(
    backbone: Backbone, ids_BT: Tensor, mask_BT: Tensor, kind: Summary, *, pad_to: int | None = None
) -> Tensor:
    """Return one vector per text by the weights as they were loaded, in fp32 or finer: [B,D]. Raises
    UserError for texts beyond the positions."""
    if pad_to is not None and pad_to > ids_BT.shape[1]:
        missing = pad_to - ids_BT.shape[1]
        ids_BT = torch.nn.functional.pad(ids_BT, (0, missing), value=backbone.tokenizer.pad_token_id)
        mask_BT = torch.nn.functional.pad(mask_BT, (0, missing), value=False)
    x_BTD = backbone.embed(ids_BT)
    with backbone.as_loaded():
        states_BTD = x_BTD if kind in OF_EMBEDDINGS else backbone.encode(x_BTD, mask_BT)
    states_BTD = at_least_fp32(states_BTD)
    if kind is Summary.embedding_max:
        return states_BTD.masked_fill(~mask_BT[..., None], -torch.inf).amax(1)
    if kind in (Summary.first, Summary.last):
        return state_of(states_BTD, mask_BT, kind.value)
    return states_BTD.mean(1) if pad_to is not None else state_of(states_BTD, mask_BT, "mean")


def summaries_of(
    backbone: Backbone,
    whole: EncodedSplit,
    kind: Summary,
    *,
    pad_to: int | None,
    batch_size: int,
    advance: Callable[[int], None] = lambda rows: None,
) -> Tensor:
    """Return the summary of every row of a file, [M,D] in fp32 on the CPU.

    Raises NotFiniteError for a summary that is not finite.
    """

    def compute(size: int) -> Tensor:
        summary_MD = torch.empty(len(whole), summary_width(backbone, kind))
        for rows in evaluation_batches(whole.lengths, size):
            batch = whole.collate(rows.tolist(), backbone.tokenizer.pad_token_id)
            ids_BT, mask_BT = batch.ids_BT.to(backbone.device), batch.mask_BT.to(backbone.device)
            summary_MD[batch.row_B] = summarise(backbone, ids_BT, mask_BT, kind, pad_to=pad_to).cpu()
            advance(len(rows))
        return summary_MD

    where = ("in the summaries of texts", "trainer.eval_batch_size")
    summary_MD, _ = in_smaller_passes(compute, batch_size, *where)
    finite_M = summary_MD[torch.from_numpy(whole.rows)].isfinite().all(1).numpy()
    finite.refuse_rows(whole, finite_M, "The frozen summaries are", "of a file", backbone)
    return summary_MD


def cached_summaries(
    backbone: Backbone,
    whole: EncodedSplit,
    kind: Summary,
    *,
    pad_to: int | None,
    batch_size: int,
    cache_dir: Path,
    weights: str,
    advance: Callable[[int], None] = lambda rows: None,
) -> Tensor:
    """Return `summaries_of` a file, computed once and cached on disk.

    The cache key has everything that a summary depends on: the split's fingerprint (data, tokenizer,
    template, truncation), the fingerprint `weights` of the backbone, its dtype and configuration, kind and
    padding.
    """
    model = (weights, backbone.configuration(), backbone.dtype)
    parts = (CODE_VERSION, whole.fingerprint, *model, kind.value, pad_to)
    folder = cache_dir / "summaries" / hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def compute() -> Tensor:
        return summaries_of(backbone, whole, kind, pad_to=pad_to, batch_size=batch_size, advance=advance)

    def read(compute: Callable[[], Tensor]) -> Tensor:
        def write(new: Path) -> None:
            save_file({"summary": compute()}, new / FILE)

        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # a second process waits and reads what the first computed
            return reading.tensors(cached_folder(folder, write) / FILE)["summary"]

    if not backbone.is_sharded:
        return read(compute)
    if ranks.from_leader(ranks.leads() and is_intact(folder)):
        return ranks.from_leader(read(compute) if ranks.leads() else torch.empty(0))
    summary_MD = compute()  # by all together: each rank has a part of every layer
    return read(lambda: summary_MD) if ranks.leads() else summary_MD
