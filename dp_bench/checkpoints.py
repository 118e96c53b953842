"""Checkpoints of an unfinished run: the state for its next update, in a folder that appears by a rename."""

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

from dp_bench import ranks
from dp_bench.progress import notice
from dp_bench.records import sync, write_json


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


@dataclass(frozen=True)
class Checkpoint:
    """The current and the best trained tensors, and the optimizer's state."""

    progress: Progress
    learned: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint through to the disk, then remove earlier ones: a power cut leaves a complete one."""
    previous = list(folder.glob("step-*"))
    target = folder / f"step-{checkpoint.progress.step:08d}"
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(checkpoint.learned, temporary / "learned.safetensors")
    save_file(checkpoint.best, temporary / "best.safetensors")
    torch.save(checkpoint.optimizer, temporary / "optimizer.pt")
    write_json(temporary / "progress.json", asdict(checkpoint.progress))
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    temporary.replace(target)
    sync(folder)
    for path in previous:
        shutil.rmtree(path)


def load(folder: Path, trained_on: Mapping[str, str]) -> Checkpoint | None:
    """Return on all ranks the last checkpoint, or None where there is none.

    A checkpoint of another backbone than `trained_on` is removed, with a notice.
    """
    saved = ranks.from_leader(_last(folder) if ranks.leads() else None)
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


def _last(folder: Path) -> Checkpoint | None:
    last = max(folder.glob("step-*"), default=None)
    if last is None:
        return None
    return Checkpoint(
        Progress(**json.loads((last / "progress.json").read_text(encoding="utf-8"))),
        load_file(last / "learned.safetensors"),
        load_file(last / "best.safetensors"),
        torch.load(last / "optimizer.pt", weights_only=True),
    )
