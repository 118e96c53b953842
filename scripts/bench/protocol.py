"""How things are measured: systems in a process each, which take turns on the same texts.

A turn is some batches of the product's order, from short texts to long ones in equal steps; the peers get the
same texts shuffled, as they batch, and the authors' step, which pads to 480 and costs the same for any text,
gets the first batch. The first turn, in which memory is allocated, does not count. The machine's matrix
product takes its turns too. Figures are medians of the rounds, ratios medians of the rounds' ratios; nothing
is compared across runs.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .models import Setup, make_texts
from .systems import MAIN, build, product

MATRIX_PRODUCT, DEVIATION = "matrix product", "what bf16 changes"


@dataclass(frozen=True)
class Job:
    """What a process is asked for: a system on so many threads, with so many texts a turn."""

    system: str
    setup: Setup
    threads: int
    texts: int = 0


@dataclass(frozen=True)
class Figure:
    """Examples a second, by wall clock and by the processor's time, each round's; and peak memory."""

    system: str
    precision: str
    threads: int
    train: list[float]
    evaluate: list[float]
    train_cpu: list[float]
    evaluate_cpu: list[float]
    peak_mb: float
    work: list[float]  # GFLOP an example that training needs


def ratio(figure: Figure, other: Figure, mode: str) -> float:
    """Return the median of the rounds' ratios of examples a second."""
    ours: list[float] = getattr(figure, mode)
    theirs: list[float] = getattr(other, mode)
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def share(figure: Figure, product: Sequence[float]) -> float:
    """Return the rate of the work that training needs over that of the machine's matrix product."""
    rates = (rate * work for rate, work in zip(figure.train, figure.work, strict=True))
    return median(rates) / median(product)


def measure(
    systems: Sequence[str], setup: Setup, threads: int, texts: int, rounds: int
) -> tuple[list[Figure], list[float]]:
    """Let systems take turns; return their figures, and GFLOP/s of the matrix product."""
    workers = [Worker(Job(name, setup, threads, texts)) for name in (*systems, MATRIX_PRODUCT)]
    for word in ("ready", "turn"):
        for worker in workers:
            worker.ask(word)
    for _ in range(rounds):
        for worker in workers:
            worker.rounds.append(worker.ask("turn"))
    for worker in workers:
        worker.process.communicate()
    return [worker.figure() for worker in workers[:-1]], [told["gflops"] for told in workers[-1].rounds]


class Worker:
    """A system in a process, which waits for its turn."""

    def __init__(self, job: Job) -> None:
        self.job = job
        words = [sys.executable, str(Path(__file__).parent), "work", json.dumps(asdict(job))]
        # A thread that waits by spinning would take the core of the process whose turn it is.
        environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "OMP_WAIT_POLICY": "passive"}
        environment["PYTHONWARNINGS"] = "ignore"  # of transformers to peft
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.rounds: list[dict[str, Any]] = []

    def ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.job.system} ended with {self.process.wait()}")
        told: dict[str, Any] = json.loads(answer)
        return told

    def figure(self) -> Figure:
        columns: dict[str, Any] = {n: [told[n] for told in self.rounds] for n in self.rounds[0]}
        columns["peak_mb"] = max(columns["peak_mb"])
        return Figure(self.job.system, self.job.setup.precision, self.job.threads, **columns)


def deviation(setup: Setup, threads: int) -> str:
    """Say what bf16 weights change of the answers to 64 texts, with the same prompt."""
    worker = Worker(Job(DEVIATION, setup, threads))
    told = worker.ask("ready")
    worker.process.communicate()
    return str(told["text"])


# ------------------------------------------------------------------------------------------ in a worker


def work(words: str) -> int:
    """Be the process of a job: answer each line of the standard input with a line."""
    import torch

    given = json.loads(words)
    job = Job(**(given | {"setup": Setup(**given["setup"])}))
    torch.set_num_threads(job.threads)
    answer = _answers(job)
    for turn, _ in enumerate(sys.stdin):
        print(json.dumps(answer(turn - 1)), flush=True)  # line 0: "ready"
    return 0


def _answers(job: Job) -> Callable[[int], dict[str, Any]]:
    """Return what answers turn 0, 1, …; turn -1 makes ready."""
    import torch

    setup = job.setup
    if job.system == MATRIX_PRODUCT:
        return lambda turn: {} if turn < 0 else {"gflops": matrix_product(setup)}
    torch.manual_seed(0)
    texts = make_texts(setup)
    if job.system == DEVIATION:
        return lambda turn: {"text": _deviation(texts, setup)}
    system = build(job.system, texts, setup)
    batch = setup.kind.batch

    def answer(turn: int) -> dict[str, Any]:
        if turn < 0:
            timed(system.train, system.order(turn_batches(texts, batch, 0, 1)), setup.device)
            return {}
        batches = system.order(turn_batches(texts, batch, turn, -(-job.texts // batch)))
        train, train_cpu = timed(system.train, batches, setup.device)
        evaluate, evaluate_cpu = timed(system.evaluate, batches, setup.device)
        number = sum(map(len, batches))
        tokens = sum(len(texts[int(place)]) for places in batches for place in places) / number
        return {
            "train": number / train,
            "evaluate": number / evaluate,
            "train_cpu": number / train_cpu,
            "evaluate_cpu": number / evaluate_cpu,
            "peak_mb": peak_mb(setup.device),
            # Forward, and backward to the activations of a frozen model.
            "work": 4 * system.weights * (tokens + system.vectors) / 1e9,
        }

    return answer


def turn_batches(texts: list[list[int]], batch: int, turn: int, number: int) -> list[Any]:
    """Return some of the product's batches: of the stretch that it sorts by length, in equal steps from short
    to long, which the turns shift so that together they cover all lengths."""
    from itertools import islice

    import numpy as np

    from dp_bench import config
    from dp_bench.data.batches import training_rows

    stretch = config.build(config.compose(["task=boolq", "data.dir=."])).settings.trainer.bucket_batches
    lengths = np.array(list(map(len, texts)))
    start = turn * stretch
    rows = training_rows([lengths], np.ones(1), batch_size=batch, bucket_batches=stretch, seed=0, start=start)
    batches = sorted(
        (part for (part,) in islice(rows, stretch)), key=lambda part: float(lengths[part].mean())
    )
    shift = ((turn * 2) % 5 + 0.5) / 5
    return [batches[int((place + shift) * stretch / number)] for place in range(number)]


def timed(function: Callable[[Any], object], batches: Any, device: str) -> tuple[float, float]:
    """Return wall and processor seconds of a turn."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    for places in batches:
        function(places)
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_mb(device: str) -> float:
    """Return the most memory that this process has used, on its device."""
    import torch

    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def matrix_product(setup: Setup) -> float:
    """Return GFLOP/s of products of the shapes that a model has: [tokens, d] by [d, 4 d]."""
    import torch

    size = 1024 if setup.device == "cpu" else 8192
    a = torch.randn(size, size, dtype=setup.dtype, device=setup.device)
    b = torch.randn(size, 4 * size, dtype=setup.dtype, device=setup.device)
    a @ b
    seconds = min(timed(lambda _: a @ b, [None] * 3, setup.device)[0] / 3 for _ in range(3))
    return 8 * size**3 / seconds / 1e9


def _deviation(texts: list[list[int]], setup: Setup) -> str:
    from dataclasses import replace

    import torch

    logits = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)  # the same weights, rounded
        prompt = f"prompt={MAIN.removeprefix('dp-bench ')}"
        system = product([prompt], texts[:64], replace(setup, precision=precision))
        logits.append(torch.from_numpy(system.answers()).double().log_softmax(-1))
    exact, rounded = logits
    same = (exact.argmax(-1) == rounded.argmax(-1)).double().mean()
    largest, usual = (exact - rounded).abs().max(), (exact - rounded).abs().median()
    return (
        f"bf16 against fp32 weights, log-probabilities of 64 answers: differ by {usual:.4f} in the median "
        f"and {largest:.4f} at most; {100 * same:.0f} % of the decisions are the same (random weights, "
        "whose answers are closer to a tie than trained ones)"
    )
