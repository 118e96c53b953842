"""What a run costs: counted after training, without a change of what it learns."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.records import make_record
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from dp_bench import costs, flops, machine, ranks, records, run
from dp_bench.cli import main
from dp_bench.config import Experiment
from dp_bench.costs import EVALUATION, TRAINING
from dp_bench.methods import tune
from dp_bench.records import RunRecord
from dp_bench.trainer import Trainer

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=6", "trainer.eval_every=3", "trainer.batch_size=8", "prompt.num_tokens=5")


def counting(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Count the FLOPs of all updates and evaluations of a run."""
    found = {TRAINING: 0.0, EVALUATION: 0.0}

    def counted(method: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counter = FlopCounterMode(display=False, custom_mapping=flops.CPU_ATTENTION)
            counter.mod_tracker = flops._NoModules()  # type: ignore[assignment]
            with counter:
                result = method(*args, **kwargs)
            found[phase] += counter.get_total_flops()
            return result

        return call

    monkeypatch.setattr(Trainer, "_update", counted(Trainer._update, TRAINING))
    monkeypatch.setattr(Trainer, "report", counted(Trainer.report, EVALUATION))
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("prompt=dynamic",),
        ("prompt=fixed", "backbone=gpt2_tiny_random", "trainer.micro_batch_size=3"),
        ("prompt=fine_tuning",),
        ("prompt=fixed", "task=record", "task.scoring=choices"),
        ("prompt=fixed", "regime=multitask", "regime.tasks=[rte,cb]"),
    ],
    ids=lambda words: "-".join(words[:2]),
)
def test_estimated_flops_are_near_those_of_every_pass(
    experiment: Build, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    true = counting(monkeypatch)
    monkeypatch.setattr(tune, "after_training", lambda *_: {})
    record = run.run(experiment(*QUICK[: 3 if "prompt=fine_tuning" in words else 4], *words))
    assert true[TRAINING] > 0
    for phase, number in true.items():
        assert record.work[phase]["flops"] == pytest.approx(number, rel=0.15), phase


@pytest.mark.parametrize("prompt", ["dynamic", "p_tuning", "adap_ins_pos", "fine_tuning"])
def test_counting_changes_nothing_that_a_run_learns(
    experiment: Build, prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"prompt={prompt}", "protocol=authors") if prompt == "adap_ins_pos" else (f"prompt={prompt}",)
    quick = QUICK if prompt != "fine_tuning" else QUICK[:-1]
    counted = run.run(experiment(*words, *quick, f"results_dir={tmp_path / 'a'}"))
    monkeypatch.setattr(tune, "work_of", lambda *_: {})
    plain = run.run(experiment(*words, *quick, f"results_dir={tmp_path / 'b'}"))
    assert counted.work[TRAINING]["flops"] > 0 and not plain.work
    assert records.results_of(counted) == records.results_of(plain)
    assert counted.run_id == plain.run_id and counted.diagnostics == plain.diagnostics
    of = [tmp_path / name / "runs" / plain.run_id for name in ("a", "b")]
    first, second = (load_file(folder / "prompt.safetensors") for folder in of)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len({(folder / "predictions.parquet").read_bytes() for folder in of}) == 1


def test_what_a_run_has_seen_adds_up_over_a_resumption(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Trainer, *args: Any) -> float:
        if self.progress.step == 4:
            raise KeyboardInterrupt
        return update(self, *args)

    whole = run.run(experiment("prompt=dynamic", *QUICK, f"results_dir={tmp_path / 'whole'}"))
    update = Trainer._update
    resumed = experiment("prompt=dynamic", *QUICK, f"results_dir={tmp_path / 'resumed'}")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_update", killed)
        run.run(resumed)
    assert run.run(resumed).work == whole.work
    assert whole.work[TRAINING]["examples"] == 6 * 8
    controls = sum(name.endswith("_score") for name in whole.diagnostics)
    sizes = whole.num_examples
    assert (
        controls
        and whole.work[EVALUATION]["examples"] == 2 * sizes["select"] + (1 + controls) * sizes["report"]
    )


def test_the_first_of_two_ranks_counts_the_work_of_both(
    experiment: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_one_of_two(*args: Any) -> dict[str, dict[str, float]]:
        alone = flops.work_of(*args)
        with monkeypatch.context() as patched:
            patched.setattr(ranks, "size", lambda: 2)
            both = flops.work_of(*args)
        for phase, counts in alone.items():
            assert {k: v for k, v in counts.items() if k != "flops"}.items() <= both[phase].items()
            assert both[phase]["flops"] == pytest.approx(counts["flops"], rel=0.2)
        return both

    monkeypatch.setattr(tune, "work_of", as_one_of_two)
    assert run.run(experiment("prompt=fixed", *QUICK)).work


def test_operations_that_cannot_be_counted_cost_no_run(
    experiment: Build, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise NotImplementedError("no formula")

    monkeypatch.setattr(Trainer, "pass_once", broken)
    record = run.run(experiment("prompt=fixed", *QUICK))
    assert record.status == "done" and set(record.work[TRAINING]) == {"examples", "tokens"}
    assert "no formula" in capsys.readouterr().out


def test_what_makes_no_passes_has_no_work(experiment: Build) -> None:
    assert run.run(experiment("prompt=majority")).work == {}
    assert run.run(experiment("prompt=zero_shot")).work.keys() == {EVALUATION}


# ------------------------------------------------------------------------------------------------- records


def worked(**changes: Any) -> RunRecord:
    work = {
        TRAINING: {"examples": 80, "tokens": 800, "flops": 8e15},
        EVALUATION: {"examples": 20, "tokens": 100, "flops": 1e12},
    }
    return make_record(
        "task=rte", "prompt=fixed", **{"work": work, "train_seconds": 8.0, "eval_seconds": 2.0, **changes}
    )


def test_rates_are_work_by_the_seconds_of_its_phase() -> None:
    assert costs.rate(worked(), TRAINING, "tokens") == 100.0
    assert costs.rate(worked(), EVALUATION, "examples") == 10.0
    assert costs.rate(worked(train_seconds=0.0), TRAINING, "tokens") is None
    assert costs.rate(make_record("task=rte"), TRAINING, "tokens") is None, "an older record"


@pytest.mark.parametrize(
    ("device", "precision", "share"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 1e15 / 989e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 1e15 / 19.5e12),
        ("Tesla T4", "float32", 1e15 / 8.1e12),
        ("Tesla T4", "bfloat16", None),  # it only emulates that
        ("NVIDIA L40S", "bfloat16", 1e15 / 362e12),
        ("NVIDIA L40", "bfloat16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", None),
        ("cpu (2 threads)", "float32", None),
    ],
)
def test_the_share_of_the_peak_is_that_of_a_known_device(
    device: str, precision: str, share: float | None
) -> None:
    record = worked(device=device, precision=precision)
    assert costs.share_of_peak(record) == (share and pytest.approx(share))
    if share:
        assert costs.share_of_peak(replace(record, num_processes=2)) == pytest.approx(share / 2)


def test_tables_show_costs_where_they_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = worked(energy_joules=1234.0, device="NVIDIA H200", precision="bfloat16")
    old = make_record("task=rte", "prompt=dynamic")
    for record in (new, old):
        records.save(record, tmp_path / "runs" / record.run_id)
    names = "train_ex,train_tok,eval_ex,eval_tok,train_fl,eval_fl,peak,joules"
    with pytest.raises(SystemExit) as stop:
        main(["tables", "--results-dir", str(tmp_path), "--columns", names, "--format", "md,csv"])
    said = capsys.readouterr().out
    assert stop.value.code == 0, said
    assert "| 10 | 100 | 10 | 50 | 8.00e+15 | 1.00e+12 | 101.1% | 1,234 |" in said
    assert "| - | - | - | - | - | - | - | - |" in said
    head, *lines = (tmp_path / "tables" / "tables.csv").read_text("utf-8").splitlines()
    assert head.endswith(",train_ex,train_tok,eval_ex,eval_tok,train_fl,eval_fl,share_of_peak,energy_joules")
    assert any(line.endswith(",,,,,,,,") for line in lines)


def test_a_record_without_costs_is_read(tmp_path: Path) -> None:
    records.save(worked(), tmp_path)
    content = json.loads((tmp_path / "record.json").read_text("utf-8"))
    for name in ("work", "energy_joules", "num_processes"):
        del content[name]
    records.write_json(tmp_path / "record.json", content)
    record = records.load(tmp_path)
    assert record is not None and (record.work, record.energy_joules, record.num_processes) == (
        {},
        None,
        None,
    )


# -------------------------------------------------------------------------------------------------- energy


def fake_nvml(counter: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver whose counter of millijoules gives these values, then an error."""

    class NVMLError(Exception):
        pass

    def read(handle: str) -> float:
        assert handle == "GPU-abc"
        if not counter:
            raise NVMLError
        return counter.pop(0)

    module = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    properties = lambda device: SimpleNamespace(uuid="abc")  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)


def test_energy_is_the_difference_of_the_drivers_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml([5000.0, 7000.0, 10_000.0], monkeypatch)
    meter = machine.EnergyMeter(torch.device("cuda"))
    assert [meter.since_last()[1] for _ in range(4)] == [2.0, 3.0, None, None]
    assert machine.total_energy([1.5, 2.0]) == 3.5
    assert machine.total_energy([1.5, None]) is None, "part of it is unknown"


def test_there_is_no_energy_of_a_cpu_or_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.EnergyMeter(torch.device("cpu")).since_last() == ("", None)
    fake_nvml([1.0, 2.0], monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert machine.EnergyMeter(torch.device("cuda")).since_last()[1] is None


def test_the_energy_of_a_run_adds_up_over_checkpoints(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.EnergyMeter, "since_last", lambda self: ("gpu", 2.0))
    record = run.run(experiment("prompt=fixed", *QUICK))
    # Two evaluations, their two checkpoints, and the report.
    assert record.energy_joules == 10.0
