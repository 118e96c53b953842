"""Hydra and OmegaConf stay behind dp_bench/config."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dp_bench

PACKAGE = Path(dp_bench.__file__).parent


def imported(source: str) -> Iterator[str]:
    """Yield the top-level names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_nothing_outside_config_imports_hydra() -> None:
    knowing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if {"hydra", "omegaconf"} & set(imported(path.read_text("utf-8")))
    }
    assert knowing  # the walk finds those that may
    assert {name for name in knowing if not name.startswith("config/")} == set()
