"""Baselines leave the same record as a prompt: majority, zero-shot, linear probe, fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from dp_bench import run
from dp_bench.config import Experiment
from dp_bench.methods.baselines import _logistic_regression
from dp_bench.records import RunRecord

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=4")


def predictions(record: RunRecord, experiment: Experiment) -> pd.DataFrame:
    return pd.read_parquet(
        Path(experiment.settings.results_dir) / "runs" / record.run_id / "predictions.parquet"
    )


def test_majority_predicts_the_most_frequent_training_label(experiment: Build) -> None:
    composed = experiment("task=cb", "prompt=majority", "data.limit=9")
    record = run.run(composed)
    assert record.trainable_parameters == record.num_updates == 0
    assert predictions(record, composed)["prediction"].nunique() == 1


def test_zero_shot_is_the_bare_model_and_changes_nothing(experiment: Build) -> None:
    composed = experiment("prompt=zero_shot")
    record = run.run(composed)
    assert (record.trainable_parameters, record.num_updates, record.best_step) == (0, 0, 0)
    other = run.run(experiment("prompt=zero_shot", "seed=5"))
    assert other.score == record.score, "no seed decides anything but the held-out rows"
    assert (predictions(record, composed)["position"] == 0).all()


def test_the_probe_equals_scikit_learns_logistic_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 6, generator=generator, dtype=torch.float64)
    labels = (x @ torch.randn(6, 3, generator=generator, dtype=torch.float64)).argmax(1)
    labels[:20] = torch.randint(0, 3, (20,), generator=generator)
    ridge = 0.05
    ours = _logistic_regression(x, labels, 3, ridge)
    theirs = LogisticRegression(C=1 / (ridge * len(x)), tol=1e-10, max_iter=5000).fit(x, labels)
    # Biases are free up to a shift common to all classes; the penalty fixes the weights.
    np.testing.assert_allclose(ours[:, :-1], theirs.coef_, atol=1e-4)
    biases = ours[:, -1] - ours[:, -1].mean()
    np.testing.assert_allclose(biases, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-4)


def test_the_probe_reads_the_frozen_summary_and_counts_its_weights(experiment: Build) -> None:
    composed = experiment("task=cb", "prompt=linear_probe", "trainer.heldout_fraction=0.3")
    record = run.run(composed)
    assert record.trainable_parameters == 3 * (64 + 1)
    kept = load_file(Path(composed.settings.results_dir) / "runs" / record.run_id / "prompt.safetensors")
    assert kept["weights"].shape == (3, 65) and kept["center"].shape == (64,)
    assert record.frozen_parameters > 0


def test_fine_tuning_trains_every_weight_that_the_answer_depends_on(experiment: Build) -> None:
    own = experiment("prompt=fine_tuning", "trainer.full.lr=0.01", *QUICK)
    record = run.run(own)
    assert record.precision == "float32" and record.frozen_parameters == 0
    zero = run.run(experiment("prompt=zero_shot"))
    assert record.trainable_parameters == zero.frozen_parameters
    assert record.checkpoint == zero.checkpoint, "named after what it started from"
    assert not predictions(record, own)["score_yes"].equals(predictions(zero, own)["score_yes"])


@pytest.mark.parametrize("name", ["majority", "zero_shot", "linear_probe", "fine_tuning"])
def test_a_baseline_gives_the_same_predictions_twice(experiment: Build, name: str) -> None:
    composed = experiment(f"prompt={name}", *QUICK)
    first = predictions(run.run(composed), composed)
    again = experiment(f"prompt={name}", "rerun=true", *QUICK)
    pd.testing.assert_frame_equal(predictions(run.run(again), again), first)
