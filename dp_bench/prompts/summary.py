"""The frozen summary of a text: what an instance-level selector looks at. No gradient, no prompt, no dropout.

Paper: the mean of the encoder's states. The authors' code averages over all 480 positions, padding included,
so that short texts have small summaries (docs/protocol.md B5); `pad_to` reproduces that, otherwise the mean
is over real tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dp_bench import finite
from dp_bench.backbones.backbone import Backbone, at_least_fp32
from dp_bench.data.batches import evaluation_batches
from dp_bench.data.encode import EncodedSplit
from dp_bench.progress import notice
from dp_bench.records import replace_file
from dp_bench.settings import Summary
from dp_bench.types import UserError

CODE_VERSION = 2  # raise it when the same input is summarised differently, be it by another kernel


def summary_width(backbone: Backbone, kind: Summary) -> int:
    return backbone.dims.width if kind is Summary.embedding_mean else backbone.dims.summary_width


@torch.no_grad()
def summarise(
    backbone: Backbone, ids_BT: Tensor, mask_BT: Tensor, kind: Summary, *, pad_to: int | None = None
) -> Tensor:
    """Return one vector a text, in fp32 or finer: [B,D]."""
    if pad_to is not None and pad_to > ids_BT.shape[1]:
        missing = pad_to - ids_BT.shape[1]
        ids_BT = torch.nn.functional.pad(ids_BT, (0, missing), value=backbone.tokenizer.pad_token_id)
        mask_BT = torch.nn.functional.pad(mask_BT, (0, missing), value=False)
    x_BTD = backbone.embed(ids_BT)
    states_BTD = x_BTD if kind is Summary.embedding_mean else backbone.encode(x_BTD, mask_BT)
    states_BTD = at_least_fp32(states_BTD)
    if kind in (Summary.first, Summary.last):
        real_BT = mask_BT.long() * torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
        place_B = real_BT.argmax(1) if kind is Summary.last else mask_BT.long().argmax(1)
        return states_BTD[torch.arange(len(place_B), device=place_B.device), place_B]
    if pad_to is not None:
        return states_BTD.mean(1)
    weights_BT = mask_BT.to(states_BTD.dtype) / mask_BT.sum(1, keepdim=True)
    return torch.einsum("bt,btd->bd", weights_BT, states_BTD)


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
    """Return the summary of every row of a whole split, [N,D] in fp32, from the disk where it has been
    computed before.

    The key holds all that the value depends on: token ids (through the split's fingerprint, which covers
    data, tokenizer, template and truncation), `weights` as the backbone's fingerprint gives them and their
    dtype, the model's configuration, kind of summary and padding. What is read is what was written: a file
    holds the digest of its key and its rows.
    """
    model = (weights, backbone.configuration(), backbone.dtype)
    parts = (CODE_VERSION, whole.fingerprint, *model, kind.value, pad_to)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    path = cache_dir / "summaries" / f"{key}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # who comes second finds what the first has computed
        found = _read(path, key)
        if found is None:
            _compute(path, key, backbone, whole, kind, pad_to, batch_size, advance)
            found = _read(path, key)
    if found is None:
        raise UserError(f"{path} cannot be read back as it was written: is the disk of cache_dir sound?")
    return found


def _read(path: Path, key: str) -> Tensor | None:
    """Return what a file holds, memory-mapped; None where it is absent, or damaged, which is told."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            summary_ND: Tensor = file.get_tensor("summary")
            written = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError):
        written = None
    if written is None or written != _digest(key, summary_ND):
        notice(f"the cached summaries {path} are damaged and are made again")
        return None
    return summary_ND


def _digest(key: str, summary_ND: Tensor) -> str:
    digest = hashlib.sha256(f"{key}{tuple(summary_ND.shape)}".encode())
    digest.update(summary_ND.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _compute(
    path: Path,
    key: str,
    backbone: Backbone,
    whole: EncodedSplit,
    kind: Summary,
    pad_to: int | None,
    batch_size: int,
    advance: Callable[[int], None],
) -> None:
    summary_ND = torch.empty(len(whole), summary_width(backbone, kind))
    for places in evaluation_batches(whole.lengths, batch_size):
        batch = whole.collate(places.tolist(), backbone.tokenizer.pad_token_id)
        ids_BT, mask_BT = batch.ids_BT.to(backbone.device), batch.mask_BT.to(backbone.device)
        summary_ND[batch.row_B] = summarise(backbone, ids_BT, mask_BT, kind, pad_to=pad_to).cpu()
        advance(len(places))
    finite_N = summary_ND[torch.from_numpy(whole.rows)].isfinite().all(1).numpy()
    finite.refuse_rows(whole, finite_N, "The frozen summaries are", "of a file", backbone)
    said = {"sha256": _digest(key, summary_ND)}
    replace_file(path, lambda temporary: save_file({"summary": summary_ND}, temporary, said))
