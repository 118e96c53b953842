"""What `dp-bench sweep --pack` gains: seeds of one run trained one after the other, and together.

Each way is a sweep of the micro benchmark in a new process; they take turns. Seconds are those of training
and of evaluation in the records, without the start of Python. On a GPU, which a batch of short texts leaves
idle, the target is that all seeds together take at most twice as long as one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from dp_bench import records

from . import report

LIMIT = 2.0  # times one run, on a GPU
RUN = ("task=boolq", "prompt=fixed", "backbone=t5_micro", "data=micro", "trainer=micro")


def main(name: str, words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"python scripts/bench {name}", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    given = parser.parse_args(words)
    origin = report.origin(given.device)
    print(report.origin_line(origin), flush=True)
    budget = [f"trainer.max_steps={given.updates}", f"trainer.eval_every={given.updates}"]
    ways = {"one": (1, 1), "one after the other": (given.seeds, 1), "together": (given.seeds, given.seeds)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(given.rounds):
        for way, (seeds, pack) in ways.items():
            seconds[way].append(swept([*RUN, *budget, f"device={given.device}"], seeds, pack))
    lines = [
        f"**{given.seeds} seeds, {given.updates} updates**\n",
        "| runs | seconds (min to max) | × one run |",
        "|---|---:|---:|",
    ]
    times = {way: median(values) / median(seconds["one"]) for way, values in seconds.items()}
    for way, values in seconds.items():
        spread = f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        lines.append(f"| {way} | {spread} | {times[way]:.2f} |")
    has_target = given.device != "cpu"
    if has_target:
        lines.append(f"\n- together against one run: {report.at_most(times['together'], LIMIT)}")
    print("\n" + "\n".join(lines))
    report.save(given.out, name, origin, {"seconds": seconds, "printed": lines})
    return 1 if has_target and times["together"] > LIMIT else 0


def swept(words: list[str], seeds: int, pack: int) -> float:
    """Return the seconds of training and evaluation of a sweep over seeds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dp_bench", "sweep", "--pack", str(pack), *words]
        chosen = ",".join(map(str, range(seeds)))
        done = subprocess.run(
            [*command, f"seed={chosen}", f"results_dir={folder}"], capture_output=True, text=True, check=False
        )
        made = records.load_all(Path(folder))
        if done.returncode != 0 or len(made) != seeds:
            raise SystemExit(f"the sweep ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return sum(record.train_seconds + record.eval_seconds for record in made)
