"""Where the rows of a soft prompt start.

Lester et al. (2021) sample them from the embeddings of frequent tokens. `first_vocab` is what the authors'
code calls "from vocabulary": rows 0, 1, 2 … of the table, that is `<pad>`, `</s>`, `<unk>` and the first
pieces (docs/protocol.md B11).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dp_bench.settings import Init
from dp_bench.types import Dims

Initialiser = Callable[[int], Tensor]  # number of rows -> [rows, D], fp32

NUM_FREQUENT = 5000  # Lester et al. (2021), section 3.2; sentencepiece orders its pieces by frequency


def initialiser(kind: Init, dims: Dims, embedding_VD: Tensor | None) -> Initialiser:
    """Return the function that makes the first value of prompt rows. It draws from torch's global
    generator."""
    if kind is Init.uniform:
        return lambda rows: torch.rand(rows, dims.width) - 0.5
    if embedding_VD is None:
        raise ValueError(
            f"prompt.init={kind.value} needs the backbone's embedding table; use prompt.init=uniform"
        )
    table_VD = embedding_VD[: dims.vocab_size].detach().float()
    if kind is Init.first_vocab:
        return lambda rows: table_VD[torch.arange(rows) % len(table_VD)].clone()
    frequent = torch.tensor([i for i in range(len(table_VD)) if i not in dims.special_ids])[:NUM_FREQUENT]

    def sample(rows: int) -> Tensor:
        # Without replacement as far as the vocabulary reaches: two equal rows would stay equal in gradient.
        order = torch.cat([torch.randperm(len(frequent)) for _ in range(-(-rows // len(frequent)))])
        return table_VD[frequent[order[:rows]].to(table_VD.device)].clone()

    return sample
