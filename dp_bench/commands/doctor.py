"""`dp-bench doctor`: versions, device, caches, and which data and checkpoints can be reached."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from dp_bench import config, extras, records
from dp_bench.backbones.checkpoint import WEIGHTS, folder_sha256, locate
from dp_bench.digests import file_sha256
from dp_bench.hub import hub_cache_dir, hub_endpoint, hub_offline, hub_reachable, model_cache
from dp_bench.terminal import make_console
from dp_bench.types import UnreachableError, UserError

MICRO = "backbone=t5_micro data=micro trainer=micro"
NEXT = "dp-bench train task=boolq prompt=dynamic"

Lines = list[tuple[str, str]]


def doctor() -> int:
    """Print the facts that a bug report needs, what is ready here, and what to type next; return 0."""
    console = make_console(soft_wrap=True)
    versions = [(name, version or "not installed") for name, version in records.versions().items()]
    git = records.git_state()
    if git:
        versions.append(("git", f"{git['commit']}{', with changes' if git['dirty'] else ''}"))
    experiment = config.build(config.compose())
    show_lines(console, [*versions, *_device(), *_locations(experiment)])
    ready, absent = _backbones(experiment.settings.cache)
    data = _data(experiment)
    hub = hub_reachable()
    is_ready = not data and (experiment.settings.backbone.name in ready or hub)
    random = [name for name in ready if config.option_settings("backbone", name).get("name_or_path") is None]
    trained = ", ".join(name for name in ready if name not in random)
    here = [("micro", f"the embedded benchmark: {MICRO}")] if "t5_micro" in ready else []
    here += [("backbones", f"{trained}; with random weights, for tests: {', '.join(random)}")]
    here += [("SuperGLUE", "from the hub or its cache")] if not data else []
    console.print("\nReady:")
    show_lines(console, here)
    missing = [("SuperGLUE", data)] if data else []
    by_family: dict[str, list[str]] = {}
    for name in absent:
        by_family.setdefault(name.partition("_")[0], []).append(name)
    for family, names in by_family.items():
        remedies = dict.fromkeys(absent[name] for name in names)
        missing.append((family, f"{', '.join(names)}: {next(iter(remedies))}"))
    if missing:
        console.print("\nNot here:" if hub else "\nNot ready:")
        show_lines(console, missing)
    console.print(f"\nNext: {NEXT if is_ready else f'{NEXT} {MICRO}'}")
    return 0


def show_lines(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """Print names and values, a line each."""
    table = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
    for name, text in lines:
        table.add_row(Text(name), Text(text))
    console.print(table)


def _device() -> list[tuple[str, str]]:
    import torch

    from dp_bench.machine import dtype_name, resolve_device, resolve_dtype
    from dp_bench.settings import Precision

    device = resolve_device("auto")
    lines = [("processor", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        lines.append((f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB"))
    precision = dtype_name(resolve_dtype(Precision.auto, device))
    return [*lines, ("device=auto", f"{device}; frozen weights in {precision} (trainer.precision=auto)")]


def _locations(experiment: config.Experiment) -> Lines:
    if hub_offline():
        hub = "switched off by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE"
    else:
        hub = "answers" if hub_reachable() else "cannot be reached from here"
    cache, results = experiment.settings.cache, Path(experiment.settings.results_dir)
    return [
        ("configs", str(config.config_dir())),
        ("cache", f"{cache}, {_free_gib(cache):.0f} GiB free"),
        ("results", f"{results.resolve()}, {_free_gib(results.resolve()):.0f} GiB free"),
        ("hub", f"{hub_endpoint()} {hub}; its cache is {hub_cache_dir()}"),
        *_extras(),
    ]


def _data(experiment: config.Experiment) -> str:
    """Return why SuperGLUE cannot be read and what to do, or ""."""
    from dp_bench.data import source

    settings = experiment.settings
    try:
        source.locate(experiment.tasks[0], settings.data, settings.cache)
    except UnreachableError:
        hub = f"{settings.data.hub} --repo-type dataset --revision {settings.data.revision}"
        return (
            "files of yours: dp-bench data check DIR, then data.dir=DIR; or into the hub's cache, on a "
            f"connected machine: hf download {hub}"
        )
    except UserError as error:
        return str(error)
    return ""


def _backbones(cache: Path) -> tuple[list[str], dict[str, str]]:
    """Return the backbones that can be used without a download, and what the others need, by name."""
    ready, absent = [], {}
    for name in config.options("backbone"):
        if name == "local":  # wherever the user says
            continue
        if remedy := _remedy(config.option_settings("backbone", name), cache):
            absent[name] = remedy
        else:
            ready.append(name)
    return ready, absent


def _remedy(backbone: Mapping[str, Any], cache: Path) -> str:
    """Return what a backbone needs before it can be used, or "". Nothing is loaded."""
    try:
        where = locate(backbone.get("name_or_path"))
    except UnreachableError as error:  # its package is not installed
        return str(error)
    file = backbone.get("gguf_file")
    if where is None:  # random weights
        return ""
    if file and find_spec("gguf") is None:
        return "pip install gguf"
    if not Path(where).is_dir():
        snapshots = model_cache(where) / "snapshots"
        is_here = any(found for pattern in WEIGHTS for found in snapshots.glob(f"*/{pattern}"))
        remedy = "fetched by the first run" if hub_reachable() else f"hf download {where}"
        return "" if is_here else remedy
    path = Path(where) / str(file)
    if file:
        found = file_sha256(path, cache / "digests") if path.is_file() else None
    else:
        found = folder_sha256(where, cache)
    if found is None or found != backbone.get("sha256", found):
        return f"the files in {where} are not those that its configuration names: install them again"
    return ""


def _free_gib(folder: Path) -> float:
    """Return the free space where a folder is, or will be, in GiB."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free / 2**30


def _extras() -> Lines:
    """Return which optional dependencies are installed, and how to install the others."""
    missing = [name for name in extras.extras() if not extras.is_installed(name)]
    here = ", ".join(name for name in extras.extras() if name not in missing)
    lines = [("extras", f"{here or 'none'}: installed")]
    return [*lines, ("", f"not {', '.join(missing)}: {extras.install(*missing)}")] if missing else lines
