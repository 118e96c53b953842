"""Several processes as one run, as torchrun and `accelerate launch` start them: rank 0 decides and writes.

Each rank has the whole model and prompt. An update's micro-batches and an evaluation's batches are dealt out
among the ranks; gradients are summed once an update, which for a prompt is a few kilobytes. No wrapper of the
model: the result is that of one process with the same micro-batches, up to the order of a sum. In one process
every function here returns at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")


def size() -> int:
    """Return how many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def local_rank() -> int:
    """Return the number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if size() > 1 else 0


def leads() -> bool:
    """Say whether this process decides and writes."""
    return rank() == 0


@contextmanager
def together() -> Iterator[None]:
    """Meet the other ranks, and part from them at the end."""
    if size() == 1:
        yield
        return
    import torch
    from torch import distributed

    # gloo carries objects and CPU tensors, nccl what lies on GPUs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    own = not distributed.is_initialized()
    if own:
        distributed.init_process_group(backend)
    try:
        yield
    finally:
        if own:
            distributed.destroy_process_group()


def from_leader(value: T) -> T:
    """Return rank 0's value on every rank."""
    if size() == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def from_all(value: T) -> list[T]:
    """Return every rank's value on every rank, in the order of ranks."""
    if size() == 1:
        return [value]
    from torch import distributed

    values: list[T | None] = [None] * size()
    distributed.all_gather_object(values, value)
    return [one for one in values if one is not None]


def own_share(items: Sequence[T]) -> list[T]:
    """Return the items that fall to this rank, dealt out in turn."""
    return list(items[rank() :: size()])


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every rank the sum of all gradients."""
    if size() == 1:
        return
    import torch
    from torch import distributed

    own = [parameter for parameter in parameters if parameter.numel()]
    for parameter in own:
        if parameter.grad is None:  # no micro-batch fell to this rank
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in own if parameter.grad is not None])
    distributed.all_reduce(flat)
    at = 0
    for parameter in own:
        assert parameter.grad is not None
        parameter.grad.copy_(flat[at : at + parameter.numel()].view_as(parameter))
        at += parameter.numel()


def total(value: torch.Tensor) -> torch.Tensor:
    """Return the sum of a number over the ranks."""
    if size() > 1:
        from torch import distributed

        distributed.all_reduce(value)
    return value
