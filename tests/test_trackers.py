"""A run also writes to a tracker, which is told all evaluations and can stop nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from helpers.trainers import KilledError

from dp_bench import records, trackers
from dp_bench.cli import main
from dp_bench.config import Experiment
from dp_bench.run import run
from dp_bench.settings import Logger
from dp_bench.trackers import TrackedRun
from dp_bench.trainer import Trainer

Build = Callable[..., Experiment]
QUICK = ("prompt=fixed", "prompt.num_tokens=2", "trainer.max_steps=4", "trainer.eval_every=2")


class Told:
    """A tracker that notes what it is told, and fails where it should."""

    fails = ""
    runs: list[Told]

    def __init__(self, tracked: TrackedRun) -> None:
        self.tracked = tracked
        self.values: list[tuple[int, dict[str, float]]] = []
        self.ends: list[str | None] = []
        self.runs.append(self)
        self._fail("start")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._fail("log")
        self.values.append((step, dict(values)))

    def close(self, problem: str | None) -> None:
        self._fail("close")
        self.ends.append(problem)

    def _fail(self, where: str) -> None:
        if where == self.fails:
            raise ConnectionError(f"no route at {where}\nand more")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[Told]:
    class Fresh(Told):
        runs: list[Told] = []  # noqa: RUF012

    monkeypatch.setattr(trackers, "TRACKERS", {Logger.wandb: Fresh})
    monkeypatch.setattr(trackers, "refuse_missing", lambda settings: None)
    return Fresh


def test_a_tracker_is_told_settings_evaluations_and_the_final_score(
    experiment: Build, told: type[Told]
) -> None:
    made = experiment(*QUICK, "logger=wandb", "experiment=micro/position", "backbone=t5_tiny_random")
    record = run(made)
    (one,) = told.runs
    assert (one.tracked.run_id, one.tracked.group) == (record.run_id, "micro/position")
    assert one.tracked.settings["trainer.max_steps"] == 4 and not one.tracked.resumes
    assert [step for step, _ in one.values] == [2, 4, 4]
    first, _, last = (values for _, values in one.values)
    assert first["loss"] > 0 and first["lr"] > 0 and "select/accuracy" in first
    assert last["score"] == record.score and last["report/accuracy"] == record.metrics["accuracy"]
    assert one.ends == [None]


@pytest.mark.parametrize("prompt", ["zero_shot", "majority"])
def test_runs_without_training_are_tracked(prompt: str, experiment: Build, told: type[Told]) -> None:
    record = run(experiment(f"prompt={prompt}", "logger=wandb"))
    assert told.runs[0].values[-1][1]["score"] == record.score


@pytest.mark.parametrize("where", ["start", "log", "close"])
def test_a_tracker_that_fails_stops_nothing(
    where: str, experiment: Build, told: type[Told], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plain = run(experiment(*QUICK))
    told.fails = where
    record = run(experiment(*QUICK, "logger=wandb", f"results_dir={tmp_path / 'other'}"))
    assert records.results_of(record) == records.results_of(plain)
    assert (record.run_id, record.warnings) == (plain.run_id, plain.warnings)
    printed = capsys.readouterr().out
    assert printed.count(f"logger=wandb failed and is left alone; the run goes on (no route at {where})") == 1
    assert "and more" not in printed


def test_an_interrupted_run_goes_on_in_the_same_tracked_run(
    experiment: Build, told: type[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiment(*QUICK, "logger=wandb")
    update = Trainer._update

    def killed(self: Trainer, indices: Any, step: int) -> float:
        if step == 3:
            raise KilledError
        return update(self, indices, step)

    monkeypatch.setattr(Trainer, "_update", killed)
    with pytest.raises(KilledError):
        run(made)
    monkeypatch.setattr(Trainer, "_update", update)
    run(made)
    first, second = told.runs
    assert (first.ends, second.ends) == (["failed"], [None])
    assert (first.tracked.resumes, second.tracked.resumes) == (False, True)
    assert [step for step, _ in first.values + second.values] == [2, 4, 4]


@pytest.mark.parametrize("name", [logger.value for logger in Logger])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    words = ["backbone=t5_tiny_random", "data=micro", f"results_dir={tmp_path / 'r'}", f"logger={name}"]
    with pytest.raises(SystemExit) as stop:
        main(["train", "task=rte", "prompt=fixed", *words])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f"logger={name} needs packages" in said
    assert "pip install '" in said
    assert not (tmp_path / "r").exists()


def test_a_tracker_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "logger=wandbb"])
    assert stop.value.code == 2 and "wandb" in capsys.readouterr().err


def test_every_tracker_has_an_extra() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    for logger in Logger:
        assert f"\n{logger.value} = [" in text and logger in trackers.TRACKERS


def test_tensorboard_for_real(experiment: Build) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = experiment(*QUICK, "logger=tensorboard")
    record = run(made)
    events = EventAccumulator(str(Path(made.settings.results_dir) / "tensorboard" / record.run_id))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4]
    assert events.Scalars("score")[0].value == pytest.approx(record.score)
    history = Path(made.settings.results_dir) / "runs" / record.run_id / "metrics.jsonl"
    losses = [json.loads(row)["loss"] for row in history.read_text("utf-8").splitlines()]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)


def test_mlflow_for_real(experiment: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the mlflow extra is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = experiment(*QUICK, "logger=mlflow")
    record = run(made)
    client = mlflow.MlflowClient()
    kept = client.get_experiment_by_name(trackers.PROJECT)
    (found,) = client.search_runs([kept.experiment_id])
    assert (found.info.run_name, found.info.status) == (record.run_id, "FINISHED")
    assert found.data.metrics["score"] == pytest.approx(record.score)
    assert found.data.params["trainer.max_steps"] == "4"
    losses = client.get_metric_history(found.info.run_id, "loss")
    assert [metric.step for metric in losses] == [2, 4]
    again = TrackedRun(record.run_id, None, asdict(record)["config"], Path(), resumes=True)
    assert trackers._Mlflow(again).id == found.info.run_id
