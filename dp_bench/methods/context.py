"""What a method is given, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from dp_bench.backbones.backbone import Backbone
from dp_bench.checkpoints import Progress
from dp_bench.config import Experiment
from dp_bench.data.encode import EncodedSplit
from dp_bench.data.overlap import Overlap
from dp_bench.data.prepare import TaskData
from dp_bench.evaluation import Report
from dp_bench.progress import Reporter
from dp_bench.settings import RunSettings, TaskSettings
from dp_bench.verbalizer import Verbalizer


@dataclass(frozen=True)
class RunContext:
    """A run's experiment, loaded backbone and encoded data; no data where a finished run is opened."""

    experiment: Experiment
    backbone: Backbone
    fingerprint: str  # of the backbone as it was loaded
    verbalizers: tuple[Verbalizer, ...]  # of the tasks in `data`, then of those in `transfer`
    directory: Path
    reporter: Reporter
    data: tuple[TaskData, ...] = ()  # of each task that is trained on
    transfer: tuple[tuple[TaskSettings, EncodedSplit], ...] = ()  # other tasks, with their reported examples
    transfer_overlap: Mapping[str, Overlap] = field(default_factory=dict)  # of those in `transfer`, by task

    @property
    def settings(self) -> RunSettings:
        return self.experiment.settings


@dataclass(frozen=True)
class MethodResult:
    """What every method returns: scores, and tensors worth keeping."""

    reports: dict[str, Report]  # by task
    progress: Progress
    trainable_parameters: int
    weights: dict[str, Tensor]  # what `prompt.safetensors` holds: the prompt's or the baseline's
    backbone_weights: dict[str, Tensor] = field(default_factory=dict)  # of a tuned backbone, if asked for
    diagnostics: dict[str, float] = field(default_factory=dict)
    routes: str = ""
