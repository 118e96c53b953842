"""Build the model of a run, and load the trained tensors of a finished run into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import torch
from torch import Tensor

from dp_bench import reading
from dp_bench.backbones.probe import find_layers, find_sites
from dp_bench.methods import table
from dp_bench.methods.context import RunContext
from dp_bench.model import PromptedModel
from dp_bench.prompts import catalogue
from dp_bench.prompts.init import differences, load_saved
from dp_bench.prompts.prompt import Prompt, build
from dp_bench.records import BACKBONE_FILE, PROMPT_FILE
from dp_bench.settings import Init, RunSettings
from dp_bench.summaries import summary_width
from dp_bench.types import UserError
from dp_bench.verbalizer import label_word_ids

BACKBONE = "backbone."  # prefix of the names of the backbone's tensors
TEXTS = "texts."  # prefix of the names of tensors with which texts are written (writing.py)


def make_prompt(context: RunContext) -> Prompt:
    """Build the prompt that the settings describe for the run's backbone and tasks."""
    settings, backbone = context.settings, context.backbone
    layers = catalogue.of(settings.prompt.layers)
    dims = replace(
        backbone.dims,
        num_tasks=len(context.experiment.tasks),
        sites=find_sites(backbone) if layers is not None and not layers.is_late else (),
        layer_widths=find_layers(backbone) if layers is not None and layers.is_late else (),
        summary_width=summary_width(backbone, settings.prompt.summary),
    )
    prompt = build(
        settings.prompt,
        settings.protocol.split_order,
        settings.seed_of("init"),
        dims,
        backbone.embedding_VD,
        _first_ids(context),
    )
    if settings.prompt.init is Init.saved:
        load_saved(prompt, settings.prompt.saved_file)
    return prompt


def make_model(context: RunContext, prompt: Prompt) -> PromptedModel:
    """Return the model that a run trains, with the part of the backbone that its method trains unfrozen."""
    settings, backbone = context.settings, context.backbone
    if settings.prompt.trains_backbone:
        backbone.thaw()
    method = table.of(settings.prompt.method)
    if method.prepare is not None:
        resolve_name(method.prepare)(backbone, settings)
    beside = table.adapters_of(vars(settings.prompt))
    if beside is not None and beside.prepare is not None:
        resolve_name(beside.prepare)(backbone, replace(settings, prompt=settings.prompt.as_adapters))
        backbone.remember()
    verbalizers = context.verbalizers if method.scores is None else resolve_name(method.scores)(context)
    model = PromptedModel(
        backbone,
        prompt,
        verbalizers,
        order=settings.protocol.split_order,
        summary=settings.prompt.summary,
        summary_pad_to=settings.protocol.summary_pad_to,
    )
    return model.to(backbone.device)


def _first_ids(context: RunContext) -> list[int]:
    """Return the tokens that a prompt is initialized from: of a text, or the label words of all tasks."""
    settings, tokenizer = context.settings.prompt, context.backbone.tokenizer
    if settings.init is Init.text:
        ids: list[int] = tokenizer(settings.init_text, add_special_tokens=False).input_ids
        if not ids:
            raise UserError(f"prompt.init_text={settings.init_text!r} has no tokens: give it words.")
        return ids
    if settings.init is Init.label_words:
        words = [word for task in context.experiment.tasks for word in task.words]
        if not words:
            raise UserError("prompt.init=label_words: the task has no label words, it scores whole choices.")
        return label_word_ids(list(dict.fromkeys(words)), tokenizer)
    return []


def tensors_to_save(
    model: PromptedModel, settings: RunSettings
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the trained tensors by name for prompt.safetensors and for backbone.safetensors, which holds a
    fully trained backbone where keep_weights is set."""
    trained = _trained(model)
    if not settings.prompt.trains_backbone:
        return trained, {}
    backbone = {name: value for name, value in trained.items() if name.startswith(BACKBONE)}
    rest = {name: value for name, value in trained.items() if name not in backbone}
    return rest, backbone if settings.keep_weights else {}


def _trained(model: PromptedModel) -> dict[str, Tensor]:
    """Return all trained tensors by name; those of the prompt without the prefix of their module."""
    return {name.removeprefix("prompt."): value for name, value in model.trained_tensors().items()}


def load_learned(model: PromptedModel, directory: Path) -> None:
    """Load the trained tensors of a finished run into a model with the same settings: prompt, classifier
    head, and what it trained of the backbone.

    Raises UserError unless every tensor is there with the right shape.
    """
    path, backbone_path = directory / PROMPT_FILE, directory / BACKBONE_FILE
    remedy = "Train the run again with rerun=true."
    saved, expected = reading.tensors(path, remedy), _trained(model)
    saved = {name: value for name, value in saved.items() if not name.startswith(TEXTS)}
    if backbone_path.is_file():
        saved |= reading.tensors(backbone_path, remedy)
    missing = [name for name in expected if name.startswith(BACKBONE) and name not in saved]
    if missing:
        raise UserError(
            f"{directory} trained {len(missing)} tensors of the backbone and did not save them, so that the "
            "trained model cannot be restored; its prompt is of little use with the original weights. Run it "
            "again with rerun=true keep_weights=true, or inspect the untrained model: --gradients --fresh."
        )
    if wrong := differences(saved, expected):
        raise UserError(f"{path} does not hold the tensors that this run trains: {'; '.join(wrong)}.")
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(saved[name])
