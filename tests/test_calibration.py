"""prompt=calibrated: against contextual calibration written a second time, on stock transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FIXTURES
from torch import Tensor

import dp_bench
from dp_bench import run
from dp_bench.backbones.load import load_backbone
from dp_bench.config import Experiment
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import locate
from dp_bench.types import Example

Build = Callable[..., Experiment]
FREE = ("N/A", "[MASK]", "")
GPT2 = ("backbone=gpt2_tiny_random",)


def scores(experiment: Experiment) -> np.ndarray:
    """The log-probabilities of the choices of each reported example."""
    folder = Path(experiment.settings.results_dir) / "runs" / run.run(experiment).run_id
    return pd.read_parquet(folder / "predictions.parquet").filter(like="score_").to_numpy()


def validation(experiment: Experiment) -> list[Example]:
    settings, task = experiment.settings, experiment.tasks[0]
    return list(ExampleFile(task, locate(task, settings.data, settings.cache).validation))


@torch.no_grad()
def log_likelihood(model: torch.nn.Module, prompt: Tensor, continuation: Tensor) -> float:
    logits = model(input_ids=torch.cat([prompt, continuation])[None]).logits[0].double()
    behind = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return float(behind[torch.arange(len(continuation)), continuation].sum())


@pytest.mark.parametrize("name", ["cb", "copa"])
def test_probabilities_are_divided_by_those_of_content_free_texts(experiment: Build, name: str) -> None:
    calibrated, bare = (experiment(f"task={name}", f"prompt={p}", *GPT2) for p in ("calibrated", "zero_shot"))
    task, cue = bare.tasks[0], bare.settings.cue_of(bare.tasks[0])
    backbone = load_backbone(
        bare.settings.backbone, device=torch.device("cpu"), dtype=torch.float32, dropout=False
    )

    def ids(text: str) -> Tensor:
        found = backbone.tokenizer(text, add_special_tokens=False).input_ids
        return torch.tensor(found, dtype=torch.long)

    def likelihoods(text: str, choices: list[Tensor]) -> Tensor:
        found = [log_likelihood(backbone.model, ids(text + (cue or "")), choice) for choice in choices]
        return torch.tensor(found, dtype=torch.float64)

    def free(field: str) -> str:
        return task.template.format(**dict.fromkeys(task.fields, field))

    expected = []
    for example in validation(bare):
        # A label word is scored by its first token, a choice by all of them.
        choices = [ids(w)[:1] for w in task.words] or [ids(c) for c in example.choices]
        p_cf = torch.stack([likelihoods(free(field), choices).softmax(0) for field in FREE]).mean(0)
        p = likelihoods(task.template.format(**example.fields), choices).softmax(0)
        divided = torch.linalg.inv(torch.diag(p_cf)) @ p
        expected.append((divided / divided.sum()).log().numpy())
    found = scores(calibrated)
    np.testing.assert_allclose(found, np.array(expected), atol=1e-4)
    assert abs(found - scores(bare)).max() > 1e-3, "the prior of these weights is not uniform"


def test_an_opened_run_predicts_what_it_reported(experiment: Build) -> None:
    composed = experiment("task=copa", "prompt=calibrated")
    recorded = scores(composed)
    opened = dp_bench.open_run(Path(composed.settings.results_dir) / "runs" / run.run(composed).run_id)
    logits = torch.from_numpy(opened.predict("copa", validation(composed)).logits_MC)
    assert np.array_equal(logits.double().log_softmax(1).numpy(), recorded)


def test_neither_labels_nor_a_seed_change_it(experiment: Build, tmp_path: Path) -> None:
    (tmp_path / "RTE").mkdir()
    for name in ("train", "val"):
        text = (FIXTURES / "RTE" / f"{name}.jsonl").read_text("utf-8")
        swapped = text.replace('"not_entailment"', '"other"').replace('"entailment"', '"not_entailment"')
        (tmp_path / "RTE" / f"{name}.jsonl").write_text(swapped.replace('"other"', '"entailment"'), "utf-8")
    first = scores(experiment("prompt=calibrated"))
    assert np.array_equal(scores(experiment("prompt=calibrated", f"data.dir={tmp_path}", "seed=5")), first)
