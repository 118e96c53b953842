"""Prompt aliases, read from the YAML files: an alias inherits its `name` from another file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

from dp_bench.records import RunRecord


@cache
def prompt_aliases() -> Mapping[str, str]:
    """Return, by file name, the `name` of each shipped prompt whose file is called otherwise."""
    from dp_bench.config import option_settings, options

    named = {option: str(option_settings("prompt", option)["name"]) for option in options("prompt")}
    return {alias: name for alias, name in named.items() if name != alias}


def canonical(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Return records with aliases replaced by the current prompt name (runs may be older than the alias)."""
    return [_renamed(record) for record in records]


def _renamed(record: RunRecord) -> RunRecord:
    name = prompt_aliases().get(record.prompt)
    if name is None:
        return record
    config = {**record.config, "prompt": {**record.config["prompt"], "name": name}}
    return replace(record, prompt=name, config=config)
