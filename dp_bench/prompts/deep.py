"""Deep prompts: vectors that are added to the states of the input's vectors before every layer but the first.

M-IDPG (Wu et al., NAACL 2022): the network of the vectors in the input makes those of the layers, too. What
is left out or done otherwise is in docs/later-methods.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_bench.pooling import state_of
from dp_bench.prompts.networks import Generator
from dp_bench.types import DeepPrompt, Dims, UserError


class DeepGenerated(nn.Module):
    """Vectors from one state of the text at each layer, by the network of the input's prompt:

    P_l(x) = W_2 gelu(W_1 h_l + b_1) + P_l,   h_l the mean of the text's states before layer l, the first, or
    the last; P_l a prompt of the task

    Raises UserError where the network does not fit the states, or there are no two layers.
    """

    def __init__(self, num_tokens: int, dims: Dims, vectors: Generator, *, read: str = "mean") -> None:
        super().__init__()
        widths = set(dims.layer_widths[1:])
        if not widths:
            raise UserError(
                "prompt/layers=deep_generated adds vectors between layers, and this backbone has one layer: "
                "drop it."
            )
        if widths != {dims.width} or dims.summary_width != dims.width:
            raise UserError(
                "prompt/layers=deep_generated shares a network which here reads summaries of width "
                f"{dims.summary_width} and makes vectors of width {dims.width}, and the states between the "
                f"layers of this backbone have width {max(widths)}: use prompt/layers=late_generated, or a "
                "backbone whose embeddings are as wide as its states."
            )
        # Starts as in the authors' code.
        self.task_XPD = nn.Parameter(torch.empty(len(dims.layer_widths) - 1, num_tokens, dims.width))
        nn.init.uniform_(self.task_XPD, -0.5, 0.5)
        self.generate = vectors.generate  # a method: the network stays a part of the vectors
        self.read = read

    def make(self, number: int, states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Return what is added before a layer: [B,P,D]."""
        state_BD = state_of(states_BSD.to(self.task_XPD.dtype), mask_BS, self.read)
        return self.generate(state_BD) + self.task_XPD[number - 1]

    def forward(self, num_rows: int, keep_BP: Tensor | None) -> DeepPrompt:
        """Return the deep prompt of a batch."""
        return DeepPrompt(self.make, keep_BP)
