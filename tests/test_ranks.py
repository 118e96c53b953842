"""Several processes as one run: two gloo ranks end where one process ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FIXTURES
from helpers.processes import Forked, run_module
from safetensors.torch import load_file

from dp_bench import checks, config, records
from dp_bench.records import RunRecord
from dp_bench.types import UserError

WORDS = (
    *("task=rte", "backbone=t5_tiny_random", "trainer=smoke", "trainer.precision=fp32", "device=cpu"),
    *("trainer.max_steps=6", "trainer.eval_every=3", "trainer.batch_size=8", "trainer.micro_batch_size=2"),
    *("trainer.eval_batch_size=3", f"data.dir={FIXTURES}"),
)


def start(folder: Path, *words: str, number: int) -> subprocess.CompletedProcess[str]:
    """Run `dp-bench train` as so many processes."""
    command = ["dp_bench", "train", *WORDS, *words]
    if number == 1:
        return run_module(command, dict(os.environ), folder)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    return subprocess.run(
        [sys.executable, *launcher, "-m", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def only(folder: Path) -> tuple[RunRecord, Path]:
    (record,) = records.load_all(folder)
    return record, folder / "runs" / record.run_id


def assert_equal(folder: Path) -> None:
    """Check that the runs in "one" and "two" are the same run with the same result."""
    (one, its_folder), (two, other_folder) = only(folder / "one"), only(folder / "two")
    assert (one.run_id, one.score, one.best_step) == (two.run_id, two.score, two.best_step)
    for name, value in load_file(its_folder / "prompt.safetensors").items():
        if name.endswith(("_N", "_ND")):  # what ridge has observed, in the order of the ranks
            continue
        torch.testing.assert_close(
            load_file(other_folder / "prompt.safetensors")[name], value, atol=1e-4, rtol=1e-4
        )
    ours, theirs = (pd.read_parquet(path / "predictions.parquet") for path in (other_folder, its_folder))
    assert (ours["id"] == theirs["id"]).all() and (ours["position"] == theirs["position"]).all()
    scores = [column for column in ours if column.startswith("score_")]
    np.testing.assert_allclose(ours[scores], theirs[scores], atol=1e-3)


def test_two_ranks_end_where_one_process_ends(tmp_path: Path) -> None:
    prompt = "dynamic"
    alone = start(tmp_path, f"prompt={prompt}", "results_dir=one", number=1)
    assert alone.returncode == 0, alone.stderr
    both = start(tmp_path, f"prompt={prompt}", "results_dir=two", number=2)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count(": score ") == 1, "rank 0 alone speaks"
    assert_equal(tmp_path)
    again = start(tmp_path, f"prompt={prompt}", "results_dir=two", number=2)
    assert again.returncode == 0 and again.stdout.count("finished before") == 1


def test_ranks_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    words = ("prompt=random_position", "trainer.max_steps=30", "trainer.eval_every=3")
    assert start(tmp_path, *words, "results_dir=one", number=1).returncode == 0
    try:
        start_and_stop(tmp_path, *words, "results_dir=two")
    finally:
        done = start(tmp_path, *words, "results_dir=two", number=2)
    assert done.returncode == 0 and "resuming after update" in done.stdout, done.stdout + done.stderr
    one, two = only(tmp_path / "one")[0], only(tmp_path / "two")[0]
    assert (one.score, one.num_updates) == (two.score, two.num_updates)


def start_and_stop(folder: Path, *words: str) -> None:
    """Kill a run once it has left a checkpoint."""
    process = Forked([sys.executable, "-m", "dp_bench", "train", *WORDS, *words], cwd=folder, env=os.environ)
    while process.poll() is None and not list((folder / "two" / "runs").glob("*/checkpoint/step-*")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_what_ranks_cannot_do_is_refused(tmp_path: Path) -> None:
    done = start(tmp_path, "prompt=fixed", "protocol=authors", number=2)
    assert done.returncode != 0
    assert "makes one update after the other" in done.stderr


def test_layers_divided_over_ranks_end_where_one_process_ends(tmp_path: Path) -> None:
    """Three micro-batches an update: one of two ranks repeats one, which must not count."""
    words = ("prompt=ridge_position", "prompt.position.refit_every=2", "trainer.batch_size=6")
    alone = start(tmp_path, *words, "results_dir=one", number=1)
    assert alone.returncode == 0, alone.stderr
    both = start(tmp_path, *words, "backbone.shard=true", "results_dir=two", "cache_dir=two/cache", number=2)
    assert both.returncode == 0, both.stderr
    here, whole = re.findall(r"processes: ([\d,]+) of ([\d,]+) weights", both.stdout)[0]
    attention, feed_forward, norm, relative = 4 * 64 * 64, 3 * 64 * 128, 64, 32 * 4
    of_encoder = 2 * (attention + feed_forward + 2 * norm) + relative
    of_decoder = 2 * (2 * attention + feed_forward + 3 * norm) + relative
    missing = int(whole.replace(",", "")) - int(here.replace(",", ""))
    assert missing == (of_encoder + of_decoder) // 2
    assert_equal(tmp_path)


@pytest.mark.parametrize("words", [["prompt=lora"], ["prompt=fine_tuning"], ["prompt/adapters=bitfit"]])
def test_trained_weights_are_not_divided(words: list[str]) -> None:
    settings = config.build(config.compose([*WORDS, "backbone.shard=true", *words])).settings
    with pytest.raises(UserError, match="divides frozen weights among processes, and prompt="):
        checks.refuse_ranks(settings)
