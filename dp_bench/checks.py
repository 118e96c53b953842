"""Check a configuration as a whole, beyond the types of its values. All problems are reported at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from dp_bench.data import metrics
from dp_bench.data.readers import READERS
from dp_bench.data.template import Template
from dp_bench.methods import table
from dp_bench.prompts import catalogue
from dp_bench.settings import (
    Estimator,
    Head,
    Init,
    Mixing,
    Precision,
    PromptSettings,
    RegimeSettings,
    RunSettings,
    Scoring,
    TaskSettings,
    TrainerSettings,
)
from dp_bench.types import UserError


def problems_of(settings: RunSettings) -> list[str]:
    """Return one sentence a problem of a configuration: what is wrong, and what to type instead."""
    return [
        *_not_finite(settings),
        *_text_problems(settings),
        *_run_problems(settings),
        *_trainer_problems(settings.trainer),
        *_prompt_problems(settings.prompt),
        *(task_problems(settings.task) if settings.task else ()),
        *_regime_problems(settings),
    ]


def _not_finite(value: Any, key: str = "", *, is_open: bool = False) -> Iterator[str]:
    """Refuse NaN and infinity in any setting. Where a setting's type is open, YAML reads `nan` as text."""
    if is_dataclass(value):
        for setting in fields(value):
            inner = getattr(value, setting.name)
            yield from _not_finite(inner, f"{key}{setting.name}.", is_open="Any" in str(setting.type))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _not_finite(inner, f"{key}{name}.", is_open=is_open)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _not_finite(inner, key, is_open=is_open)
    elif (isinstance(value, float) and not math.isfinite(value)) or (
        is_open and isinstance(value, str) and value.lower().lstrip("+-.") in ("nan", "inf")
    ):
        yield f"{key.rstrip('.')}={value} must be a finite number."


def _text_problems(settings: RunSettings) -> Iterator[str]:
    """Refuse a text that YAML reads as something else."""
    for group, key in (("backbone", "answer_prefix"), ("backbone", "answer_cue"), ("prompt", "init_text")):
        value = getattr(getattr(settings, group), key)
        if not (value is None or isinstance(value, str)):
            yield (
                f"{group}.{key}={value}: without quotes, yes, no, true, false and numbers are not text in "
                f'YAML. Quote it: {key}: "yes" in a file, \'{group}.{key}="yes"\' on the command line.'
            )


def _run_problems(settings: RunSettings) -> Iterator[str]:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", settings.device):
        yield f"device={settings.device} is not a device: use auto, cpu, cuda or cuda:0."
    if settings.seed < 0:
        yield f"seed={settings.seed} must not be negative."
    if settings.data.limit is not None and settings.data.limit < 8:
        yield (
            f"data.limit={settings.data.limit} leaves too few rows to train and to select on: use at least "
            "8, or null for all rows."
        )
    if settings.prompt.layers is not None and settings.trainer.gradient_checkpointing:
        yield (
            "trainer.gradient_checkpointing recomputes activations without the keys and values of "
            "prompt.layers: remove one of them."
        )
    yield from _head_problems(settings)
    yield from _input_problems(settings)
    if settings.backbone.name_or_path is None and settings.backbone.random_init is None:
        yield f"backbone={settings.backbone.name} names no checkpoint: add backbone.name_or_path=DIR."


def refuse_ranks(settings: RunSettings) -> None:
    """Raise UserError where the settings need a single process."""
    if settings.trainer.step_each_micro_batch:
        raise UserError(
            f"trainer.step_each_micro_batch, which protocol={settings.protocol.name} sets for some prompts, "
            "makes one update after the other: run it with one process."
        )


def _head_problems(settings: RunSettings) -> Iterator[str]:
    if settings.backbone.head is not Head.classifier:
        return
    method = table.of(settings.prompt.method)
    if not method.is_trained and method.fit is None:
        yield (
            f"prompt={settings.prompt.name} with backbone.head=classifier has no trained weights: change "
            "one of them."
        )
    if settings.regime.transfer:
        yield "regime.transfer needs label words: a classifier head is trained for the labels of one task."
    if settings.task is not None and settings.regime.tasks is None and not settings.task.labels:
        yield (
            f"task={settings.task.name} has different choices for each example, and backbone.head=classifier "
            "needs labels that are the same for all: use backbone.head=verbalizer with a backbone that "
            "scores whole choices."
        )


def _input_problems(settings: RunSettings) -> Iterator[str]:
    prompt = settings.prompt
    for key in ("standardise", "erase_label", "shuffle_input"):
        if not getattr(prompt, key):
            continue
        if not any(piece.looks for piece in catalogue.used(prompt.pieces).values()):
            yield (
                f"prompt.{key} applies to the input of a selector, and prompt={prompt.name} has no selector "
                "with input: remove it, or use prompt=dynamic."
            )
        if settings.protocol.frozen_dropout:
            yield (
                f"prompt.{key} applies to cached summaries, which protocol={settings.protocol.name} computes "
                "with dropout in every update: use protocol=clean."
            )


def _trainer_problems(trainer: TrainerSettings) -> Iterator[str]:
    yield from _count_problems(trainer)
    if trainer.precision is Precision.fp16:
        yield "trainer.precision=fp16: T5's activations overflow in fp16 and give NaN; use bf16 or fp32."
    if not 0 < trainer.lr < math.inf:
        yield f"trainer.lr={trainer.lr} must be positive: Adafactor usually takes 0.3 here, AdamW 0.03."
    if trainer.warmup_steps < 0 or trainer.weight_decay < 0:
        yield "trainer.warmup_steps and trainer.weight_decay must not be negative."
    if trainer.max_grad_norm <= 0:
        yield (
            f"trainer.max_grad_norm={trainer.max_grad_norm} must be positive; a large number turns "
            "clipping off."
        )
    if not 0 < trainer.heldout_fraction < 1:
        yield f"trainer.heldout_fraction={trainer.heldout_fraction} must lie between 0 and 1."
    if trainer.heldout_max < 1:
        yield f"trainer.heldout_max={trainer.heldout_max} must be at least 1."
    if trainer.heldout_min is not None and not 1 <= trainer.heldout_min <= trainer.heldout_max:
        yield (
            f"trainer.heldout_min={trainer.heldout_min} must be between 1 and "
            f"trainer.heldout_max={trainer.heldout_max}, or null."
        )
    temperature = trainer.temperature
    if not 0 < temperature.end <= temperature.start:
        yield (
            f"trainer.temperature must fall from start={temperature.start} to end={temperature.end}, both "
            "above 0."
        )
    if temperature.anneal <= 0:
        yield f"trainer.temperature.anneal={temperature.anneal} must be positive."


def _count_problems(trainer: TrainerSettings) -> Iterator[str]:
    for name in ("max_steps", "batch_size", "eval_batch_size", "eval_every", "bucket_batches"):
        if getattr(trainer, name) < 1:
            yield f"trainer.{name}={getattr(trainer, name)} must be at least 1."
    for name in ("micro_batch_size", "patience", "cpu_threads"):
        value = getattr(trainer, name)
        if value is not None and value < 1:
            yield f"trainer.{name}={value} must be at least 1, or null."
    if trainer.micro_batch_size is not None and trainer.micro_batch_size > trainer.batch_size:
        yield (
            f"trainer.micro_batch_size={trainer.micro_batch_size} is more than the examples of one update, "
            f"trainer.batch_size={trainer.batch_size}: lower the first or raise the second."
        )


def _prompt_problems(prompt: PromptSettings) -> Iterator[str]:
    yield from _training_problems(prompt)
    yield from _init_problems(prompt)
    if not table.of(prompt.method).has_prompt:
        if prompt.num_tokens != 0:
            yield f"prompt={prompt.name} has no prompt: leave prompt.num_tokens at 0."
        return
    if prompt.num_tokens < 1:
        yield f"prompt.num_tokens={prompt.num_tokens} leaves nothing to train: use at least 1."
        return
    yield from catalogue.problems(prompt.pieces, prompt.num_tokens)
    if prompt.length.get("outcome") in (0, "none"):
        yield "prompt.length.outcome keeps no vectors: use at least 1."
    yield from _layer_problems(prompt)
    yield from _estimator_problems(prompt)
    yield from _route_problems(prompt)


def _training_problems(prompt: PromptSettings) -> Iterator[str]:
    if prompt.lr is not None and not 0 < prompt.lr < math.inf:
        yield f"prompt.lr={prompt.lr} must be positive, or null for the trainer's."
    if prompt.weight_decay is not None and prompt.weight_decay < 0:
        yield f"prompt.weight_decay={prompt.weight_decay} must be at least 0, or null for the trainer's."
    for key, readers in _settings_of_methods().items():
        value = getattr(prompt, key)
        if prompt.method not in readers and value is not None:
            yield f"prompt.{key} is read by prompt={' and '.join(readers)} only: remove it."
        elif prompt.method in readers and not readers[prompt.method].allows(value, prompt.num_tokens):
            shown = "null" if value is None else value
            yield f"prompt.{key}={shown} must be {readers[prompt.method].requirement}."
    if not table.of(prompt.method).has_prompt and prompt.freeze_backbone is not None:
        yield (
            f"prompt.freeze_backbone has no meaning with prompt={prompt.name}, which has no prompt: remove "
            "it, or use prompt=fine_tuning."
        )


def _settings_of_methods() -> dict[str, dict[str, catalogue.Setting]]:
    """Return the settings that only some methods read, by key, with these methods and what each allows."""
    readers: dict[str, dict[str, catalogue.Setting]] = {}
    for method in table.methods().values():
        for key, setting in method.settings.items():
            readers.setdefault(key, {})[method.name] = setting
    return readers


def _estimator_problems(prompt: PromptSettings) -> Iterator[str]:
    if prompt.estimator is None:
        return
    learned = [part for part, piece in catalogue.used(prompt.pieces).items() if piece.is_learned]
    if not learned:
        yield (
            f"prompt.estimator={prompt.estimator.value} applies to a learned position, length or route, and "
            f"prompt={prompt.name} has none: remove it, or use prompt=adap_ins_pos."
        )
    if prompt.estimator in (Estimator.exact, Estimator.mixture) and len(learned) > 1:
        yield (
            f"prompt.estimator={prompt.estimator.value} runs every outcome of one selector, and "
            f"{' and '.join(learned)} are learned: make one of them fixed, or use "
            "prompt.estimator=leave_one_out."
        )


def _route_problems(prompt: PromptSettings) -> Iterator[str]:
    if prompt.is_routed and prompt.route is None:
        yield "prompt/vectors=routed needs a selector of its members: add prompt/route=ridge."
    if prompt.route is not None and not prompt.is_routed:
        yield (
            f"prompt/route chooses among the members of routed vectors, and prompt={prompt.name} has none: "
            "add prompt/vectors=routed, or remove it."
        )
    if prompt.selector_lr is not None and not 0 < prompt.selector_lr < math.inf:
        yield f"prompt.selector_lr={prompt.selector_lr} must be positive, or null for the prompt's."


def _layer_problems(prompt: PromptSettings) -> Iterator[str]:
    if prompt.in_layers_alone:
        if prompt.layers is None:
            yield (
                "prompt/vectors=none leaves nothing to train without prompt/layers=table or "
                "prompt/layers=mlp."
            )
        is_fixed = "outcome" in prompt.position
        if prompt.position.get("outcome") != "all":
            yield (
                f"prompt{'.position.outcome' if is_fixed else '/position'} has no meaning with "
                "prompt/vectors=none: keys and values of the layers have no position in the text. "
                "Use an unchanged prompt/position=fixed, or add prompt/vectors=single."
            )


def _init_problems(prompt: PromptSettings) -> Iterator[str]:
    for init, key in ((Init.text, "init_text"), (Init.saved, "init_from")):
        value = getattr(prompt, key)
        if prompt.init is init and not value:
            yield f"prompt.init={init.value} needs prompt.{key}=…"
        if prompt.init is not init and value:
            yield f"prompt.{key} is read by prompt.init={init.value} only: add that, or remove it."
    if prompt.init in (Init.text, Init.label_words, Init.frequent, Init.first_vocab) and (
        not table.of(prompt.method).has_prompt or prompt.in_layers_alone
    ):
        yield (
            f"prompt.init={prompt.init.value} initializes vectors of the input, and prompt={prompt.name} has "
            "none: remove it."
        )
    if prompt.init is Init.saved and not table.of(prompt.method).has_prompt:
        yield f"prompt.init=saved initializes a prompt, and prompt={prompt.name} has none: remove it."
    if prompt.init is Init.text and prompt.vectors.get("num_prompts", 1) != 1:
        yield (
            "prompt.init=text gives all members of a pool the same vectors, so that choosing has no effect "
            "and no gradient: use prompt.init=vocab or prompt.init=label_words."
        )


def _regime_problems(settings: RunSettings) -> Iterator[str]:
    regime, method = settings.regime, table.of(settings.prompt.method)
    if regime.tasks is not None:
        yield from _mixture_problems(regime)
        if method.fit is not None:
            yield (
                f"prompt={settings.prompt.name} cannot be fitted to several tasks at once: run it with "
                "regime=full or regime=fewshot, once a task."
            )
    if regime.transfer:
        task = settings.task
        trained = regime.tasks or ([] if task is None else [task.training.name, task.name])
        for name in regime.transfer:
            if name in trained:
                yield f"regime.transfer names '{name}', on which the prompt is trained and scored: remove it."
        if not method.has_prompt:
            yield (
                f"regime.transfer evaluates a trained prompt on other tasks, and "
                f"prompt={settings.prompt.name} has none: remove it."
            )


def _mixture_problems(regime: RegimeSettings) -> Iterator[str]:
    tasks = regime.tasks or []
    if len(tasks) < 2 or len(set(tasks)) < len(tasks):
        yield f"regime.tasks={tasks} must name at least two tasks, each once."
    if regime.mixing is None:
        yield "regime.mixing must be given: proportional, equal or temperature."
    if regime.mixing is Mixing.temperature and not (regime.mixing_temperature or 0) > 0:
        yield f"regime.mixing_temperature={regime.mixing_temperature} must be positive: 2 is usual."
    if regime.mixing_cap is not None and regime.mixing_cap < 1:
        yield f"regime.mixing_cap={regime.mixing_cap} must be at least 1, or null."
    for key in ("task_weights", "task_settings"):
        yield from _by_task_problems(regime, key)


def _by_task_problems(regime: RegimeSettings, key: str) -> Iterator[str]:
    by_task = {} if getattr(regime, key) is None else getattr(regime, key)
    if not isinstance(by_task, dict):
        example = "{rte: 2.0}" if key == "task_weights" else "{rte: {max_length: 256}}"
        yield f"regime.{key}={by_task} is not a mapping from tasks: write it as {example}."
        return
    known = [*(regime.tasks or []), *(regime.transfer or [])]
    for name, value in by_task.items():
        if name not in known:
            yield f"regime.{key} names '{name}', which is not one of {', '.join(known)}."
        elif key == "task_weights" and not (isinstance(value, (int, float)) and 0 <= value < math.inf):
            yield f"regime.task_weights.{name}={value} must be a number of at least 0."
        elif key == "task_settings" and not isinstance(value, dict):
            yield f"regime.task_settings.{name}={value} must be a mapping such as {{max_length: 256}}."


def task_problems(task: TaskSettings) -> Iterator[str]:
    """Yield one sentence a problem of a task's settings."""
    wrong = list(_list_problems(task, "task."))
    if wrong:
        yield from wrong
        return
    if task.scoring is Scoring.words:
        yield from _word_problems(task)
    else:
        yield from _choice_problems(task)
    folded = [label.casefold() for label in task.labels]
    if len(set(folded)) != len(folded):
        yield f"task.labels={task.labels} repeats a label: upper and lower case are the same label."
    if task.train_task is not None and [label.casefold() for label in task.train_task.labels] != folded:
        yield (
            f"task.train_task={task.train_task.name} has other labels than {task.name}: they must be the "
            "same, in the same order."
        )
    if task.reader not in READERS:
        yield f"task.reader={task.reader} is unknown: use {', '.join(READERS)}."
    for name in task.together or ():
        if name not in task.fields:
            yield (
                f"task.together names '{name}', which is not a field of the task: its fields are "
                f"{', '.join(task.fields)}."
            )
    yield from filter(None, map(metrics.problem, task.metrics))
    try:
        Template.of(task)
    except UserError as error:
        yield str(error)
    if task.max_length < 16:
        yield f"task.max_length={task.max_length} leaves no room for a text: use at least 16."


def _list_problems(task: TaskSettings, prefix: str) -> Iterator[str]:
    """Refuse what YAML does not read as a word, and empty words."""
    for key, value in vars(task).items():
        if isinstance(value, TaskSettings):
            yield from _list_problems(value, f"{prefix}{key}.")
        if not isinstance(value, list):
            continue
        if not all(isinstance(word, str) for word in value):
            yield (
                f"{prefix}{key}={value} of task={task.name}: without quotes, yes, no, on, off, true, false, "
                f'null and numbers are not words in YAML. Quote them: {key}: ["yes", "no"] in a file, '
                f'\'{prefix}{key}=["yes","no"]\' on the command line.'
            )
        elif not all(word.strip() for word in value):
            yield f"{prefix}{key}={value} of task={task.name} has an empty word: write one, or remove it."
        elif any(word != word.strip() for word in value):
            yield (
                f"{prefix}{key}={value} of task={task.name} has spaces around a word: remove them; "
                "a space before a word is added where the tokenizer needs it."
            )


def _word_problems(task: TaskSettings) -> Iterator[str]:
    if not task.labels:
        yield f"task.scoring=words: {task.name} has no labels for the words; use task.scoring=choices."
    elif len(task.words) != len(task.labels):
        yield f"task.words has {len(task.words)} words for {len(task.labels)} labels: give one word a label."
    if len(set(task.words)) != len(task.words):
        yield f"task.words={task.words} repeats a word: each label needs a different one."


def _choice_problems(task: TaskSettings) -> Iterator[str]:
    if task.words:
        yield (
            f"task.words={task.words} has no meaning where whole choices are scored: add task.scoring=words, "
            "or use task.words=[]."
        )
    unknown = [name for name in task.choices if name not in task.fields]
    if unknown:
        yield (
            f"task.choices names '{unknown[0]}', which is not a field of the task: its fields are "
            f"{', '.join(task.fields)}."
        )
    if len(task.choices) != len(task.labels):
        yield (
            f"task.choices names {len(task.choices)} fields for {len(task.labels)} labels: name one a label, "
            "or use task.scoring=words."
        )
