"""The shape of the package: imports go one way, Hydra has one door, what plans or reads needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dp_bench

PACKAGE = Path(dp_bench.__file__).parent
# From the ground up: a module imports from its line and from those above it.
LAYERS = (
    "types faults extras reading printing suggest plugins terminal ranks signals randomness progress records "
    "pack digests hub profiling checkpoints costs grammar pooling",
    "micro",
    "prompts.catalogue methods.table methods.counts settings",
    "effective data finite lockstep machine trackers",
    "checks config tasks backbones.checkpoint backbones.files identity claims",
    "prompts",
    "backbones micro.evaluation micro.pretrain micro.card",
    "summaries verbalizer model compiling",
    "evaluation objective guards diagnostics optim trainer flops gradients",
    "methods",
    "opening outcome trained anatomy",
    "predicting",
    "loader export",
    "run",
    "report sweep",
    "commands",
    "cli __main__ __init__",
)
ALONE = "evaluate_superglue"  # a module of the evaluate library, which imports it by its path
TORCH_FREE = (
    "config",
    "report",
    "sweep",
    "commands",
    "identity",
    "checks",
    "effective",
    "tasks",
    "claims",
    "costs",
    "run",
)


def modules() -> dict[str, Path]:
    found = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix("/__init__").replace("/", "."): path for name, path in found.items()}


def imported(path: Path) -> Iterator[str]:
    """Yield what a module imports, at its top or in a function; not what types alone need."""
    tree = ast.parse(path.read_text("utf-8"))
    typing = (
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    )
    left_out = set(map(id, typing))
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(name: str) -> int:
    """Return the layer of a module: of the longest name that a layer lists."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        for number, layer in enumerate(LAYERS):
            if ".".join(words[:end]) in layer.split():
                return number
    raise AssertionError(f"{name} is in no layer: add it where it belongs")


def test_imports_go_one_way() -> None:
    names = modules()
    wrong = []
    for name, path in names.items():
        if name.startswith(ALONE):
            continue
        for target in imported(path):
            inside = target.removeprefix("dp_bench.")
            if inside in (target, "__version__"):
                continue
            while inside not in names and "." in inside:
                inside = inside.rpartition(".")[0]
            if layer_of(inside) > layer_of(name):
                wrong.append(f"{name} imports {inside}")
    assert not wrong


def test_nothing_outside_config_imports_hydra() -> None:
    knowing = {
        name
        for name, path in modules().items()
        if {"hydra", "omegaconf"} & {target.split(".")[0] for target in imported(path)}
    }
    assert knowing, "the walk finds those that may"
    assert not {name for name in knowing if name.split(".")[0] != "config"}


@pytest.mark.parametrize("room", TORCH_FREE)
def test_what_plans_or_reads_needs_no_torch(room: str) -> None:
    inside = [f"dp_bench.{name}" for name in modules() if name.split(".")[0] == room and name != "sweep.hpo"]
    code = f"import sys; import {', '.join(inside)}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert inside and done.returncode == 0, done.stderr or f"{room} imports torch"


def test_no_test_module_imports_another() -> None:
    tests = Path(__file__).parent
    paths = [*tests.glob("*.py"), *tests.glob("helpers/*.py")]
    wrong = {path.name for path in paths if any(name.startswith("test_") for name in imported(path))}
    assert len(paths) > 60 and not wrong
