"""Check settings one by one: the ranges of numbers, and texts that YAML reads as something else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any

from dp_bench.prompts.catalogue import COUNT, COUNT_OR_NULL, Setting, number
from dp_bench.settings import RunSettings, TaskSettings

POSITIVE, NOT_NEGATIVE = Setting(number(0), "positive"), Setting(number(0, low_too=True), "at least 0")
OPEN_SHARE = Setting(lambda value, p: 0 < value < 1, "above 0 and below 1")
ROWS = Setting(number(8, low_too=True), "at least 8, to train and to select on, or null for all rows")
# The numbers that a setting may be; or null, where its type is optional. Settings of pieces and of single
# methods are in their catalogues.
RANGES: dict[Setting, tuple[str, ...]] = {
    COUNT: (
        *("trainer.max_steps", "trainer.batch_size", "trainer.eval_batch_size", "trainer.eval_every"),
        "trainer.heldout_max",
    ),
    COUNT_OR_NULL: (
        *("trainer.micro_batch_size", "trainer.patience", "trainer.cpu_threads"),
        *("trainer.heldout_min", "regime.shots", "regime.mixing_cap", "protocol.summary_pad_to"),
        *("hpo.trials", "prompt.boundaries", "regime.reptile_updates"),
    ),
    NOT_NEGATIVE: (
        *("seed", "seeds.order", "seeds.init", "seeds.gumbel", "seeds.heldout", "backbone.init_seed"),
        *("data.world_seed", "regime.split_seed", "hpo.seed", "trainer.warmup_steps"),
        *("trainer.weight_decay", "trainer.full.weight_decay", "prompt.weight_decay"),
    ),
    POSITIVE: (
        *(
            "trainer.full.lr",
            "prompt.lr",
            "prompt.selector_lr",
            "prompt.network_lr",
            "regime.mixing_temperature",
        ),
        "trainer.checkpoint_minutes",
        *(f"trainer.temperature.{name}" for name in ("start", "end", "anneal")),
    ),
    Setting(number(0), "positive: Adafactor usually takes 0.3 here, AdamW 0.03"): ("trainer.lr",),
    Setting(number(0), "positive; a large number turns clipping off"): ("trainer.max_grad_norm",),
    Setting(number(1, 10_000, low_too=True), "at least 1 and at most 10,000"): ("trainer.bucket_batches",),
    Setting(number(0, 1), "above 0 and at most 1"): ("regime.reptile_rate",),
    OPEN_SHARE: ("trainer.heldout_fraction",),
    ROWS: ("data.limit",),
}
# Names are parts of run ids, and these are names of folders. An experiment's has those of its folders.
NAME = re.compile(r"\w(?:[\w.+=-]*\w)?")
NAMED = ("task", "backbone", "prompt", "regime", "data", "trainer", "protocol", "hpo", "experiment")
MAX_NAME = 80
LARGEST = 10**9  # of integers: no count, size or seed needs more
TEXTS = ("backbone.answer_prefix", "backbone.answer_cue", "prompt.init_text")


def problems(settings: RunSettings) -> Iterator[str]:
    """Yield one sentence a problem of a single setting."""
    yield from _not_finite(settings)
    yield from name_problems(settings)
    if settings.regime.name == "full" and (settings.regime.shots or 0) > 0:
        yield "regime.shots is read by regime=fewshot only: add that, or remove it."
    for allowed, keys in RANGES.items():
        for key in keys:
            if (value := attrgetter(key)(settings)) is not None:
                yield from allowed.problem(key, value)
    for key in TEXTS:
        value = attrgetter(key)(settings)
        if not (value is None or isinstance(value, str)):
            yield _unquoted(key, value, '"yes"')
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", settings.device):
        yield f"device={settings.device} is not a device: use auto, cpu, cuda or cuda:0."


def name_problems(settings: RunSettings) -> Iterator[str]:
    """Refuse names that are no plain names: they are parts of paths, patterns and tables."""
    for group in NAMED:
        part = getattr(settings, group)
        key, name = (group, part) if group == "experiment" else (f"{group}.name", getattr(part, "name", None))
        words = str(name).split("/") if group == "experiment" else [str(name)]
        if name is not None and (len(str(name)) > MAX_NAME or not all(map(NAME.fullmatch, words))):
            yield (
                f"{key}={str(name)[:MAX_NAME]!r} is no plain name: use at most {MAX_NAME} letters, digits "
                "and . _ + = - between them."
            )


def _not_finite(value: Any, key: str = "", *, is_open: bool = False) -> Iterator[str]:
    """Refuse NaN, infinity and huge integers. Where a setting's type is open, YAML reads `nan` as text."""
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
    elif isinstance(value, int) and abs(value) > LARGEST:
        yield f"{key.rstrip('.')}={value:.6g} must be at most {LARGEST:,}."
    elif (isinstance(value, float) and not math.isfinite(value)) or (
        is_open and isinstance(value, str) and value.lower().lstrip("+-.") in ("nan", "inf")
    ):
        yield f"{key.rstrip('.')}={value} must be a finite number."


def word_problems(task: TaskSettings, prefix: str = "task.") -> Iterator[str]:
    """Refuse what YAML does not read as a word, and empty words, in the lists of a task."""
    for name, value in vars(task).items():
        key = f"{prefix}{name}"
        if isinstance(value, TaskSettings):
            yield from word_problems(value, f"{key}.")
        if not isinstance(value, list):
            continue
        where = f"{key}={value} of task={task.name}"
        if not all(isinstance(word, str) for word in value):
            yield _unquoted(key, f"{value} of task={task.name}", '["yes","no"]')
        elif not all(word.strip() for word in value):
            yield f"{where} has an empty word: write one, or remove it."
        elif any(word != word.strip() for word in value):
            yield f"{where} has spaces around a word: remove them; those that the tokenizer needs are added."


def _unquoted(key: str, value: Any, example: str) -> str:
    return (
        f"{key}={value}: without quotes, yes, no, on, off, true, false, null and numbers are no text in YAML."
        f" Quote them: {key.rsplit('.', 1)[-1]}: {example} in a file, '{key}={example}' as an override."
    )
