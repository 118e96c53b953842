"""Reptile over prompts: turns of one task, the outer step, and a killed run that ends in the same bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.trainers import make_trainer

from dp_bench import cli
from dp_bench.config import Experiment
from dp_bench.data.batches import training_rows

Build = Callable[..., Experiment]
WORDS = (
    *("regime=reptile", "regime.tasks=[cb,rte]", "regime.reptile_updates=3", "regime.reptile_rate=0.25"),
    *("prompt=adap_pos", "prompt.num_tokens=4", "trainer.batch_size=6", "trainer.max_steps=12"),
    *("trainer.eval_every=6", "trainer.warmup_steps=0"),
)


class KilledError(Exception):
    pass


def test_tasks_take_turns_at_their_rates_and_go_on_where_they_stood() -> None:
    lengths = [np.random.default_rng(task).integers(3, 99, size=size) for task, size in enumerate((40, 7))]
    settings: dict[str, Any] = {"batch_size": 5, "bucket_batches": 4, "seed": 2, "turn": 3}

    def updates(start: int, number: int) -> list[list[list[int]]]:
        stream = training_rows(lengths, np.array([0.3, 0.7]), start=start, **settings)
        return [[rows.tolist() for rows in update] for update in itertools.islice(stream, number)]

    whole = updates(0, 900)
    assert whole[500:520] == updates(500, 20)
    counts = np.array([[len(rows) for rows in update] for update in whole]).reshape(300, 3, 2)
    assert (np.sort(counts, axis=2) == [0, 5]).all() and (counts == counts[:, :1]).all()
    share = (counts[:, 0, 1] > 0).mean()
    assert abs(share - 0.7) < 4 * np.sqrt(0.21 / 300)


def test_the_start_is_that_of_the_algorithm_written_as_loops(experiment: Build, tmp_path: Path) -> None:
    """phi <- phi + rate (theta - phi) in float64, theta by the updates of a trainer without outer steps."""
    trained = make_trainer(experiment(*WORDS), tmp_path / "reptile")
    inner = make_trainer(experiment(*WORDS), tmp_path / "inner")
    inner.reptile.parameters, inner.reptile.start = (), []
    phi = [parameter.detach().double() for parameter in inner.parameters]
    rows = list(itertools.islice(trained.rows_of_updates(0), 6))
    for outer in range(2):
        for k in range(3):
            step = 3 * outer + k
            trained._update(rows[step], step)
            inner._update(rows[step], step)
        with torch.no_grad():
            for number, theta in enumerate(inner.parameters):
                for index in np.ndindex(*theta.shape):
                    phi[number][index] += 0.25 * (float(theta[index]) - float(phi[number][index]))
                theta.copy_(phi[number])
    for mine, expected in zip(trained.parameters, phi, strict=True):
        torch.testing.assert_close(mine.detach().double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at", [6, 7])
def test_a_killed_run_ends_in_the_same_bytes(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    undisturbed = make_trainer(experiment(*WORDS), tmp_path / "undisturbed")
    undisturbed.fit()
    often = experiment(*WORDS, "trainer.checkpoint_minutes=1e-9")  # within a turn too
    killed = make_trainer(often, tmp_path / "killed")
    update = killed._update

    def die(places: Any, step: int) -> float:
        if step == at:
            raise KilledError
        return update(places, step)

    monkeypatch.setattr(killed, "_update", die)
    with pytest.raises(KilledError):
        killed.fit()
    resumed = make_trainer(often, tmp_path / "killed")
    resumed.fit()
    assert resumed.progress.step == 12
    for key, value in undisturbed._state().items():
        assert torch.equal(resumed._state()[key], value), key


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["regime.reptile_rate=0.5"], "use regime=reptile"),
        (["regime=reptile", "regime.reptile_rate=null"], "use regime=reptile"),
        (["regime=reptile", "regime.reptile_rate=1.5"], "above 0 and at most 1"),
        (["regime=reptile", "trainer.eval_every=25", "regime.reptile_updates=10"], "Use 30."),
    ],
)
def test_what_learns_no_start_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *words, "prompt=fixed", "data.dir=.", "--cfg", "job"])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
