"""A trainer without a run around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dp_bench.backbones.load import load_backbone, load_tokenizer
from dp_bench.config import Experiment
from dp_bench.data.prepare import prepare
from dp_bench.data.source import locate
from dp_bench.evaluation import Split
from dp_bench.machine import make_accelerator
from dp_bench.model import PromptedModel
from dp_bench.optim import TrainPlan
from dp_bench.progress import Reporter
from dp_bench.trainer import Trainer
from dp_bench.verbalizer import make_verbalizer
from helpers.prompts import build_prompt


def make_trainer(experiment: Experiment, directory: Path, *, rows: int | None = None) -> Trainer:
    settings = experiment.settings
    device = torch.device("cpu")
    tokenizer = load_tokenizer(settings.backbone)
    data = [prepare(settings, t, locate(t, settings.data), tokenizer) for t in experiment.tasks]
    backbone = load_backbone(
        settings.backbone, device=device, dtype=torch.float32, dropout=settings.protocol.frozen_dropout
    )
    dims = replace(backbone.dims, num_tasks=len(data))
    prompt = build_prompt(experiment, dims, backbone.embedding_VD)
    model = PromptedModel(
        backbone,
        prompt,
        [make_verbalizer(task, backbone, settings.backbone.head, 0) for task in experiment.tasks],
        order=settings.protocol.split_order,
        summary=settings.prompt.summary,
        summary_pad_to=settings.protocol.summary_pad_to,
    )
    few = None if rows is None else np.arange(rows)
    train = [part.train if few is None else part.train.select(few) for part in data]
    select = train if rows is not None else [part.select for part in data]
    return Trainer(
        model,
        train=[
            Split("train", t, e, None, i, i)
            for i, (t, e) in enumerate(zip(experiment.tasks, train, strict=True))
        ],
        select=[
            Split("select", t, e, None, i, i)
            for i, (t, e) in enumerate(zip(experiment.tasks, select, strict=True))
        ],
        plan=TrainPlan(settings, backbone.embedding_rms),
        directory=directory,
        accelerator=make_accelerator(device),
        reporter=Reporter(),
    )


class KilledError(Exception):
    pass
