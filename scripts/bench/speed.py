"""Training and evaluation speed and memory of a frozen model, by family: the commands t5, decoder, encoder.

The targets are printed as met or missed, with exit code 1 where one is missed; all figures go to
results/bench/NAME-MACHINE.json.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path

from . import report
from .models import FAMILIES, Setup
from .protocol import Figure, deviation, measure
from .systems import AUTHORS, FIXED, MAIN, PROMPT_TUNING

# Systems that take turns with each other; shares of time are of the first one's. More would not fit into
# memory at once. The targets speak of the first group.
PROMPTS = ("adap_pos", "adap_ins_pos", "adap_ins_len", "adap_ins_vec")
GROUPS = {
    "t5": (
        (AUTHORS, PROMPT_TUNING, FIXED, MAIN),
        (MAIN, "peft PrefixTuning", "peft P-tuning", "peft LoRA", "fine-tuning"),
        (FIXED, *(f"dp-bench {name}" for name in PROMPTS)),
    ),
    "decoder": ((PROMPT_TUNING, FIXED, MAIN),),
    "encoder": ((PROMPT_TUNING, FIXED, MAIN),),
}


def main(name: str, words: list[str]) -> int:
    given = arguments(name, words)
    setup = Setup(name, given.size, device=given.device, dir=given.dir, tokenizer=given.tokenizer)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = given.threads or cores
    origin = report.origin(given.device)
    printed: list[str] = []
    show(printed, report.origin_line(origin))
    figures: list[Figure] = []  # of the first group
    products: dict[str, list[float]] = {}
    for precision in given.precision.split(","):
        at = replace(setup, precision=precision)
        for number, group in enumerate(GROUPS[name]):
            texts = given.texts if number == 0 else given.texts // 3
            found, product = measure(group, at, threads, texts, given.rounds)
            show(printed, report.table(found, product, at))
            if number == 0:
                figures += found
                products[precision] = product
    text, good = report.verdicts(setup, figures, products)
    show(printed, f"\n{text}")
    show(printed, f"\n{deviation(setup, threads)}")
    content = {
        "size": given.size,
        "rounds": given.rounds,
        "matrix_product_gflops": products,
        "figures": [asdict(figure) for figure in figures],
        "printed": "\n".join(printed).splitlines(),
    }
    parts = [name, given.size if given.size != setup.kind.usual else ""]
    parts += ["" if given.threads is None else report.plural(given.threads, "thread").replace(" ", "-")]
    report.save(given.out, "-".join(filter(None, parts)), origin, content)
    return 0 if good else 1


def show(printed: list[str], text: str) -> None:
    printed.append(text)
    print(text, flush=True)


def arguments(name: str, words: list[str]) -> argparse.Namespace:
    kind = FAMILIES[name]
    parser = argparse.ArgumentParser(prog=f"python scripts/bench {name}", description=__doc__)
    parser.add_argument("--size", choices=kind.sizes, default=kind.usual)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--threads", type=int, help="default: the number of cores, which the targets are for")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=24, help="of a turn; the further systems get a third")
    parser.add_argument("--dir", help="the official SuperGLUE release, to read the lengths of texts from")
    parser.add_argument("--tokenizer", help="a folder with the tokenizer for --dir (default: the backbone's)")
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    return parser.parse_args(words)
