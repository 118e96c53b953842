"""Memory to train a prompt: computed for the sizes of T5 (memory), or found by trying on a GPU (fits).

`memory` counts, on torch's meta device at the real widths, the bytes that the backward pass keeps for each
layer, and adds the weights: it needs neither the memory nor a GPU.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

from . import report
from .models import FAMILIES, T5, Setup
from .protocol import peak_mb
from .systems import MAIN, build

SIZES = ("small", "base", "large", "xl", "xxl")


def main(name: str, words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"python scripts/bench {name}", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    if name == "fits":
        parser.add_argument("sizes", nargs="+", metavar="SIZE")
        parser.add_argument("--family", choices=FAMILIES, default="t5")
        parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.set_defaults(device="cpu")
    given = parser.parse_args(words)
    origin = report.origin(given.device)
    print(report.origin_line(origin), flush=True)
    if name == "memory":
        printed = [plan(), sharded_plan()]
        print("".join(f"\n{table}\n" for table in printed), end="")
    else:
        known = FAMILIES[given.family].sizes
        if unknown := [size for size in given.sizes if size not in known]:
            parser.error(f"{unknown[0]} is none of {', '.join(known)}")
        printed = []
        for size in given.sizes:
            printed.append(largest_that_fits(Setup(given.family, size, "bf16", given.device)))
            print(printed[-1], flush=True)
        name = f"fits-{given.family}"
    report.save(given.out, name, origin, {"printed": "\n".join(printed).splitlines()})
    return 0


def largest_that_fits(setup: Setup, tokens: int = 480) -> str:
    """Return how many texts of so many tokens pass forward and backward at once, found by doubling."""
    import torch

    most = 512 if setup.device != "cpu" else 2  # a CPU has no error that tells
    texts = [[5] * (tokens - 1) + [1]] * most
    system = build(MAIN, texts, setup)
    number, peak, more = 0, 0.0, 1
    while more <= most:
        try:
            system.pass_once(more)
        except torch.OutOfMemoryError:
            break
        number, peak, more = more, peak_mb(setup.device), 2 * more
    limit = "" if more <= most else " at least"
    name = f"{setup.kind.title}-{setup.size}"
    return f"{name}, bf16, texts of {tokens} tokens: micro-batches of{limit} {number}, peak {peak:.0f} MiB"


def plan(batch: int = 8, tokens: int = 500) -> str:
    """Return, for each size in bf16, weights, what the backward pass keeps, and whether 80 GB hold it."""
    t5 = T5()
    lines = [
        f"**Memory to train a prompt, bf16 weights, micro-batches of {batch} texts of {tokens} slots "
        "(GiB)**\n",
        "| T5 1.1 | weights | kept for backward | in all | with gradient_checkpointing | one 80 GB GPU |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for size in SIZES:
        weights = 2 * _num_weights(t5, size) / 2**30
        kept, recomputing = _kept(size, batch, tokens)
        anew = weights + recomputing
        fits = "as it is" if weights + kept < 72 else "with it" if anew < 72 else "no"
        lines.append(f"| {size} | {weights:.1f} | {kept:.1f} | {weights + kept:.1f} | {anew:.1f} | {fits} |")
    lines.append(
        "\n72 of the 80 GB are counted on; the rest is for cuBLAS, fragments and the decoder's step."
    )
    return "\n".join(lines)


def sharded_plan(batch: int = 8, tokens: int = 500) -> str:
    """Return what each of some GPUs holds with backbone.shard and gradient checkpointing: its part of every
    layer, two layers whole (one computes, the next is on its way), what is in no layer, and what the backward
    pass keeps."""
    t5, numbers = T5(), (1, 2, 4, 8)
    heads = [f"{number} GPU{'s' * (number > 1)}" for number in numbers]
    lines = [
        "**Memory of each GPU with backbone.shard and gradient_checkpointing, bf16, micro-batches of "
        f"{batch} texts of {tokens} slots (GiB)**\n",
        f"| T5 1.1 | a layer of the encoder | of the decoder | outside layers | {' | '.join(heads)} |",
        "|---|---:|---:|---:|" + "---:|" * len(numbers),
    ]
    for size in SIZES[2:]:
        layers = t5.sizes[size][2]
        of_encoder, of_decoder, outside = (2 * number / 2**30 for number in _weights_by_place(t5, size))
        kept = _kept(size, batch, tokens)[1]
        in_layers, gathered = layers * (of_encoder + of_decoder), 2 * max(of_encoder, of_decoder)
        of_each = [outside + kept + in_layers / n + (gathered if n > 1 else 0.0) for n in numbers]
        cells = [of_encoder, of_decoder, outside, *of_each]
        lines.append(f"| {size} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines)


def _weights_by_place(t5: T5, size: str) -> tuple[int, int, int]:
    """Return the weights of one layer of the encoder and of the decoder, and of all that is in no layer."""
    import torch

    def count(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        model = t5.model_class()(t5.config(size))
    stacks = [model.encoder.block, model.decoder.block]
    return count(stacks[0][-1]), count(stacks[1][-1]), count(model) - sum(map(count, stacks))


def _num_weights(t5: T5, size: str) -> int:
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in t5.model_class()(t5.config(size)).parameters())


@cache
def _kept(size: str, batch: int, tokens: int) -> tuple[float, float]:
    """Return the GiB that all layers of an encoder save for the backward pass, and with recomputing, which
    holds every layer's input and, while it works on a layer, what that one saves."""
    t5 = T5()
    d_model, _, layers, _ = t5.sizes[size]
    one, two = (_kept_bytes(t5, size, number, batch, tokens) for number in (1, 2))
    inputs = layers * batch * tokens * d_model * 2
    return (one + (two - one) * (layers - 1)) / 2**30, (inputs + two - one) / 2**30


def _kept_bytes(t5: T5, size: str, layers: int, batch: int, tokens: int) -> int:
    """Return the bytes that an encoder of so many layers saves for its backward pass, weights not counted."""
    import torch

    with torch.device("meta"):
        model = t5.model_class()(t5.config(size, num_layers=layers)).to(torch.bfloat16).eval()
        embeds = torch.zeros(batch, tokens, t5.sizes[size][0], dtype=torch.bfloat16, requires_grad=True)
    weights = {p.untyped_storage()._cdata for p in model.requires_grad_(False).parameters()}
    seen: dict[int, int] = {}

    def save(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = storage.nbytes()
            kept.append(tensor)  # or its storage's address would be given to another one
        return tensor

    kept: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        model.encoder(inputs_embeds=embeds)
    return sum(seen.values())
