"""Vectors that mix prompts of other tasks: ATTEMPT (Asai et al., EMNLP 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dp_bench import reading
from dp_bench.prompts.init import Initialiser
from dp_bench.prompts.pruned import Pruned
from dp_bench.prompts.vectors import PromptVectors, Vectors, first_prompts, mixed
from dp_bench.types import Dims, UserError

PROMPT = "vectors.prompt_PD"  # the name of a single prompt in the file of its run


class SourceAttention(Vectors):
    """A prompt of the task plus an attention over source prompts and that prompt (section 3.3):

        h = LayerNorm(W_up silu(W_down x)),   a = softmax_j(max(P_j) h / T),   P(x) = P + sum_j a_j P_j

    x is the maximum of the text's embeddings, max(P_j) that of a prompt's vectors, T = e D unless
    `temperature` is given; j = 1..K are the sources and K + 1 the task's prompt. Sources that come from runs
    are frozen (`load_sources`); without any, K prompts are trained in their place.
    """

    needs_summary = True

    def __init__(
        self,
        num_tokens: int,
        dims: Dims,
        init: Initialiser,
        *,
        num_prompts: int,
        hidden: int,
        temperature: float | None,
        sources: Sequence[str] | None,
    ) -> None:
        super().__init__(num_tokens)
        self.num_prompts = num_prompts + 1
        self.prompt_PD = nn.Parameter(init(num_tokens))
        sources_KPD = first_prompts(init, num_prompts, num_tokens)
        self.sources_KPD = nn.Parameter(sources_KPD, requires_grad=not sources)
        self.down = nn.Linear(dims.summary_width, hidden, bias=False)
        self.up = nn.Linear(hidden, dims.width, bias=False)
        self.norm = nn.LayerNorm(dims.width)
        self.temperature = temperature or math.e * dims.width

    @torch.no_grad()
    def take_sources(self, prompts_KPD: Sequence[Tensor]) -> None:
        """Use these prompts as sources."""
        self.sources_KPD.copy_(torch.stack(list(prompts_KPD)))

    def forward(self, summary_BD: Tensor | None, task_B: Tensor) -> PromptVectors:
        prompts_KPD = torch.cat([self.sources_KPD, self.prompt_PD[None]])
        query_BD = self.norm(self.up(nn.functional.silu(self.down(summary_BD))))
        scores_BK = query_BD @ prompts_KPD.amax(1).T / self.temperature
        weights_BK = torch.softmax(scores_BK, dim=-1)
        return PromptVectors(self.prompt_PD + mixed(weights_BK, prompts_KPD), weights_BK)

    def selector_parameters(self) -> list[nn.Parameter]:
        return [p for layer in (self.down, self.up, self.norm) for p in layer.parameters()]


def load_sources(vectors: Vectors, width: int, files: Sequence[Path]) -> None:
    """Give vectors the prompts of finished runs. Raises UserError for a run without a single prompt, or with
    one of another shape."""
    assert isinstance(vectors, SourceAttention | Pruned)
    shape = torch.Size((vectors.num_tokens, width))
    prompts = []
    for path in files:
        found = reading.tensors(path, "Give another run in prompt.vectors.sources.").get(PROMPT)
        if found is None or found.shape != shape:
            has = "no single prompt" if found is None else f"a prompt of {_sizes(found.shape)}"
            raise UserError(
                f"prompt.vectors.sources: {path} has {has}, and {_sizes(shape)} is needed. Sources are "
                "runs of prompt=fixed with the same prompt.num_tokens and backbone."
            )
        prompts.append(found)
    vectors.take_sources(prompts)


def _sizes(shape: torch.Size) -> str:
    return " x ".join(map(str, shape))
