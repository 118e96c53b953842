"""Examples of a plan's tasks as a model will read them, with the slots of a prompt. Needs no tokenizer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import SplitFile
from dp_bench.data.template import Template
from dp_bench.effective import method_of
from dp_bench.prompts import catalogue
from dp_bench.settings import RunSettings, TaskSettings
from dp_bench.sweep.plan import Run
from dp_bench.types import Example, UserError

NUM_EXAMPLES, WIDTH, MOST = 2, 80, 300  # MOST: characters of a text that are shown


def preview(runs: Sequence[Run]) -> Iterator[str]:
    """Yield lines with two training examples of each task, drawn for its first run with a prompt."""
    shown: set[str] = set()
    for run in sorted(runs, key=lambda run: not method_of(run.resolved).has_prompt):
        assert run.experiment is not None and run.sources is not None
        for task, source in zip(run.experiment.tasks, run.sources.trained, strict=True):
            if task.name not in shown:
                shown.add(task.name)
                yield from _of_task(
                    run.experiment.settings, run.resolved["prompt"], task.training, source.train
                )


def _of_task(
    settings: RunSettings, prompt: Mapping[str, Any], task: TaskSettings, file: SplitFile
) -> Iterator[str]:
    yield ""
    yield from textwrap.wrap(f"{task.title}, prompt={prompt['name']}{_remark(prompt)}", WIDTH)
    template, before, behind = Template.of(task), *_slots(prompt)
    try:
        examples = list(islice(ExampleFile(task, file, settings.data.limit), NUM_EXAMPLES))
    except UserError as error:
        yield from textwrap.wrap(str(error), WIDTH, initial_indent="  ", subsequent_indent="  ")
        return
    for example in examples:
        text = template.render(example.fields).text + (settings.cue_of(task) or "")
        parts = (before, _shortened(" ".join(text.split())), behind, f"→ {_answer(task, example)}")
        yield from textwrap.wrap(
            " ".join(filter(None, parts)),
            WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )


def _slots(prompt: Mapping[str, Any]) -> tuple[str, str]:
    """Return the slots of a prompt before the text and behind it; all before it where its place is chosen."""
    if not method_of({"prompt": prompt}).has_prompt or _is_empty(prompt):
        return "", ""
    number = int(prompt["num_tokens"])
    outcome = (prompt["position"] or {}).get("outcome", "all")
    named = {"all": number, "half": number // 2, "none": 0}
    before = named[outcome] if outcome in named else int(outcome)
    return _drawn(0, before), _drawn(before, number)


def _drawn(first: int, end: int) -> str:
    if end - first < 3:
        return f"[{' '.join(f'P{i}' for i in range(first, end))}]" if end > first else ""
    return f"[P{first} … P{end - 1}]"


def _remark(prompt: Mapping[str, Any]) -> str:
    """Return what the picture of a prompt does not show."""
    if not method_of({"prompt": prompt}).has_prompt:
        return ": no prompt"
    chosen = [
        part
        for part, piece in catalogue.used(prompt).items()
        if part in catalogue.SELECTORS and (piece.is_learned or piece.is_random or piece.looks)
    ]
    in_layers = "; vectors also in the layers" if prompt.get("layers") else ""
    if _is_empty(prompt):
        layers = catalogue.used(prompt).get("layers")
        where = "that enter at one layer" if layers is not None and layers.is_late else "in each layer"
        in_layers = f": {prompt['num_tokens']} vectors {where}"
    return in_layers + (f"; {' and '.join(chosen)} will be chosen" if chosen else "")


def _is_empty(prompt: Mapping[str, Any]) -> bool:
    piece = catalogue.used(prompt).get("vectors")
    return piece is not None and piece.is_empty


def _shortened(text: str) -> str:
    half = MOST // 2
    return text if len(text) <= MOST else f"{text[:half].rstrip()} … {text[-half:].lstrip()}"


def _answer(task: TaskSettings, example: Example) -> str:
    if example.label is None:
        return "?"
    answers = task.words or example.written or example.choices
    return " ".join(answers[example.label].split())
