"""How the cost of training grows: with prompt, text, pool, batch, tasks and model.

At each point a fixed and a dynamic prompt (instance-level vectors and position) of a T5 take turns in one
process on the same texts; time per example and their ratio are medians of the rounds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from . import report
from .models import FAMILIES, Setup, lengths_of_texts
from .protocol import timed
from .systems import FIXED, MAIN, product

LIMIT = 1.10  # of a dynamic prompt's time over a fixed one's
AXES: dict[str, tuple[int, ...]] = {
    "prompt vectors": (1, 5, 20, 50, 100, 200),
    "text tokens": (32, 128, 512, 2048),
    "pool entries": (1, 2, 4, 8, 16),
    "examples a batch": (1, 4, 8, 16, 32),
    "tasks": (1, 2, 4, 8),
}
QUICK = {axis: values[:1] for axis, values in AXES.items()}


@dataclass(frozen=True)
class Point:
    """Milliseconds an example of a fixed and a dynamic prompt."""

    axis: str
    value: int | str
    fixed_ms: float
    dynamic_ms: float

    @property
    def ratio(self) -> float:
        return self.dynamic_ms / self.fixed_ms


def main(name: str, words: list[str]) -> int:
    given = arguments(name, words)
    origin = report.origin(given.device)
    print(report.origin_line(origin))
    print(f"\n**T5-{given.size}, {given.precision}, {report.plural(given.threads, 'thread')}**\n")
    print("| | | fixed ms/ex | dynamic ms/ex | ratio |\n|---|---:|---:|---:|---:|", flush=True)
    points = measure(given)
    worst = max(points, key=lambda point: point.ratio)
    verdict = report.at_most(worst.ratio, LIMIT)
    print(f"\n- dynamic against fixed, at worst: {verdict} ({worst.axis} = {worst.value})")
    if worst.ratio > LIMIT:
        print(f"  tried: {report.CACHED}")
    content = {"size": given.size, "precision": given.precision, "threads": given.threads}
    report.save(given.out, name, origin, {**content, "points": [vars(point) for point in points]})
    return 0 if worst.ratio <= LIMIT else 1


def arguments(name: str, words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python scripts/bench {name}", description=__doc__)
    parser.add_argument("--size", choices=FAMILIES["t5"].sizes, default="small")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one point an axis, to try it")
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    return parser.parse_args(words)


def measure(given: argparse.Namespace) -> list[Point]:
    import torch

    from dp_bench.backbones.load import default_attention

    torch.set_num_threads(given.threads)
    usual = Setup("t5", given.size, given.precision, given.device)
    attention = default_attention(usual.device, usual.dtype)
    points = []
    for size in ("tiny",) if given.quick else ("tiny", "small", "base"):
        setup = replace(usual, size=size)
        points.append(measured("model", size, setup.kind.make(setup, attention), setup, given.rounds))
    model = usual.kind.make(usual, attention)
    for axis, values in (QUICK if given.quick else AXES).items():
        points += [measured(axis, value, model, usual, given.rounds) for value in values]
    return points


def measured(axis: str, value: int | str, model: Any, setup: Setup, rounds: int) -> Point:
    """Time both prompts with everything usual but one thing, and print their row."""
    import numpy as np

    batch = {"examples a batch": value, "text tokens": 4}.get(axis, 8)  # 2,048 tokens must fit into memory
    assert isinstance(batch, int)
    lengths = lengths_of_texts(setup, 16 * batch)
    if axis == "text tokens":
        lengths[:] = int(value)
    texts = [[5] * (int(n) - 1) + [1] for n in lengths]
    batches = np.argsort(lengths, kind="stable").reshape(-1, batch)
    settings = {
        "prompt vectors": [f"prompt.num_tokens={value}"],
        "pool entries": [f"prompt.vectors.num_prompts={value}"],
    }
    tasks = int(value) if axis == "tasks" else 1
    systems = []
    for name in (FIXED, MAIN):
        applies = axis != "pool entries" or name == MAIN  # a fixed prompt has no pool
        changed = settings.get(axis, []) if applies else []
        overrides = [f"prompt={name.removeprefix('dp-bench ')}", f"trainer.batch_size={batch}", *changed]
        systems.append(product(overrides, texts, setup, model=model, num_tasks=tasks))
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for system, kept in zip(systems, seconds, strict=True):
            places = [batches[(turn + half) % len(batches)] for half in (0, len(batches) // 2)]
            wall, _ = timed(system.train, places, setup.device)
            kept.append(wall / (len(places) * batch))
    fixed, dynamic = (1e3 * median(kept[1:]) for kept in seconds)  # the first turn allocates
    point = Point(axis, value, fixed, dynamic)
    print(f"| {axis} | {value} | {fixed:.2f} | {dynamic:.2f} | {point.ratio:.3f} |", flush=True)
    return point
