"""Display names of rows: those that an experiment gives, or the prompt and what a reader has to know.

A label (variants.py) names every setting in which the rows of a table differ. A name leaves out the values
that most rows have, and settings that another one settles; a note under the table says which. An experiment
may give names: `labels:` in its YAML maps a prompt, with settings if need be, to a name. The names are read
for tables and plots alone and are no part of a run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from dp_bench import reading
from dp_bench.config.files import option_file, option_settings, options, with_present_names
from dp_bench.records import RunRecord, flatten
from dp_bench.report.expand import MULTITASK
from dp_bench.report.variants import DIGEST, Labelled, plain, short
from dp_bench.types import UserError

# How a setting reads in a name; others are `name value`. Of several that settle each other, these are kept.
PHRASES = {
    "trainer.max_steps": "{} steps",
    "prompt.num_tokens": "{} vectors",
    "prompt.vectors.num_prompts": "{} members",
    "prompt.init_sha256": "init from {}",
    "prompt.estimator": "{}",
    "prompt.summary": "{}",
    "prompt.position.outcome": "{} before",
    "trainer.batch_size": "batches of {}",
    "trainer.lr": "lr {}",
    "regime.shots": "{} a class",
}
INIT = ("prompt.init_sha256", "prompt.init_from")


@dataclass(frozen=True)
class Names:
    """The display names that a user gives, and the folder of the user's experiments, which give some too."""

    typed: Mapping[str, str] = field(default_factory=dict)  # from a prompt, with settings if need be
    extra_dir: Path | None = None

    def of(self, *words: str) -> str:
        """Return the name of a task or a backbone by the first of its words that has one, else the last."""
        return next((self.typed[word] for word in words if word in self.typed), words[-1])


NO_NAMES = Names()


def display_names(labelled: Labelled, names: Names) -> tuple[dict[str, str], list[str]]:
    """Return the name of each label, and notes on the settings that names leave out.

    What the user typed comes before the names of the experiments of the runs.
    """
    records = [record for row in labelled.rows.values() for record in row]
    given = [*names.typed.items(), *_names_of(records, names.extra_dir).items()]
    rules = [_rule(*entry) for entry in given]
    prompts = {label: row[0].prompt for label, row in labelled.rows.items()}
    kept, settled = _kept(labelled, prompts)
    usual = _usual(labelled, prompts)
    # What some rows of a prompt do not have, as a setting of one task, is said wherever it is.
    partial = {
        (prompts[label], key)
        for label, settings in labelled.settings.items()
        for key in {key for prompt, key in usual if prompt == prompts[label]} - settings.keys()
    }
    shown, silent = {}, set()
    for label, row in labelled.rows.items():
        prompt, settings = prompts[label], labelled.settings[label]
        name, ruled = _ruled(row, rules)
        said = [key for key in kept[prompt] if key in settings and key not in ruled]
        loud = {key for key in said if (prompt, key) in partial or settings[key] != usual[prompt, key]}
        silent |= {(prompt, key) for key in said if key not in loud}
        parts = [_phrase(key, settings[key], row) for key in said if key in loud]
        shown[label] = f"{name} [{', '.join(parts)}]" if parts else name
    repeated = {name for name, number in Counter(shown.values()).items() if number > 1}
    shown = {label: label if name in repeated else name for label, name in shown.items()}
    return shown, [*_silent_notes(usual, silent, labelled), *_settled_notes(labelled, settled, usual, shown)]


def _usual(labelled: Labelled, prompts: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    """Return the value of each prompt's settings that a name leaves out: that of the prompt's file if a row
    has it, else the most frequent one, among all rows for settings outside the prompt."""
    values: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for label, settings in labelled.settings.items():
        for key, value in settings.items():
            values["" if key in labelled.common else prompts[label], key].append(value)
    usual = {}
    for prompt in set(prompts.values()):
        for (scope, key), found in values.items():
            if scope in ("", prompt):
                default = _defaults(prompt.removesuffix(MULTITASK)).get(key) if scope else None
                counts = Counter(map(repr, found))
                most = max(sorted(counts), key=lambda text: counts[text])
                by_text = {repr(value): value for value in found}
                usual[prompt, key] = by_text.get(repr(default), by_text[most]) if scope else by_text[most]
    return usual


@cache
def _defaults(prompt: str) -> dict[str, Any]:
    if prompt not in options("prompt"):
        return {}
    return flatten({"prompt": option_settings("prompt", prompt)})


def _kept(
    labelled: Labelled, prompts: Mapping[str, str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return, by prompt, the settings that tell rows apart and those that are settled by these."""
    settings = labelled.settings
    common, settled_everywhere = _telling(list(settings.values()), sorted(labelled.common))
    kept, settled = {}, {}
    for prompt in dict.fromkeys(prompts.values()):
        of_prompt = [settings[label] for label in settings if prompts[label] == prompt]
        keys = sorted({key for row in of_prompt for key in row} - labelled.common)
        inner, dropped = _telling(of_prompt, keys, common)
        kept[prompt] = [*inner, *common]
        settled[prompt] = [*dropped, *settled_everywhere]
    return kept, settled


def _telling(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], given: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the keys that no others settle, and the others. Where keys settle each other, those with a
    phrase and with most values stay."""
    absent = object()
    number = {key: len({repr(row.get(key, absent)) for row in rows}) for key in keys}
    order = sorted(keys, key=lambda key: (key in PHRASES, number[key], key))
    kept = list(keys)
    for key in order:
        others = [*given, *(other for other in kept if other != key)]
        seen = {
            (tuple(repr(row.get(other, "-")) for other in others), repr(row.get(key, "-"))) for row in rows
        }
        if len({rest for rest, _ in seen}) == len(seen):
            kept.remove(key)
    return kept, [key for key in keys if key not in kept]


def _phrase(key: str, value: Any, row: Sequence[RunRecord] = ()) -> str:
    """Return a setting as a name has it: `20 steps`, `init from RUN`, `no selector_lr`."""
    if value is None and key == INIT[0]:
        return "fresh init"
    if value is None or value is False:
        return f"no {short(key)}"
    if value is True:
        return short(key)
    if key == INIT[0]:
        sources = {str(flatten(record.config).get(INIT[1]) or "") for record in row}
        source = Path(sources.pop()).name if len(sources) == 1 else ""
        return PHRASES[key].format(source or DIGEST.sub(r"\1", str(value)))
    phrase = PHRASES.get(key, f"{short(key)} {{}}").format(plain(value))
    return phrase.removesuffix("s") if value == 1 and key in PHRASES else phrase


# ---------------------------------------------------------------------------------------------- notes


def _silent_notes(
    usual: Mapping[tuple[str, str], Any], silent: Iterable[tuple[str, str]], labelled: Labelled
) -> list[str]:
    """Return a note on the values that rows have where their names do not say."""
    by_prompt: dict[str, dict[str, str]] = defaultdict(dict)
    for prompt, key in sorted(silent):
        by_prompt["" if key in labelled.common else prompt][key] = _phrase(key, usual[prompt, key])
    prompts: dict[str, list[str]] = defaultdict(list)
    for prompt, phrases in sorted(by_prompt.items()):
        prompts[", ".join(phrases.values())].append(prompt)
    texts = [f"{', '.join(of)}{': ' if of != [''] else ''}{text}" for text, of in prompts.items()]
    return [f"where a name does not say: {'; '.join(texts)}"] if texts else []


def _settled_notes(
    labelled: Labelled,
    settled: Mapping[str, Sequence[str]],
    usual: Mapping[tuple[str, str], Any],
    names: Mapping[str, str],
) -> list[str]:
    """Return a note on the settings that names leave out because others settle them."""
    rows: dict[str, list[str]] = defaultdict(list)
    for label, settings in labelled.settings.items():
        prompt = labelled.rows[label][0].prompt
        unlike = [key for key in settled[prompt] if key in settings and settings[key] != usual[prompt, key]]
        if unlike and names[label] != label:
            rows[", ".join(_phrase(key, settings[key]) for key in unlike)].append(names[label])
    texts = [f"{', '.join(sorted(with_it))}: {text}" for text, with_it in sorted(rows.items())]
    return [f"names leave out what goes with it: {'; '.join(texts)}"] if texts else []


# ---------------------------------------------------------------------------------------------- given names


def read_names(path: Path | None, extra_dir: Path | None = None) -> Names:
    """Return the names in a user's file, a mapping in YAML or JSON, and of experiments. Raises UserError."""
    if path is None:
        return Names(extra_dir=extra_dir)
    names = reading.yaml_mapping(path)
    if wrong := [key for key, value in names.items() if not isinstance(value, str | int | float)]:
        raise UserError(f"{path}: '{wrong[0]}' needs a name, such as `fixed: Prompt tuning`.")
    return Names({str(key): str(value) for key, value in names.items()}, extra_dir)


def _names_of(records: Iterable[RunRecord], extra_dir: Path | None) -> dict[str, str]:
    """Return the names that the experiments of runs give; the first of several experiments wins."""
    names: dict[str, str] = {}
    typed = {record.experiment for record in records if record.experiment}
    present = {with_present_names(experiment, extra_dir) for experiment in typed}
    for experiment in sorted(present, reverse=True):
        if experiment in options("experiment", extra_dir):
            names |= experiment_names(experiment, extra_dir)
    return names


@cache
def experiment_names(experiment: str, extra_dir: Path | None = None) -> Mapping[str, str]:
    """Return `labels:` of an experiment's file and of the experiments that it begins with."""
    content = option_file("experiment", experiment, extra_dir)
    names: dict[str, str] = {}
    for base in content.get("defaults") or ():
        if isinstance(base, str) and base != "_self_":
            rooted = base.removeprefix("/").removeprefix("experiment/")
            beside = f"{experiment.rpartition('/')[0]}/{base}"
            names |= experiment_names(rooted if "/" in rooted else beside, extra_dir)
    return {**names, **(content.get("labels") or {})}


Rule = tuple[str, dict[str, str], str]  # prompt, settings, name


def _rule(text: str, name: str) -> Rule:
    prompt, *settings = text.split()
    pairs = (setting.partition("=") for setting in settings)
    return prompt.removeprefix("prompt="), {key: value for key, _, value in pairs}, str(name)


def _ruled(row: Sequence[RunRecord], rules: Sequence[Rule]) -> tuple[str, frozenset[str]]:
    """Return the name of a row by the rule with most settings, and these settings; else its prompt."""
    prompt = row[0].prompt.removesuffix(MULTITASK)
    suffix = row[0].prompt.removeprefix(prompt)
    rules = [rule for rule in rules if rule[0] == prompt]
    flats = [flatten(record.config) for record in row] if any(settings for _, settings, _ in rules) else []
    fitting = [
        (name, frozenset(settings))
        for _, settings, name in rules
        if all(key in flat and _same(flat[key], value) for key, value in settings.items() for flat in flats)
    ]
    if not fitting:
        return row[0].prompt, frozenset()
    name, settings = max(fitting, key=lambda rule: len(rule[1]))  # of equals the first
    return name + suffix, settings


def _same(value: Any, text: str) -> bool:
    return plain(value) == text or str(value).lower() == text.lower()
