"""Check the settings of a task against each other: labels, words, choices, fields and template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dp_bench.checks.ranges import word_problems
from dp_bench.data import metrics
from dp_bench.data.readers import READERS
from dp_bench.data.template import Template
from dp_bench.settings import Scoring, TaskSettings
from dp_bench.types import UserError


def task_problems(task: TaskSettings) -> list[str]:
    """Return one sentence a problem of a task's settings."""
    # Words that are not text cannot be compared.
    return list(word_problems(task)) or list(_relations(task))


def _relations(task: TaskSettings) -> Iterator[str]:
    yield from _words_or_choices(task)
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
    for key in ("together", "choices"):
        for name in getattr(task, key) or ():
            if name not in task.fields:
                yield f"task.{key} names '{name}', which is not one of the fields {', '.join(task.fields)}."
    yield from filter(None, map(metrics.problem, task.metrics))
    try:
        for template in (task.template, *(task.templates or ())):
            Template.of(replace(task, template=template))
    except UserError as error:
        yield str(error)
    if len(set(task.templates or ())) < len(task.templates or ()):
        yield f"task.templates={task.templates} repeats a template: remove it."
    if task.max_length < 16:
        yield f"task.max_length={task.max_length} leaves no room for a text: use at least 16."


def _words_or_choices(task: TaskSettings) -> Iterator[str]:
    words, fields, labels = len(task.words), len(task.choices), len(task.labels)
    if task.scoring is Scoring.words:
        if not labels:
            yield f"task.scoring=words: {task.name} has no labels for the words; use task.scoring=choices."
        elif words != labels:
            yield f"task.words has {words} words for {labels} labels: give one word a label."
        if len(set(task.words)) != words:
            yield f"task.words={task.words} repeats a word: each label needs a different one."
        return
    if words:
        yield f"task.words={task.words} has no meaning with whole choices: use [], or task.scoring=words."
    if fields != labels:
        yield f"task.choices names {fields} fields for {labels} labels: name one a label, or score words."
