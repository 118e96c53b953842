"""The machine of a run: device, fastest precision, threads, memory."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

import torch

from dp_bench import ranks
from dp_bench.faults import LESS
from dp_bench.progress import notice
from dp_bench.settings import Precision
from dp_bench.types import RunFailedError, UserError

T = TypeVar("T")


def resolve_device(name: str) -> torch.device:
    """Return the device that `device=` names; auto is CUDA where available. Raises UserError for a missing
    one."""
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", ranks.local_rank()) if ranks.size() > 1 else torch.device("cuda")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device={name}: this machine has {count or 'no'} CUDA devices. Use device=cpu.")
    return device


def resolve_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of frozen weights; `auto` is bf16 where the hardware multiplies it faster than
    fp32."""
    if precision is Precision.auto:
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        multiplies_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if multiplies_bf16 else torch.float32
    return {Precision.bf16: torch.bfloat16, Precision.fp32: torch.float32}[precision]


@cache
def _default_threads() -> int:
    return torch.get_num_threads()


def set_threads(number: int | None) -> None:
    """Use `number` CPU threads from now on; None: as many as torch chose when the process began."""
    default = _default_threads()  # before it is changed for the first time
    torch.set_num_threads(number or default)


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype as records have it, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or "cpu" with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)"


def make_accelerator(device: torch.device) -> Any:
    """Return an Accelerator on this device; its global state is reset when a sweep changes the device."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if PartialState._shared_state and PartialState().device.type != device.type:
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no")


def watch_memory(device: torch.device) -> None:
    """Start measuring the peak that `peak_memory` returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> tuple[float, str]:
    """Return peak MiB on the GPU; on a CPU those of the process, which include earlier runs of a sweep."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1), "cuda"
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1), "process"


class EnergyMeter:
    """The energy that a GPU has used, by the counter of its driver (NVML; the package nvidia-ml-py).

    The counter is that of the whole GPU: other processes on it count too. There is none for a CPU, for parts
    of a GPU (MIG), before Volta, and without the package.
    """

    def __init__(self, device: torch.device) -> None:
        self.gpu = ""  # its UUID
        if device.type == "cuda":
            self.gpu = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        self._last = self._read()

    def since_last(self) -> tuple[str, float | None]:
        """Return the GPU and the joules that it has used since the last call; None where that is unknown."""
        last, self._last = self._last, self._read()
        return self.gpu, None if last is None or self._last is None else self._last - last

    def _read(self) -> float | None:
        if not self.gpu:
            return None
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(self.gpu)
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000  # from millijoules
        except pynvml.NVMLError:
            return None


def total_energy(parts: Sequence[float | None]) -> float | None:
    """Return the sum of joules; None where one is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def in_smaller_passes(
    attempt: Callable[[int], T], size: int, where: str, key: str, *, fixed: str = ""
) -> tuple[T, int]:
    """Return what `attempt(size)` returns, and the size: halved, on all ranks, until the memory of the GPU
    suffices. `fixed` is the reason why it cannot be. Raises RunFailedError where it does not suffice."""
    while True:
        is_over = False
        try:
            result = attempt(size)
        except torch.OutOfMemoryError:
            is_over = True  # handled when the traceback, which holds tensors, is gone
        if not any(ranks.from_all(is_over)):
            return result, size
        gc.collect()
        torch.cuda.empty_cache()
        half = size // 2
        if fixed or not half:
            instead = f"{fixed}: type {key}={half}" if half else f"End other programs on it, or use {LESS}"
            raise RunFailedError(f"Out of GPU memory {where}, with passes of {size}. {instead}.")
        notice(
            f"out of GPU memory {where}: begun again with {half} examples a pass instead of {size}; "
            f"{key}={half} avoids that"
        )
        size = half


def release_memory() -> None:
    """Give what is no longer used back to the system, so that a process with many runs does not grow.

    glibc keeps freed memory: without this a worker held 4.6 GB after ten runs of MiniLM that need 1 GB each.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
