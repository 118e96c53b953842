"""Vectors of which tokens and pieces were removed: XPrompt (Ma et al., EMNLP 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dp_bench.prompts.catalogue import left_over
from dp_bench.prompts.init import Initialiser
from dp_bench.prompts.vectors import PromptVectors, Vectors
from dp_bench.types import Dims, UserError


class Pruned(Vectors):
    """The prompt of a finished run without the vectors, then without the pieces, of the least importance.

    A vector is cut into k equal pieces. With a gate g_i before each vector and a gate z_ij before each piece,
    all of them 1, the importance is `E_x |dL(x) / dg_i|` and, once vectors are removed, `E_x |dL(x) / dz_ij|`
    over the training rows (sections 4.2.1 and 4.2.2). What is left starts from the values of that run
    (rewinding, section 4.3) and is trained; a removed vector is masked. `methods/pruning.py` removes.

    Raises UserError where k does not divide the width.
    """

    where_N: Tensor

    def __init__(
        self,
        num_tokens: int,
        dims: Dims,
        init: Initialiser,
        *,
        pieces: int,
        token_share: float,
        piece_share: float,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(num_tokens)
        if dims.width % pieces:
            raise UserError(
                f"prompt.vectors.pieces={pieces} must divide the width of vectors, {dims.width}: use one of "
                "its divisors, such as 16 or 4."
            )
        self.pieces = pieces
        shares = {"token_share": token_share, "piece_share": piece_share}
        self.num_kept, number = left_over(num_tokens, {"pieces": pieces, **shares})
        self.all_QX: Tensor | None = None  # the pieces of the source, while their importance is measured
        self.gates: list[Tensor] = []  # of the batches since then, [B,Q]
        self.pieces_NX = nn.Parameter(init(num_tokens).view(num_tokens * pieces, -1)[:number].clone())
        self.register_buffer("where_N", torch.arange(number))

    def take_sources(self, prompts_KPD: Sequence[Tensor]) -> None:
        """Measure gates of this prompt from now on, instead of using what is left of it."""
        (prompt_PD,) = prompts_KPD
        self.all_QX = prompt_PD.view(self.num_tokens * self.pieces, -1).clone()
        self.kept_Q = torch.ones(len(self.all_QX), dtype=torch.bool)

    def remove(self, importance_Q: Tensor, number: int) -> None:
        """Keep `number` of the remaining pieces, those of the largest importance."""
        importance_Q = importance_Q.where(self.kept_Q.to(importance_Q.device), -1.0)
        least_Q = importance_Q.argsort(stable=True).cpu()
        self.kept_Q[least_Q[: len(least_Q) - number]] = False

    @torch.no_grad()
    def rewind(self) -> None:
        """Start from the values that the source had in the remaining pieces."""
        assert self.all_QX is not None
        where_N = self.kept_Q.nonzero()[:, 0]
        self.where_N.copy_(where_N)
        self.pieces_NX.copy_(self.all_QX[where_N])
        self.all_QX, self.gates = None, []

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        weight_NX, shape = self.pieces_NX, (len(task_B), self.num_tokens, -1)
        if self.all_QX is not None:
            kept_Q = self.kept_Q.to(weight_NX)
            gates_BQ = kept_Q.repeat(len(task_B), 1).requires_grad_()
            self.gates.append(gates_BQ)
            vectors_BPD = (gates_BQ[..., None] * self.all_QX.to(weight_NX)).reshape(shape)
        else:
            kept_Q = weight_NX.new_zeros(self.num_tokens * self.pieces).index_fill(0, self.where_N, 1.0)
            empty_QX = weight_NX.new_zeros(len(kept_Q), weight_NX.shape[1])
            all_QX = empty_QX.index_copy(0, self.where_N, weight_NX)
            vectors_BPD = all_QX.view(shape[1:]).expand(shape)
        keep_P = kept_Q.view(self.num_tokens, self.pieces).amax(1)
        return PromptVectors(vectors_BPD, keep_BP=keep_P.expand(len(task_B), -1))

    def by_name(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        vectors_BPD, _, _, keep_BP = self(None, self.where_N.new_zeros(1))
        assert keep_BP is not None
        return {"": vectors_BPD[0][keep_BP[0] > 0]}
