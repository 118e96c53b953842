"""`dp-bench doctor`: versions, device, caches, and which data and checkpoints can be reached."""

from __future__ import annotations

import os
from pathlib import Path

from rich.table import Column, Table

from dp_bench import config, records
from dp_bench.hub import hub_cache_dir, hub_endpoint, hub_offline, hub_reachable
from dp_bench.terminal import make_console


def doctor() -> int:
    """Print the facts that a bug report needs, and return 0."""
    table = Table.grid(Column(no_wrap=True), Column(), padding=(0, 2))
    for name, version in records.versions().items():
        table.add_row(name, version or "not installed")
    git = records.git_state()
    if git:
        table.add_row("git", f"{git['commit']}{', with changes' if git['dirty'] else ''}")
    for name, text in (*_device(), *_locations(), *_checkpoints()):
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
    from dp_bench.data.source import locate
    from dp_bench.types import UserError

    experiment = config.build(config.compose())
    settings = experiment.settings
    if hub_offline():
        hub = "switched off by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE"
    else:
        hub = "answers" if hub_reachable() else "cannot be reached from here"
    try:
        data = f"found: {locate(experiment.tasks[0], settings.data, settings.cache).location}"
    except UserError as error:
        data = str(error)
    return [
        ("configs", str(config.config_dir())),
        ("cache", str(settings.cache)),
        ("hub", f"{hub_endpoint()} {hub}"),
        ("hub cache", str(hub_cache_dir())),
        ("SuperGLUE", data),
    ]


def _checkpoints() -> list[tuple[str, str]]:
    """Return which checkpoints are in the hub's cache, without loading any."""
    lines = []
    for name in config.options("backbone"):
        location = config.option_settings("backbone", name).get("name_or_path")
        if location and name != "local":
            cached = (hub_cache_dir() / f"models--{location.replace('/', '--')}" / "snapshots").is_dir()
            state = "in the cache" if cached or Path(location).is_dir() else "not in the cache"
            lines.append((f"backbone={name}", f"{location}: {state}"))
    return lines
