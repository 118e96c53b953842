"""Try what docs/reliability.md promises on many inputs, under many kills and over many runs, and count.

    python scripts/soak.py inputs [--number 100000] [--minutes 60]   damaged files and odd words
    python scripts/soak.py kills [--number 20]                       SIGKILL at random moments, then again
    python scripts/soak.py memory [--number 200]                     resident memory of a worker

Without a word: all three (`make soak`). Ends with 1 where a promise was not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
PROPERTIES = ("test_damage.py", "test_damage_commands.py")
PER_ROUND = 5  # times the inputs of `make test`; what hypothesis remembers of a round is forgotten after it
IN_TESTS = 2000  # inputs of `make test`
MICRO = (
    *("backbone=t5_micro", "data=micro", "trainer=micro", "trainer.precision=fp32", "device=cpu", "task=rte"),
    *("trainer.batch_size=8", "trainer.eval_every=10", "trainer.eval_batch_size=32", "data.limit=64"),
)
RUN = (*MICRO, "prompt=dynamic", "trainer.max_steps=60", "trainer.checkpoint_minutes=0.001")
SWEEP = (
    *MICRO,
    "prompt=fixed,dynamic",
    "trainer.max_steps=30",
    "trainer.checkpoint_minutes=0.001",
    "seed=0,1",
)
KILLED = {"run": ("dp_bench", "train", *RUN), "sweep": ("helpers.forked_sweep", *SWEEP)}
CIRCUMSTANCES = {"git", "started", "peak_memory_mb", "command", "config"}  # of a record, and all `…_seconds`
LEAK = 1.05  # resident memory of the last run by that of run 20


# ---------------------------------------------------------------------------------------------- inputs


def inputs(number: int, minutes: float) -> bool:
    """Try the properties of tests/test_damage*.py on so many inputs, or on as many as the time allows."""
    os.environ["DP_BENCH_SOAK"] = str(max(1, min(PER_ROUND, number // IN_TESTS)))
    until = time.monotonic() + 60 * minutes
    os.environ["DP_BENCH_SOAK_UNTIL"] = str(until)
    import pytest

    class Failures:
        def __init__(self) -> None:
            self.texts = list[str]()

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                self.texts.append(f"{report.nodeid}\n{report.longreprtext}")

    seed, tried, tallies, failures = 0, 0, dict[str, Any](), Failures()
    while tried < number and time.monotonic() < until:
        files = [str(TESTS / name) for name in PROPERTIES]
        options = ["-k", "any or damaged", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}"]
        again = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
        pytest.main(["-q", "--no-header", f"--rootdir={ROOT}", *options, *again, *files], plugins=[failures])
        tallies = sys.modules["helpers.inputs"].tallies
        seed, tried = seed + 1, sum(tally.tried for tally in tallies.values())
    print("| property | inputs | a second | slowest |\n|---|---:|---:|---:|")
    for name, tally in tallies.items():
        title = name.removeprefix("test_").replace("_", " ")
        print(f"| {title} | {tally.tried:,} | {tally.tried / tally.seconds:.0f} | {tally.slowest:.2f} s |")
    seconds = sum(tally.seconds for tally in tallies.values())
    hangs = sum("HangError" in text for text in failures.texts)
    print(
        f"inputs tried {tried:,} of {number:,} in {seconds / 60:.1f} minutes and {seed} rounds; "
        f"properties broken {len(failures.texts) - hangs}, hangs {hangs}"
    )
    print("\n".join(dict.fromkeys(failures.texts)))
    return not failures.texts


# ----------------------------------------------------------------------------------------------- kills


def kills(number: int, kinds: Sequence[str] = ("run", "sweep"), seed: int = 0) -> bool:
    """Kill a run, and a sweep or its worker, until so many kills of each; compare what they leave."""
    from helpers.processes import Forked

    chance, same = random.Random(seed), True
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            words = KILLED[kind]

            def start(results: Path, words: Sequence[str] = words) -> Forked:
                command = [sys.executable, "-m", *words, f"results_dir={results}"]
                return Forked(command, env=_environment(), cwd=Path(folder))

            same &= _killed(kind, start, number, chance, Path(folder) / kind)
    return same


def _killed(
    kind: str, start: Callable[[Path], Any], number: int, chance: random.Random, folder: Path
) -> bool:
    _ended(start(folder / "warm"))  # the first one also waits for imports and caches
    whole, began = folder / "whole", time.monotonic()
    code = _ended(start(whole))
    seconds, expected = time.monotonic() - began, left_by(whole)
    assert code == 0 and expected, "the undisturbed one has to end well"
    done, starts, finished, differ = 0, 0, 0, list[str]()
    while done < number or starts == 0:
        results = folder / f"killed-{finished}"
        while True:
            process, starts = start(results), starts + 1
            if done < number and _alive_after(process, chance.uniform(0, 1.2 * seconds)):
                _kill(process, results, chance.choice(_TARGETS) if kind == "sweep" else "both")
                done += 1
            if _ended(process) == 0:
                break
            assert starts < 20 * number + 20, "it does not come to an end"
        finished += 1
        differ += _differences(expected, left_by(results))
    print(
        f"{kind}: {done} kills, {starts} starts, {finished} ended; an undisturbed one took {seconds:.0f} s; "
        f"differences {len(differ)}{': ' if differ else ''}{', '.join(differ)}",
        flush=True,
    )
    return not differ


_TARGETS = ("sweep", "worker", "both")


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}


def _alive_after(process: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process.poll() is None


def _ended(process: Any) -> int:
    """Read what a process says, wait for its end, and return its exit code."""
    with suppress(OSError):
        process.stdin.close()
    process.stdout.read()
    process.stdout.close()
    return int(process.wait())


def _kill(process: Any, results: Path, target: str) -> None:
    """Kill a process, those that claim a run below `results`, or both."""
    pids = [] if target == "worker" else [process.pid]
    for path in (results / "claims").glob("*.json") if target != "sweep" else ():
        with suppress(OSError, ValueError, KeyError):
            pids.append(json.loads(path.read_text())["pid"])
    for pid in pids or [process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def left_by(results: Path) -> dict[str, Any]:
    """Return what runs left, without circumstances: by file, its bytes or its content."""
    found: dict[str, Any] = {}
    for path in sorted((results / "runs").rglob("*")):
        name = str(path.relative_to(results))
        if path.name in ("record.json", "metrics.jsonl"):
            found[name] = [_lasting(json.loads(line)) for line in _objects(path)]
        elif path.is_file() and path.name not in ("status.json", "config.yaml"):  # a time, and results_dir
            found[name] = path.read_bytes()
    return found


def _objects(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    yield from text.splitlines() if path.suffix == ".jsonl" else [text]


def _lasting(content: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in content.items() if k not in CIRCUMSTANCES and not k.endswith("seconds")}


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]


# ---------------------------------------------------------------------------------------------- memory


def memory(number: int, first: int = 20) -> bool:
    """Do so many tiny runs in one worker; compare its resident memory after the 20th and the last."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*MICRO, "trainer.max_steps=4", "trainer.eval_every=2", f"results_dir={folder}/results"]
        sizes = list(worker_memory(words, number, Path(folder)))
    early, last = sizes[min(first, number) - 1], sizes[-1]
    shown = ", ".join(
        f"{n}: {sizes[n - 1]:.0f}" for n in (1, 10, *range(first, number + 1, first)) if n <= number
    )
    print(f"resident MiB of a worker after run {shown}; {100 * (last / early - 1):+.1f} % since run {first}")
    return last <= LEAK * early


def worker_memory(words: Sequence[str], number: int, folder: Path) -> Iterator[float]:
    """Yield the resident MiB of a worker after each of its runs, which differ in prompt and seed."""
    prompts = ("fixed", "dynamic", "adap_ins_vec", "prefix_tuning", "lora")
    worker = subprocess.Popen(
        [sys.executable, "-m", "dp_bench.sweep.worker"],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True},
        env=_environment(),
        cwd=folder,
    )
    assert worker.stdin and worker.stdout
    try:
        for run in range(number):
            more = [f"prompt={prompts[run % len(prompts)]}", f"seed={run}"]
            job = {"words": [*words, *more], "extra_dir": None, "log": str(folder / "log")}
            worker.stdin.write(json.dumps(job) + "\n")
            worker.stdin.flush()
            answer = next(a for line in worker.stdout if "outcome" in (a := json.loads(line)))
            assert answer["outcome"] == "done", answer
            yield resident_mib(worker.pid)
    finally:
        worker.stdin.close()
        worker.wait()


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process: MiB, from /proc."""
    (line,) = (x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Do what was asked for, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("inputs", "kills", "memory"))
    parser.add_argument("--number", type=int, help="of inputs (100,000), kills (20) or runs (200)")
    parser.add_argument("--minutes", type=float, default=60.0, help="for inputs (default: 60)")
    options = parser.parse_args()
    sys.path[:0] = [str(TESTS), str(ROOT)]
    asked, kept = (options.what,) if options.what else ("inputs", "kills", "memory"), True
    for what in asked:
        if what == "inputs":
            kept &= inputs(options.number or 100_000, options.minutes)
        else:
            kept &= {"kills": kills, "memory": memory}[what](
                options.number or {"kills": 20, "memory": 200}[what]
            )
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
