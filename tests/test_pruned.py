"""XPrompt: what is removed of a trained prompt, and that it is trained again from what it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_batch
from helpers.backbones import CPU, DIMS, answers, batch_of, settings_of
from helpers.configs import problems
from helpers.trainers import KilledError, make_trainer
from safetensors.torch import load_file
from torch import Tensor

import dp_bench
from dp_bench import records
from dp_bench.backbones.load import load_backbone
from dp_bench.config import Experiment
from dp_bench.methods import counts
from dp_bench.methods.pruning import prune
from dp_bench.objective import losses_of
from dp_bench.prompts.catalogue import Sizes
from dp_bench.prompts.layout import insert
from dp_bench.prompts.pruned import Pruned
from dp_bench.run import run
from dp_bench.settings import SplitOrder
from dp_bench.trainer import Trainer
from dp_bench.types import PromptOutput

Build = Callable[..., Experiment]
P, K, D = 5, 4, 64
QUICK = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=4", f"prompt.num_tokens={P}")
PRUNED = ("prompt=xprompt", *QUICK, f"prompt.vectors.pieces={K}", "prompt.vectors.token_share=0.4")


def by_hand(trainer: Trainer, vectors_PD: Tensor, kept_P: list[bool]) -> tuple[list[float], list[float]]:
    """Return the importance of vectors and pieces, one example and one number at a time, from the gradient of
    the vectors: dL/dg_i = <dL/dp_i, p_i>, and the same within a piece."""
    model, (split,) = trainer.bare_model, trainer.train_splits
    tokens, pieces = [0.0] * P, [0.0] * (P * K)
    for row in range(len(split)):
        batch = split.batch(np.array([row]), 0, {})
        leaf = vectors_PD.clone().requires_grad_()
        before = torch.nn.functional.one_hot(torch.tensor([P]), P + 1).double()
        output = PromptOutput(leaf[None], before, torch.tensor([kept_P]).double())
        given = insert(model.backbone.embed(batch.ids_BT), batch, output, SplitOrder.paper)
        losses_of(model.score(given, batch), batch).sum().backward()
        assert leaf.grad is not None
        parts = (leaf.grad * vectors_PD).view(P * K, D // K)
        of_piece = [sum(part.tolist()) for part in parts]
        for i in range(P):
            tokens[i] += abs(sum(of_piece[i * K : (i + 1) * K])) / len(split)
        for q in range(P * K):
            pieces[q] += abs(of_piece[q]) / len(split)
    return tokens, pieces


@pytest.fixture
def source(experiment: Build, tmp_path: Path) -> Path:
    return tmp_path / "results" / "runs" / run(experiment("prompt=fixed", *QUICK)).run_id


def test_the_vectors_and_then_the_pieces_of_the_least_importance_are_removed(
    experiment: Build, tmp_path: Path, source: Path
) -> None:
    words = (*PRUNED, "prompt.vectors.piece_share=0.25", f"prompt.vectors.sources=[{source}]")
    composed = experiment(*words)
    trainer = make_trainer(composed, tmp_path, rows=6)
    model = trainer.bare_model.double()
    source_PD = torch.randn(P, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, _ = by_hand(trainer, source_PD, [True] * P)
    kept = sorted(range(P), key=lambda i: tokens[i])[2:]
    _, pieces = by_hand(trainer, source_PD, [i in kept for i in range(P)])
    of_kept = [i * K + j for i in kept for j in range(K)]
    left = sorted(sorted(of_kept, key=lambda q: pieces[q])[3:])

    vectors: Any = model.prompt.vectors
    for size in (4, 1):
        vectors.take_sources([source_PD])
        prune(model, trainer.train_splits, size, 0)
        assert vectors.where_N.tolist() == left, size
    torch.testing.assert_close(vectors.pieces_NX, source_PD.view(P * K, -1)[left], rtol=0, atol=0)
    out = model.prompt(None, torch.zeros(2, dtype=torch.long), {}, 1.0)
    expected = torch.zeros(P * K, D // K, dtype=torch.float64)
    expected[left] = source_PD.view(P * K, -1)[left]
    assert torch.equal(out.vectors_BPD[1], expected.view(P, D))
    assert out.keep_BP is not None and out.keep_BP[0].tolist() == [float(i in kept) for i in range(P)]


def test_a_pruned_run_starts_from_its_source_and_opens_without_it(
    experiment: Build, tmp_path: Path, source: Path
) -> None:
    words = (*PRUNED, "prompt.vectors.piece_share=0.25")
    first = run(experiment(*words, f"prompt.vectors.sources=[{source}]", "prompt.lr=1e-30"))
    assert first.trainable_parameters == 9 * D // K
    assert first.trainable_parameters == counts.trained(first.config["prompt"], Sizes(0, D), 1)
    tensors = load_file(tmp_path / "results" / "runs" / first.run_id / "prompt.safetensors")
    of_source = load_file(source / "prompt.safetensors")["vectors.prompt_PD"].view(P * K, -1)
    assert torch.equal(tensors["vectors.pieces_NX"], of_source[tensors["vectors.where_N"]])
    copied = tmp_path / "copied"
    shutil.copytree(source, copied)
    again = experiment(*words, f"prompt.vectors.sources=[{copied}]", "prompt.lr=1e-30")
    assert (
        records.identify(again.resolved, "")[0]
        == records.identify(
            experiment(*words, f"prompt.vectors.sources=[{source}]", "prompt.lr=1e-30").resolved, ""
        )[0]
    )
    shutil.rmtree(source)
    opened = dp_bench.open_run(tmp_path / "results" / "runs" / first.run_id)
    (named,) = opened.model.prompt.vectors.by_name(["rte"]).values()
    assert len(named) <= 3 and bool((named.detach().abs().sum(1) > 0).all())


@pytest.mark.parametrize("kind", list(DIMS))
def test_a_pruned_prompt_learns_on_every_family_and_padding_changes_nothing(kind: str) -> None:
    backbone = load_backbone(settings_of(kind), device=CPU, dtype=torch.float32, dropout=False)
    width = backbone.dims.width
    shares = {"token_share": 0.4, "piece_share": 0.25}
    piece = Pruned(P, backbone.dims, lambda rows: torch.randn(rows, width), pieces=K, **shares)
    piece.where_N.copy_(torch.tensor([0, 1, 3, 8, 9, 11, 16, 17, 18]))  # vectors 0, 2 and 4, in part
    short = make_batch([5]) if kind == "t5" else batch_of([5])
    ids_BT, mask_BT = (torch.nn.functional.pad(each, (0, 4)) for each in (short.ids_BT, short.mask_BT))
    read = []
    for batch in (short, replace(short, ids_BT=ids_BT, mask_BT=mask_BT)):
        made = piece(None, batch.task_B)
        before = torch.nn.functional.one_hot(batch.task_B + 2, P + 1).float()
        read.append(answers(backbone, batch, PromptOutput(made.vectors_BPD, before, made.keep_BP)))
    torch.testing.assert_close(*read, atol=1e-5, rtol=1e-4)
    read[0].square().sum().backward()
    assert bool((piece.pieces_NX.grad.abs().amax(1) > 0).all())


def test_a_killed_run_goes_on_with_what_was_left(
    experiment: Build, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*PRUNED, f"prompt.vectors.sources=[{source}]")
    whole = run(experiment(*words, f"results_dir={tmp_path / 'whole'}"))
    update = Trainer._update

    def die(self: Trainer, indices: Any, step: int) -> float:
        if step == 3:
            raise KilledError
        return update(self, indices, step)

    killed = experiment(*words, f"results_dir={tmp_path / 'killed'}")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", die)
        with pytest.raises(KilledError):
            run(killed)
    resumed = run(killed)
    assert resumed.run_id == whole.run_id
    for name in ("prompt.safetensors", "predictions.parquet"):
        paths = [tmp_path / each / "runs" / whole.run_id / name for each in ("whole", "killed")]
        assert paths[0].read_bytes() == paths[1].read_bytes(), name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "must name the one run whose prompt is pruned"),
        (["prompt.vectors.sources=[a,b]"], "must name the one run whose prompt is pruned"),
        (
            ["prompt.vectors.token_share=1"],
            "token_share=1 must be a number from 0 and below 1",
        ),
    ],
)
def test_what_cannot_be_pruned_is_refused(words: list[str], told: str) -> None:
    assert any(told in problem for problem in problems("data.dir=.", "prompt=xprompt", *words))


def test_pieces_divide_the_width(experiment: Build, source: Path) -> None:
    words = (*PRUNED, f"prompt.vectors.sources=[{source}]", "prompt.vectors.pieces=7")
    with pytest.raises(dp_bench.types.UserError, match=r"prompt.vectors.pieces=7 must divide .* 64"):
        run(experiment(*words))
