"""Experiment trackers, none of which is imported unless `logger` names it. The files of runs stay the truth.

A tracker gets the settings of a run, its evaluations and its final score. One that is not installed is
refused before training; one that fails later is reported in one line and left alone. Its address and its
account are read by its library, from its variables or files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from dp_bench import extras, ranks, records
from dp_bench.progress import line
from dp_bench.settings import Logger, RunSettings

PROJECT = "dp-bench"
TAG = "dp_bench.run_id"  # by which MLflow finds a run again
STATES = {None: "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}  # MLflow's


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told at the beginning; `resumes` where a run goes on from a checkpoint."""

    run_id: str
    group: str | None  # the experiment
    settings: Mapping[str, Any]  # by dotted name
    folder: Path  # of trackers that write files
    resumes: bool


class Tracker(Protocol):
    """A run of a tracker. Every method may raise any exception."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of an update."""

    def close(self, problem: str | None) -> None:
        """End the run: with None where it is finished, else "failed" or "interrupted"."""


class _TensorBoard:
    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(run.folder / run.run_id))
        rows = "\n".join(f"| {key} | {value} |" for key, value in run.settings.items())
        self.writer.add_text("settings", f"group: {run.group}\n\n| key | value |\n|---|---|\n{rows}", 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, problem: str | None) -> None:
        self.writer.close()


class _Mlflow:
    def __init__(self, run: TrackedRun) -> None:
        import mlflow

        if not mlflow.is_tracking_uri_set():
            run.folder.mkdir(parents=True, exist_ok=True)
            mlflow.set_tracking_uri(f"sqlite:///{(run.folder / 'mlflow.db').resolve()}")
        self.client: Any = mlflow.MlflowClient()
        name = run.group or PROJECT
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        filter = f"tags.`{TAG}` = '{run.run_id}'"
        earlier = self.client.search_runs([experiment], filter, max_results=1) if run.resumes else []
        if earlier:
            self.id = earlier[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            return
        tags = {TAG: run.run_id}
        self.id = self.client.create_run(experiment, tags=tags, run_name=run.run_id).info.run_id
        from mlflow.entities import Param

        params = [Param(key, str(value)[:6000]) for key, value in run.settings.items()]
        for start in range(0, len(params), 100):  # the most that one call takes
            self.client.log_batch(self.id, params=params[start : start + 100])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=step)

    def close(self, problem: str | None) -> None:
        self.client.set_terminated(self.id, STATES[problem])


class _Wandb:
    def __init__(self, run: TrackedRun) -> None:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        # Without `resume`, an earlier run of this id, which is run again, is overwritten.
        identity = {"id": run.run_id, "resume": "allow" if run.resumes else None}
        options = {"name": run.run_id, "group": run.group, "config": dict(run.settings), **identity}
        quiet = wandb.Settings(silent=True, console="off")
        # Its project is in WANDB_PROJECT.
        self.run: Any = wandb.init(dir=str(run.folder), settings=quiet, reinit="create_new", **options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self, problem: str | None) -> None:
        self.run.finish(exit_code=int(problem is not None))


class _Trackio:
    def __init__(self, run: TrackedRun) -> None:
        import trackio

        options = {"name": run.run_id, "group": run.group, "config": dict(run.settings)}
        resume = "allow" if run.resumes else "never"
        self.run: Any = trackio.init(project=PROJECT, resume=resume, embed=False, **options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self, problem: str | None) -> None:
        self.run.finish()


TRACKERS: Mapping[Logger, Callable[[TrackedRun], Tracker]] = {
    Logger.tensorboard: _TensorBoard,
    Logger.mlflow: _Mlflow,
    Logger.wandb: _Wandb,
    Logger.trackio: _Trackio,
}


class Tracking:
    """Passes on what a run logs, until its tracker fails."""

    def __init__(self, name: str = "", start: Callable[[], Tracker] | None = None) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        if start is not None:
            with self._guarded():
                self._tracker = start()

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add values of an update; None is left out."""
        if self._tracker is not None:
            with self._guarded():
                self._tracker.log(step, {k: float(v) for k, v in values.items() if v is not None})

    def close(self, problem: str | None = None) -> None:
        """End the run: with None where it is finished, else "failed" or "interrupted"."""
        if self._tracker is not None:
            with self._guarded():
                self._tracker.close(problem)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with warnings.catch_warnings(), redirect_stdout(StringIO()):
                warnings.simplefilter("ignore")
                yield
        except Exception as error:  # of a network, a disk, or a library that has changed
            self._tracker = None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            line(f"  warning: logger={self._name} failed and is left alone; the run goes on ({reason})")


def refuse_missing(settings: RunSettings) -> None:
    """Raise UserError where the tracker of `logger` is not installed."""
    if settings.logger is None:
        return
    name = settings.logger.value
    spec = find_spec(name)
    if spec is None or spec.origin is None:  # a folder of that name, which a tracker may have written
        raise extras.absent(name, f"logger={name}")


@contextmanager
def tracking(
    settings: RunSettings, run_id: str, resolved: Mapping[str, Any], resumes: bool
) -> Iterator[Tracking]:
    """Track a run while the block runs; without `logger`, and on all ranks but the first, nothing happens."""
    if settings.logger is None or not ranks.leads():
        yield Tracking()
        return
    name = settings.logger.value
    folder = Path(settings.results_dir) / name
    run = TrackedRun(run_id, settings.experiment, records.flatten(resolved), folder, resumes)
    tracked = Tracking(name, lambda: TRACKERS[Logger(name)](run))
    try:
        yield tracked
    except BaseException as error:
        tracked.close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    tracked.close()
