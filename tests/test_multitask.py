"""One prompt for several tasks: mixtures, weights, per-task pieces, scores, transfer, separate streams."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.trainers import make_trainer

from dp_bench import config, run
from dp_bench.config import Experiment
from dp_bench.data.batches import mixing_rates, training_rows
from dp_bench.identity import Sources
from dp_bench.settings import Mixing, RegimeSettings
from dp_bench.types import UserError

Build = Callable[..., Experiment]

TASKS = "regime.tasks=[cb,rte]"
MULTI = ("regime=multitask", TASKS)
QUICK = ("trainer.max_steps=6", "trainer.eval_every=3", "trainer.batch_size=8", "prompt.num_tokens=4")
LENGTHS = [np.random.default_rng(task).integers(3, 99, size=size) for task, size in enumerate((40, 7, 200))]


@pytest.fixture
def several(experiment: Build) -> Build:
    def build(*overrides: str) -> Experiment:
        return experiment(*MULTI, *QUICK, *overrides)

    # `task=rte` of the fixture is refused on the command line only: the composed value is not read.
    return build


def test_mixing_rates_follow_the_formulas_of_raffel_et_al() -> None:
    sizes = [100, 400, 10_000]

    def rates(mixing: Mixing, temperature: float = 1.0, cap: int | None = None) -> list[float]:
        regime = RegimeSettings(mixing=mixing, mixing_temperature=temperature, mixing_cap=cap)
        return mixing_rates(sizes, regime).tolist()

    assert rates(Mixing.proportional) == pytest.approx([100 / 10_500, 400 / 10_500, 10_000 / 10_500])
    assert rates(Mixing.proportional, cap=500) == pytest.approx([0.1, 0.4, 0.5])
    assert rates(Mixing.equal, cap=7) == pytest.approx([1 / 3] * 3)
    assert rates(Mixing.temperature, 2.0) == pytest.approx([10 / 130, 20 / 130, 100 / 130])
    assert rates(Mixing.temperature, 1.0) == pytest.approx(rates(Mixing.proportional))
    assert rates(Mixing.temperature, 1e9) == pytest.approx([1 / 3] * 3), "flattens to equal"


@pytest.mark.parametrize("buckets", [1, 4])
def test_every_update_is_full_and_tasks_come_at_their_rates(buckets: int) -> None:
    rates = np.array([0.2, 0.3, 0.5])
    stream = training_rows(LENGTHS, rates, batch_size=10, bucket_batches=buckets, seed=3)
    updates = list(itertools.islice(stream, 400))
    counts = np.array([[len(rows) for rows in update] for update in updates])
    assert (counts.sum(1) == 10).all()
    shares = counts.sum(0) / 4000
    spread = np.sqrt(rates * (1 - rates) / 4000)  # of the shares of 4,000 independent draws
    assert (abs(shares - rates) < 4 * spread).all()
    for task, own in enumerate(LENGTHS):
        seen = np.bincount(np.concatenate([update[task] for update in updates]), minlength=len(own))
        if buckets == 1:
            assert seen.max() - seen.min() <= 1, "each epoch shows every row of a task once"
        assert seen.min() > 0


@pytest.mark.parametrize("start", [1, 5, 23])
def test_a_mixture_goes_on_where_it_stood(start: int) -> None:
    def rows(first: int) -> list[list[list[int]]]:
        rates = np.array([0.5, 0.25, 0.25])
        stream = training_rows(LENGTHS, rates, batch_size=6, bucket_batches=4, seed=1, start=first)
        return [[own.tolist() for own in next(stream)] for _ in range(30 - first)]

    assert rows(start) == rows(0)[start:]


def test_an_update_is_the_weighted_sum_of_its_tasks_losses(several: Build, tmp_path: Path) -> None:
    """L = sum over examples of alpha_t * loss / examples, in one pass a task as well as in micro-batches."""
    places = (np.array([0, 3, 5]), np.array([1, 2, 4, 6, 7]))

    def gradient(name: str, *overrides: str) -> torch.Tensor:
        own = several(
            "prompt=fixed", "regime.task_weights={rte:3.0}", "trainer.max_grad_norm=1e9", *overrides
        )
        trainer = make_trainer(own, tmp_path / name)
        kept: list[torch.Tensor] = []
        trainer._step_optimizer = lambda step, number: kept.append(trainer.parameters[0].grad.clone())  # type: ignore
        trainer._update(places, 0)
        return kept[0]

    trainer = make_trainer(several("prompt=fixed"), tmp_path / "naive")
    loss = torch.zeros(())
    for split, own, weight in zip(trainer.train_splits, places, (1.0, 3.0), strict=True):
        for place in own:
            batch = split.batch(np.array([place]), 0, {})
            logits_BC = trainer.model(batch).logits_BC
            loss = loss + weight * torch.nn.functional.cross_entropy(logits_BC, batch.label_B) / 8
    loss.backward()  # type: ignore[no-untyped-call]
    expected = trainer.parameters[0].grad
    torch.testing.assert_close(gradient("whole"), expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(gradient("cut", "trainer.micro_batch_size=2"), expected, atol=1e-6, rtol=1e-4)


def test_task_level_pieces_learn_each_task_from_its_own_examples(several: Build, tmp_path: Path) -> None:
    trainer = make_trainer(several("prompt=adap_pos", "trainer.warmup_steps=0"), tmp_path)
    before = trainer._state()["prompt.position.logits_NJ"]
    assert before.shape == (2, 5)
    trainer._update((np.arange(8), np.arange(0)), 0)
    after = trainer._state()["prompt.position.logits_NJ"]
    assert not torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])


def test_a_run_scores_each_task_and_selects_on_the_mean(several: Build) -> None:
    own = several("prompt=adap_ins_pos", "regime.transfer=[copa,axb]")
    record = run.run(own)
    folder = Path(own.settings.results_dir) / "runs" / record.run_id
    assert record.task == "cb+rte" and list(record.by_task) == ["cb", "rte"]
    assert record.score == pytest.approx(np.mean([entry["score"] for entry in record.by_task.values()]))
    chosen = [entry["select_score"] for entry in record.by_task.values()]
    assert record.select_score == pytest.approx(np.mean(chosen))
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert record.select_score == max(line["select_score"] for line in history)
    assert record.num_examples["report"] == sum(e["num_examples"]["report"] for e in record.by_task.values())
    table = pd.read_parquet(folder / "predictions.parquet")
    assert table["task"].value_counts().to_dict() == {
        **{name: entry["num_examples"]["report"] for name, entry in record.by_task.items()},
        **{name: entry["num_examples"]["report"] for name, entry in record.transfer.items()},
    }
    for name, entry in {**record.by_task, **record.transfer}.items():
        if "accuracy" in entry["metrics"]:
            rows = table[table["task"] == name]
            assert entry["metrics"]["accuracy"] == pytest.approx(
                100 * (rows["gold"] == rows["prediction"]).mean()
            )


def test_what_is_told_of_one_task_equals_a_run_of_that_task_alone(several: Build, experiment: Build) -> None:
    """A prompt that is not trained scores a task alike alone, among others, and as a transfer."""
    among = run.run(several("prompt=zero_shot", "prompt.num_tokens=0"))
    for task in ("cb", "rte"):
        alone = run.run(experiment(f"task={task}", "prompt=zero_shot"))
        assert among.by_task[task]["score"] == alone.score
        assert among.by_task[task]["metrics"] == alone.metrics
        assert among.by_task[task]["select_score"] == alone.select_score


def test_few_shots_of_several_tasks_are_those_of_each_alone(several: Build, experiment: Build) -> None:
    among = run.run(several("prompt=fixed", "regime.shots=3"))
    for task in ("cb", "rte"):
        alone = run.run(
            experiment(f"task={task}", "prompt=fixed", *QUICK, "regime=fewshot", "regime.shots=3")
        )
        assert among.by_task[task]["num_examples"] == alone.num_examples
        assert among.by_task[task]["notes"] == alone.notes


def test_another_task_or_transfer_is_another_run(several: Build) -> None:
    base = several("prompt=fixed")
    ids = {
        run.records.identify(made.resolved, Sources.of(made).sha256)[0]
        for made in (
            base,
            several("prompt=fixed", "regime.tasks=[cb,copa]"),
            several("prompt=fixed", "regime.tasks=[rte,cb]"),
            several("prompt=fixed", "regime.transfer=[copa]"),
            several("prompt=fixed", "regime.task_settings={rte:{max_length:200}}"),
            several("prompt=fixed", "regime.mixing=equal"),
        )
    }
    assert len(ids) == 6
    (rte,) = [t for t in several("regime.task_settings={rte:{max_length:200}}").tasks if t.name == "rte"]
    assert rte.max_length == 200 and base.tasks[1].max_length != 200


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([*MULTI, "regime.tasks=[cb]"], "at least two tasks"),
        ([*MULTI, "regime.tasks=[cb,cb]"], "each once"),
        ([*MULTI, "regime.tasks=[cb,rtee]"], "Did you mean rte"),
        ([*MULTI, "regime.tasks=[cb,axb]"], "regime.transfer=\\[axb\\]"),
        ([*MULTI, "regime.transfer=[cb]"], "trained and scored"),
        ([*MULTI, "regime.task_weights={wic:2.0}"], "regime.task_weights names 'wic'"),
        ([*MULTI, "regime.task_weights=[1,2]"], "not a mapping"),
        ([*MULTI, "regime.task_settings={rte:256}"], "must be a mapping"),
        ([*MULTI, "regime.task_weights={rte:-1.0}"], "at least 0"),
        ([*MULTI, "regime.task_settings={wic:{max_length:99}}"], "regime.task_settings names 'wic'"),
        ([*MULTI, "regime.task_settings={rte:{length:99}}"], "regime.task_settings of rte"),
        ([*MULTI, "regime.task_settings={rte:{max_length:3}}"], "no room for a text"),
        ([*MULTI, "regime.mixing=temperature", "regime.mixing_temperature=0"], "must be positive"),
        ([*MULTI, "regime.mixing_cap=0"], "at least 1"),
        ([*MULTI, "prompt=linear_probe"], "once a task"),
        (["regime.transfer=[cb]", "prompt=majority"], "has none"),
    ],
)
def test_mixtures_without_meaning_are_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        config.build(config.compose(["task=rte", "data.dir=.", *overrides]))


def test_a_task_beside_regime_tasks_is_refused() -> None:
    for typed in ("task=wic", "task.max_length=99"):
        with pytest.raises(UserError, match="has no meaning with regime=multitask"):
            config.check([*MULTI, typed])


def test_a_task_level_choice_is_not_guessed_for_a_task_that_has_none(several: Build) -> None:
    with pytest.raises(UserError, match="has task-level pieces"):
        run.run(several("prompt=adap_pos", "regime.transfer=[copa]"))


@pytest.mark.parametrize("stream", ["order", "init", "gumbel", "heldout"])
def test_each_stream_of_seeds_changes_its_own_draw_alone(
    experiment: Build, tmp_path: Path, stream: str
) -> None:
    def draws(name: str, *overrides: str) -> dict[str, object]:
        composed = experiment("prompt=adap_ins_pos", *QUICK, *overrides)
        trainer = make_trainer(composed, tmp_path / name)
        (split,) = trainer.train_splits
        seen: list[list[int]] = []
        update = trainer._update
        trainer._update = lambda places, step: (seen.append(places[0].tolist()), update(places, step))[1]  # type: ignore
        start = trainer._state()["prompt.vectors.prompt_PD"]
        noise = [batch.noise["position"] for batch, *_ in trainer._micro_batches((np.arange(8),), 0, 8)]
        trainer.fit()
        return {
            "heldout": sorted(split.encoded.ids),
            "order": seen,
            "init": start.tolist(),
            "gumbel": noise[0].tolist(),
        }

    base, again = draws("base"), draws("again", f"seeds.{stream}=0")
    assert base == again, "a stream that is set to the seed itself changes nothing"
    other = draws("other", f"seeds.{stream}=1")
    changed = {name for name in base if base[name] != other[name]}
    # Where other rows are held out, other rows are left to be put into an order.
    assert changed - ({"order"} if stream == "heldout" else set()) == {stream}
