"""One seed a run, split into independent streams by name, so that a change of one draw keeps the others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return the seed of the stream `names`: 63 bits of a hash, the same on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator at the start of a stream."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def fork(seed: int, *names: str | int) -> Iterator[None]:
    """Run a block with torch's global generator at the start of a stream, and restore it afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *names))
        yield
