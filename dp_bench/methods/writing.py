"""Methods that ask the frozen model as zero-shot does, in texts that are written in another way.

Each is a function of a run's context that returns the tasks with other templates. Training rows decide, and
rows to select on; never the reported ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dp_bench import reading
from dp_bench.data import prepare
from dp_bench.data.prepare import TaskData
from dp_bench.data.source import locate
from dp_bench.data.template import Template
from dp_bench.evaluation import predict, score
from dp_bench.methods.build import TEXTS, make_model, make_prompt
from dp_bench.methods.context import RunContext
from dp_bench.methods.splits import make_splits
from dp_bench.randomness import derive
from dp_bench.settings import RunSettings, TaskSettings
from dp_bench.types import Example, UserError

BETWEEN = "\n\n"  # of two examples
BEFORE_ANSWER = " "  # both as in the LM Evaluation Harness


@dataclass(frozen=True)
class Written:
    """The tasks of a run with the templates by which their texts are written, and numbers for the record."""

    tasks: tuple[TaskSettings, ...]
    diagnostics: dict[str, float] = field(default_factory=dict)


def with_examples(context: RunContext) -> Written:
    """Put `prompt.shots` training rows before each text, with their answers (Brown et al., NeurIPS 2020).

    They are drawn by the seed, the same for every text, and written by the task's template: an empty line
    between two of them, no description. A text is cut as it is without them, never because of them.
    """
    settings, backbone = context.settings, context.backbone
    if not backbone.continues_texts:
        raise UserError(
            f"prompt={settings.prompt.name} puts examples in front of a text that a causal language model "
            f"goes on with, and {type(backbone.model).__name__} is no such model: use another backbone."
        )
    tasks = []
    for part in context.data:
        task = part.task.training
        drawn = _drawn(settings, part)
        source = locate(part.task, settings.data, settings.cache)
        examples = prepare.examples_of(settings, part.task, source, drawn)
        text = "".join(_with_answer(settings, task, example) for example in examples)
        # With a letter behind it, since tokens of line breaks depend on what follows.
        length = len(backbone.tokenizer(f"{text}a", add_special_tokens=False).input_ids) - 1
        context.reporter.line(f"  before each text, {length} tokens: {', '.join(drawn)}")
        read = (part.select, part.report)
        slots = max(split.longest + max(0, split.longest_choice - 1) for split in read)
        remedy = "lower prompt.shots or task.max_length"
        backbone.refuse_beyond(slots + length, "Examples in context, text and choice", remedy)
        tasks.append(_behind(part.task, text, length))
    return Written(tuple(tasks))


def _drawn(settings: RunSettings, part: TaskData) -> list[str]:
    """Return the ids of the training rows in context, which have labels."""
    shots, ids = settings.prompt.shots or 0, part.train.ids
    labelled = np.flatnonzero(part.train.labels >= 0)
    if shots > len(labelled):
        raise UserError(
            f"prompt.shots={shots}: task={part.task.name} has {len(labelled)} training rows with a label. "
            "Use fewer."
        )
    stream = np.random.default_rng(derive(settings.seed_of("init"), "shots", part.task.training.name))
    return [ids[row] for row in stream.choice(labelled, size=shots, replace=False)]


def _with_answer(settings: RunSettings, task: TaskSettings, example: Example) -> str:
    """Return the text of an example with its answer, and the empty line before the next one."""
    assert example.label is not None
    answers = task.words or example.written or example.choices
    text = Template.of(task).render(example.fields).text + (settings.cue_of(task) or "")
    return f"{text}{BEFORE_ANSWER}{answers[example.label]}{BETWEEN}"


def _behind(task: TaskSettings, text: str, length: int) -> TaskSettings:
    """Return a task whose texts stand behind another text of so many tokens."""
    escaped = text.replace("{", "{{").replace("}", "}}")
    return replace(
        task,
        template=escaped + task.template,
        max_length=task.max_length + length,
        train_task=task.train_task and _behind(task.train_task, text, length),
    )


def with_best_template(context: RunContext) -> Written:
    """Return the task with the one of its templates that has the best zero-shot score on the selection rows;
    of equal ones the first."""
    settings, (part,) = context.settings, context.data
    model = make_model(context, make_prompt(context))
    found: list[float] = []
    templates = dict.fromkeys((part.task.template, *(part.task.templates or ())))  # each once
    tasks = [replace(part.task, template=template) for template in templates]
    source = locate(part.task, settings.data, settings.cache)
    for task in tasks:
        anew = prepare.selected_anew(settings, part, task, source, context.backbone.tokenizer)
        (split,) = make_splits(replace(context, data=(anew,)), with_summaries=False).select
        size, seed = settings.trainer.eval_batch_size, settings.seed_of("gumbel")
        found.append(score(split, predict(model, split, batch_size=size, seed=seed)).value)
        context.reporter.line(f"  select {found[-1]:.2f} with {task.template!r}")
    best = int(np.argmax(found))
    scores = {f"template_{number}_select": value for number, value in enumerate(found)}
    return Written((tasks[best],), {"template": best, **scores})


def written_anew(context: RunContext, tasks: Sequence[TaskSettings]) -> RunContext:
    """Return the context with its selected and reported rows as these tasks write them."""
    settings, tokenizer = context.settings, context.backbone.tokenizer
    data = tuple(
        prepare.written_anew(settings, part, task, locate(task, settings.data, settings.cache), tokenizer)
        for part, task in zip(context.data, tasks, strict=True)
    )
    return replace(context, data=data)


def as_tensors(tasks: Sequence[TaskSettings]) -> dict[str, Tensor]:
    """Return how texts are written as tensors, which a run saves: UTF-8 bytes, and a number."""
    saved = {}
    for task in tasks:
        template = torch.frombuffer(bytearray(task.template, "utf-8"), dtype=torch.uint8)
        saved[f"{TEXTS}{task.name}.template"] = template
        saved[f"{TEXTS}{task.name}.max_length"] = torch.tensor(task.max_length)
    return saved


def from_tensors(tasks: Sequence[TaskSettings], path: Path) -> tuple[TaskSettings, ...]:
    """Return the tasks of a finished run as its file says that their texts are written; raise UserError where
    it does not."""
    remedy = "Train the run again with rerun=true."
    saved = reading.tensors(path, remedy)
    with reading.guarded(path, remedy):
        return tuple(_written(task, saved) for task in tasks)


def _written(task: TaskSettings, saved: Mapping[str, Tensor]) -> TaskSettings:
    template = bytes(saved[f"{TEXTS}{task.name}.template"].tolist()).decode()
    return replace(task, template=template, max_length=int(saved[f"{TEXTS}{task.name}.max_length"]))
