"""Parts of batches."""

from __future__ import annotations

import dataclasses

from dp_bench import config
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.probe import find_sites
from dp_bench.model import PromptedModel
from dp_bench.types import Batch
from dp_bench.verbalizer import LabelWords
from helpers.prompts import build_prompt

WORDS = ("no", "yes", "maybe")


LENGTHS = [5, 11, 3, 8]


def prompted_model(backbone: Backbone, *overrides: str) -> PromptedModel:
    two = ["prompt.vectors.num_chosen=2"] if "prompt=l2p_pool" in overrides else []  # of 4 vectors
    experiment = config.build(config.compose(["data.dir=.", "prompt.num_tokens=4", *overrides, *two]))
    sites = find_sites(backbone) if experiment.settings.prompt.layers else ()
    dims = dataclasses.replace(backbone.dims, sites=sites)
    prompt = build_prompt(experiment, dims, backbone.embedding_VD)
    return PromptedModel(
        backbone,
        prompt,
        [LabelWords(WORDS, backbone.tokenizer)],
        order=experiment.settings.protocol.split_order,
        summary=experiment.settings.prompt.summary,
    ).eval()


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
