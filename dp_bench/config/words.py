"""The words that give a configuration: from the record of a run to what one would type for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, Quote, QuotedString

from dp_bench import records
from dp_bench.config.build import PAPER, Experiment, build, resolved_of
from dp_bench.config.check import OPEN_KEYS
from dp_bench.config.composer import Composer
from dp_bench.config.files import GROUPS, option_file, option_settings, options
from dp_bench.config.overrides import COMPOSE_ERRORS, explain, parse, values_of
from dp_bench.records import flatten
from dp_bench.types import UserError

# The option of each group that stands where nothing is typed, for groups that are not always named.
DEFAULTS = {"regime": "full", "data": "superglue", "trainer": "default", "protocol": "clean"}
NAMED = ("task", "backbone", "prompt")
PARTS = tuple(group for group in GROUPS if group.startswith("prompt/"))
# These say where and for what a run was made, or follow from other settings.
LEFT_OUT = {
    "prompt.init_sha256",
    "prompt.sources_sha256",
    "hpo",
    "transfer",
    "trainer.profile",
    "trainer.checkpoint_minutes",
}
LEFT_OUT |= {key for key in records.VOLATILE if "." not in key and key != "device"}
OF_HUB = ("backbone.revision", "data.revision")  # other revisions say how the code works


@dataclass(frozen=True)
class Said:
    """The words that give a configuration with this version, and what they cannot give."""

    words: tuple[str, ...]
    experiment: Experiment | None  # which the words give; None where it is refused
    differing: dict[str, tuple[Any, Any]]  # by setting: in the record, and with these words
    reason: str = ""  # why other words are refused

    @property
    def is_exact(self) -> bool:
        return self.experiment is not None and not self.differing

    @property
    def problem(self) -> str:
        """What this version cannot say, in sentences."""
        parts = [
            f"{key} is {_shown(was)} in its record and {_shown(now)} here"
            for key, (was, now) in list(self.differing.items())[:6]
        ]
        if len(self.differing) > 6:
            parts.append(f"{len(self.differing) - 6} more settings differ")
        said = f"{'; '.join(parts)}. " if parts else ""
        return f"{said}{self.reason}".strip()


def words_of(resolved: Mapping[str, Any], composer: Composer) -> Said:
    """Return the fewest words that give the configuration in a record: options, then settings that differ.

    They are checked by composing them.
    """
    for group in (*NAMED, *DEFAULTS):
        if not isinstance(part := resolved.get(group), Mapping) or "name" not in part:
            raise UserError(f"The run's record is not one of dp-bench: its config has no {group}.name.")
    choices = _choices(resolved, composer)
    attempts = [
        _attempt(choices, words, resolved, composer) for words in _settings(choices, resolved, composer)
    ]
    said = min(attempts, key=lambda each: (each.experiment is None, len(each.differing)))
    if said.experiment is None:
        said = _as_far_as_possible(choices, said, resolved, composer)
    return _shortest(said, choices, resolved, composer)


def merged(words: Sequence[str], typed: Sequence[str], extra_dir: Path | None = None) -> list[str]:
    """Return words with others typed after them, which win: an option replaces all settings of its group, and
    a regime that names tasks the task."""
    parsed = [parse(word) for word in typed]
    keys = [_key(override) for override in parsed]
    replaced = [f"{_key(override)}." for override in parsed if override.key_or_group in GROUPS]
    if any(_names_tasks(override, extra_dir) for override in parsed):
        keys.append("task")
        replaced.append("task.")
    inherited = [(word, _key(parse(word))) for word in words]
    kept = [word for word, key in inherited if key not in keys and not key.startswith(tuple(replaced))]
    return [*kept, *typed]


def _key(override: Override) -> str:
    return override.key_or_group.replace("/", ".")


def _names_tasks(override: Override, extra_dir: Path | None) -> bool:
    if override.key_or_group != "regime":
        return override.key_or_group == "regime.tasks" and override.value() is not None
    names = [name for name in values_of(override, extra_dir) if name in options("regime", extra_dir)]
    return any(option_file("regime", name, extra_dir).get("tasks") is not None for name in names)


def value_text(value: Any) -> str:
    """Return a value as one types it in `key=value`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{value_text(each)}' for key, each in value.items())}}}"
    if not isinstance(value, str):
        return repr(value)
    try:
        is_plain = parse(f"key=[{value}]").value() == [value]
    except UserError:
        is_plain = False
    return value if is_plain else QuotedString(value, Quote.single).with_quotes()


def _choices(resolved: Mapping[str, Any], composer: Composer) -> list[str]:
    """Return the options with the names in a record, or else the most similar ones."""
    several = resolved["task"].get("tasks") is not None
    words = []
    for group in (*NAMED, *DEFAULTS):
        name = _option(group, resolved[group], composer)
        if name != DEFAULTS.get(group) and not (several and group == "task"):
            words.append(f"{group}={name}")
    prompt = resolved_of(composer.compose(words))["prompt"]
    for group in PARTS:
        part = group.removeprefix("prompt/")
        wanted = resolved["prompt"].get(part)
        if not isinstance(wanted, Mapping):
            continue
        far = {
            name: _distance(wanted, option_settings(group, name, composer.extra_dir))
            for name in options(group, composer.extra_dir)
        }
        nearest = min(far, key=lambda name: far[name])
        if far[nearest] < _distance(wanted, prompt.get(part) or {}):
            words.append(f"{group}={nearest}")
    return words


def _option(group: str, wanted: Mapping[str, Any], composer: Composer) -> str:
    known = options(group, composer.extra_dir)
    if wanted["name"] in known:
        return str(wanted["name"])
    return min(known, key=lambda name: _distance(wanted, option_settings(group, name, composer.extra_dir)))


def _distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    one, other = flatten(one), flatten(other)
    return sum(not _same(one.get(key), other.get(key)) for key in {**one, **other})


def _settings(choices: Sequence[str], resolved: Mapping[str, Any], composer: Composer) -> Iterator[list[str]]:
    """Yield lists of settings that may complete the choices: what differs from the run that they give, then
    that together with what then differs, then what differs from their files."""
    words: list[str] = []
    for _ in range(2):
        try:
            present = build(composer.compose([*choices, *words]), composer).resolved
        except (UserError, AttributeError, *COMPOSE_ERRORS):
            break
        words = merged(words, list(_differing(resolved, present)))
        yield words
    yield list(_differing(resolved, resolved_of(composer.compose(choices))))


def _differing(recorded: Mapping[str, Any], present: Mapping[str, Any], inside: str = "") -> Iterator[str]:
    """Yield `key=value` for what a configuration has otherwise than the one in a record."""
    for key in {**recorded, **present}:
        path = f"{inside}{key}"
        was, now = recorded.get(key), present.get(key)
        is_of_code = key == "revision" and path not in OF_HUB
        if _is_left_out(path, recorded) or is_of_code or path in records.FORMER or _same(was, now):
            continue
        if isinstance(now, Mapping) and (isinstance(was, Mapping) or key not in recorded):
            yield from _differing(was or {}, now, f"{path}.")
        elif path.replace(".", "/") in GROUPS or (key not in recorded and records.is_volatile(path)):
            continue
        else:
            # Without a format, the backbone's takes effect.
            text = PAPER if path == "task.format" and was is None else value_text(was)
            if isinstance(was, str) and key in ("template", "cue"):  # where both are typed so
                text = text.replace("\n", "\\n").replace("\t", "\\t")
            is_open = inside.rstrip(".").replace(".", "/") in PARTS or path.startswith(OPEN_KEYS)
            if key not in present and not is_open:
                continue
            word = f"{'' if key in present else '+'}{path}={text}"
            with suppress(UserError):  # a name that no setting can have
                parse(word)
                yield word


def _is_left_out(path: str, recorded: Mapping[str, Any]) -> bool:
    is_of_regime = path == "task" and "tasks" in recorded["task"]  # regime.tasks and regime.task_settings
    return is_of_regime or path in LEFT_OUT


def _attempt(
    choices: Sequence[str], settings: Sequence[str], resolved: Mapping[str, Any], composer: Composer
) -> Said:
    words = (*choices, *settings)
    try:
        experiment = build(composer.compose(words), composer)
    except COMPOSE_ERRORS as error:
        return Said(words, None, {}, explain(error))
    except (UserError, AttributeError) as error:
        return Said(words, None, {}, str(error))
    was, now = records.decisive(resolved), records.decisive(experiment.resolved)
    keys = [key for key in {**was, **now} if not _same(was.get(key), now.get(key))]
    return Said(words, experiment, {key: (was.get(key), now.get(key)) for key in keys})


def _shortest(said: Said, choices: Sequence[str], resolved: Mapping[str, Any], composer: Composer) -> Said:
    """Leave out each setting without which the others give the same: it follows from them."""
    for word in said.words[len(choices) :]:
        if records.is_volatile(parse(word).key_or_group):
            continue
        others = [other for other in said.words[len(choices) :] if other != word]
        shorter = _attempt(choices, others, resolved, composer)
        if shorter.experiment is not None and shorter.differing == said.differing:
            said = replace(shorter, reason=said.reason)
    return said


def _as_far_as_possible(
    choices: Sequence[str], refused: Said, resolved: Mapping[str, Any], composer: Composer
) -> Said:
    """Return those of refused words that are accepted one after the other, with the reason."""
    kept: list[str] = []
    said = _attempt(choices, kept, resolved, composer)
    for word in refused.words[len(choices) :]:
        more = _attempt(choices, [*kept, word], resolved, composer)
        if more.experiment is not None:
            kept.append(word)
            said = more
    return replace(said, reason=refused.reason)


def _same(one: Any, other: Any) -> bool:
    """Say whether two values are the same in an id, where 1 is not 1.0."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _shown(value: Any) -> str:
    text = value_text(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
