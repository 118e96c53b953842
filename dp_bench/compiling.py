"""torch.compile of a frozen backbone, with a way back where compiling fails."""

from __future__ import annotations

import torch
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters

from dp_bench.backbones.backbone import Backbone
from dp_bench.progress import notice


def compile_backbone(backbone: Backbone) -> None:
    """Compile the stacks of a backbone for texts of any length, and pass two short texts through the first.

    Where that fails, as without a C++ compiler, it is said and the backbone stays as it was.
    """
    counters.clear()
    for stack in backbone.stacks:
        stack.compile(dynamic=True)
    ids_BT = torch.zeros(2, 8, dtype=torch.long, device=backbone.device)
    try:
        backbone.encode(backbone.embed(ids_BT), torch.ones_like(ids_BT, dtype=torch.bool))
    except TorchDynamoException as error:
        for stack in backbone.stacks:
            stack._compiled_call_impl = None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        notice(f"trainer.compile has no effect: torch.compile failed ({reason[:200]})")


def num_graphs() -> int:
    """Return how many graphs were compiled since `compile_backbone`; each costs seconds."""
    return int(counters["stats"]["unique_graphs"])
