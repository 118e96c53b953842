"""How long `dp-bench tables` and `dp-bench status` take over many runs, and how much memory.

The records are those of a sweep over backbones, tasks, prompts, learning rates and seeds, with made-up
scores. Every command is a new process; the first `tables` makes the index, the others use it, and the
last read a pack in place of the folders.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dp_bench import config, records

from . import report

BACKBONES = ("t5_small", "t5_base", "t5_large", "t5_xl")
TASKS = ("boolq", "cb", "multirc", "rte", "wic")
PROMPTS = ("fixed", "postfix", "split", "random_position", "adap_pos", "adap_ins_pos", "dynamic", "pool")
SEEDS = range(5)
LIMITS = {"seconds": 3.0, "megabytes": 1000.0}


def main(name: str, words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"python scripts/bench {name}", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        generate(results, given.runs)
        print(f"{report.origin_line(report.origin())}\n\n**{given.runs:,} runs**\n")
        print("| command | seconds | peak MB | |\n|---|---:|---:|---|")
        where = ["--results-dir", str(results)]
        good = all(
            [
                _row("tables, making the index", ["tables", *where], counts=False),
                _row("tables", ["tables", *where]),
                _row("status", ["status", *where]),
                _row("list runs", ["list", "runs", *where]),
                _row("pack", ["pack", str(results)], counts=False),
            ]
        )
        shutil.rmtree(results / "runs")
        good = _row("tables of a pack", ["tables", *where]) and good
    print(f"\nasked: at most {LIMITS['seconds']:.0f} s and {LIMITS['megabytes']:.0f} MB")
    return 0 if good else 1


def _row(name: str, words: list[str], *, counts: bool = True) -> bool:
    """Measure a command and print its row; return whether it is within the limits, or need not be."""
    seconds, megabytes = measured(words)
    met = seconds <= LIMITS["seconds"] and megabytes <= LIMITS["megabytes"]
    state = "-" if not counts else "met" if met else "MISSED"
    print(f"| {name} | {seconds:.2f} | {megabytes:.0f} | {state} |", flush=True)
    return met or not counts


def generate(results: Path, number: int) -> None:
    """Write the records of `number` runs."""
    draw = random.Random(0)
    cells = list(itertools.product(BACKBONES, TASKS, PROMPTS))
    rates = [f"{0.01 * (place + 1):.2f}" for place in range(-(-number // (len(cells) * len(SEEDS))))]
    built: dict[tuple[str, ...], dict[str, Any]] = {}
    runs = itertools.islice(itertools.product(rates, cells, SEEDS), number)
    for rate, (backbone, task, prompt), seed in runs:
        key = (backbone, task, prompt)
        if key not in built:
            words = [f"backbone={backbone}", f"task={task}", f"prompt={prompt}"]
            built[key] = config.build(config.compose(words)).resolved
        resolved = json.loads(json.dumps(built[key]))
        resolved["seed"], resolved["trainer"]["lr"] = seed, float(rate)
        record = made_up(resolved, draw)
        folder = results / "runs" / record["run_id"]
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
        (folder / "status.json").write_text('{"status": "done"}', encoding="utf-8")


def made_up(resolved: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    run_id, cell_id = records.identify(resolved, "d" * 64)
    score = round(draw.uniform(40, 90), 4)
    metrics = dict.fromkeys(resolved["task"]["metrics"], score)
    files = {name: {"file": f"{name}.jsonl", "sha256": "d" * 64} for name in ("train", "validation")}
    groups = ("task", "backbone", "prompt", "regime", "protocol")
    return {
        "run_id": run_id,
        "status": "done",
        "experiment": None,
        **{group: resolved[group]["name"] for group in groups},
        "data": resolved["data"]["title"],
        "seed": resolved["seed"],
        "score": score,
        "select_score": score + 1,
        "selection": resolved["trainer"]["selection"],
        "metrics": {**metrics, "accuracy": score},
        "select_metrics": metrics,
        "num_examples": {"train": 1000, "select": 100, "report": 500},
        "best_step": 100,
        "num_updates": 300,
        "stopped_early": False,
        "trainable_parameters": 15360,
        "frozen_parameters": 247_000_000,
        "train_seconds": 1.0,
        "eval_seconds": 1.0,
        "total_seconds": 2.0,
        "peak_memory_mb": 1000.0,
        "peak_memory_kind": "process",
        "device": "cpu (1 threads)",
        "precision": "float32",
        "data_sha256": "d" * 64,
        "data_files": files,
        "share_truncated": {"train": 0.0},
        "checkpoint": {"name_or_path": "x", "revision": None, "commit": None, "fingerprint": "f" * 64},
        "versions": {"dp-bench": "0.1.0"},
        "git": None,
        "command": ["dp-bench", "train"],
        "started": "2026-01-01T00:00:00Z",
        "config": resolved,
        "cell_id": cell_id,
        "schema_version": records.SCHEMA_VERSION,
    }


def measured(words: list[str]) -> tuple[float, float]:
    """Return wall seconds and peak megabytes of a command in a process of its own."""
    program = "from dp_bench.cli import main; import sys; main(sys.argv[1:])"
    began = time.perf_counter()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", program, *words],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"dp-bench {' '.join(words)} failed")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
