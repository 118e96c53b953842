"""Checkpoints of an unfinished run: the state for its next update, in a folder that appears by a rename.

The one before the last is kept: a run whose last checkpoint is damaged goes on from it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dp_bench import faults, ranks
from dp_bench.digests import computed_sha256
from dp_bench.progress import notice
from dp_bench.records import make_folder, sync, write_json

DIGESTS = "digests.json"


@dataclass
class Progress:
    """The state of the training loop after an update; saved with each checkpoint."""

    step: int = 0  # updates done
    best_step: int = 0
    best_score: float = -101.0  # below every score: a Matthews correlation goes down to -100
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_scores: dict[str, float] = field(default_factory=dict)  # of each task
    evaluations_since_best: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    trained_on: dict[str, str] = field(default_factory=dict)  # digests of the backbone
    warnings: list[str] = field(default_factory=list)  # so far, by all parts of the run
    micro_batch_size: int | None = None  # halved where memory ran out; None: as in the settings
    losses: list[float] = field(default_factory=list)  # of the updates since the last evaluation
    energy_joules: float | None = None  # of all GPUs so far; None where it is unknown


@dataclass(frozen=True)
class Checkpoint:
    """The current and the best trained tensors, and the optimizer's state."""

    progress: Progress
    learned: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint through to the disk and read it again; keep the one before it, and no other."""
    for path in _steps(folder)[1:]:
        shutil.rmtree(path)
    progress = checkpoint.progress
    target = folder / f"step-{progress.step:08d}-{len(progress.history):08d}"
    if target.exists():  # by a signal that arrived when it had just been written
        return
    temporary = folder / f".{target.name}.tmp"
    for path in folder.glob(".*.tmp"):  # of a killed process
        shutil.rmtree(path)
    make_folder(temporary)
    try:
        with faults.writing(target):
            _write(checkpoint, temporary)
        try:
            _read(temporary, checkpoint.learned)
        except Exception as error:
            notice(f"the checkpoint of update {progress.step} cannot be read again and is not kept ({error})")
        else:
            temporary.replace(target)
            sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # exists only if it was not renamed


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    save_file(checkpoint.learned, folder / "learned.safetensors")
    save_file(checkpoint.best, folder / "best.safetensors")
    with (folder / "optimizer.pt").open("wb") as file:  # of Python, whose errors say what is wrong
        torch.save(checkpoint.optimizer, file)
    write_json(folder / "progress.json", asdict(checkpoint.progress))
    write_json(folder / DIGESTS, _digests(folder))
    for path in (*folder.iterdir(), folder):
        sync(path)


def load(
    folder: Path, trained_on: Mapping[str, str], like: Mapping[str, Tensor] | None = None
) -> Checkpoint | None:
    """Return on all ranks the last checkpoint, or None where there is none.

    A damaged one, or one whose tensors are not `like` these, is set aside with a notice. A checkpoint of
    another backbone than `trained_on` is removed, with a notice.
    """
    saved = ranks.from_leader(_last(folder, like) if ranks.leads() else None)
    if saved is None:
        return None
    other = [name for name, digest in trained_on.items() if saved.progress.trained_on.get(name) != digest]
    if not other:
        return saved
    notice(
        f"{folder} was trained on a backbone with other {' and other '.join(other)}: it is not resumed, and "
        "training starts from the beginning"
    )
    if ranks.leads():
        shutil.rmtree(folder)
    return None


def _last(folder: Path, like: Mapping[str, Tensor] | None) -> Checkpoint | None:
    """Return the last checkpoint that can be read."""
    for path in _steps(folder):
        try:
            return _read(path, like)
        except Exception as error:
            if faults.is_out_of_memory(error) or isinstance(error, PermissionError):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            then = "goes on from the one before" if _steps(folder) else "starts anew"
            notice(f"the checkpoint {path} is damaged ({reason}): now {aside.name}; the run {then}")
    return None


def _steps(folder: Path) -> list[Path]:
    """Return the checkpoints, the last one first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: computed_sha256(path) for path in sorted(folder.iterdir()) if path.name != DIGESTS}


def _read(folder: Path, like: Mapping[str, Tensor] | None) -> Checkpoint:
    """Read a checkpoint; raise any exception where it is damaged."""
    if (folder / DIGESTS).exists():  # earlier versions wrote none
        known, found = json.loads((folder / DIGESTS).read_text(encoding="utf-8")), _digests(folder)
        if changed := [name for name in {**known, **found} if known.get(name) != found.get(name)]:
            raise ValueError(f"{', '.join(changed)} changed after it was written")
    saved = Checkpoint(
        Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8"))),
        load_file(folder / "learned.safetensors"),
        load_file(folder / "best.safetensors"),
        torch.load(folder / "optimizer.pt", weights_only=True),
    )
    for tensors in (saved.learned, saved.best):
        if like is not None and _shapes(tensors) != _shapes(like):
            raise ValueError("its tensors are not those of this prompt")
    return saved


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
