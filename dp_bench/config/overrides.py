"""Parse overrides as a user types them: `key=value`, `key=a,b,c`, `+key=value`, `~key`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dp_bench.config.files import GROUPS, options, with_present_names
from dp_bench.types import UserError

MOST_VALUES = 10_000  # of one override
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)


@cache
def parse(override: str) -> Override:
    """Parse one override; raise UserError where Hydra cannot read it or it names no values."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except (HydraException, ValueError, RecursionError) as error:  # numbers of thousands of digits
        meant = [f"{group}={override}" for group in GROUPS if override in options(group)]
        if meant and override not in GROUPS:
            raise UserError(f"'{override}' is not KEY=VALUE. Did you mean {' or '.join(meant)}?") from None
        reason, (key, _, value) = str(error).splitlines()[0], override.partition("=")
        instead = "KEY=VALUE, such as prompt.num_tokens=8"
        if re.fullmatch(r"[\w.+~/]+", key) and re.search(r"\w.*[{}\[\]:,()=#]", value) and "'" not in value:
            instead = f"a text with such characters in quotes of two kinds: \"{key}='{value[:200]}'\""
        raise UserError(f"'{override[:200]}' cannot be read ({reason}). Write {instead}.") from None
    is_file_glob = isinstance(parsed.value(), Glob) and parsed.key_or_group not in GROUPS
    if _length(parsed) > MOST_VALUES:
        raise UserError(f"'{override}' has more than {MOST_VALUES:,} values: list fewer.")
    if parsed.is_interval_sweep() or is_file_glob:
        raise UserError(f"'{override}' names no values: list them, a,b,c, or write range(0,3).")
    return parsed


def _length(parsed: Override) -> float:
    """Return how many values an override has; only a range can be endless."""
    value = parsed.value()
    if not isinstance(value, RangeSweep) or None in (value.start, value.stop) or not value.step:
        return 0
    return abs((float(value.stop) - float(value.start)) / float(value.step))  # type: ignore[arg-type]


def is_of_hydra(word: str) -> bool:
    """Return whether what was typed sets a key of Hydra, such as its launcher."""
    return word.lstrip("~+").startswith("hydra")


def typed(override: Override) -> str:
    """Return the text that an override was parsed from."""
    assert override.input_line is not None  # set by the parser
    return override.input_line


def renew(words: Sequence[str], extra_dir: Path | None = None) -> list[str]:
    """Return what was typed with the present names of experiments."""

    def renewed(word: str) -> str:
        key, _, value = word.partition("=")
        is_experiment = key.lstrip("+") == "experiment"
        return f"{key}={with_present_names(value, extra_dir, typed=True)}" if is_experiment else word

    return [renewed(word) for word in words]


def values_of(override: Override, extra_dir: Path | None = None) -> list[str]:
    """Return the values that an override assigns, as a user would type them: one, or all of a sweep."""
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(list(options(override.key_or_group, extra_dir)))
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_string()] if value is not None else ["null"]


def singles(override: Override, extra_dir: Path | None) -> list[Override]:
    """Return a sweep as one override a value, and any other override as the only one."""
    if not override.is_sweep_override():
        return [override]
    prefix = typed(override).split("=", 1)[0]
    return [parse(f"{prefix}={value}") for value in values_of(override, extra_dir)]


@contextmanager
def explained(*more: type[Exception]) -> Iterator[None]:
    """Raise UserError where Hydra or OmegaConf refuses what was typed, or for `more` errors of theirs."""
    refusals: tuple[type[Exception], ...] = (*COMPOSE_ERRORS, *more)
    try:
        yield
    except refusals as error:
        raise UserError(explain(error)) from None


def explain(error: Exception) -> str:
    """Turn an error of Hydra, OmegaConf or YAML into a sentence, from its first line and its cause, and what
    to type for a range."""
    sentence = _explanation(error)
    found = re.match(r"([\w.]+): Value '(\d{1,4})(?:\.\.\.?|-|:)(\d{1,4})' .* converted to Integer", sentence)
    if found and int(found[2]) < int(found[3]):
        first, last = int(found[2]), int(found[3])
        return f"{sentence} A range is written {found[1]}={_values(first, last)}."
    return sentence


def _values(first: int, last: int) -> str:
    return ",".join(map(str, range(first, last + 1))) if last - first < 10 else f"range({first},{last + 1})"


def _explanation(error: Exception) -> str:
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines()]
    # Hydra's first line only names the file that it was reading.
    lines = [line for line in lines if not line.endswith("raised while composing config:")] or lines
    if isinstance(error, YAMLError):
        return f"A configuration file is not YAML: {' '.join(lines)}."
    where = next((line.split(":", 1)[1].strip() for line in lines if "full_key" in line), "")
    first = where or str(error).splitlines()[0].rstrip(".:")
    what = lines[0].rstrip(".")
    return f"{what}." if what == first else f"{first}: {what}."


def paragraph(problems: Sequence[str]) -> str:
    """Format one problem or several as the text of a UserError."""
    return problems[0] if len(problems) == 1 else "\n".join(f"  - {problem}" for problem in problems)
