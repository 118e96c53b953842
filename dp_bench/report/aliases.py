"""Prompts that are two names for one method, read from their YAML files: an alias inherits its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from dp_bench.records import RunRecord


def prompt_aliases() -> Mapping[str, str]:
    """Return the shipped prompts whose file says another name than its own, with that name."""
    from dp_bench.config import config_dir

    return _aliases(config_dir() / "prompt")


@cache
def _aliases(folder: Path) -> dict[str, str]:
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    named = {name: _name(name, files) for name in files if not name.startswith("_")}
    return {alias: name for alias, name in named.items() if name is not None and name != alias}


def _name(option: str, files: Mapping[str, Path]) -> str | None:
    """Return the `name` that a file sets, or that it inherits from the last of its defaults that has one."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is built
    content: dict[str, Any] = yaml.load(files[option].read_text(encoding="utf-8"), loader) or {}
    if "name" in content:
        return str(content["name"])
    inherited = [entry for entry in content.get("defaults") or () if isinstance(entry, str)]
    for entry in reversed(inherited):
        parent = entry.removeprefix("/").removeprefix("prompt/")
        if parent in files and (name := _name(parent, files)) is not None:
            return name
    return None


def canonical(records: Iterable[RunRecord], aliases: Mapping[str, str] | None = None) -> list[RunRecord]:
    """Return records under the names that their prompts have today, of runs that were made before an alias
    became one."""
    known = prompt_aliases() if aliases is None else aliases
    return [_renamed(record, known) for record in records]


def _renamed(record: RunRecord, aliases: Mapping[str, str]) -> RunRecord:
    old = record.prompt
    new = aliases.get(old, old)
    # A protocol may treat the two names unlike; then they were two methods.
    lists = [own for own in record.config["protocol"].values() if isinstance(own, list)]
    if new == old or any((old in own) is not (new in own) for own in lists):
        return record
    config = {**record.config, "prompt": {**record.config["prompt"], "name": new}}
    return replace(record, prompt=new, config=config)
