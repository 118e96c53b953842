"""Sweeps on a real Slurm of one machine: scripts/slurm_test.sh sets it up and runs these, one line each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from helpers.sweeps import TINY, essence

from dp_bench import records

CLUSTER = os.environ.get("DP_BENCH_SLURM", "")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not CLUSTER, reason="scripts/slurm_test.sh sets up a Slurm and runs these"),
]
DOCS = Path(__file__).resolve().parents[1] / "docs"
NO_GPU = ("hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2")
ON_SLURM = ("hydra/launcher=slurm_gpu", *NO_GPU)
RUN = (*TINY, "prompt=fixed", "seed=0", "trainer.eval_every=50", "trainer.max_steps=600")
SECONDS = 900.0  # for what takes one minute on two idle cores
Said = subprocess.CompletedProcess[str]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", f"{CLUSTER}/slurm.conf")
    scontrol("update", f"nodename={node()}", "state=resume")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "dp_bench", *words]


def dp_bench(*words: str) -> Said:
    said = subprocess.run(command(*words), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert "Traceback" not in said.stdout + said.stderr
    return said


def begun(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def scontrol(*words: str) -> None:
    subprocess.run(
        ["scontrol", *words], capture_output=True, check=False
    )  # a node may be in that state already


def node() -> str:
    return slurm("sinfo", "--noheader", "--format=%n").strip()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def jobs(results: str) -> list[list[str]]:
    """Return id, state and number of restarts of the jobs of a results folder that Slurm knows of."""
    names = ",".join(path.stem for path in Path(results, "sweeps", "slurm").glob("*.json"))
    listed = slurm("squeue", "--states=all", "--array", "--noheader", f"--name={names}", "--format=%i %T")
    return [line.split() for line in listed.splitlines()]


def restarts(job: str) -> int:
    found = re.search(r"Restarts=(\d+)", slurm("scontrol", "show", "job", job))
    assert found
    return int(found[1])


def has_checkpoint(results: str) -> bool:
    return any(Path(results, "runs").glob("*/checkpoint/*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the results of a run that nothing has stopped."""

    @cache
    def results(*words: str) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed")
        assert dp_bench("sweep", *words, f"results_dir={folder}").returncode == 0
        return folder

    return results


@pytest.fixture(scope="module")
def long(undisturbed: Callable[..., Path]) -> tuple[str, ...]:
    """Return RUN with as many updates as take 70 s here: Slurm looks at time limits every 30 s."""
    results = undisturbed(*RUN)
    record = records.load(results / "runs" / records.finished(results)[0])
    assert record
    updates = 50 * round(12 * 70 / record.train_seconds)
    return (*RUN, f"trainer.max_steps={updates}")


def assert_same(one: Path, other: Path) -> None:
    """Compare what is scored, kept and predicted; the latter by their bytes."""
    assert essence(one) == essence(other)
    for name in ("prompt.safetensors", "predictions.parquet"):
        first, second = (next(results.glob(f"runs/*/{name}")).read_bytes() for results in (one, other))
        assert first == second


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Said, Path]:
    """What a sweep as an array of jobs has said, and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("swept"))
        patch.setenv("SLURM_CONF", f"{CLUSTER}/slurm.conf")
        return dp_bench("sweep", *TINY, "prompt=majority,fixed", "seed=0,1,2", *ON_SLURM), Path.cwd()


def test_an_array_of_runs_with_no_gpu_asked_for(swept: tuple[Said, Path]) -> None:
    said, folder = swept
    assert said.returncode == 0 and "4 done" in said.stdout
    scripts = [path.read_text() for path in (folder / "results" / "multirun").rglob("*_submission.sh")]
    assert len(scripts) == 1 and "--array=0-3" in scripts[0] and "gpus" not in scripts[0]
    assert len(records.finished(folder / "results")) == 4


def test_accounting_that_is_off_is_not_asked(swept: tuple[Said, Path]) -> None:
    assert subprocess.run(["sacct"], capture_output=True, check=False).returncode != 0
    said = swept[0].stdout + swept[0].stderr
    assert "accounting" not in said and "sacct" not in said and "WARNING" not in said


def test_a_time_limit_requeues_and_the_run_ends_as_undisturbed(
    long: tuple[str, ...], undisturbed: Callable[..., Path]
) -> None:
    assert dp_bench("sweep", *long, *ON_SLURM, "hydra.launcher.signal_delay_s=30", "--detach").returncode == 0
    until(lambda: has_checkpoint("results"))
    ((job, state),) = jobs("results")
    assert state == "RUNNING"
    scontrol("update", f"jobid={job}", "timelimit=1")
    until(lambda: restarts(job) == 1)
    scontrol("update", f"jobid={job}", "timelimit=60")
    said = dp_bench("sweep", *long, *ON_SLURM)
    assert said.returncode == 0 and "in Slurm's queue already: 1 runs" in said.stdout
    log = "".join(path.read_text("utf-8") for path in Path().rglob("*_log.out"))
    assert "SIGUSR2: stopped after update" in log and "resuming after update" in log
    assert restarts(job) == 1
    assert_same(Path("results"), undisturbed(*long))


def test_a_cancelled_sweep_says_so_and_starts_again(undisturbed: Callable[..., Path]) -> None:
    sweep = begun("sweep", *RUN, *ON_SLURM)
    until(lambda: has_checkpoint("results"))
    ((job, _),) = jobs("results")
    slurm("scancel", job)
    said = sweep.communicate(timeout=SECONDS)[0]
    assert sweep.returncode == 1 and f"its job {job} ended as CANCELLED" in said
    assert "1 interrupted" in dp_bench("status").stdout
    assert dp_bench("sweep", *RUN, *ON_SLURM).returncode == 0
    assert_same(Path("results"), undisturbed(*RUN))


def test_a_node_that_goes_down_and_comes_back(undisturbed: Callable[..., Path]) -> None:
    sweep = begun("sweep", *RUN, *ON_SLURM)
    until(lambda: has_checkpoint("results"))
    ((job, _),) = jobs("results")
    scontrol("update", f"nodename={node()}", "state=down", "reason=test")
    until(lambda: jobs("results")[0][1] == "PENDING")
    assert "1 queued" in dp_bench("status").stdout
    assert sweep.poll() is None
    scontrol("update", f"nodename={node()}", "state=resume")
    said = sweep.communicate(timeout=SECONDS)[0]
    assert sweep.returncode == 0 and "1 done" in said
    assert restarts(job) == 1
    assert_same(Path("results"), undisturbed(*RUN))


def test_a_detached_sweep_returns_and_status_follows_it() -> None:
    scontrol("update", f"nodename={node()}", "state=drain", "reason=test")
    words = ("sweep", *TINY, "prompt=fixed", "seed=0,1,2", *ON_SLURM, "--detach")
    said = dp_bench(*words)
    assert said.returncode == 0 and "submitted to Slurm: 3 runs" in said.stdout
    waiting = dp_bench("status").stdout
    assert "3 queued" in waiting and "Slurm: 3 pending" in waiting
    assert "in Slurm's queue already: 3 runs" in dp_bench(*words).stdout and len(jobs("results")) == 3
    scontrol("update", f"nodename={node()}", "state=resume")
    until(lambda: re.search(r"\d running", dp_bench("status").stdout))
    until(lambda: "3 done" in dp_bench("status").stdout)
    assert len(records.finished(Path("results"))) == 3


def test_the_recipe_of_workers_that_share_the_runs() -> None:
    """The script of docs/clusters.md, two workers: one is warned of its end, and comes back."""
    text = (DOCS / "clusters.md").read_text("utf-8")
    script = re.search(r"```sh\n(#!/bin/bash\n.*?)```", text, re.DOTALL)
    assert script
    text = script[1].replace(" --gpus=1", "").replace("\ndp-bench ", f"\n{' '.join(command())} ")
    Path("workers.sh").write_text(text, "utf-8")
    words = (*RUN, "seed=0,1,2,3,4,5", "trainer.max_steps=200")
    options = ("--array=0-1", "--cpus-per-task=1", "--parsable")
    job = slurm("sbatch", *options, "workers.sh", *words).strip()
    until(lambda: has_checkpoint("results") and "to do" in Path(f"slurm-{job}_0.out").read_text("utf-8"))
    slurm("scancel", "--batch", "--signal=USR2", f"{job}_0")
    until(lambda: not slurm("squeue", "--noheader", f"--jobs={job}"))
    assert len(records.finished(Path("results"))) == 6
    logs = [Path(f"slurm-{job}_{index}.out").read_text("utf-8") for index in (0, 1)]
    assert all(re.search(r"(?m)^\[\d/\d\] .* score (?!.*in another sweep)", log) for log in logs)
    assert "interrupted" in logs[0] and restarts(f"{job}_0") == 1
