"""Pretrain the embedded tiny T5 and write its card: minutes on one CPU thread.

    python scripts/pretrain_micro.py                 # the shipped backbone, into dp_bench/micro/backbone
    python scripts/pretrain_micro.py --seed 1 --out seed1
    python scripts/pretrain_micro.py --card-only --compare seed1 seed2

Interrupted, the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, help="updates (default: the shipped backbone's)")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "dp_bench" / "micro" / "backbone")
parser.add_argument("--threads", type=int, default=1, help="more than one may change the last bits")
parser.add_argument(
    "--compare", type=Path, nargs="*", default=[], help="directories of other seeds, for the card"
)
parser.add_argument("--card-only", action="store_true", help="write the card again, without pretraining")
arguments = parser.parse_args()
os.environ.setdefault("OMP_NUM_THREADS", str(arguments.threads))  # read when torch is imported

import torch  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dp_bench.micro.card import write_card  # noqa: E402
from dp_bench.micro.initial import Settings  # noqa: E402
from dp_bench.micro.pretrain import pretrain  # noqa: E402


def main() -> None:
    torch.set_num_threads(arguments.threads)
    if not arguments.card_only:
        steps = {} if arguments.steps is None else {"steps": arguments.steps}
        settings = Settings(seed=arguments.seed, **steps)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
        with Progress(
            TextColumn("pretraining"), *columns, TimeElapsedColumn(), TimeRemainingColumn()
        ) as progress:
            bar = progress.add_task("", total=settings.steps, loss=float("nan"))

            def show(done: int, loss: float) -> None:
                progress.update(bar, completed=done, loss=loss)

            pretrain(settings, arguments.out, on_step=show)
    print(write_card(arguments.out, arguments.compare).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
