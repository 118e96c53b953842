"""One state of a text from those of all its tokens: their mean, the first, or the last."""

from __future__ import annotations

import torch
from torch import Tensor


def state_of(states_BSD: Tensor, mask_BS: Tensor, read: str) -> Tensor:
    """Return the "mean" of the states that a mask marks, or the "first" or the "last" of them: [B,D]."""
    if read == "mean":
        weights_BS = mask_BS.to(states_BSD.dtype) / mask_BS.sum(1, keepdim=True)
        return torch.einsum("bs,bsd->bd", weights_BS, states_BSD)
    slots_BS = mask_BS.long() if read == "first" else mask_BS.long().cumsum(1)
    return states_BSD[torch.arange(len(slots_BS), device=slots_BS.device), slots_BS.argmax(1)]
