"""dp-bench: compare prompt-tuning methods on SuperGLUE, from one command, and believe the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dp_bench.trained import TrainedRun

__version__ = "0.1.0"
__all__ = ["__version__", "open_run"]


def open_run(folder: str | Path, device: str = "auto", *, transfer: Sequence[str] = ()) -> TrainedRun:
    """Open a finished run, to predict with it: `open_run("results/runs/ID").predict("rte", examples)`.

    `transfer` names further tasks that it can then predict.
    """
    from dp_bench.trained import open_run  # it loads torch

    return open_run(folder, device, transfer=transfer)
