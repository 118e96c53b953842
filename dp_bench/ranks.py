"""One run on several processes, as torchrun and `accelerate launch` start them: rank 0 decides and writes.

Each rank has the whole prompt, and the whole model unless `backbone.shard` divides its layers among the
ranks. The micro-batches of an update and the batches of an evaluation are distributed; gradients are summed
once an update, a few kilobytes for a prompt. The result equals that of one process with the same
micro-batches, up to the order of a sum. In one process every function here returns at once.
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
    """Return the number of this process, 0 if it is the only one."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def local_rank() -> int:
    """Return the number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if size() > 1 else 0


def leads() -> bool:
    """Say whether this process decides and writes."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group of all ranks, and leave it at the end."""
    if size() == 1:
        yield
        return
    import torch
    from torch import distributed

    # gloo is for objects and CPU tensors, nccl for tensors on GPUs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    is_first = not distributed.is_initialized()
    if is_first:
        distributed.init_process_group(backend)
    try:
        yield
    finally:
        if is_first:
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
    return [each for each in values if each is not None]


def share_of_rank(items: Sequence[T], *, in_step: bool = False) -> list[tuple[T, bool]]:
    """Return every `size()`-th item, from that of this rank on, and that it counts.

    `in_step` gives every rank the same number of items: one that would have fewer also has the first item,
    which does not count there.
    """
    mine = [(item, True) for item in items[rank() :: size()]]
    missing = -(-len(items) // size()) - len(mine) if in_step else 0
    return mine + [(items[0], False)] * missing


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every rank the sum of all gradients."""
    if size() == 1:
        return
    import torch
    from torch import distributed

    nonempty = [parameter for parameter in parameters if parameter.numel()]
    for parameter in nonempty:
        if parameter.grad is None:  # this rank had no micro-batch
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in nonempty if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def total(value: torch.Tensor) -> torch.Tensor:
    """Return the sum of a number over the ranks."""
    if size() > 1:
        from torch import distributed

        distributed.all_reduce(value)
    return value
