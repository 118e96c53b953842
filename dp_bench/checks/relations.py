"""Check the settings of a run against each other. All problems are reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dp_bench.checks import ranges
from dp_bench.checks.task import task_problems
from dp_bench.methods import table
from dp_bench.prompts import catalogue
from dp_bench.settings import (
    Estimator,
    Family,
    Head,
    Init,
    Mixing,
    Precision,
    PromptSettings,
    RegimeSettings,
    RunSettings,
    TrainerSettings,
)
from dp_bench.types import UserError

BY_TASK = {"task_weights": "{rte: 2.0}", "task_settings": "{rte: {max_length: 256}}"}  # of regime: an example


def problems_of(settings: RunSettings) -> list[str]:
    """Return one sentence a problem of a configuration: what is wrong, and what to type instead."""
    return [
        *ranges.problems(settings),
        *_run_problems(settings),
        *_trainer_problems(settings.trainer),
        *_prompt_problems(settings.prompt),
        *(task_problems(settings.task) if settings.task else ()),
        *_regime_problems(settings),
    ]


def refuse_ranks(settings: RunSettings) -> None:
    """Raise UserError where the settings need a single process."""
    if settings.trainer.step_each_micro_batch:
        raise UserError(
            f"trainer.step_each_micro_batch, which protocol={settings.protocol.name} sets for some prompts, "
            "makes one update after the other: run it with one process."
        )
    prompt = settings.prompt
    if settings.backbone.shard and (
        prompt.trains_backbone or table.of(prompt.method).prepare or table.adapters_of(vars(prompt))
    ):
        raise UserError(
            f"backbone.shard divides frozen weights among processes, and prompt={prompt.name} trains some: "
            "remove it."
        )


def _run_problems(settings: RunSettings) -> Iterator[str]:
    if settings.backbone.name_or_path is None and settings.backbone.random_init is None:
        yield f"backbone={settings.backbone.name} names no checkpoint: add backbone.name_or_path=DIR."
    if settings.prompt.layers is not None and settings.trainer.gradient_checkpointing:
        yield "trainer.gradient_checkpointing loses what prompt.layers adds: remove one of them."
    if settings.backbone.head is Head.classifier:
        yield from _head_problems(settings)
    yield from _asking_problems(settings)
    prompt = settings.prompt
    looks = any(piece.looks for piece in catalogue.used(prompt.pieces).values())
    for key in ("standardise", "erase_label", "shuffle_input"):
        if getattr(prompt, key) and not looks:
            yield f"prompt={prompt.name} has no selector with input, which prompt.{key} changes: remove it."
        if getattr(prompt, key) and settings.protocol.frozen_dropout:
            yield f"prompt.{key} needs cached summaries, not new ones with dropout: use protocol=clean."


def _asking_problems(settings: RunSettings) -> Iterator[str]:
    """Check what methods that ask the frozen model in another way need of backbone and task."""
    backbone, name, task = settings.backbone, settings.prompt.name, settings.task
    method = table.of(settings.prompt.method)
    if method.needs_continuation and backbone.family not in (None, Family.decoder_only):
        yield (
            f"prompt={name} puts examples in front of a text that a causal language model goes on with, and "
            f"backbone={backbone.name} is no such model: use one such as backbone=smollm2 or gpt2."
        )
    if not method.reads_templates:
        return
    if settings.regime.tasks is not None:
        yield f"prompt={name} chooses the template of one task: use regime=full or fewshot, once a task."
    elif task is not None and (not task.templates or task.train_task is not None):
        form = f" in its format {task.format}" if task.format else ""
        yield (
            f"task={task.name} has a single template{form}, and prompt={name} chooses among several: add "
            "'task.templates=[…]', with each of them in quotes, or use prompt=zero_shot."
        )


def _head_problems(settings: RunSettings) -> Iterator[str]:
    prompt, task, method = settings.prompt, settings.task, table.of(settings.prompt.method)
    if not method.is_trained and method.fit is None:
        yield f"backbone.head=classifier is not trained with prompt={prompt.name}: change one of them."
    if settings.regime.transfer:
        yield "regime.transfer needs label words: a classifier head is trained for the labels of one task."
    if task is not None and settings.regime.tasks is None and not task.labels:
        yield f"task={task.name} has different choices for each example: use backbone.head=verbalizer."


def _trainer_problems(trainer: TrainerSettings) -> Iterator[str]:
    if trainer.precision is Precision.fp16:
        yield "trainer.precision=fp16: T5's activations overflow in fp16 and give NaN; use bf16 or fp32."
    if trainer.temperature.end > trainer.temperature.start:
        yield "trainer.temperature.end must not exceed trainer.temperature.start: the temperature falls."
    if (trainer.micro_batch_size or 0) > trainer.batch_size:
        micro, whole = trainer.micro_batch_size, trainer.batch_size
        yield f"trainer.micro_batch_size={micro} exceeds trainer.batch_size={whole}: lower it, or raise that."


def _prompt_problems(prompt: PromptSettings) -> Iterator[str]:
    has_prompt = table.of(prompt.method).has_prompt
    yield from _method_problems(prompt)
    if prompt.adapters is not None:
        yield from _adapter_problems(prompt, prompt.adapters)
    yield from _init_problems(prompt, is_in_input=has_prompt and not prompt.in_layers_alone)
    if not has_prompt:
        yield from catalogue.unknown(prompt.pieces)
        if prompt.num_tokens != 0:
            yield f"prompt={prompt.name} has no prompt: leave prompt.num_tokens at 0."
        if prompt.freeze_backbone is not None:
            yield "prompt.freeze_backbone has no meaning without a prompt: remove it; see prompt=fine_tuning."
    elif prompt.num_tokens < 1:
        yield f"prompt.num_tokens={prompt.num_tokens} leaves nothing to train: use at least 1."
    else:
        yield from catalogue.problems(prompt.pieces, prompt.num_tokens)
        yield from _piece_problems(prompt)


def _method_problems(prompt: PromptSettings) -> Iterator[str]:
    """Check the settings that only some methods read."""
    methods, read = table.methods().values(), table.of(prompt.method).settings
    for key in dict.fromkeys(key for method in methods for key in method.settings):
        value = getattr(prompt, key)
        if key in read:
            yield from read[key].problem(f"prompt.{key}", value, prompt.num_tokens)
        elif value is not None:
            readers = " and ".join(method.name for method in methods if key in method.settings)
            yield f"prompt.{key} is read by prompt={readers} only: remove it."


def _adapter_problems(prompt: PromptSettings, adapters: Mapping[str, Any]) -> Iterator[str]:
    """Check the weights that are trained beside a prompt."""
    name, able = adapters.get("method"), table.can_adapt()
    if not table.of(prompt.method).has_prompt:
        yield f"prompt/adapters trains weights beside a prompt, and prompt={prompt.name} has none: remove it."
    if prompt.freeze_backbone is False:
        yield "prompt.freeze_backbone=false trains all weights: remove it, or prompt/adapters."
    if name not in able:
        yield f"prompt.adapters.method={name} trains no weights beside a prompt: use {' or '.join(able)}."
        return
    read = {"lr": ranges.POSITIVE, **table.of(str(name)).settings}
    for key, allowed in read.items():
        yield from allowed.problem(f"prompt.adapters.{key}", adapters.get(key), prompt.num_tokens)
    for key in adapters.keys() - {"method", *read}:
        yield f"prompt.adapters.{key} is no setting of {name}, which has {', '.join(read)}: remove it."


def _init_problems(prompt: PromptSettings, *, is_in_input: bool) -> Iterator[str]:
    init = prompt.init.value
    for reader, key in ((Init.text, "init_text"), (Init.saved, "init_from")):
        value = getattr(prompt, key)
        if prompt.init is reader and not value:
            yield f"prompt.init={init} needs prompt.{key}=…"
        if prompt.init is not reader and value:
            yield f"prompt.{key} is read by prompt.init={reader.value} only: add that, or remove it."
    if prompt.init is Init.saved and not table.of(prompt.method).has_prompt:
        yield f"prompt.init=saved initializes a prompt, and prompt={prompt.name} has none: remove it."
    elif prompt.init not in (Init.uniform, Init.vocab, Init.saved) and not is_in_input:
        yield f"prompt.init={init} initializes vectors of the input; prompt={prompt.name} has none: drop it."
    if prompt.init is Init.text and prompt.vectors.get("num_prompts", 1) != 1:
        yield "prompt.init=text gives all members the same vectors: use prompt.init=vocab or label_words."


def _piece_problems(prompt: PromptSettings) -> Iterator[str]:
    """Check the pieces of a prompt against each other and the estimator."""
    if prompt.length.get("outcome") in (0, "none"):
        yield "prompt.length.outcome keeps no vectors: use at least 1."
    if prompt.in_layers_alone and prompt.layers is None:
        yield "prompt/vectors=none leaves nothing to train: add prompt/layers=table or prompt/layers=mlp."
    if prompt.in_layers_alone and prompt.position.get("outcome") != "all":
        key = ".position.outcome" if "outcome" in prompt.position else "/position"
        yield f"prompt{key} has no meaning without vectors in the text: use prompt/position=fixed, unchanged."
    if prompt.boundaries is not None:
        yield from _boundary_problems(prompt)
    if prompt.is_routed and prompt.route is None:
        yield "prompt/vectors=routed needs a selector of its members: add prompt/route=ridge."
    if prompt.route is not None and not prompt.is_routed:
        yield f"prompt/route needs members, and prompt={prompt.name} has none: add prompt/vectors=routed."
    layers, vectors = catalogue.of(prompt.layers), catalogue.of(prompt.vectors)
    if layers is not None and layers.shares_generator:
        yield from _shared_problems(prompt, has_generator=vectors is not None and vectors.generates)
    if prompt.estimator is None:
        return
    learned = [part for part, piece in catalogue.used(prompt.pieces).items() if piece.is_learned]
    estimator = f"prompt.estimator={prompt.estimator.value}"
    weighed = [part for part, piece in catalogue.used(prompt.pieces).items() if piece.weighs]
    if weighed:
        yield f"{estimator}: the {weighed[0]} learns by the weight of its choice, without one: remove it."
    elif not learned:
        yield f"{estimator} applies to a learned position, length or route: remove it from {prompt.name}."
    if prompt.estimator in (Estimator.exact, Estimator.mixture) and len(learned) > 1:
        several = " and ".join(learned)
        yield f"{estimator} runs every outcome of one part; {several} are learned: make one of them fixed."


def _shared_problems(prompt: PromptSettings, has_generator: bool) -> Iterator[str]:
    """Check layers that share the network of the vectors."""
    if not has_generator:
        yield (
            f"prompt.layers shares the network that generates vectors, and prompt={prompt.name} has none: "
            "add prompt/vectors=generated or prompt/vectors=generated_phm."
        )
    for key in ("standardise", "erase_label", "shuffle_input"):
        if getattr(prompt, key):
            yield f"prompt.{key} changes summaries, and prompt.layers reads states: remove one of them."


def _boundary_problems(prompt: PromptSettings) -> Iterator[str]:
    """Check a position inside the text."""
    if prompt.in_layers_alone:
        yield "prompt.boundaries has no meaning without vectors in the text: remove it."
    elif "outcome" in prompt.position:
        yield "prompt.boundaries needs a chosen position: add prompt/position=instance, task or random."


def _regime_problems(settings: RunSettings) -> Iterator[str]:
    regime, prompt, task = settings.regime, settings.prompt, settings.task
    method = table.of(prompt.method)
    if regime.tasks is not None:
        yield from _mixture_problems(regime, regime.tasks)
        if method.fit is not None:
            yield f"prompt={prompt.name} is fitted to one task: use regime=full or fewshot, once a task."
    if regime.reptile_updates is not None or regime.reptile_rate is not None:
        yield from _reptile_problems(settings)
    trained = regime.tasks or ([] if task is None else [task.training.name, task.name])
    for name in regime.transfer or ():
        if name in trained:
            yield f"regime.transfer names '{name}', on which the prompt is trained and scored: remove it."
    if regime.transfer and not method.has_prompt:
        yield f"regime.transfer evaluates a prompt on other tasks; prompt={prompt.name} has none: remove it."


def _reptile_problems(settings: RunSettings) -> Iterator[str]:
    regime, trainer = settings.regime, settings.trainer
    updates = regime.reptile_updates
    if updates is None or regime.reptile_rate is None or regime.tasks is None:
        yield (
            "regime.reptile_updates and regime.reptile_rate learn a start over several tasks, together: use "
            "regime=reptile regime.tasks=[cb,rte], which sets both, or remove them."
        )
        return
    for key in ("max_steps", "eval_every"):
        if (value := getattr(trainer, key)) % max(1, updates):
            yield (
                f"trainer.{key}={value} is no multiple of regime.reptile_updates={updates}: evaluations are "
                f"of the start that is learned, after an outer step. Use {-(-value // updates) * updates}."
            )


def _mixture_problems(regime: RegimeSettings, tasks: list[str]) -> Iterator[str]:
    if len(tasks) < 2 or len(set(tasks)) < len(tasks):
        yield f"regime.tasks={tasks} must name at least two tasks, each once."
    if regime.mixing is None:
        yield "regime.mixing must be given: proportional, equal or temperature."
    if regime.mixing is Mixing.temperature and regime.mixing_temperature is None:
        yield "regime.mixing=temperature needs regime.mixing_temperature: 2 is usual."
    known = [*tasks, *(regime.transfer or [])]
    for key, example in BY_TASK.items():
        by_task = getattr(regime, key)
        if not isinstance(by_task, dict | None):
            yield f"regime.{key}={by_task} is not a mapping from tasks: write it as {example}."
            continue
        for name, value in (by_task or {}).items():
            if name not in known:
                yield f"regime.{key} names '{name}', which is not one of {', '.join(known)}."
            elif key == "task_weights":
                yield from ranges.NOT_NEGATIVE.problem(f"regime.{key}.{name}", value)
            elif not isinstance(value, dict):
                yield f"regime.{key}.{name}={value} must be a mapping such as {{max_length: 256}}."
