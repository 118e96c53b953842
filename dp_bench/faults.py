"""Faults of a machine, no mistakes of its user: too little memory, a disk that cannot be written."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = ("ENOSPC", "EDQUOT", "EFBIG")
IN_THE_WAY = ("ENOTDIR", "EEXIST", "EISDIR", "ELOOP", "ENAMETOOLONG")  # until a person removes it
DISK = (*FULL, "EIO", "EROFS", "EACCES", "EPERM", "ESTALE", *IN_THE_WAY)
# Libraries that write in C++ or Rust raise errors of their kinds, which name the number.
NUMBER = re.compile(r"\b(?:os error|errno) (\d+)", re.IGNORECASE)
ALLOCATING = re.compile(r"DefaultCPUAllocator|can't allocate memory|Cannot allocate memory", re.IGNORECASE)
LESS = (
    "a smaller trainer.micro_batch_size= and trainer.eval_batch_size=, trainer.gradient_checkpointing=true, "
    "shorter texts by task.max_length=, a shorter prompt.num_tokens=, or a smaller backbone="
)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Note on errors which file or folder was written: those of a full disk do not say."""
    try:
        yield
    except Exception as error:
        error.add_note(str(path))
        raise


def of_machine(error: BaseException) -> str | None:
    """Return one paragraph on a fault of the machine; None for any other error."""
    for each in _causes(error):
        if is_out_of_memory(each):
            first = (str(each).splitlines() or [""])[0][:200].rstrip(".")
            reason = f" ({first})" if first else ""
            return f"Out of memory{reason}. What was finished is intact: end other programs, or type {LESS}."
        number = _number(each)
        if number in _numbers(DISK if each is error else FULL):
            names = [getattr(each, "filename", None), *getattr(error, "__notes__", ())]
            where = next((f" ({name})" for name in names if name), "")
            instead = "make room" if number in _numbers(FULL) else "make it writable"
            return (
                f"{os.strerror(number)}{where}. What was finished is intact: {instead}, or name another "
                "folder with results_dir=, cache_dir= or --out, and start the same command again."
            )
    return None


def is_of_disk(error: BaseException) -> bool:
    """Say whether a disk could not be written, so that the same command may succeed later."""
    is_in_the_way = _number(error) in _numbers(IN_THE_WAY)
    return bool(of_machine(error)) and not is_in_the_way and not any(map(is_out_of_memory, _causes(error)))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether the memory of this machine or of its GPU did not suffice; needs no torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    number = getattr(error, "errno", None)
    return number == errno.ENOMEM or bool(isinstance(error, RuntimeError) and ALLOCATING.search(str(error)))


def _number(error: BaseException) -> int:
    """Return the error number of an operation on a disk, or 0."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    found = NUMBER.search(str(error))
    return int(found[1]) if found else 0


def _numbers(names: tuple[str, ...]) -> list[int]:
    return [getattr(errno, name) for name in names if hasattr(errno, name)]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
