"""Warnings where a prompt cannot learn, and none where it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.trainers import make_trainer

from dp_bench import guards, run
from dp_bench.config import Experiment
from dp_bench.optim import TrainPlan

Build = Callable[..., Experiment]

QUICK = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=8", "prompt.num_tokens=4")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["trainer.lr=0.3"], ""),
        (["trainer.lr=3e-5"], "lr 3e-05 is outside"),
        (["trainer.optimizer=adamw", "trainer.lr=0.3"], "lr 0.3 is outside"),
        (["trainer.optimizer=adamw", "trainer.lr=0.03"], ""),
        (["prompt=fine_tuning"], ""),
        (["prompt=fine_tuning", "trainer.full.lr=0.1"], "all weights"),
        (["prompt=lora"], ""),
        (["prompt=prefix_tuning"], ""),
        (["prompt=p_tuning_v2"], ""),
        (
            ["prompt=fixed", "prompt/layers=table"],
            "lr 0.3 is outside what usually works for keys and values with",
        ),
        (["prompt=fixed", "prompt/layers=table", "prompt.lr=0.03"], ""),
        (["prompt=prefix_tuning", "prompt.lr=0.01"], "keys and values out of an MLP"),
        (["protocol=authors"], "dropout is on"),
    ],
)
def test_unusual_settings_are_told(experiment: Build, overrides: list[str], told: str) -> None:
    settings = experiment(*overrides).settings
    found = list(guards.before_training(settings, 1.0))
    assert (len(found) == 1 and told in found[0]) if told else not found


def test_the_rate_of_vectors_is_judged_by_the_embeddings(experiment: Build) -> None:
    small = 0.136
    absolute = experiment("trainer.lr=0.3").settings
    assert not list(guards.before_training(absolute, 1.5))
    assert "usually works for prompt with adafactor: 0.00068 to 0.14" in next(
        guards.before_training(absolute, small)
    )
    relative = experiment("trainer.lr=0.2", "trainer.lr_unit=embedding").settings
    assert not list(guards.before_training(relative, small))
    assert (
        TrainPlan(relative, small).optimizer
        == TrainPlan(experiment(f"trainer.lr={0.2 * small}").settings, small).optimizer
    )


def test_a_methods_own_rate_has_no_unit(experiment: Build) -> None:
    for words in (["prompt=lora"], ["prompt=fine_tuning"], ["prompt=fixed", "prompt.lr=0.1"]):
        plain, unit = (
            experiment(*words, f"trainer.lr_unit={unit}").settings for unit in ("absolute", "embedding")
        )
        assert TrainPlan(plain, 7.0).optimizer == TrainPlan(unit, 7.0).optimizer


def test_gradients_that_are_zero_or_not_finite_are_told() -> None:
    names = ("none", "zero", "endless", "good")
    parameters = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.ones(2)) for name in names})
    for name, value in (("zero", 0.0), ("endless", float("inf")), ("good", 1.0)):
        parameters[name].grad = torch.full((2,), value)
    found = list(guards.of_gradients(parameters))
    told = {text.split()[3]: text for text in found}
    assert sorted(told) == ["endless", "none", "zero"]
    assert "is zero" in told["zero"] and "not finite" in told["endless"]


def test_a_dead_relu_of_the_position_is_told_by_a_run(experiment: Build, tmp_path: Path) -> None:
    """With all logits below 0 the authors' ReLU gives no gradient, ever."""
    trainer = make_trainer(experiment("prompt=adap_ins_pos", "protocol=authors", *QUICK), tmp_path)
    with torch.no_grad():
        trainer.prompt.position.linear.weight.zero_()  # type: ignore[union-attr, operator]
        trainer.prompt.position.linear.bias.fill_(-1.0)  # type: ignore[union-attr, operator]
    trainer.fit()
    assert any(
        "position.linear.weight is zero" in text and "ReLU" in text for text in trainer.reporter.warnings
    )


def test_constant_predictions_and_collapsed_selectors_are_told(experiment: Build, tmp_path: Path) -> None:
    trainer = make_trainer(experiment("prompt=adap_ins_pos", *QUICK, "trainer.lr=1e-9"), tmp_path)
    same, other = np.zeros(5, dtype=np.int64), np.array([0, 1, 0, 0, 1])
    for chosen, number in ((same, 2), (other, 0)):
        logits_MC = np.eye(2, dtype=np.float32)[chosen]
        report = trainer.report(trainer.select_splits[0], 0)
        predictions = replace(report.predictions, logits_MC=logits_MC, position_M=chosen)
        told = list(guards.of_reports(trainer.prompt, [replace(report, predictions=predictions)]))
        assert len(told) == number
        assert not told or (told[0].startswith("all 5 predictions") and "collapsed" in told[1])
    with torch.no_grad():
        trainer.prompt.position.linear.bias[2] = 1e3  # type: ignore[union-attr, operator, index]
    trainer.fit()
    assert any("position selector has collapsed: it chooses 2" in text for text in trainer.reporter.warnings)
    pool = make_trainer(experiment("prompt=pool", *QUICK, "trainer.lr=1e-9"), tmp_path / "pool")
    pool.fit()
    assert not any("collapsed" in text for text in pool.reporter.warnings)
    with torch.no_grad():
        pool.prompt.vectors.linear.bias[3] = 1e3  # type: ignore[union-attr, operator, index]
    found = guards.of_reports(pool.prompt, [pool.report(pool.select_splits[0], 0)])
    assert any("all rows of select use member 3 only" in text for text in found)


def test_warnings_are_kept_in_the_record_once(experiment: Build) -> None:
    record = run.run(experiment("prompt=fixed", *QUICK, "trainer.lr=1e-7"))
    assert len([text for text in record.warnings if "outside what usually works" in text]) == 1


def test_positions_of_other_examples_are_a_recorded_control(experiment: Build, tmp_path: Path) -> None:
    """With one position for all, those of others are one's own; a run without a chosen position has none."""
    own = experiment("prompt=adap_ins_pos", *QUICK)
    record = run.run(own)
    assert 0 <= record.diagnostics["shuffled_position_score"] <= 100
    assert "shuffled_position_score" not in run.run(experiment("prompt=adap_pos", *QUICK)).diagnostics


@pytest.mark.parametrize("protocol", ["clean", "authors"])
def test_given_positions_are_used_as_they_are(experiment: Build, tmp_path: Path, protocol: str) -> None:
    from dp_bench.evaluation import predict

    trainer = make_trainer(experiment("prompt=adap_ins_pos", *QUICK, f"protocol={protocol}"), tmp_path)
    (split,) = trainer.select_splits
    asked = np.arange(len(split)) % 5
    found = predict(trainer.bare_model, split, batch_size=3, seed=0, positions=asked)
    assert np.array_equal(found.position_M, asked)
