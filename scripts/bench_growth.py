"""How the cost of training grows: with prompt, text, pool, batch, tasks and model; and what fits on a GPU.

    python scripts/bench_growth.py                # T5-small's dimensions, one thread, some ten minutes
    python scripts/bench_growth.py --memory       # only the plan of memory for the large models
    python scripts/bench_growth.py --device cuda --fits base large xl     # what a GPU holds, by trying

At each point a fixed and a dynamic prompt (instance-level vectors and position) take turns in one process on
the same texts; time per example and their ratio are medians of the rounds. The plan of memory counts, on
torch's meta device at the real widths, the bytes that the backward pass keeps for each layer, and adds the
weights: no such device is needed for it. Results go to results/bench/growth-MACHINE.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import (
    SIZES,
    boolq_lengths_or_like,
    dtype_of,
    machine_name,
    make_t5,
    ours,
    peak_mb,
    t5_config,
    timed,
)

DYNAMIC = "prompt=adap_ins_vec_pos"
AXES: dict[str, tuple[int, ...]] = {
    "prompt vectors": (1, 5, 20, 50, 100, 200),
    "text tokens": (32, 128, 512, 2048),
    "pool entries": (1, 2, 4, 8, 16),
    "examples a batch": (1, 4, 8, 16, 32),
    "tasks": (1, 2, 4, 8),
}


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="only the plan of memory")
    parser.add_argument("--fits", nargs="+", choices=SIZES, help="only what fits, at these sizes")
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    parser.set_defaults(dir=None, tokenizer=None)
    given = parser.parse_args()
    if given.fits:
        for size in given.fits:
            print(largest_that_fits(size, given), flush=True)
        return 0
    plan = memory_plan()
    print(plan, flush=True)
    if given.memory:
        return 0
    points = measure(given)
    path = given.out / f"growth-{machine_name(given.device)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"size": given.size, "precision": given.precision, "threads": given.threads}
    content |= {"points": [vars(point) for point in points], "memory": plan.splitlines()}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    worst = max(points, key=lambda point: point.ratio)
    print(f"\ndynamic against fixed, at worst: {worst.ratio:.2f} ({worst.axis} = {worst.value}); aim: 1.10")
    print(f"written: {path}")
    return 0 if worst.ratio <= 1.10 else 1


def measure(given: argparse.Namespace) -> list[Point]:
    import torch

    from dp_bench.backbones.load import default_attention

    torch.set_num_threads(given.threads)
    points = []
    attention = default_attention(given.device, dtype_of(given.precision))
    for size in ("tiny", "small", "base"):
        own = argparse.Namespace(**{**vars(given), "size": size})
        points.append(tell(point("model", size, make_t5(own, given.precision, attention), own)))
    model = make_t5(given, given.precision, attention)
    for axis, values in AXES.items():
        points += [tell(point(axis, value, model, given)) for value in values]
    return points


def tell(point: Point) -> Point:
    print(
        f"{point.axis:17} {point.value!s:>6}  fixed {point.fixed_ms:9.2f} ms/ex  "
        f"dynamic {point.dynamic_ms:9.2f} ms/ex  ratio {point.ratio:.3f}",
        flush=True,
    )
    return point


def point(axis: str, value: int | str, model: Any, given: argparse.Namespace) -> Point:
    """Time both prompts with everything usual but one thing."""
    import numpy as np

    batch = {"examples a batch": value, "text tokens": 4}.get(axis, 8)  # 2,048 tokens must fit into memory
    assert isinstance(batch, int)
    lengths = boolq_lengths_or_like(given, 16 * batch)
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
    for prompt in ("prompt=fixed", DYNAMIC):
        applies = axis != "pool entries" or prompt == DYNAMIC  # a fixed prompt has no pool
        overrides = [prompt, f"trainer.batch_size={batch}", *(settings.get(axis, []) if applies else [])]
        systems.append(ours(overrides, texts, given.precision, given, model=model, num_tasks=tasks))
    seconds: list[list[float]] = [[], []]
    for turn in range(given.rounds + 1):
        for system, kept in zip(systems, seconds, strict=True):
            places = [batches[(turn + half) % len(batches)] for half in (0, len(batches) // 2)]
            wall, _ = timed(system.train, places, given.device)
            kept.append(wall / (len(places) * batch))
    fixed, dynamic = (1e3 * median(kept[1:]) for kept in seconds)  # the first turn allocates
    return Point(axis, value, fixed, dynamic)


def largest_that_fits(size: str, given: argparse.Namespace, tokens: int = 480) -> str:
    """Return how many texts of so many tokens pass forward and backward at once, found by doubling."""
    import torch

    most = 512 if given.device != "cpu" else 2  # a CPU has no error that tells
    texts = [[5] * (tokens - 1) + [1]] * most
    system = ours([DYNAMIC], texts, "bf16", argparse.Namespace(**{**vars(given), "size": size}))
    number, peak, more = 0, 0.0, 1
    while more <= most:
        try:
            system.pass_once(more)
        except torch.OutOfMemoryError:
            break
        number, peak, more = more, peak_mb(given.device), 2 * more
    limit = "" if more <= most else " at least"
    return f"T5-{size}, bf16, texts of {tokens} tokens: micro-batches of{limit} {number}, peak {peak:.0f} MiB"


# ------------------------------------------------------------------------------------------ memory, on paper


def memory_plan(batch: int = 8, tokens: int = 500) -> str:
    """Return, for each size in bf16, weights, what the backward pass keeps, and whether 80 GB hold it."""
    lines = [
        f"**Memory to train a prompt, bf16 weights, micro-batches of {batch} texts of {tokens} slots "
        "(GiB)**\n",
        "| T5 1.1 | weights | kept for backward | in all | with gradient_checkpointing | one 80 GB GPU |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for size in ("small", "base", "large", "xl", "xxl"):
        d_model, _, layers, _ = SIZES[size]
        weights = 2 * num_weights(size) / 2**30
        one, two = (kept_bytes(size, number, batch, tokens) for number in (1, 2))
        kept = (one + (two - one) * (layers - 1)) / 2**30
        inputs = layers * batch * tokens * d_model * 2 / 2**30
        # Recomputing holds every layer's input and, while it works on a layer, what that one keeps.
        anew = weights + inputs + (two - one) / 2**30
        fits = "as it is" if weights + kept < 72 else "with it" if anew < 72 else "no"
        lines.append(f"| {size} | {weights:.1f} | {kept:.1f} | {weights + kept:.1f} | {anew:.1f} | {fits} |")
    lines.append(
        "\n72 of the 80 GB are counted on; the rest is for cuBLAS, fragments and the decoder's step."
    )
    return "\n".join(lines)


def num_weights(size: str) -> int:
    import torch
    from transformers import T5ForConditionalGeneration

    with torch.device("meta"):
        return sum(p.numel() for p in T5ForConditionalGeneration(t5_config(size)).parameters())


def kept_bytes(size: str, layers: int, batch: int, tokens: int) -> int:
    """Return the bytes that an encoder of so many layers saves for its backward pass, weights not counted."""
    import torch
    from transformers import T5ForConditionalGeneration

    with torch.device("meta"):
        model = T5ForConditionalGeneration(t5_config(size, layers=layers)).to(dtype_of("bf16")).eval()
        embeds = torch.zeros(batch, tokens, SIZES[size][0], dtype=dtype_of("bf16"), requires_grad=True)
    own = {p.untyped_storage()._cdata for p in model.requires_grad_(False).parameters()}
    seen: dict[int, int] = {}

    def save(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
            kept.append(tensor)  # or its storage's address would be given to another one
        return tensor

    kept: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        model.encoder(inputs_embeds=embeds)
    return sum(seen.values())


if __name__ == "__main__":
    raise SystemExit(main())
