"""What runs cost, from their records: rates, FLOPs, share of the peak. Nothing here imports torch."""

from __future__ import annotations

from dp_bench.records import RunRecord

TRAINING, EVALUATION = "training", "evaluation"  # the keys of RunRecord.work
# FLOPs a second of dense matrix products in bfloat16 and in float32 without TF32, which torch does not use
# unless told to. From NVIDIA's data sheets, halved where these assume sparsity. The first name that the
# device's begins with, "NVIDIA" and "Tesla" removed, decides.
PEAKS = {
    "H100 PCIe": {"bfloat16": 756e12, "float32": 51e12},
    "H100 NVL": {"bfloat16": 835e12, "float32": 60e12},
    "H100 80GB HBM3": {"bfloat16": 989e12, "float32": 67e12},
    "H200": {"bfloat16": 989e12, "float32": 67e12},
    "A100": {"bfloat16": 312e12, "float32": 19.5e12},
    "L40S": {"bfloat16": 362e12, "float32": 91.6e12},
    "L4": {"bfloat16": 121e12, "float32": 30.3e12},
    "V100-PCIE": {"float32": 14e12},
    "V100-SXM2": {"float32": 15.7e12},
    "T4": {"float32": 8.1e12},
}


def work_of(record: RunRecord, phase: str, unit: str) -> float | None:
    """Return the examples, tokens or flops of training or evaluation; None where they were not counted."""
    return record.work.get(phase, {}).get(unit)


def rate(record: RunRecord, phase: str, unit: str) -> float | None:
    """Return `work_of` a second; None where it was not counted, or where nothing was done."""
    seconds = record.train_seconds if phase == TRAINING else record.eval_seconds
    work = work_of(record, phase, unit)
    return work / seconds if work and seconds else None


def share_of_peak(record: RunRecord) -> float | None:
    """Return the share, in 0..1, of the device's peak that training reached; None for unknown devices."""
    peak, flops = peak_of(record.device, record.precision), rate(record, TRAINING, "flops")
    return flops / (peak * (record.num_processes or 1)) if peak and flops else None


def peak_of(device: str, precision: str) -> float | None:
    """Return the peak FLOPs a second of a device; None for a CPU, a part of a GPU (MIG), an unknown one."""
    name = device.removeprefix("NVIDIA ").removeprefix("Tesla ")
    if " MIG " in name:
        return None
    for known, peaks in PEAKS.items():
        if name == known or name.startswith((f"{known} ", f"{known}-")):
            return peaks.get(precision)
    return None
