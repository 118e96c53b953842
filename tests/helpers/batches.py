"""Parts of batches."""

from __future__ import annotations

import dataclasses

import torch
from conftest import make_batch

from dp_bench import config
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.probe import find_layers, find_sites
from dp_bench.model import PromptedModel
from dp_bench.types import Batch
from dp_bench.verbalizer import LabelWords
from helpers.backbones import batch_of
from helpers.prompts import build_prompt

WORDS = ("no", "yes", "maybe")


LENGTHS = [5, 11, 3, 8]


def prompted_model(backbone: Backbone, *overrides: str) -> PromptedModel:
    two = ["prompt.vectors.num_chosen=2"] if "prompt=l2p_pool" in overrides else []  # of 4 vectors
    experiment = config.build(config.compose(["data.dir=.", "prompt.num_tokens=4", *overrides, *two]))
    has_layers = experiment.settings.prompt.layers is not None
    dims = dataclasses.replace(
        backbone.dims,
        sites=find_sites(backbone) if has_layers else (),
        layer_widths=find_layers(backbone) if has_layers else (),
    )
    prompt = build_prompt(experiment, dims, backbone.embedding_VD)
    return PromptedModel(
        backbone,
        prompt,
        [LabelWords(WORDS, backbone.tokenizer)],
        order=experiment.settings.protocol.split_order,
        summary=experiment.settings.prompt.summary,
    ).eval()


def noisy_batch(model: PromptedModel, kind: str) -> Batch:
    """Return texts of LENGTHS for a model of a kind, with the noise that its prompt draws in training."""
    names = model.prompt.noisy_selectors(training=True, sample_at_eval=False)
    noise = model.prompt.draw_noise(len(LENGTHS), torch.Generator().manual_seed(0), selectors=names)
    batch = make_batch(LENGTHS) if kind == "t5" else batch_of(LENGTHS)
    return dataclasses.replace(batch, noise=noise, skill_B=torch.zeros_like(batch.task_B))


def take(batch: Batch, row: int, length: int) -> Batch:
    one = slice(row, row + 1)
    return Batch(
        batch.ids_BT[one, :length],
        batch.mask_BT[one, :length],
        batch.body_start_B[one],
        batch.body_end_B[one],
        batch.label_B[one],
        batch.row_B[one],
        batch.task_B[one],
        skill_B=None if batch.skill_B is None else batch.skill_B[one],
        noise={name: draws[one] for name, draws in batch.noise.items()},
    )
