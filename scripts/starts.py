"""Compare starts from other tasks: the nearest by `dp-bench nearest`, the farthest, any, and the best.

    python scripts/starts.py results/spot --out results/spot/starts.csv

The folder has the runs of results/README.md with their saved prompts: sources (`micro/transfer_sources`), and
runs of `micro/transfer` from new vectors and from each source. For each task and seed the run from new
vectors is the one that `nearest` is asked with; every source of another task is ranked by its similarity.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import pandas as pd

from dp_bench import records
from dp_bench.commands.nearest import rank
from dp_bench.digests import file_sha256
from dp_bench.records import PROMPT_FILE


def starts(results_dir: Path) -> pd.DataFrame:
    """Return a line for each task, seed and source: its place among the sources, both similarities, and the
    score of the run that started from it."""
    found = records.load_all(results_dir)
    digests = {file_sha256(results_dir / "runs" / run.run_id / PROMPT_FILE): run for run in found}
    by_updates: dict[int, list[records.RunRecord]] = defaultdict(list)
    for record in (record for record in found if not record.by_task):
        by_updates[record.config["trainer"]["max_steps"]].append(record)
    sources, begun = by_updates[max(by_updates)], by_updates[min(by_updates)]
    scores = {
        (record.task, record.seed, digests[start].run_id): record.score
        for record in begun
        if (start := record.config["prompt"].get("init_sha256")) in digests
    }
    fresh = [record for record in begun if record.config["prompt"].get("init_sha256") is None]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for record in sources:  # `rank` looks at all runs of a folder
            shutil.copytree(results_dir / "runs" / record.run_id, Path(folder) / "runs" / record.run_id)
        for record in fresh:
            ranked, _ = rank(results_dir / "runs" / record.run_id, record, Path(folder))
            for place, (source, task, _, of_means, of_pairs, _) in enumerate(ranked, start=1):
                score = scores[record.task, record.seed, source]
                lines.append((record.task, record.seed, record.score, place, task, of_means, of_pairs, score))
    columns = ["task", "seed", "fresh", "place", "source", "mean vectors", "pairs of vectors", "score"]
    return pd.DataFrame(lines, columns=columns).sort_values(["task", "seed", "place"])


def summary(lines: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of each choice among the sources, by task."""
    of_run = lines.groupby(["task", "seed"])
    chosen = pd.DataFrame(
        {
            "fresh": of_run["fresh"].first(),
            "nearest": of_run["score"].first(),
            "any": of_run["score"].mean(),
            "farthest": of_run["score"].last(),
            "best, known afterwards": of_run["score"].max(),
        }
    )
    return chosen.groupby("task").agg(["mean", "std"]).round(1)


def main() -> None:
    """Write the lines, and print what each choice comes to."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("results_dir", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the CSV")
    arguments = parser.parse_args()
    lines = starts(arguments.results_dir)
    lines.round(4).to_csv(arguments.out, index=False, lineterminator="\n")
    print(summary(lines).T.to_string())


if __name__ == "__main__":
    main()
