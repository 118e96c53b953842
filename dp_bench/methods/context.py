"""The input and the result of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from dp_bench.backbones.backbone import Backbone
from dp_bench.checkpoints import Progress
from dp_bench.config import Experiment
from dp_bench.data.encoded import EncodedSplit
from dp_bench.data.overlap import Overlap
from dp_bench.data.prepare import TaskData
from dp_bench.evaluation import Report
from dp_bench.progress import Reporter
from dp_bench.settings import RunSettings, TaskSettings
from dp_bench.trackers import Tracking
from dp_bench.verbalizer import Verbalizer


@dataclass(frozen=True)
class RunContext:
    """A run's experiment, loaded backbone and encoded data; without data where a finished run is opened."""

    experiment: Experiment
    backbone: Backbone
    fingerprint: str  # of the backbone as it was loaded
    verbalizers: tuple[Verbalizer, ...]  # of the tasks in `data`, then of those in `transfer`
    directory: Path
    reporter: Reporter
    tracking: Tracking = field(default_factory=Tracking)
    data: tuple[TaskData, ...] = ()  # of the tasks that are trained on
    transfer: tuple[tuple[TaskSettings, EncodedSplit], ...] = ()  # other tasks, with their report splits
    transfer_overlap: Mapping[str, Overlap] = field(default_factory=dict)  # of those in `transfer`, by task

    @property
    def settings(self) -> RunSettings:
        return self.experiment.settings


@dataclass(frozen=True)
class MethodResult:
    """The scores of a run, and the tensors to save."""

    reports: dict[str, Report]  # by task
    progress: Progress
    trainable_parameters: int
    weights: dict[str, Tensor]  # saved in prompt.safetensors: of the prompt or the baseline
    backbone_weights: dict[str, Tensor] = field(default_factory=dict)  # of the backbone, with keep_weights
    diagnostics: dict[str, float] = field(default_factory=dict)
    routes: str = ""
    work: dict[str, dict[str, float]] = field(default_factory=dict)  # RunRecord.work
    data: tuple[TaskData, ...] | None = None  # where it was written anew
