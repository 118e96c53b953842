"""`dp-bench inspect --gradients`: its passes are the model's, its judgement the estimators' own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.estimators import J, forced, gradient, make_model, texts

from dp_bench import cli, config, run
from dp_bench.backbones.backbone import Backbone
from dp_bench.commands.gradients import gradients
from dp_bench.config import Experiment
from dp_bench.gradients import ESTIMATORS, Landscape, judge, survey
from dp_bench.model import PromptedModel
from dp_bench.settings import Estimator
from dp_bench.types import Batch, UserError

QUICK = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=2")


class Texts:
    """A split of three texts, as `survey` asks for it."""

    def batch(self, places: Any, pad_id: int, noise: dict[str, Any]) -> Batch:
        assert list(places) == [0, 1, 2]
        return texts(3)


@pytest.fixture
def model(make_backbone: Callable[..., Backbone]) -> PromptedModel:
    return make_model(make_backbone, Estimator.gumbel_st, "adap_ins_pos")


@pytest.fixture
def landscape(model: PromptedModel) -> Landscape:
    return survey(model, Texts(), [0, 1, 2])  # type: ignore[arg-type]


def test_losses_are_those_of_the_model_at_each_position(model: PromptedModel, landscape: Landscape) -> None:
    batch = texts(3)
    for outcome in range(J):
        with torch.no_grad():
            answer = model(replace(batch, noise={"position": forced(*[outcome] * 3)}))
        loss_B = torch.nn.functional.cross_entropy(answer.logits_BC, batch.label_B, reduction="none")
        torch.testing.assert_close(landscape.loss_MJ[:, outcome], loss_B.double(), atol=1e-6, rtol=0)


def test_the_exact_gradient_is_that_of_the_exact_estimator(
    make_backbone: Callable[..., Backbone], landscape: Landscape
) -> None:
    from dp_bench.gradients import _exact, _parameter_gradient

    model = make_model(make_backbone, Estimator.exact, "adap_ins_pos")
    noise = {"position": torch.zeros(3, J, dtype=torch.float64)}
    known = gradient(model, replace(texts(3), noise=noise))
    found = _parameter_gradient(landscape, _exact(landscape))
    torch.testing.assert_close(found, known.double(), atol=1e-6, rtol=1e-4)


def test_a_draw_of_an_estimator_is_what_training_would_make_of_it(
    make_backbone: Callable[..., Backbone], landscape: Landscape
) -> None:
    """With the same noise: sums over the landscape against a backward pass through the model."""
    from dp_bench.gradients import _logit_gradient, _parameter_gradient
    from dp_bench.prompts.estimators import noise_columns

    for estimator in ESTIMATORS:
        shape = (3, noise_columns(J, estimator))
        drawn_noise = (
            -torch.empty(shape, dtype=torch.float64)
            .exponential_(generator=torch.Generator().manual_seed(4))
            .log()
        )
        found = _parameter_gradient(
            landscape, _logit_gradient(landscape, estimator, 1.0, torch.Generator().manual_seed(4))
        )
        model = make_model(make_backbone, estimator, "adap_ins_pos")
        known = gradient(model, replace(texts(3), noise={"position": drawn_noise}))
        torch.testing.assert_close(found, known.double(), atol=1e-6, rtol=1e-4, msg=estimator.value)


def test_unbiased_estimators_are_found_out(landscape: Landscape) -> None:
    found = {quality.estimator: quality for quality in judge(landscape, draws=3000)}
    assert found["exact"].cosine_of_mean == pytest.approx(1.0) and found["exact"].bias == pytest.approx(
        0, abs=1e-9
    )
    for name in ("reinforce", "leave_one_out"):
        assert found[name].bias < 4 * found[name].noise / 3000**0.5
    assert found["leave_one_out"].forwards == 2 and found["exact"].forwards == J


def test_the_line_is_right_where_nothing_moves(landscape: Landscape) -> None:
    diagonal = torch.arange(J)
    assert (landscape.linear_MJJ[:, diagonal, diagonal] == 0).all()
    assert (landscape.true_MJJ[:, diagonal, diagonal] == 0).all()
    assert -1 <= landscape.correlation <= 1 and landscape.spread > 0


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    def call(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main(["inspect", *words, "--results-dir", str(tmp_path / "results")])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out + captured.err

    return call


def test_a_finished_run_is_opened_again(
    experiment: Callable[..., Experiment], inspect: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    record = run.run(experiment("prompt=adap_ins_pos", *QUICK))
    folder = tmp_path / "results" / "runs" / record.run_id
    for words in ((), ("--fresh", "--out", str(tmp_path / "fresh"))):
        code, said = inspect(record.run_id[:30], "--gradients", "--examples", "6", "--draws", "20", *words)
        assert code == 0, said
    table = pd.read_csv(folder / "gradients" / "gradients.csv").set_index("estimator")
    assert set(table.index) == {estimator.value for estimator in ESTIMATORS}
    assert table.loc["exact", "cosine of the mean"] == 1.0
    trained, fresh = (
        (path / "gradients.md").read_text("utf-8") for path in (folder / "gradients", tmp_path / "fresh")
    )
    assert trained != fresh and "trained prompt, 6 examples, 20 draws" in trained
    first = (folder / "gradients" / "gradients.csv").read_bytes()
    assert inspect(str(folder), "--gradients", "--examples", "6", "--draws", "20")[0] == 0
    assert (folder / "gradients" / "gradients.csv").read_bytes() == first


def test_what_cannot_be_inspected_says_so(
    experiment: Callable[..., Experiment], inspect: Callable[..., tuple[int, str]]
) -> None:
    record = run.run(experiment("prompt=fixed", *QUICK))
    for words, answer in (
        ((record.run_id, "--draws", "4"), "belongs to --gradients"),
        ((record.run_id, "--gradients", "--texts", "4"), "is not for --gradients"),
        (("nothing", "--gradients"), "No finished run below"),
        ((record.run_id, "--gradients"), "need a learned position"),
        ((record.run_id, "--gradients", "--draws", "1"), "must be at least 2"),
    ):
        code, said = inspect(*words)
        assert code == 2 and answer in said, said


def test_a_record_gives_its_experiment_back(experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    composed = experiment("prompt=dynamic", "hpo=lr", "seed=3", "trainer.lr=0.125")
    again = config.reopen(composed.resolved, tmp_path / "results")
    assert (
        again.settings.trainer == composed.settings.trainer
        and again.settings.prompt == composed.settings.prompt
    )
    assert np.isclose(again.settings.trainer.lr, 0.125) and again.settings.seed == 3
    several = config.build(config.compose(["regime=multitask", "regime.tasks=[cb,rte]"]))
    assert [task.name for task in config.reopen(several.resolved, tmp_path).tasks] == ["cb", "rte"]


def test_a_run_of_several_tasks_is_refused(
    experiment: Callable[..., Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    own = experiment(
        "prompt=adap_ins_pos", "regime=multitask", "regime.tasks=[cb,rte]", "trainer.max_steps=1"
    )
    folder = Path(own.settings.results_dir) / "runs" / run.run(own).run_id
    with pytest.raises(UserError, match="several tasks: inspect --gradients needs a run on one"):
        gradients(str(folder), Path("results"), examples=4, draws=2)


HEAD = ("backbone=bert_tiny_random", "backbone.head=classifier", "backbone.answer_cue=null")


@pytest.mark.parametrize("words", [(), HEAD])
def test_losses_are_those_of_the_trained_model_with_its_head(
    experiment: Callable[..., Experiment], tmp_path: Path, words: tuple[str, ...]
) -> None:
    """The run also reported the rows that it trained on: at the position that it chose for a text, the loss
    is what predictions.parquet says of it."""
    from dp_bench.backbones.load import load_tokenizer
    from dp_bench.commands.gradients import measure
    from dp_bench.data.prepare import prepare
    from dp_bench.data.source import locate
    from dp_bench.randomness import derive

    trained = ("trainer.optimizer=adamw", "trainer.lr=0.05", "trainer.warmup_steps=0")  # a head that moves
    composed = experiment("prompt=adap_ins_pos", *QUICK, *trained, *words, "data.validation_file=train")
    record = run.run(composed)
    folder = tmp_path / "results" / "runs" / record.run_id
    landscape, _ = measure(folder, record, 6, 2, fresh=False)
    settings = composed.settings
    source = locate(settings.task, settings.data)
    train = prepare(settings, settings.task, source, load_tokenizer(settings.backbone)).train
    rows = np.random.default_rng(derive(0, "inspect")).choice(len(train), 6, replace=False)
    table = pd.read_parquet(folder / "predictions.parquet").set_index("id")
    names = [name for name in table if name.startswith("score_")]
    for row, number in enumerate(rows):
        told = table.loc[train.ids[number]]
        known = -told[names[int(told["gold"])]]
        assert float(landscape.loss_MJ[row, int(told["position"])]) == pytest.approx(known, abs=1e-5)
    fresh, _ = measure(folder, record, 6, 2, fresh=True)
    assert (fresh.loss_MJ - landscape.loss_MJ).abs().max() > 1e-2


def test_what_was_trained_and_not_kept_is_refused(
    experiment: Callable[..., Experiment], inspect: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    record = run.run(experiment("prompt=adap_ins_pos", "prompt.freeze_backbone=false", *QUICK))
    code, said = inspect(record.run_id, "--gradients")
    assert code == 2 and "of the backbone and did not save them" in " ".join(said.split())
    assert "Traceback" not in said
    code, said = inspect(record.run_id, "--gradients", "--fresh", "--examples", "4", "--draws", "4")
    assert code == 0, "before training they are the checkpoint's"


@pytest.mark.parametrize("change", ["missing", "shape", "extra"])
def test_a_head_that_is_not_the_runs_is_refused(
    experiment: Callable[..., Experiment],
    inspect: Callable[..., tuple[int, str]],
    tmp_path: Path,
    change: str,
) -> None:
    from safetensors.torch import load_file, save_file

    record = run.run(experiment("prompt=adap_ins_pos", *QUICK, *HEAD))
    path = tmp_path / "results" / "runs" / record.run_id / "prompt.safetensors"
    tensors = load_file(path)
    name = "verbalizers.0.linear.bias"
    if change == "missing":
        del tensors[name]
    elif change == "shape":
        tensors[name] = torch.zeros(5)
    else:
        tensors["verbalizers.1.linear.bias"] = torch.zeros(2)
    save_file(tensors, path)
    code, said = inspect(record.run_id, "--gradients")
    problem = "is 5 there and 2 here" if change == "shape" else "absent"
    assert code == 2 and "verbalizers." in said and problem in said


def test_other_weights_than_the_runs_are_refused(
    experiment: Callable[..., Experiment], inspect: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    from helpers.runs import tampered

    record = run.run(experiment("prompt=adap_ins_pos", *QUICK))
    tampered(
        tmp_path / "results" / "runs" / record.run_id,
        checkpoint={**record.checkpoint, "fingerprint": "of other weights"},
    )
    code, said = inspect(record.run_id, "--gradients")
    assert code == 2 and "was trained with other weights" in " ".join(said.split())
