"""`dp-bench doctor`: versions, device, caches, and which data and checkpoints can be reached."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rich.table import Column, Table

from dp_bench import config, extras, records
from dp_bench.backbones.checkpoint import locate
from dp_bench.hub import hub_cache_dir, hub_endpoint, hub_offline, hub_reachable, model_cache
from dp_bench.terminal import make_console
from dp_bench.types import UnreachableError

NEXT = "dp-bench train task=boolq prompt=dynamic"
NEXT_WITHOUT_HUB = f"{NEXT} backbone=t5_micro data=micro trainer=micro"


def doctor() -> int:
    """Print the facts that a bug report needs, and return 0."""
    table = Table.grid(Column(no_wrap=True), Column(), padding=(0, 2))
    for name, version in records.versions().items():
        table.add_row(name, version or "not installed")
    git = records.git_state()
    if git:
        table.add_row("git", f"{git['commit']}{', with changes' if git['dirty'] else ''}")
    for name, text in (*_device(), *_locations()):
        table.add_row(name, text)
    make_console(soft_wrap=True).print(table)
    return 0


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


def _locations() -> list[tuple[str, str]]:
    experiment = config.build(config.compose())
    settings = experiment.settings
    if hub_offline():
        hub = "switched off by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE"
    else:
        hub = "answers" if hub_reachable() else "cannot be reached from here"
    ready: list[str] = []
    absent: list[str] = []
    for name in config.options("backbone"):
        if name != "local":  # wherever the user says
            (ready if _is_here(name) else absent).append(name)
    data = _data(experiment)
    is_ready = not data and (settings.backbone.name in ready or hub_reachable())
    return [
        ("configs", str(config.config_dir())),
        ("cache", f"{settings.cache}, {_free_gib(settings.cache):.0f} GiB free"),
        ("hub", f"{hub_endpoint()} {hub}; its cache is {hub_cache_dir()}"),
        ("extras", _extras()),
        ("backbones here", ", ".join(ready)),
        ("to be fetched", f"{', '.join(absent)}: by the first run, or `hf download NAME` elsewhere"),
        ("SuperGLUE", data or "here"),
        ("Next", NEXT if is_ready else NEXT_WITHOUT_HUB),
    ]


def _data(experiment: config.Experiment) -> str:
    """Return why SuperGLUE cannot be read, or ""."""
    from dp_bench.data import source
    from dp_bench.types import UserError

    settings = experiment.settings
    try:
        source.locate(experiment.tasks[0], settings.data, settings.cache)
    except UserError as error:
        return str(error)
    return ""


def _is_here(name: str) -> bool:
    """Return whether a backbone can be used without a download, without loading it."""
    try:
        where = locate(config.option_settings("backbone", name).get("name_or_path"))
    except UnreachableError:  # its package is not installed
        return False
    if where is None:  # random weights
        return True
    return Path(where).is_dir() or (model_cache(where) / "snapshots").is_dir()


def _free_gib(folder: Path) -> float:
    """Return the free space where a folder is, or will be, in GiB."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free / 2**30


def _extras() -> str:
    """Return which optional dependencies are installed, and how to install the others."""
    missing = [name for name in extras.extras() if not extras.is_installed(name)]
    here = ", ".join(name for name in extras.extras() if name not in missing)
    return f"{here}: installed" + (
        f"; not {', '.join(missing)}: {extras.install(*missing)}" if missing else ""
    )
