"""Runs that are trained together come to what each comes to alone, and none is lost with another."""

from __future__ import annotations

import _thread
import json
import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.sweeps import TINY, Sweep, sweep
from safetensors.torch import load_file

from dp_bench import lockstep, opening, records, signals, summaries
from dp_bench.config import Experiment
from dp_bench.methods import tune
from dp_bench.model import PromptedModel
from dp_bench.records import RunRecord
from dp_bench.run import run
from dp_bench.settings import RunSettings
from dp_bench.trainer import Trainer

assert sweep  # the fixture

Build = Callable[..., Experiment]
SHORT = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=6", "trainer.micro_batch_size=4")
# Estimators of one forward pass and of several, another rhythm of evaluations, another task, a baseline.
MIXED = (
    ("prompt=fixed",),
    ("prompt=dynamic", "seed=1"),
    ("prompt=adap_ins_pos", "prompt.estimator=leave_one_out", "prompt.num_tokens=3"),
    ("prompt=fixed", "trainer.eval_every=1", "trainer.max_steps=3"),
    ("prompt=routed", "task=cb"),
    ("prompt=zero_shot",),
)


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load backbones in float64, in which the order of sums hardly matters."""

    def loading(settings: RunSettings) -> tuple[torch.device, torch.dtype, bool]:
        return torch.device("cpu"), torch.float64, bool(settings.protocol.frozen_dropout)

    make, kept, read = tune.make_prompt, summaries.summarise, PromptedModel.summarise
    monkeypatch.setattr(opening, "loading", loading)
    monkeypatch.setattr(tune, "make_prompt", lambda context: make(context).double())
    monkeypatch.setattr(summaries, "summarise", lambda *given, **more: kept(*given, **more).float())
    monkeypatch.setattr(PromptedModel, "summarise", lambda *given: read(*given).double())


def alone_and_together(
    experiment: Build, folder: Path, runs: Sequence[Sequence[str]], *more: str
) -> list[tuple[Path, Path]]:
    """Return the folders of each run, alone and together."""

    def go(words: Sequence[str], where: str) -> Path:
        record = run(experiment(*SHORT, *more, *words, f"results_dir={folder / where}"))
        return folder / where / "runs" / record.run_id

    apart = [go(words, "alone") for words in runs]
    ends = lockstep.together([partial(go, words, "together") for words in runs])
    assert all(isinstance(end, Path) for end in ends), ends
    return list(zip(apart, [end for end in ends if isinstance(end, Path)], strict=True))


def difference(one: Path, other: Path) -> float:
    """Return the largest difference of trained tensors and of predicted scores."""
    a, b = (load_file(path / "prompt.safetensors") for path in (one, other))
    assert a.keys() == b.keys()
    apart = [float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel()]
    p, q = (pd.read_parquet(path / "predictions.parquet") for path in (one, other))
    assert (p["prediction"] == q["prediction"]).all()
    scores = [name for name in p if str(name).startswith("score_")]
    np.testing.assert_allclose(p[scores], q[scores], atol=1e-6)  # written in fp32
    return max(apart, default=0.0)


@pytest.mark.parametrize("backbone", ["t5_tiny_random", "gpt2_tiny_random", "bert_tiny_random"])
def test_together_is_alone_to_rounding(
    backbone: str, experiment: Build, tmp_path: Path, in_double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    join = lockstep._pass_together

    def counted(passes: Any) -> Any:
        sizes.append(len(passes))
        return join(passes)

    monkeypatch.setattr(lockstep, "_pass_together", counted)
    for one, other in alone_and_together(experiment, tmp_path, MIXED, f"backbone={backbone}"):
        assert difference(one, other) < 1e-10, one.name
    assert max(sizes) >= 4, "they do pass together"


def test_whole_choices_together(experiment: Build, tmp_path: Path, in_double: None) -> None:
    runs = [("prompt=fixed",), ("prompt=adap_pos", "seed=3")]
    for one, other in alone_and_together(experiment, tmp_path, runs, "task=copa", "task.scoring=choices"):
        assert difference(one, other) < 1e-10


def test_a_run_that_fails_leaves_the_others(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Trainer._update

    def broken(trainer: Trainer, indices: Any, step: int) -> float:
        if trainer.prompt.num_tokens == 3 and step == 2:
            raise RuntimeError("this one fails")
        return update(trainer, indices, step)

    def go(*words: str) -> RunRecord:
        return run(experiment(*SHORT, "prompt=fixed", *words))

    expected = go("seed=1").score
    monkeypatch.setattr(Trainer, "_update", broken)
    tasks = [partial(go, "prompt.num_tokens=3"), partial(go, "seed=1", "rerun=true")]
    failed, other = lockstep.together(tasks)
    assert isinstance(failed, RuntimeError)
    assert isinstance(other, RunRecord)
    assert other.score == expected
    assert other.num_together == 2


def test_runs_that_are_stopped_together_go_on_where_they_were(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go(seed: int) -> RunRecord:
        return run(experiment(*SHORT, "prompt=dynamic", f"seed={seed}", *longer))

    update, longer = Trainer._update, ("trainer.max_steps=60", "trainer.eval_every=60")

    def signalled(trainer: Trainer, indices: Any, step: int) -> float:
        if step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return update(trainer, indices, step)

    tasks = [partial(go, seed) for seed in (0, 1)]
    with monkeypatch.context() as patch, pytest.raises(signals.Preempted):
        patch.setattr(Trainer, "_update", signalled)
        lockstep.together(tasks)
    runs = sorted((tmp_path / "results" / "runs").iterdir())
    for path in runs:
        assert json.loads((path / "status.json").read_text("utf-8"))["status"] == "interrupted"
        assert list((path / "checkpoint").glob("step-000000*")), "the update is saved"
    ends = lockstep.together(tasks)
    assert all(isinstance(end, RunRecord) and end.num_updates == 60 for end in ends)


def test_an_interrupt_stops_all_of_them(experiment: Build) -> None:
    started: list[int] = []
    before = set(threading.enumerate())

    def go(seed: int) -> RunRecord:
        started.append(seed)
        if len(started) == 2:
            _thread.interrupt_main()
        return run(experiment(*SHORT, "prompt=fixed", f"seed={seed}", "trainer.max_steps=100000"))

    with pytest.raises(KeyboardInterrupt):
        lockstep.together([partial(go, seed) for seed in (0, 1)])
    assert set(threading.enumerate()) <= before, "no thread is left at work"


def test_a_sweep_trains_runs_together_where_it_can(sweep: Sweep, tmp_path: Path) -> None:
    words = (*TINY, "prompt=fixed,adap_pos,prefix_tuning", "seed=0,1", "results_dir=packed")
    code, text = sweep("--pack", "3", *words)
    assert code == 0
    assert "6 done" in text
    made = {record.run_id: record for record in records.load_all(tmp_path / "packed")}
    shared = {record.num_together for record in made.values() if record.prompt != "prefix_tuning"}
    assert shared == {3, None}, "of four runs that can, three at once and one alone"
    assert all(record.num_together is None for record in made.values() if record.prompt == "prefix_tuning")
    assert all(record.command[:2] == ["dp-bench", "train"] for record in made.values())
    assert {word for record in made.values() for word in record.command} >= {"seed=0", "seed=1"}
    assert not list((tmp_path / "packed" / "logs").glob("*.log"))
    assert "6 done" in sweep("--pack", "3", *words)[1], "nothing is left"


@pytest.mark.parametrize("words", [("--pack", "0"), ("--pack", "2", "hydra/launcher=joblib")])
def test_a_pack_that_makes_no_sense_is_answered(sweep: Sweep, words: tuple[str, ...]) -> None:
    code, text = sweep(*words, *TINY, "prompt=fixed", "seed=0,1")
    assert code == 2
    assert "--pack" in text
