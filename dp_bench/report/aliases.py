"""Prompt aliases, read from the YAML files: an alias inherits its `name` from another file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

from dp_bench.records import RunRecord


@cache
def prompt_aliases() -> Mapping[str, str]:
    """Return, by file name, the `name` of each shipped prompt whose file is called otherwise."""
    from dp_bench.config import options, prompt_settings

    named = {option: str(prompt_settings(option)["name"]) for option in options("prompt")}
    return {alias: name for alias, name in named.items() if name != alias}


def canonical(records: Iterable[RunRecord], aliases: Mapping[str, str] | None = None) -> list[RunRecord]:
    """Return records with aliases replaced by the current prompt name (runs may be older than the alias)."""
    aliases = prompt_aliases() if aliases is None else aliases
    return [_renamed(record, aliases) for record in records]


def _renamed(record: RunRecord, aliases: Mapping[str, str]) -> RunRecord:
    old = record.prompt
    new = aliases.get(old, old)
    if new == old:
        return record
    config = {**record.config, "prompt": {**record.config["prompt"], "name": new}}
    return replace(record, prompt=new, config=config)
