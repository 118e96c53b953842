"""The loop: what changes and what does not, accumulation, schedules, stopping, resuming, overfitting."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.trainers import KilledError, make_trainer

from dp_bench import checkpoints
from dp_bench.config import Experiment
from dp_bench.data.batches import evaluation_batches, training_rows
from dp_bench.effective import OptimizerUsed
from dp_bench.evaluation import predict, score
from dp_bench.optim import make_optimizer, temperature
from dp_bench.settings import Schedule, TemperatureSettings

Build = Callable[..., Experiment]


def prompt_after(experiment: Experiment, directory: Path, updates: int = 3) -> dict[str, torch.Tensor]:
    trainer = make_trainer(experiment, directory)
    for step in range(updates):
        trainer._update((np.arange(8),), step)
    return trainer._state()


@pytest.mark.parametrize("name", ["fixed", "dynamic", "adap_len"])
def test_an_update_changes_every_prompt_parameter_and_nothing_else(
    experiment: Build, tmp_path: Path, name: str
) -> None:
    trainer = make_trainer(experiment(f"prompt={name}", "trainer.warmup_steps=0"), tmp_path)
    model = trainer.accelerator.unwrap_model(trainer.model)
    frozen = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    before = trainer._state()
    trainer._update((np.arange(8),), 0)
    for key, value in trainer._state().items():
        assert not torch.equal(value, before[key]), f"{key} did not move"
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, frozen[key]), key


@pytest.mark.parametrize("name", ["fixed", "dynamic"])
@pytest.mark.parametrize("optimizer", ["adafactor trainer.lr=0.3", "adamw trainer.lr=0.03"])
def test_accumulated_micro_batches_equal_the_full_batch(
    experiment: Build, tmp_path: Path, name: str, optimizer: str
) -> None:
    own = [f"prompt={name}", *f"trainer.optimizer={optimizer}".split(), "trainer.batch_size=8"]
    full = prompt_after(experiment(*own), tmp_path / "full")
    for size in (4, 3):  # 3 leaves a remainder of two examples
        parts = prompt_after(experiment(*own, f"trainer.micro_batch_size={size}"), tmp_path / str(size))
        for key, value in full.items():
            torch.testing.assert_close(parts[key], value, atol=2e-4, rtol=2e-4)


def test_authors_protocol_updates_after_every_micro_batch_where_their_script_does(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    for name in ("fixed", "adap_ins_pos"):
        trainer = make_trainer(
            experiment(
                f"prompt={name}", "protocol=authors", "trainer.batch_size=8", "trainer.micro_batch_size=2"
            ),
            tmp_path / name,
        )
        steps: list[tuple[int, int]] = []
        monkeypatch.setattr(trainer, "_step_optimizer", lambda *at, steps=steps: steps.append(at))
        trainer._update((np.arange(8),), 0)
        counts[name] = len(steps)
    assert counts == {"fixed": 4, "adap_ins_pos": 1}  # docs/protocol.md B1


@pytest.mark.parametrize(
    "prompt", ["fixed prompt.num_tokens=40", "adap_ins_vec prompt.vectors.num_prompts=8"]
)
def test_sixty_updates_overfit_eight_examples(experiment: Build, tmp_path: Path, prompt: str) -> None:
    # Random weights of the usual scale attend almost evenly and hardly tell texts apart: scale them up.
    backbone = "+backbone.random_init.initializer_factor=1.5"
    budget = ["trainer.max_steps=60", "trainer.batch_size=8", "trainer.eval_every=5"]
    adamw = ["trainer.optimizer=adamw", "trainer.lr=0.03"]
    composed = experiment("task=wic", *f"prompt={prompt}".split(), backbone, *budget, *adamw)
    progress = make_trainer(composed, tmp_path, rows=8).fit()
    assert progress.best_score == 100.0
    losses = [line["loss"] for line in progress.history]
    assert min(losses) < 0.5 * losses[0]


def test_evaluation_twice_gives_the_same_numbers(experiment: Build, tmp_path: Path) -> None:
    for name in ("dynamic", "random_position"):
        trainer = make_trainer(experiment(f"prompt={name}"), tmp_path / name)
        model = trainer.accelerator.unwrap_model(trainer.model)
        runs = [predict(model, trainer.select_splits[0], batch_size=size, seed=0) for size in (4, 4, 3)]
        assert np.array_equal(runs[0].logits_MC, runs[1].logits_MC)
        assert np.array_equal(runs[0].position_M, runs[2].position_M), "whatever the batch size"
        np.testing.assert_allclose(runs[0].logits_MC, runs[2].logits_MC, atol=1e-5)


def test_predictions_stand_in_the_order_of_the_split(experiment: Build, tmp_path: Path) -> None:
    trainer = make_trainer(experiment("prompt=dynamic"), tmp_path)
    model = trainer.accelerator.unwrap_model(trainer.model)
    (split,) = trainer.train_splits
    together = predict(model, split, batch_size=5, seed=0)
    for place in range(len(split)):
        with torch.inference_mode():
            alone = model(split.batch(np.array([place]), 0, {})).logits_BC[0]
        np.testing.assert_allclose(together.logits_MC[place], alone.numpy(), atol=1e-5)


def test_the_authors_protocol_samples_anew_at_each_evaluation(experiment: Build, tmp_path: Path) -> None:
    trainer = make_trainer(experiment("prompt=adap_ins_pos", "protocol=authors"), tmp_path)
    model = trainer.accelerator.unwrap_model(trainer.model)
    draws = [
        predict(model, trainer.select_splits[0], batch_size=8, seed=0, sample=True, step=step).position_M
        for step in (500, 500, 1000)
    ]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])


def settings_of(schedule: Schedule, anneal: float = 10.0) -> TemperatureSettings:
    return TemperatureSettings(schedule=schedule, start=1.0, end=0.5, anneal=anneal)


@pytest.mark.parametrize(
    ("anneal", "reached"),
    [(0.01, 22), (0.1, 68), (1, 215), (10, 680), (100, 2150), (200, 3040), (300, 3723), (500, 4807)],
)
def test_the_authors_temperature_reaches_one_half_where_their_loop_does(anneal: float, reached: int) -> None:
    own = settings_of(Schedule.authors, anneal)
    assert next(s for s in itertools.count() if temperature(own, s, 20_000) <= 0.5) == reached
    running = 1.0
    for step in range(1, 200):  # their loop: the running temperature is multiplied
        running = max(running * np.exp(-3e-5 * step / anneal), 0.5)
        assert temperature(own, step, 20_000) == pytest.approx(running, rel=1e-9)


def test_the_clean_temperature_falls_from_start_to_end() -> None:
    own = settings_of(Schedule.exponential)
    values = [temperature(own, step, 100) for step in range(100)]
    assert values[0] == 1.0 and values[-1] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)
    assert temperature(settings_of(Schedule.constant), 50, 100) == 1.0


def test_warm_up_is_linear_and_ends(experiment: Build, tmp_path: Path) -> None:
    trainer = make_trainer(experiment("prompt=fixed", "trainer.warmup_steps=4", "trainer.lr=0.2"), tmp_path)
    seen = []
    for step in range(6):
        trainer._step_optimizer(step, 0)
        seen.append(trainer.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2, 0.2])


def test_gradients_are_clipped_to_the_maximum(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(experiment("prompt=fixed", "trainer.max_grad_norm=0.001"), tmp_path)
    norms: list[float] = []

    def look(step: int, number: int) -> None:
        norms.append(
            float(torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None]).norm())
        )

    monkeypatch.setattr(trainer, "_step_optimizer", look)
    trainer._update((np.arange(8),), 0)
    assert norms == pytest.approx([0.001], rel=1e-3)


def test_patience_stops_a_run_that_no_longer_improves(experiment: Build, tmp_path: Path) -> None:
    composed = experiment(
        "prompt=fixed", "trainer.max_steps=50", "trainer.eval_every=1", "trainer.patience=3"
    )
    trainer = make_trainer(composed, tmp_path)
    progress = trainer.fit()
    assert progress.step < 50
    assert progress.step - progress.best_step == 3


def test_the_best_prompt_is_what_remains(experiment: Build, tmp_path: Path) -> None:
    trainer = make_trainer(
        experiment("trainer.max_steps=12", "trainer.eval_every=2", "prompt=dynamic"), tmp_path
    )
    progress = trainer.fit()
    model = trainer.accelerator.unwrap_model(trainer.model)
    predictions = predict(model, trainer.select_splits[0], batch_size=64, seed=trainer.plan.noise_seed)
    value = score(trainer.select_splits[0], predictions).value
    assert value == progress.best_score == max(line["select_score"] for line in progress.history)


@pytest.mark.parametrize("name", ["dynamic", "random_position"])
@pytest.mark.parametrize("optimizer", ["adafactor trainer.lr=0.3", "adamw trainer.lr=0.03"])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, optimizer: str
) -> None:
    overrides = [f"prompt={name}", *f"trainer.optimizer={optimizer}".split(), "trainer.batch_size=6"]
    composed = experiment(
        *overrides, "trainer.max_steps=10", "trainer.eval_every=4", "trainer.micro_batch_size=3"
    )
    undisturbed = make_trainer(composed, tmp_path / "undisturbed")
    undisturbed.fit()
    final = undisturbed._state()

    killed = make_trainer(composed, tmp_path / "killed")
    update = killed._update

    def die_in_update_7(places: Any, step: int) -> float:
        if step == 6:
            raise KilledError
        return update(places, step)

    monkeypatch.setattr(killed, "_update", die_in_update_7)
    with pytest.raises(KilledError):
        killed.fit()
    resumed = make_trainer(composed, tmp_path / "killed")
    resumed.fit()
    for key, value in final.items():
        assert torch.equal(resumed._state()[key], value), key

    def told(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in history]

    assert told(resumed.progress.history) == told(undisturbed.progress.history)


def test_a_checkpoint_that_is_cut_short_leaves_the_one_before(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(experiment("prompt=fixed"), tmp_path)
    trainer.progress.step = 1
    trainer._checkpoint()

    def killed(*_: object) -> None:
        raise KilledError

    for name in ("save", "write_json", "sync"):
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(*((torch, name) if name == "save" else (checkpoints, name)), killed)
            trainer.progress.step = 2
            trainer._checkpoint()
        saved = checkpoints.load(tmp_path / "checkpoint", {})
        assert saved is not None and saved.progress.step == 1
    trainer._checkpoint()
    kept = sorted(path.name.split("-")[1] for path in (tmp_path / "checkpoint").iterdir())
    assert kept == ["00000001", "00000002"], "the one before is kept, nothing half-written"


def test_a_loss_that_is_not_finite_stops_the_run(experiment: Build, tmp_path: Path) -> None:
    trainer = make_trainer(experiment("prompt=fixed"), tmp_path)
    trainer.parameters[0].data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="update 1"):
        trainer._update((np.arange(4),), 0)


LENGTHS = np.random.default_rng(0).integers(3, 400, size=103)


def rows_of_one_task(lengths: Any, **settings: int) -> Iterator[Any]:
    return (rows for (rows,) in training_rows([lengths], np.ones(1), **settings))


@pytest.mark.parametrize("buckets", [1, 4])
def test_each_epoch_shows_every_row_once_and_bucketing_only_changes_the_order(buckets: int) -> None:
    batches = rows_of_one_task(LENGTHS, batch_size=10, bucket_batches=buckets, seed=5)
    seen = np.concatenate([next(batches) for _ in range(4 * 26)])  # 1040 rows: ten epochs and ten rows
    counts = np.bincount(seen, minlength=103)
    assert counts.min() >= 10 and counts.max() <= 11
    plain = rows_of_one_task(LENGTHS, batch_size=10, bucket_batches=1, seed=5)
    same = np.concatenate([next(plain) for _ in range(4 * 26)])
    for stretch in range(0, 1040, 40):
        assert sorted(seen[stretch : stretch + 40]) == sorted(same[stretch : stretch + 40])


def test_bucketing_saves_padding() -> None:
    def padding(buckets: int) -> int:
        batches = itertools.islice(
            rows_of_one_task(LENGTHS, batch_size=8, bucket_batches=buckets, seed=0), 40
        )
        return sum(int(LENGTHS[rows].max() * len(rows) - LENGTHS[rows].sum()) for rows in batches)

    assert padding(8) < 0.5 * padding(1)


@pytest.mark.parametrize("start", [0, 1, 7, 31])
def test_rows_from_a_later_start_are_those_of_the_first_run(start: int) -> None:
    def rows(first: int) -> list[list[int]]:
        stream = rows_of_one_task(LENGTHS, batch_size=7, bucket_batches=4, seed=1, start=first)
        return [next(stream).tolist() for _ in range(40 - first)]

    assert rows(start) == rows(0)[start:]


def test_a_batch_larger_than_the_data_repeats_rows() -> None:
    rows = next(rows_of_one_task(LENGTHS[:3], batch_size=8, bucket_batches=2, seed=0))
    assert len(rows) == 8 and set(rows.tolist()) <= {0, 1, 2}


def test_evaluation_covers_every_row_once_longest_first() -> None:
    batches = evaluation_batches(LENGTHS, 16)
    assert sorted(np.concatenate(batches).tolist()) == list(range(103))
    assert LENGTHS[batches[0]].max() == LENGTHS.max()


def test_adafactor_is_without_relative_steps_or_scaling() -> None:
    parameter = torch.nn.Parameter(torch.full((4, 4), 100.0))
    optimizer = make_optimizer(OptimizerUsed("adafactor", 0.3, 0.0), [parameter])
    parameter.grad = torch.ones(4, 4)
    optimizer.step()
    # A scaled or relative step would be far from lr: the root mean square of an unscaled first step is 1.
    torch.testing.assert_close(parameter.data, torch.full((4, 4), 100.0 - 0.3), rtol=1e-4, atol=0)
