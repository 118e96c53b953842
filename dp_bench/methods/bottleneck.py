"""Bottleneck adapters behind the feed-forward of every layer (Houlsby et al., ICML 2019, section 2).

    h <- h + W_up gelu(W_down h + b_down) + b_up

h is what the last matrix of the feed-forward returns, before the skip connection: the second of the paper's
two places in a layer. W_up is 0 at the start (the paper: near 0), so that the model is unchanged. Layers that
share their weights (ALBERT) share an adapter. The differences from the paper: docs/later-methods.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dp_bench.backbones.attention import layers_of
from dp_bench.backbones.backbone import Backbone, LacksError, requiring
from dp_bench.backbones.probe import answers, texts
from dp_bench.methods.peft import matrices
from dp_bench.randomness import fork
from dp_bench.settings import RunSettings

FEED_FORWARD = "each layer ends in a feed-forward, whose matrices all tokens pass"
# What an attention calls between its key matrix and its output matrix.
WEIGHING = (
    nn.functional.scaled_dot_product_attention,
    nn.functional.softmax,
    torch.softmax,
    Tensor.softmax,
)


class Bottleneck(nn.Module):
    """An adapter of states of a width, with a hidden layer of a smaller size."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        for weight in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(weight)

    def forward(self, states: Tensor) -> Tensor:
        """Return adapted states, in the same shape and dtype."""
        hidden = nn.functional.gelu(self.down(states.to(self.down.weight.dtype)), approximate="tanh")
        adapted: Tensor = states + self.up(hidden)
        return adapted.to(states.dtype)


def add_bottlenecks(backbone: Backbone, settings: RunSettings) -> None:
    """Add a trained adapter, in fp32, behind the feed-forward of each layer. Raises UserError where a layer
    has none."""
    assert settings.prompt.size is not None
    found = find_feed_forwards(backbone)
    with fork(settings.seed_of("init"), "bottleneck"):
        for matrix, width in found.items():
            matrix.adapter = Bottleneck(width, settings.prompt.size)
            matrix.register_forward_hook(_adapt)
    backbone.to(backbone.device)


def _adapt(matrix: nn.Module, _: Any, output: Tensor) -> Tensor:
    adapted: Tensor = matrix.get_submodule("adapter")(output)
    return adapted


@dataclass
class _Calls:
    """The matrices that a running layer has called, each with the rows and the width of its output."""

    matrices: list[tuple[nn.Module, int, int]] = field(default_factory=list)
    attended: int | None = None  # how many of them before the last attention

    def clear(self, layer: nn.Module, _: Any) -> None:
        self.matrices, self.attended = [], None

    def record(self, matrix: nn.Module, _: Any, output: Tensor) -> None:
        self.matrices.append((matrix, output.shape[:-1].numel(), output.shape[-1]))

    def attend(self) -> None:
        self.attended = len(self.matrices)


@torch.no_grad()
def find_feed_forwards(backbone: Backbone) -> dict[nn.Module, int]:
    """Return the last matrix of the feed-forward of each layer, and the width of the states.

    It is found by a short text: the last of at least three matrices that a layer calls after its last
    attention. Raises UserError where a layer has other weights as well, such as those of experts.
    """
    calls = _Calls()
    found: dict[nn.Module, int] = {}

    def end(layer: nn.Module, _: Any, output: Any) -> None:
        states: Tensor = output[0] if isinstance(output, tuple) else output
        found[_last_matrix(layer, calls, states)] = states.shape[-1]

    with (
        torch.random.fork_rng(devices=[]),
        requiring(backbone.model, FEED_FORWARD, "LoRA: prompt=lora or prompt/adapters=lora"),
    ):
        hooks = [matrix.register_forward_hook(calls.record) for matrix in matrices(backbone.model).values()]
        for layer in (layer for stack in backbone.stacks for layer in layers_of(stack)):
            hooks += [layer.register_forward_pre_hook(calls.clear), layer.register_forward_hook(end)]
        try:
            with _Attentions(calls.attend):
                answers(backbone, [backbone.embed(texts(backbone)[1])])
        finally:
            for hook in hooks:
                hook.remove()
        if not found:
            raise LacksError("no layers were found")
    return found


class _Attentions(TorchFunctionMode):
    """Call `seen` at each attention while active."""

    def __init__(self, seen: Callable[[], None]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function: Any, _: Any, args: Any = (), options: Any = None) -> Any:
        if function in WEIGHING:
            self.seen()
        return function(*args, **(options or {}))


def _last_matrix(layer: nn.Module, calls: _Calls, states: Tensor) -> nn.Module:
    """Return the last matrix of the feed-forward of a layer; raise LacksError where it has none."""
    if calls.attended is None:
        raise LacksError("a layer has no attention")
    known = {matrix for matrix, _, _ in calls.matrices}
    for name, module in layer.named_modules():
        weights = [weight for weight in module.parameters(recurse=False) if weight.ndim > 1]
        if weights and module not in known and not isinstance(module, nn.Embedding):
            raise LacksError(f"{name}, a {type(module).__name__}, is no matrix that all tokens pass")
    behind = calls.matrices[calls.attended :]
    if len(behind) < 3:  # the output matrix of the attention, and two of the feed-forward
        raise LacksError("a layer calls fewer than three matrices after its attention")
    num_rows, width = states.shape[:-1].numel(), states.shape[-1]
    last, _, its_width = behind[-1]
    if its_width != width or any(rows != num_rows for _, rows, _ in behind):
        raise LacksError("a matrix after an attention has not the shape of the states")
    return last
