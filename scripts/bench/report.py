"""What a benchmark says: tables, targets met or missed; and a file with machine, date, versions, commit."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .models import Setup
from .protocol import Figure, ratio, share
from .systems import AUTHORS, FIXED, MAIN, PROMPT_TUNING

# ------------------------------------------------------------------------------------------ targets

# What was tried towards the targets (docs/performance.md has more of it).
COMPILED = "torch.compile (16 to 73 s for a tiny T5 on a CPU; left to trainer.compile)"
TRIED = {
    "fp32": f"bias and mask merged once (+ 18 % in training) and fused attention, both kept; {COMPILED}",
    "bf16": "bias and mask merged once (+ 13 % in training), kept; fused attention, kept for evaluation "
    f"alone, as it is slower in training; {COMPILED}",
}
CACHED = "the summary of a text computed once and kept"
SORTED = (
    "batches sorted by length and label rows of the head alone, both kept; a root mean square norm in one "
    "pass (5 % of an update), not kept. The rest is products, which bound what is left to win"
)
NOTHING = "nothing: it has not run on a GPU yet"


@dataclass(frozen=True)
class Target:
    """What a dynamic prompt of dp-bench is to reach: at least `limit`, or at most for time and memory.

    `what` is train or evaluate, the speed against a peer's; share, of the matrix product; time, against that
    of a fixed prompt; memory, against a peer's.
    """

    family: str
    size: str
    precision: str
    what: str
    limit: float
    tried: str
    peer: str = ""
    device: str = "cpu"

    @property
    def at_most(self) -> bool:
        return self.what in ("time", "memory")

    def __str__(self) -> str:
        name = {
            "share": "share of the matrix product in training",
            "time": "time of a dynamic prompt against a fixed one",
            "memory": "peak memory",
        }.get(self.what, self.what)
        return f"{name}{f' against {self.peer}' if self.peer else ''}, {self.precision}"

    def value(self, figures: Mapping[str, Figure], product: Sequence[float]) -> float:
        ours = figures[MAIN]
        if self.what == "share":
            return share(ours, product)
        if self.what == "time":
            return ratio(figures[FIXED], ours, "train")
        other = figures[self.peer]
        return ours.peak_mb / other.peak_mb if self.what == "memory" else ratio(ours, other, self.what)

    def verdict(self, value: float) -> str:
        """Say whether it is met, or by how much it is missed."""
        bound = "at most" if self.at_most else "at least"
        if self.met(value):
            return f"- {self}: met: {value:.2f}, {bound} {self.limit:g}"
        by = abs(value / self.limit - 1)
        missed = (
            f"missed: {value:.2f} of {self.limit:g}, {100 * by:.0f} % {'over' if self.at_most else 'short'}"
        )
        return f"- {self}: {missed}\n  tried: {self.tried}"

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


T5, SMOLLM2, MINILM = ("t5", "small"), ("decoder", "smollm2"), ("encoder", "minilm")
LARGE, GPU = ("t5", "large"), {"device": "cuda"}
# Of speed on a CPU: for two threads.
TARGETS = (
    Target(*T5, "fp32", "train", 15, TRIED["fp32"], AUTHORS),
    Target(*T5, "fp32", "evaluate", 12, TRIED["fp32"], AUTHORS),
    Target(*T5, "fp32", "share", 0.45, TRIED["fp32"]),
    Target(*T5, "bf16", "train", 2.5, TRIED["bf16"], PROMPT_TUNING),
    Target(*T5, "bf16", "evaluate", 2, TRIED["bf16"], PROMPT_TUNING),
    Target(*T5, "bf16", "share", 0.20, TRIED["bf16"]),
    Target(*SMOLLM2, "bf16", "train", 4, SORTED, PROMPT_TUNING),
    Target(*SMOLLM2, "bf16", "evaluate", 3, SORTED, PROMPT_TUNING),
    Target(*LARGE, "bf16", "train", 8, NOTHING, AUTHORS, **GPU),
    Target(*LARGE, "bf16", "train", 1.5, NOTHING, PROMPT_TUNING, **GPU),
    Target(*LARGE, "bf16", "share", 0.35, NOTHING, **GPU),
    *(Target(*size, p, "time", 1.10, CACHED) for size in (T5, SMOLLM2, MINILM) for p in ("fp32", "bf16")),
    *(
        Target(*size, p, "memory", 1.1, SORTED, PROMPT_TUNING)
        for size in (T5, SMOLLM2)
        for p in ("fp32", "bf16")
    ),
)


def at_most(value: float, limit: float) -> str:
    """Say of a ratio whether it is within a limit, or by how much it is over."""
    state = "met" if value <= limit else f"missed, {100 * (value / limit - 1):.0f} % over"
    return f"{state}: {value:.2f} of at most {limit:.2f}"


def verdicts(
    setup: Setup, figures: Sequence[Figure], products: Mapping[str, Sequence[float]]
) -> tuple[str, bool]:
    """Say of each target of a size whether it is met, from the figures of one number of threads and the
    matrix product by precision; and whether all that were measured are."""
    where = (setup.family, setup.size, setup.device.partition(":")[0])
    targets = [target for target in TARGETS if where == (target.family, target.size, target.device)]
    if not targets:
        return f"No targets are set for {setup.kind.title}-{setup.size} on {where[2]}.", True
    lines, good = [f"**Targets** (medians within this run, {plural(figures[0].threads, 'thread')})\n"], True
    for target in targets:
        if target.precision not in products:
            lines.append(f"- {target}: not measured")
            continue
        of_precision = {each.system: each for each in figures if each.precision == target.precision}
        value = target.value(of_precision, products[target.precision])
        good = good and target.met(value)
        lines.append(target.verdict(value))
    return "\n".join(lines), good


# ------------------------------------------------------------------------------------------ tables


def table(figures: Sequence[Figure], product: Sequence[float], setup: Setup) -> str:
    """Return the figures of one precision and number of threads as Markdown."""
    first = figures[0]
    lines = [
        f"\n**{setup.kind.title}-{setup.size}, {first.precision}, {plural(first.threads, 'thread')}; "
        f"matrix product {median(product):.0f} GFLOP/s**\n",
        f"| system | train ex/s (min to max) | × {first.system} | evaluate ex/s | × | CPU s/ex "
        "| % of product | MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for figure in figures:
        cells = [figure.system]
        for mode in ("train", "evaluate"):
            rates = getattr(figure, mode)
            spread = f" ({min(rates):.2f} to {max(rates):.2f})" if mode == "train" else ""
            cells += [f"{median(rates):.2f}{spread}", f"{ratio(figure, first, mode):.2f}"]
        cells += [f"{1 / median(figure.train_cpu):.3f}", f"{100 * share(figure, product):.0f}"]
        lines.append(f"| {' | '.join([*cells, f'{figure.peak_mb:.0f}'])} |")
    return "\n".join(lines)


def plural(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number > 1)}"


# ------------------------------------------------------------------------------------------ where and when


def origin(device: str = "cpu") -> dict[str, Any]:
    """Return machine, load before measuring, date, versions and commit."""
    from importlib.metadata import PackageNotFoundError, version

    from dp_bench.records import git_state, timestamp, versions

    try:
        peft = version("peft")
    except PackageNotFoundError:
        peft = None
    machine = {"machine": machine_name(device), "device": device, "load": round(os.getloadavg()[0], 1)}
    return {**machine, "date": timestamp(), "versions": {**versions(), "peft": peft}, "git": git_state()}


def origin_line(origin: Mapping[str, Any]) -> str:
    """Return `origin` as the line above a table."""
    names = ("python", "torch", "transformers", "peft")
    packages = ", ".join(f"{name} {origin['versions'][name]}" for name in names)
    git = origin["git"] or {"commit": "unknown", "dirty": False}
    commit = git["commit"][:12] + (" with changes" if git["dirty"] else "")
    return f"{origin['machine']}, load {origin['load']}; {origin['date']}; {packages}; commit {commit}"


def save(out: Path, name: str, origin: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Write what a benchmark found to `NAME-MACHINE.json`."""
    machine = re.sub(r"[^A-Za-z0-9]+", "-", origin["machine"]).strip("-").lower()
    path = out / f"{name}-{machine}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**origin, **content}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")


def machine_name(device: str) -> str:
    name = platform.processor() or platform.machine()
    if device != "cpu":
        import torch

        name = torch.cuda.get_device_name()
    elif Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        name = found.group(1) if found else name
    return f"{name}, {os.cpu_count()} cores"
