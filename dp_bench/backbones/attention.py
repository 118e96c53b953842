"""Attention functions for per-layer prompts, which prepend keys and values to those of any attention.

transformers lets most models look up their attention function by name. Ours is the plain one unless a
`LayerPrompt` is active; then the n-th attention of the forward pass, which is site n of `Dims.sites`, gets
the keys and values of that site. `past_key_values` would serve decoders only: T5's encoder drops it. Sites
are identified by the order of calls, since some models (ALBERT) use one module for all layers. A vector has
no position in the text, so that its relative-position bias is 0.

A `LatePrompt` has slots in front of the text from the start, which every query is kept from seeing until the
vectors enter: they replace the states of these slots before their layer, by a hook that counts the layers.
The same hook adds a `DeepPrompt` to the states of the input's vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dp_bench.types import DeepPrompt, InLayers, LatePrompt, LayerPrompt, Site

NAMES = {"eager": "dp_bench_eager", "sdpa": "dp_bench_sdpa"}
MIXED = "dp_bench_mixed"  # plain in training, fused without gradients


@dataclass
class _Pass:
    """A running forward pass: its prompt in the layers, and what it has called."""

    layers: LayerPrompt | None = None
    kinds: Mapping[tuple[int, int], str] = field(default_factory=dict)  # by the numbers of queries and keys
    sites: list[Site] | None = None  # collects the attentions
    calls: int = 0  # of attentions
    late: LatePrompt | None = None
    mask_BS: Tensor | None = None  # of what a late prompt is made from
    deep: DeepPrompt | None = None
    widths: list[int] = field(default_factory=list)  # of the states that entered each layer so far
    hidden: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # masks before and after, by id

    def hiding(self, mask: Tensor | None) -> Tensor | None:
        """Return an additive mask under which a late prompt is not seen, until it has entered."""
        if self.late is None or mask is None or len(self.widths) > self.late.layer:
            return mask
        if id(mask) not in self.hidden:  # once for all layers, which share it
            hidden = mask.clone()
            hidden[..., : self.late.num_tokens] = torch.finfo(mask.dtype).min
            self.hidden[id(mask)] = mask, hidden
        return self.hidden[id(mask)][1]


_running: ContextVar[_Pass | None] = ContextVar("dp_bench_attention", default=None)
# Gets the weights [B,H,queries,keys] of each attention, and how many of the last keys are not a prompt's.
Watcher = Callable[[Tensor, int], None]
_watcher: ContextVar[Watcher | None] = ContextVar("dp_bench_attention_watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Pass the weights of each attention that is looked up by name to `watcher`; all are then plain."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def _observing(running: _Pass) -> Iterator[_Pass]:
    token = _running.set(running)
    try:
        yield running
    finally:
        _running.reset(token)


@contextmanager
def attending(layers: InLayers | None) -> Iterator[None]:
    """Use a layer prompt for the forward pass of one model; others are used by `entering`."""
    if not isinstance(layers, LayerPrompt):
        yield
        return
    with _observing(_Pass(layers)):
        yield


@contextmanager
def finding_sites(kinds: Mapping[tuple[int, int], str]) -> Iterator[list[Site]]:
    """Collect the sites that a forward pass calls; `kinds` maps numbers of queries and keys to kinds."""
    sites: list[Site] = []
    with _observing(_Pass(kinds=kinds, sites=sites)):
        yield sites


@contextmanager
def entering(layers: LatePrompt | DeepPrompt | None, mask_BS: Tensor | None = None) -> Iterator[list[int]]:
    """Use a late or deep prompt for the forward pass of one stack; yield a list of the widths of the states
    that enter the layers. A late prompt is made from the slots that `mask_BS` marks."""
    late = layers if isinstance(layers, LatePrompt) else None
    deep = layers if isinstance(layers, DeepPrompt) else None
    with _observing(_Pass(late=late, mask_BS=mask_BS, deep=deep)) as running:
        yield running.widths


def layers_of(stack: nn.Module) -> list[nn.Module]:
    """Return the layers of a stack: the members of its outermost lists."""
    lists = {name: m for name, m in stack.named_modules() if isinstance(m, nn.ModuleList)}
    return [
        layer
        for name, found in lists.items()
        if not any(name.startswith(f"{other}.") for other in lists)
        for layer in found
    ]


def count_layers(stack: nn.Module) -> None:
    """Let late and deep prompts enter before the layers of a stack."""
    for layer in layers_of(stack):
        layer.register_forward_pre_hook(_before_layer, with_kwargs=True)


def _before_layer(
    layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Let the late prompt of the running pass enter where this layer is its layer; add a deep one."""
    running = _running.get()
    if running is None:
        return None
    states: Tensor = args[0] if args else options["hidden_states"]
    number, late, deep = len(running.widths), running.late, running.deep
    running.widths.append(states.shape[-1])
    if late is not None and number == late.layer:
        states = _entered(states, late, running.mask_BS)
    elif deep is not None and number > 0:
        states = _added(number, states, deep)
    else:
        return None
    return ((states, *args[1:]), options) if args else (args, {**options, "hidden_states": states})


def _entered(states: Tensor, late: LatePrompt, mask_BS: Tensor | None) -> Tensor:
    """Return states with a late prompt in the first slots; each choice of an example has a row."""
    assert mask_BS is not None
    rows, first = len(states) // len(mask_BS), late.num_tokens
    vectors = late.make(states[::rows, first : first + mask_BS.shape[1]], mask_BS)
    if late.keep_BP is not None:
        vectors = vectors * late.keep_BP[..., None]
    return torch.cat([vectors.to(states.dtype).repeat_interleave(rows, 0), states[:, first:]], dim=1)


def _added(number: int, states: Tensor, deep: DeepPrompt) -> Tensor:
    """Return the states that enter a layer with a deep prompt; each choice of an example has a row, and what
    follows the text is not read."""
    slots_BP, mask_BS = deep.slot_of_vector_BP, deep.text_mask_BS
    assert slots_BP is not None and mask_BS is not None
    rows = len(states) // len(mask_BS)
    vectors = deep.make(number, states[::rows, : mask_BS.shape[1]], mask_BS)
    if deep.keep_BP is not None:
        vectors = vectors * deep.keep_BP[..., None]
    slots = slots_BP[..., None].expand_as(vectors)
    added, slots = (each.repeat_interleave(rows, 0) for each in (vectors.to(states.dtype), slots))
    return states.scatter_add(1, slots, added)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    fused: bool,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    running, watcher, num_keys = _running.get(), _watcher.get(), key.shape[2]
    if running is not None:
        attention_mask = running.hiding(attention_mask)
        if running.sites is not None:
            kind = running.kinds.get((query.shape[2], key.shape[2]), "encoder")
            running.sites.append(Site(kind, key.shape[1], key.shape[3]))
        elif running.layers is not None:
            keys, values = running.layers.keys[running.calls], running.layers.values[running.calls]
            if keys is not None and values is not None:
                rows = len(key) // len(keys)  # each choice of an example has a row
                key, value = (
                    torch.cat([new.to(old.dtype).repeat_interleave(rows, 0), old], dim=2)
                    for new, old in ((keys, key), (values, value))
                )
                keep_BP = running.layers.keep_BP
                kept = None if keep_BP is None else keep_BP.detach().repeat_interleave(rows, 0)
                attention_mask = _wider_mask(attention_mask, kept, query, keys.shape[2], key.shape[2])
                if position_bias is not None:
                    position_bias = nn.functional.pad(position_bias, (keys.shape[2], 0))
        running.calls += 1
    if position_bias is not None and attention_mask is not None and not position_bias.requires_grad:
        attention_mask, position_bias = _merged(position_bias, attention_mask), None
    if fused and watcher is None:
        function = ALL_ATTENTION_FUNCTIONS["sdpa"]
        attended: tuple[Tensor, None] = function(
            module, query, key, value, attention_mask, position_bias=position_bias, **options
        )
        return attended
    state, weights = _plain(module, query, key, value, attention_mask, position_bias, **options)
    if watcher is not None:
        watcher(weights, num_keys)
    return state, weights


def _merged(position_bias: Tensor, mask: Tensor) -> Tensor:
    """Add a frozen bias and an additive mask once per pass: T5 passes the same two to every layer."""
    cached = getattr(position_bias, "_dp_bench_merged", None)
    if cached is None or cached[0] is not mask:
        cached = (mask, position_bias + mask)
        position_bias._dp_bench_merged = cached  # type: ignore[attr-defined]
    merged: Tensor = cached[1]
    return merged


def _wider_mask(
    mask: Tensor | None, keep_BP: Tensor | None, query: Tensor, num_new: int, num_keys: int
) -> Tensor | None:
    """Extend an additive mask [B,1,queries,keys] by new keys: 0 where a vector is kept, else the lowest
    number."""
    if mask is None and keep_BP is None:
        return None
    num_rows, num_queries = query.shape[0], query.shape[2]
    if mask is None:
        mask = query.new_zeros(1, 1, 1, num_keys - num_new)
    mask = mask.expand(num_rows, -1, num_queries, -1)
    new = mask.new_zeros(num_rows, 1, 1, num_new)
    if keep_BP is not None:
        new = new.masked_fill(keep_BP[:, None, None] < 0.5, torch.finfo(mask.dtype).min)
    return torch.cat([new.expand(-1, mask.shape[1], num_queries, -1), mask], dim=-1)


def _plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    position_bias: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if position_bias is not None:
        scores = scores + position_bias
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    if dropout:
        weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _mixed(*args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    return _attention(*args, fused=not torch.is_grad_enabled(), **options)


def _mask(*args: Any, **options: Any) -> Tensor:
    """Return an additive mask, which `_wider_mask` can extend, also for a batch without padding.

    To find out that there is none, the processor would wait for a GPU in each stack.
    """
    made: Tensor = ALL_MASK_ATTENTION_FUNCTIONS["eager"](
        *args, **{**options, "allow_is_bidirectional_skip": False}
    )
    return made


_FUNCTIONS = {
    NAMES["eager"]: partial(_attention, fused=False),
    NAMES["sdpa"]: partial(_attention, fused=True),
    MIXED: _mixed,
}
for _name, _function in _FUNCTIONS.items():
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, _mask)
