"""Late prompts: vectors that enter between two layers, by themselves or made from the states there.

LPT (Liu et al., EMNLP Findings 2022). The layers below see the text alone. What is left out or done
otherwise is in docs/later-methods.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dp_bench.pooling import state_of
from dp_bench.types import Dims, LatePrompt, UserError


class Late(nn.Module):
    """Base of all late prompts. `layer` counts the layers below the prompt; None: half of them.

    Raises UserError where there are no more than `layer` layers.
    """

    def __init__(self, num_tokens: int, dims: Dims, layer: int | None) -> None:
        super().__init__()
        num_layers = len(dims.layer_widths)
        self.layer = num_layers // 2 if layer is None else layer
        if self.layer >= num_layers:
            raise UserError(
                f"prompt.layers.layer={layer}: this backbone has {num_layers} layers, and a prompt enters "
                f"below one of them: use at most {num_layers - 1}."
            )
        self.num_tokens = num_tokens
        self.width = dims.layer_widths[self.layer]

    def make(self, states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Return the vectors [B,P,D] of texts with these states below the prompt."""
        raise NotImplementedError

    def network_parameters(self) -> list[nn.Parameter]:
        """Return the weights of a network that makes vectors."""
        return list(self.parameters())

    def forward(self, num_rows: int, keep_BP: Tensor | None) -> LatePrompt:
        """Return the late prompt of a batch."""
        return LatePrompt(self.layer, self.num_tokens, self.make, keep_BP)


class LateVectors(Late):
    """The same trained vectors for all texts. They start as rows of torch's embedding layers, as in the
    authors' code."""

    def __init__(self, num_tokens: int, dims: Dims, *, layer: int | None = None) -> None:
        super().__init__(num_tokens, dims, layer)
        self.prompt_PD = nn.Parameter(torch.randn(num_tokens, self.width))

    def make(self, states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        return self.prompt_PD.expand(len(states_BSD), -1, -1)

    def network_parameters(self) -> list[nn.Parameter]:
        return []


class LateGenerated(Late):
    """All vectors from one state of the text (naive prompt generator):

    P(x) = W_2 relu(W_1 h + b_1) + b_2,   h the mean of the states, the first, or the last
    """

    def __init__(
        self, num_tokens: int, dims: Dims, *, hidden: int, read: str = "mean", layer: int | None = None
    ) -> None:
        super().__init__(num_tokens, dims, layer)
        self.read = read
        self.down = nn.Linear(self.width, hidden)
        self.up = nn.Linear(hidden, num_tokens * self.width)

    def make(self, states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        state_BD = state_of(states_BSD.to(self.down.weight.dtype), mask_BS, self.read)
        vectors: Tensor = self.up(torch.relu(self.down(state_BD)))
        return vectors.view(len(vectors), self.num_tokens, self.width)


class LatePooled(Late):
    """Vector i from the i-th of P equal parts of the text (pooling prompt generator):

    v_i(x) = W_2 relu(pool_i(W_1 h + b_1)) + b_2,   h the states, pool_i their average or maximum

    Part i of n states is those from floor(i n / P) to before ceil((i + 1) n / P), which overlap where P does
    not divide n.
    """

    def __init__(
        self, num_tokens: int, dims: Dims, *, hidden: int, pooling: str = "max", layer: int | None = None
    ) -> None:
        super().__init__(num_tokens, dims, layer)
        self.pooling = pooling
        self.down = nn.Linear(self.width, hidden)
        self.up = nn.Linear(hidden, self.width)

    def make(self, states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        narrow_BSX = self.down(states_BSD.to(self.down.weight.dtype))
        i = torch.arange(self.num_tokens, device=mask_BS.device)[:, None]
        length_B11, rank_B1S = mask_BS.sum(1)[:, None, None], (mask_BS.cumsum(1) - 1)[:, None]
        first_BP1 = i * length_B11 // self.num_tokens
        end_BP1 = -(-(i + 1) * length_B11 // self.num_tokens)  # rounded up
        part_BPS = mask_BS[:, None] & (first_BP1 <= rank_B1S) & (rank_B1S < end_BP1)
        if self.pooling == "average":
            pooled_BPX = part_BPS.to(narrow_BSX.dtype) @ narrow_BSX / part_BPS.sum(2, keepdim=True)
        else:
            pooled_BPX = narrow_BSX[:, None].masked_fill(~part_BPS[..., None], -torch.inf).amax(2)
        return torch.as_tensor(self.up(torch.relu(pooled_BPX)))
