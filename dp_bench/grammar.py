"""One grammar for what is typed: `--seed 3` is read as `seed=3`, `results_dir=DIR` as `--results-dir DIR`."""

from __future__ import annotations

import re
from argparse import Action, ArgumentParser
from collections.abc import Collection, Sequence

_FLAG = re.compile(r"--([a-z_][\w./-]*)(=.*)?", re.DOTALL)
_SETTING = re.compile(r"([a-z_][\w.]*)=(.*)", re.DOTALL)


def flags_of(parser: ArgumentParser) -> dict[str, Action]:
    """Return the flags of a parser, with what each does."""
    return {name: action for action in parser._actions for name in action.option_strings}


def as_settings(words: Sequence[str], flags: Collection[str]) -> list[str]:
    """Return words with `--key VALUE` and `--key=VALUE` as `key=VALUE`, where no known flag begins so."""
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        match = _FLAG.fullmatch(word)
        if match and not any(flag.startswith(f"--{match[1]}") for flag in flags):
            key, value = match[1].replace("-", "_"), match[2]
            if value is None and rest and not rest[0].startswith("--") and "=" not in rest[0]:
                value = f"={rest.pop(0)}"
            word = word if value is None else f"{key}{value}"
        found.append(word)
    return found


def as_flags(words: Sequence[str], flags: Collection[str]) -> list[str]:
    """Return words with `key=VALUE` as `--key=VALUE` where that is one of the flags."""
    matches = {word: match for word in words if (match := _SETTING.fullmatch(word))}
    named = {word: f"--{match[1].replace('_', '-')}" for word, match in matches.items()}
    return [f"{flag}={matches[word][2]}" if (flag := named.get(word)) in flags else word for word in words]
