"""What selectors look at: the label is gone for every linear reader, and as little else as can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_batch
from helpers.configs import problems
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from dp_bench import run
from dp_bench.backbones.backbone import Backbone
from dp_bench.config import Experiment
from dp_bench.prompts.inputs import SelectorInput, erased
from dp_bench.settings import Summary
from dp_bench.summaries import summarise

QUICK = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=4")


def texts(number: int = 600, width: int = 12, labels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return correlated features of which some directions tell the label, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, labels, (number,), generator=generator)
    means = torch.randn(labels, width, generator=generator, dtype=torch.float64)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(number, width, generator=generator, dtype=torch.float64)
    return (noise + 1.5 * means[label]) @ mixing + 3.0, label


def onehot(label: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(label).double()


def erase(x: Tensor, label: Tensor) -> Tensor:
    return x - (x - x.mean(0)) @ erased(x, onehot(label))


@pytest.mark.parametrize("labels", [2, 3])
def test_no_linear_reader_finds_the_label_any_more(labels: int) -> None:
    x, label = texts(labels=labels)
    before = LogisticRegression(max_iter=5000).fit(x, label).score(x, label)
    after = erase(x, label)
    reader = LogisticRegression(max_iter=5000, C=1e6).fit(after, label)
    majority = float(label.bincount().max() / len(label))
    assert before > majority + 0.2
    assert reader.score(after, label) == pytest.approx(majority, abs=0.01)
    shared = (after - after.mean(0)).T @ (onehot(label) - onehot(label).mean(0))
    assert float(shared.abs().max()) < 1e-8 * len(x)


def test_it_changes_the_input_least_of_all_maps_that_do_so() -> None:
    """In the norm of the input's covariance, against the orthogonal projection off the class means and
    against maps that erase as well and differ at random."""
    x, label = texts()
    inverse = torch.linalg.inv(torch.cov(x.T))
    centred = x - x.mean(0)

    def change(removed: Tensor) -> float:
        moved = centred @ removed
        return float(torch.einsum("nd,de,ne->n", moved, inverse, moved).mean())

    ours = erased(x, onehot(label))
    shared = centred.T @ (onehot(label) - onehot(label).mean(0))
    basis = torch.linalg.svd(shared, full_matrices=False)[0][:, :2]
    assert change(ours) < change(basis @ basis.T)
    generator = torch.Generator().manual_seed(1)
    eye = torch.eye(12, dtype=torch.float64)
    for _ in range(20):
        step = 0.1 * torch.randn(12, 12, generator=generator, dtype=torch.float64)
        other = ours + (eye - basis @ basis.T) @ step
        assert float((shared.T @ (eye - other)).norm()) < 1e-6 * float(shared.norm()), "it erases as well"
        assert change(ours) < change(other)


def test_erasing_twice_is_erasing_once_and_few_texts_or_flat_directions_do_no_harm() -> None:
    x, label = texts()
    once = erase(x, label)
    torch.testing.assert_close(erase(once, label), once, atol=1e-8, rtol=0)
    flat = torch.cat([x, torch.full((len(x), 1), 7.0, dtype=torch.float64)], dim=1)
    assert torch.isfinite(erase(flat, label)).all()
    few, own = texts(number=6)
    assert torch.isfinite(erase(few, own)).all()


def test_standardising_gives_unit_variance_and_erasing_leaves_it_readable_for_the_rest() -> None:
    x, label = texts()
    cue = (torch.arange(len(x)) % 2).double()
    x = torch.cat([x, cue[:, None] * 5 + 0.1 * torch.randn(len(x), 1, dtype=torch.float64)], dim=1)
    made = SelectorInput(13, standardise=True, erase_label=True)
    assert torch.equal(made(x.float()), x.float()), "the identity until it is fitted"
    made.fit(x, onehot(label))
    out = made(x.float()).double()
    assert LogisticRegression(max_iter=5000).fit(out, cue).score(out, cue) > 0.95
    plain = SelectorInput(13, standardise=True, erase_label=False)
    plain.fit(x, onehot(label))
    torch.testing.assert_close(plain(x.float()).std(0), torch.ones(13), atol=1e-4, rtol=0)


def test_first_and_last_are_states_of_real_tokens(backbone: Backbone) -> None:
    batch = make_batch([7, 5, 9])
    states = backbone.encode(backbone.embed(batch.ids_BT), batch.mask_BT).float()
    first = summarise(backbone, batch.ids_BT, batch.mask_BT, Summary.first)
    last = summarise(backbone, batch.ids_BT, batch.mask_BT, Summary.last)
    torch.testing.assert_close(first, states[:, 0])
    torch.testing.assert_close(last, states[torch.arange(3), torch.tensor([6, 4, 8])])


@pytest.mark.parametrize("summary", [kind.value for kind in Summary])
def test_a_run_keeps_what_it_fitted_with_its_prompt(
    experiment: Callable[..., Experiment], summary: str
) -> None:
    composed = experiment(
        "prompt=dynamic",
        "prompt.erase_label=true",
        "prompt.standardise=true",
        f"prompt.summary={summary}",
        *QUICK,
    )
    record = run.run(composed)
    kept = load_file(Path(composed.settings.results_dir) / "runs" / record.run_id / "prompt.safetensors")
    assert {"input.center_D", "input.map_DD"} <= kept.keys()
    assert not np.allclose(kept["input.map_DD"].numpy(), np.eye(len(kept["input.map_DD"])))
    assert record.trainable_parameters == 4 * 4 * 64 + 4 * 65 + 5 * 65, "nothing of it is trained"


def test_several_tasks_lose_their_labels_and_not_themselves() -> None:
    x, label = texts(labels=2)
    task = (torch.arange(len(x)) % 2).double()
    x = x + task[:, None] * torch.randn(1, 12, dtype=torch.float64) * 4
    within = torch.zeros(len(x), 4, dtype=torch.float64)
    for number in (0, 1):
        rows = task == number
        own_labels = onehot(label[rows])
        within[rows, 2 * number : 2 * number + 2] = own_labels - own_labels.mean(0)
    out = x - (x - x.mean(0)) @ erased(x, within)
    assert LogisticRegression(max_iter=5000).fit(out, task).score(out, task) > 0.9


def test_an_input_that_nothing_looks_at_is_refused() -> None:
    assert "has no selector with input" in problems("prompt=fixed", "prompt.erase_label=true")[0]
    assert "with dropout" in problems("prompt=dynamic", "prompt.standardise=true", "protocol=authors")[0]
