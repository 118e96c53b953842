"""Time reading, rendering, tokenising and caching: BoolQ, MultiRC, and a generated ReCoRD of its real size.

Each measurement is a process of its own, twice on one cache: cold, then warm. Seconds are those from opening
the file to an encoded split, without imports; peak memory is that of the whole process, torch included. Ends
with exit code 1 where a limit is exceeded: BoolQ and MultiRC together 30 s cold and 2 s warm, any peak 2 GB.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from . import report

COLD_SECONDS, WARM_SECONDS, PEAK_MB = 30.0, 2.0, 2000.0
QUERIES, QUERIES_OF_A_PASSAGE = 100_000, 1.5  # ReCoRD's train set: 100,730 queries on 65,709 passages


def main(name: str, words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"python scripts/bench {name}", description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("../shared/superglue"), help="the official release")
    parser.add_argument("--tokenizer", type=Path, default=Path("../shared/t5-tokenizer"))
    parser.add_argument("--queries", type=int, default=QUERIES, help="of the generated ReCoRD; 0: none")
    parser.add_argument("--one", nargs=3, metavar=("TASK", "FILE", "CACHE"), help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.one:
        task, file, cache = given.one
        print(json.dumps(measure(task, Path(file), Path(cache), given.tokenizer)))
        return 0
    print(f"{report.origin_line(report.origin())}\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = {
            "boolq": given.dir / "BoolQ" / "train.jsonl",
            "multirc": given.dir / "MultiRC" / "train.jsonl",
        }
        if given.queries:
            files["record"] = Path(scratch) / "train.jsonl"
            write_record(files["record"], given.queries)
        print("| task | cache | rows | MB read | seconds | rows/s | peak MB |")
        print("|---|---|---:|---:|---:|---:|---:|")
        found = {}
        for task, file in files.items():
            for state in ("cold", "warm"):
                found[task, state] = line = alone(task, file, Path(scratch) / "cache", given.tokenizer)
                print(
                    f"| {task} | {state} | {line['rows']:.0f} | {file.stat().st_size / 1e6:.1f} | "
                    f"{line['seconds']:.2f} | {line['rows'] / line['seconds']:.0f} | {line['peak_mb']:.0f} |",
                    flush=True,
                )
    return verdict(found)


def verdict(found: dict[tuple[str, str], dict[str, float]]) -> int:
    good = True
    print()
    for state, limit in (("cold", COLD_SECONDS), ("warm", WARM_SECONDS)):
        seconds = found["boolq", state]["seconds"] + found["multirc", state]["seconds"]
        good &= seconds < limit
        print(f"BoolQ and MultiRC {state}: {seconds:.2f} s, limit {limit:.0f} s")
    peak = max(line["peak_mb"] for line in found.values())
    print(f"highest peak: {peak:.0f} MB, limit {PEAK_MB:.0f} MB")
    return 0 if good and peak < PEAK_MB else 1


def alone(task: str, file: Path, cache: Path, tokenizer: Path) -> dict[str, float]:
    """Measure in a process of its own."""
    words = [
        sys.executable,
        Path(__file__).parent,
        "data",
        "--tokenizer",
        tokenizer,
        "--one",
        task,
        file,
        cache,
    ]
    done = subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True)
    line: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return line


def measure(name: str, file: Path, cache: Path, tokenizer_dir: Path) -> dict[str, float]:
    from transformers import AutoTokenizer

    from dp_bench import config
    from dp_bench.data.encode import encode
    from dp_bench.data.readers import ExampleFile
    from dp_bench.data.source import split_file
    from dp_bench.data.template import Template

    (task,) = config.build(config.compose([f"task={name}"])).tasks
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    started = time.perf_counter()
    found = split_file(file)
    encoded = encode(
        ExampleFile(task, found),
        Template.of(task),
        tokenizer,
        max_length=task.max_length,
        cache_dir=cache,
        key_parts={"sha256": found.sha256},
        scoring=task.scoring,
    )
    seconds = time.perf_counter() - started
    encoded.collate(range(0, len(encoded), len(encoded) // 16), pad_id=0)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"rows": len(encoded), "seconds": seconds, "peak_mb": peak_mb}


def write_record(path: Path, num_queries: int) -> None:
    """Write queries on passages of random words, as long as ReCoRD's: some 220 words and 17 mentions each."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, range(26, 0, -1), k=rng.randint(1, 11))) for _ in range(60_000)]
    # Zipf: some hundred words make half of the text.
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(words))))
    with path.open("w", encoding="utf-8") as file:
        written = passage = 0
        while written < num_queries:
            text, spans = _passage(rng, words, weights)
            queries = min(num_queries - written, 1 + (rng.random() < QUERIES_OF_A_PASSAGE - 1))
            qas = [_query(rng, words, weights, text, spans, written + number) for number in range(queries)]
            record = {
                "source": "generated",
                "passage": {"text": text, "entities": spans},
                "qas": qas,
                "idx": passage,
            }
            file.write(json.dumps(record) + "\n")
            written, passage = written + queries, passage + 1


def _passage(rng: random.Random, words: list[str], weights: list[float]) -> tuple[str, list[dict[str, int]]]:
    names = [" ".join(word.title() for word in rng.sample(words, rng.randint(1, 2))) for _ in range(10)]
    parts, spans, length = [], [], 0
    for word in rng.choices(words, cum_weights=weights, k=rng.randint(130, 310)):
        is_name = rng.random() < 17 / 220
        part = rng.choice(names) if is_name else word
        if is_name:
            spans.append({"start": length, "end": length + len(part) - 1})
        parts.append(part)
        length += len(part) + 1
    return " ".join(parts), spans or [{"start": 0, "end": len(parts[0]) - 1}]


def _query(
    rng: random.Random,
    words: list[str],
    weights: list[float],
    text: str,
    spans: list[dict[str, int]],
    idx: int,
) -> dict[str, object]:
    gold = rng.choice(spans)
    sentence = " ".join(rng.choices(words, cum_weights=weights, k=20))
    answer = {**gold, "text": text[gold["start"] : gold["end"] + 1]}
    return {"query": f"@placeholder {sentence}", "answers": [answer], "idx": idx}
