"""Prompts that are two names for one method, read from their YAML files: an alias inherits its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

from dp_bench.records import RunRecord


@cache
def prompt_aliases() -> Mapping[str, str]:
    """Return the shipped prompts whose file says another name than its own, with that name."""
    from dp_bench.config import options, prompt_settings

    named = {option: str(prompt_settings(option)["name"]) for option in options("prompt")}
    return {alias: name for alias, name in named.items() if name != alias}


def canonical(records: Iterable[RunRecord], aliases: Mapping[str, str] | None = None) -> list[RunRecord]:
    """Return records under the names that their prompts have today, of runs that were made before an alias
    became one."""
    known = prompt_aliases() if aliases is None else aliases
    return [_renamed(record, known) for record in records]


def _renamed(record: RunRecord, aliases: Mapping[str, str]) -> RunRecord:
    old = record.prompt
    new = aliases.get(old, old)
    if new == old:
        return record
    config = {**record.config, "prompt": {**record.config["prompt"], "name": new}}
    return replace(record, prompt=new, config=config)
