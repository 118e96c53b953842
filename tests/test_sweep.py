"""Sweeps: what is planned is what would be typed, and nothing is lost, run twice or forgotten."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from helpers.sweeps import TINY, Sweep, essence, sweep
from hydra import compose, initialize_config_dir

from dp_bench import claims, config, records
from dp_bench.config.composer import register_schema
from dp_bench.sweep import launch
from dp_bench.sweep.expand import axes_of, expand
from dp_bench.sweep.plan import State, make_plan, states

assert sweep  # the fixture


def typed_axes(*words: str) -> dict[str, list[str]]:
    (axes,) = axes_of(words, None)
    return axes


# ---------------------------------------------------------------------------------------------- planning


@pytest.mark.parametrize(
    "words",
    [
        ("task=rte,cb", "prompt=fixed,dynamic", "prompt.num_tokens=4,20", "seed=0,1", "backbone=t5_base"),
        ("protocol=clean,authors", "prompt=fixed,adap_ins_vec_pos", "task=multirc,boolq"),
        (
            "prompt=dynamic",
            "prompt/position=fixed,instance",
            "trainer.lr=1,2",
        ),
        ("experiment=paper/fewshot", "task=cb", "prompt=majority,fixed", "backbone=t5_small,t5_xl"),
        ("experiment=minilm/full", "task=copa,wsc", "prompt=postfix,linear_probe", "data.dir=."),
        ("experiment=micro/multitask", "prompt=fixed,mpt", "seed=0,3"),
    ],
)
def test_a_combination_is_what_hydra_would_compose(words: Sequence[str]) -> None:
    """The fast way, parts put together, against the slow one, every run composed whole."""
    choices = list(expand(typed_axes(*words), None))
    assert len(choices) == len({choice.words for choice in choices}) > 1
    for choice in choices:
        slow = config.build(config.compose(choice.words))
        assert choice.experiment.resolved == slow.resolved
        assert choice.experiment.settings == slow.settings
        assert choice.experiment.tasks == slow.tasks


def test_what_is_typed_takes_the_place_of_what_the_file_sweeps() -> None:
    words = ("experiment=micro/position", "seed=7", "trainer.max_steps=20")
    choices = list(expand(typed_axes(*words), None))
    assert {choice.experiment.settings.seed for choice in choices} == {7}
    assert {choice.experiment.settings.trainer.max_steps for choice in choices} == {20}
    assert {choice.experiment.settings.experiment for choice in choices} == {"micro/position"}
    assert len({choice.experiment.settings.prompt.name for choice in choices}) == 9


def announced(name: str) -> int:
    text = (config.config_dir() / "experiment" / f"{name}.yaml").read_text("utf-8")
    found = re.search(r": (\d+) runs", text)
    assert found, f"{name} does not say how many runs it has"
    return int(found[1])


@pytest.mark.parametrize("name", config.options("experiment"))
def test_an_experiment_has_the_runs_that_its_file_announces(name: str) -> None:
    """By its axes alone; what draws nothing is run with one seed."""
    axes = typed_axes(f"experiment={name}", "data.dir=.")
    prompts = [word.partition("=")[2] for word in axes["prompt"]]
    seedless = sum(prompt in ("majority", "zero_shot") for prompt in prompts)
    others = [len(values) for key, values in axes.items() if key not in ("prompt", "seed")]
    seeds = len(axes["seed"])
    assert announced(name) == math.prod(others) * (seedless + (len(prompts) - seedless) * seeds)


@pytest.mark.parametrize("name", ["micro/length", "paper/fewshot_authors"])
def test_the_runs_of_an_experiment_are_different_ones_and_know_it(name: str) -> None:
    choices = list(expand(typed_axes(f"experiment={name}", "data.dir=."), None))
    ids = {records.identify(choice.experiment.resolved, "")[0] for choice in choices}
    assert len(ids) == len(choices) == announced(name), "two combinations are one run"
    assert {choice.experiment.settings.experiment for choice in choices} == {name}


def test_seeds_do_not_multiply_what_has_none() -> None:
    choices = expand(typed_axes("prompt=majority,zero_shot,linear_probe,fixed", "seed=0,1,2"), None)
    numbers = Counter(choice.experiment.settings.prompt.name for choice in choices)
    assert numbers == {"majority": 1, "zero_shot": 1, "linear_probe": 3, "fixed": 3}


def test_an_experiment_changes_no_run_id() -> None:
    """A run that was made by hand is the run of the experiment."""
    (by_experiment,) = make_plan(["experiment=micro/position", "task=rte", "prompt=fixed", "seed=0"]).runs
    (by_hand,) = make_plan(
        ["backbone=t5_micro", "data=micro", "trainer=micro", "task=rte", "prompt=fixed"]
    ).runs
    assert by_experiment.run_id == by_hand.run_id


# ---------------------------------------------------------------------------------------------- sweeping


def test_a_sweep_runs_what_is_missing_and_says_what_there_is(sweep: Sweep, tmp_path: Path) -> None:
    words = (*TINY, "prompt=fixed,majority", "seed=0,1")
    code, said = sweep(*words, "--dry-run")
    assert code == 0 and "3 runs: 3 missing" in said and not (tmp_path / "results").exists()
    assert "no estimate without earlier runs" in said and "launcher: none: 1 process" in said
    assert "[P0 … P19]" in said and max(map(len, said.splitlines())) <= 80
    code, said = sweep(*words[:-1], "seed=0")
    assert code == 0 and "2 done" in said and "Next: dp-bench tables" in said
    before = essence(tmp_path / "results")
    code, said = sweep(*words, "--dry-run")
    assert "3 runs: 2 done, 1 missing" in said and "to do: 1 runs, about" in said
    assert "1,280" in said, "trainable parameters of the finished fixed prompt"
    code, said = sweep(*words)
    assert code == 0 and "3 done" in said and said.count("score ") == 1
    after = essence(tmp_path / "results")
    assert len(after) == 3 and {k: after[k] for k in before} == before
    assert not list((tmp_path / "results" / "claims").glob("*"))
    assert not list((tmp_path / "results" / "logs").glob("*")), "a log stays only where something broke"
    code, said = sweep(*words)
    assert code == 0 and "score " not in said
    code, said = sweep(command="status")
    assert code == 0 and "3 done" in said and "3/3" not in said and "2/2" in said and "1/1" in said
    code, said = sweep("runs", command="list")
    assert code == 0 and said.count("done  score ") == 3


def test_a_failed_run_is_left_out_until_it_is_asked_for(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It breaks for real: there is no space for what it learned, a folder lies where its file goes."""
    words = (*TINY, "prompt=fixed,postfix", "seed=0")
    plan = make_plan([*words, "results_dir=results"])
    broken = next(run for run in plan.runs if run.labels["prompt"] == "postfix")
    blocker = tmp_path / "results" / "runs" / broken.run_id / "prompt.safetensors"
    (blocker / "in the way").mkdir(parents=True)
    code, said = sweep(*words)
    assert code == 1 and "1 done, 1 failed" in said
    assert f"FAILED {broken.run_id}: Is a directory" in said
    assert "failed now:" in said and said.count("Is a directory") == 2
    log = (tmp_path / "results" / "logs" / f"{broken.run_id}.log").read_text("utf-8")
    assert "IsADirectoryError" in log and "Traceback" in log
    (blocker / "in the way").rmdir()
    blocker.rmdir()
    code, said = sweep(*words)
    assert code == 1 and "failed before, left out; --retry-failed" in said
    assert f"  {broken.run_id}: IsADirectoryError" in said
    code, said = sweep(command="status")
    assert f"failed: {broken.run_id}: IsADirectoryError" in said
    code, said = sweep(*words, "--retry-failed")
    assert code == 0 and "2 done" in said


def test_wrong_input_ends_a_sweep_before_anything_is_run(sweep: Sweep, tmp_path: Path) -> None:
    for words, answer in (
        (("experiment=micro/positon",), "Did you mean micro/position or"),
        ((*TINY, "prompt=fixed,dynamc"), "There is no prompt 'dynamc'"),
        ((*TINY, "prompt.num_tokens=4,-1"), "prompt.num_tokens=-1"),
        ((*TINY, "--jobs", "0"), "--jobs 0 must be at least 1"),
        ((*TINY, "--gpus", "all"), "nvidia-smi finds none here"),
        ((*TINY, "launcher=local_gpus"), "nvidia-smi finds none here"),
        ((*TINY, "hydra/launcher=joblib", "--jobs", "2"), "leave them out with hydra/launcher="),
        ((*TINY, "hydra/launcher=joblib", "--detach"), "--detach is for Slurm"),
        (("task=rte", "prompt=fixed,postfix", "data.dir=nowhere"), "nowhere"),
        ((*TINY, "results_dir=a,b"), "a sweep writes to one folder"),
    ):
        if "nvidia" in answer and torch.cuda.is_available():
            continue
        code, said = sweep(*words)
        assert code == 2 and answer in said, said
    assert not (tmp_path / "results" / "runs").exists()
    code, said = sweep("experiment=micro/position", command="train")
    assert code == 2 and "dp-bench sweep experiment=micro/position" in said
    code, said = sweep(command="status")
    assert code == 2 and "There is nothing below results" in said


def test_a_run_that_another_process_is_at_is_waited_for(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*TINY, "prompt=fixed", "seed=0,1")
    plan = make_plan([*words, "results_dir=results"])
    other = plan.runs[0].run_id
    folder = tmp_path / "results" / "claims"
    folder.mkdir(parents=True)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(6)"])
    content = {"host": claims._host(), "pid": sleeper.pid, "released": False}
    (folder / f"{other}.0.json").write_text(json.dumps(content), "utf-8")
    code, said = sweep(*words)
    assert code == 0 and "waiting for 1 runs of another sweep" in said and "2 done" in said
    assert sleeper.poll() is not None, "it was not taken while its owner lived"


# Ctrl-C works as at a terminal, also where the tests run in the background of a script.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from dp_bench.cli import main
main()
"""


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "sweep", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8")
    return [int(word) for word in listed.split()]


def wait_for(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds a process's children in /proc")
def test_a_sweep_that_is_killed_twice_ends_with_the_records_of_an_undisturbed_one(
    sweep: Sweep, tmp_path: Path
) -> None:
    """kill -9 of the sweep and its workers, then of the sweep alone, whose workers must stop by
    themselves."""
    words = (*TINY, "prompt=fixed,adap_ins_pos", "seed=0,1", "trainer.max_steps=40", "trainer.eval_every=4")
    code, _ = sweep(*words, "results_dir=whole")
    assert code == 0
    begun = tmp_path / "killed" / "runs"

    def checkpoints() -> set[str]:
        return {path.parent.name for path in begun.glob("*/checkpoint")}

    first = start(*words, "results_dir=killed", "--jobs", "2")
    wait_for(lambda: len(checkpoints()) == 2)
    for pid in [*children(first.pid), first.pid]:
        os.kill(pid, signal.SIGKILL)
    first.communicate()
    assert len(essence(tmp_path / "killed")) < 4
    known = checkpoints()
    assert known, "what was begun is on the disk"

    second = start(*words, "results_dir=killed", "--jobs", "2")
    wait_for(lambda: bool(list((tmp_path / "killed" / "claims").glob("*.1.json"))))
    orphans = children(second.pid)
    os.kill(second.pid, signal.SIGKILL)
    second.communicate()
    wait_for(lambda: not any(claims._is_alive(pid) for pid in orphans))

    code, said = sweep(*words, "results_dir=killed", "--jobs", "2")
    assert code == 0 and "4 done" in said
    assert essence(tmp_path / "killed") == essence(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "claims").glob("*"))
    for name in ("whole", "killed"):
        assert sweep("--results-dir", name, "--format", "md,csv", command="tables")[0] == 0
    for name in ("tables.md", "tables.csv"):
        tables = [(tmp_path / where / "tables" / name).read_bytes() for where in ("whole", "killed")]
        assert tables[0] == tables[1]


def test_two_sweeps_at_once_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = (*TINY, "prompt=fixed,postfix", "seed=0,1,2")
    both = [start(*words), start(*words)]
    said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("6 done" in text for text in said)
    own = [len(re.findall(r"score [\d.]+, \d+ s", text)) for text in said]
    assert sum(own) == 6, f"a run was made twice or not at all: {said}"


def test_ctrl_c_leaves_everything_to_go_on_from(sweep: Sweep, tmp_path: Path) -> None:
    words = (*TINY, "prompt=fixed", "seed=0", "trainer.max_steps=4000", "trainer.eval_every=4")
    process = start(*words)
    wait_for(lambda: bool(list((tmp_path / "results" / "runs").glob("*/checkpoint"))))
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Traceback" not in said
    (run,) = make_plan([*words, "results_dir=results"]).runs
    assert states(tmp_path / "results", [run.run_id]) == {run.run_id: State.interrupted}
    assert "1 runs: 1 interrupted" in sweep(*words, "--dry-run")[1]


def test_the_preset_for_slurm_asks_for_a_gpu_and_requeues() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    register_schema()
    with initialize_config_dir(str(config.config_dir()), version_base="1.3"):
        made = compose("train", ["hydra/launcher=slurm_gpu"], return_hydra_config=True).hydra.launcher
    assert made._target_.endswith("SlurmLauncher")
    assert (made.gpus_per_node, made.max_num_timeout) == (1, 5)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Stand for Slurm: sbatch takes all, and squeue lists the files queue1, queue2, queue2, …

    What a real one does is in test_slurm.py.
    """
    squeue = "name=$(basename results/sweeps/slurm/*.json .json); mkdir seen 2>/dev/null && n=1 || n=2\n"
    programs = {
        "sbatch": "echo Submitted batch job 7",
        "squeue": squeue + 'sed "s/NAME/$name/" queue$n',
        "srun": "",
        "scontrol": "",
    }

    def write(**changed: str) -> None:
        for name, text in (programs | changed).items():
            path = tmp_path / "programs" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
            path.chmod(0o755)

    write()
    monkeypatch.setenv("PATH", str(tmp_path / "programs"), prepend=os.pathsep)
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.0)
    return write


ON_SLURM = (*TINY, "prompt=fixed", "seed=0,1", "hydra/launcher=slurm_gpu")


def test_without_slurm_a_sweep_says_so_in_a_line(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    code, said = sweep(*ON_SLURM)
    assert code == 2 and "There is no Slurm here" in said and len(said.splitlines()) == 1


@pytest.mark.usefixtures("slurm")
def test_detached_runs_are_submitted_once_and_shown(sweep: Sweep, tmp_path: Path) -> None:
    for number in (1, 2):
        lines = "7_0|0|PENDING|Priority|NAME\n7_1|1|RUNNING|None|NAME\n8|N/A|RUNNING|None|mine\n"
        (tmp_path / f"queue{number}").write_text(lines, "utf-8")
    code, said = sweep(*ON_SLURM, "--detach")
    assert code == 0 and "submitted to Slurm: 2 runs" in said
    (script,) = (tmp_path / "results" / "multirun").rglob("7_submission.sh")
    asked = script.read_text("utf-8")
    for words in ("--array=0-1", "--requeue", "--gpus-per-node=1", "export SRUN_CPUS_PER_TASK=8"):
        assert words in asked
    shown = sweep("--results-dir", "results", command="status")[1]
    assert "1 running, 1 queued" in shown and "Slurm: 1 pending (Priority)" in shown
    code, said = sweep(*ON_SLURM, "--detach")
    assert code == 0 and "queue already: 2 runs" in said and "submitted" not in said


@pytest.mark.usefixtures("slurm")
def test_jobs_that_end_without_their_run_say_why(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "queue1").write_text("7_0|0|RUNNING|None|NAME\n7_1|1|PENDING|Priority|NAME\n", "utf-8")
    (tmp_path / "queue2").write_text("7_0|0|OUT_OF_MEMORY||NAME\n7_1|1|COMPLETED||NAME\n", "utf-8")
    last = {"7_0": "slurmstepd: error: Detected 1 oom_kill event", "7_1": f"{launch.REFUSED}no such data"}
    for job, text in last.items():
        path = tmp_path / "results" / "multirun" / ".submitit" / job / f"{job}_0_log.err"
        path.parent.mkdir(parents=True)
        path.write_text(f"before\n{text}\n\n", "utf-8")
    code, said = sweep(*ON_SLURM)
    assert code == 1 and "its job 7_0 ended as OUT_OF_MEMORY: slurmstepd: error: Detected 1 oom" in said
    assert re.search(r"s1-\w+: no such data", said)


def test_what_slurm_refuses_is_told_and_forgotten(
    sweep: Sweep, slurm: Callable[..., None], tmp_path: Path
) -> None:
    slurm(sbatch="echo sbatch: error: invalid partition specified: xy >&2; exit 1")
    code, said = sweep(*ON_SLURM)
    assert code == 2 and "Slurm refuses the jobs: sbatch: error: invalid partition specified: xy" in said
    assert not any((tmp_path / "results" / "sweeps" / "slurm").iterdir())


@pytest.mark.parametrize("launcher", ["joblib", "local_jobs"])
def test_a_launcher_of_hydra_makes_the_same_records(sweep: Sweep, tmp_path: Path, launcher: str) -> None:
    pytest.importorskip({"joblib": "hydra_plugins.hydra_joblib_launcher"}.get(launcher, "submitit"))
    words = (*TINY, "prompt=majority,fixed", "seed=0")
    code, said = sweep(*words, "results_dir=launched", f"hydra/launcher={launcher}")
    assert code == 0 and "2 done" in said
    assert sweep(*words, "results_dir=plain")[0] == 0
    assert essence(tmp_path / "launched") == essence(tmp_path / "plain")
