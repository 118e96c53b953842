"""Layers: keys and values that a prompt adds to attentions of the backbone, a pair per vector and site.

`sites` names the kinds: encoder, decoder (self-attention of either kind of decoder), cross. All sites have
the same P vectors; a length selector drops a vector at all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dp_bench.prompts.catalogue import SITES
from dp_bench.types import Dims, LayerPrompt, UserError


class Layers(nn.Module):
    """Base of both kinds. Raises UserError where `sites` names no attention of the backbone."""

    def __init__(self, dims: Dims, sites: Sequence[str]) -> None:
        super().__init__()
        self.num_sites = len(dims.sites)
        self.used = [index for index, site in enumerate(dims.sites) if site.kind in sites]
        self.sites = [dims.sites[index] for index in self.used]
        if not self.used:
            kinds = sorted({site.kind for site in dims.sites})
            raise UserError(
                f"prompt.layers.sites={list(sites)} names no attention of this backbone, which has "
                f"{', '.join(kinds)}."
            )

    def tables(self) -> list[Tensor]:
        """Return keys and values of each used site: [2,P,H,E], fp32."""
        raise NotImplementedError

    def forward(self, num_rows: int, keep_BP: Tensor | None) -> LayerPrompt:
        """Return the keys and values [B,H,P,E] of a batch, with None for sites that are not used."""
        keys: list[Tensor | None] = [None] * self.num_sites
        values: list[Tensor | None] = [None] * self.num_sites
        for index, table in zip(self.used, self.tables(), strict=True):
            rows = table.transpose(1, 2)[:, None].expand(-1, num_rows, -1, -1, -1)
            if keep_BP is not None:
                rows = rows * keep_BP[:, None, :, None]
            keys[index], values[index] = rows
        return LayerPrompt(tuple(keys), tuple(values), keep_BP)


class Table(Layers):
    """Keys and values as parameters (P-tuning v2, Liu et al., 2022)."""

    def __init__(self, num_tokens: int, dims: Dims, *, sites: Sequence[str] = SITES) -> None:
        super().__init__(dims, sites)
        # Initialised like torch's embedding layers, in which P-tuning v2 keeps its table.
        self.tables_2PHE = nn.ParameterList(
            torch.randn(2, num_tokens, site.num_heads, site.head_width) for site in self.sites
        )

    def tables(self) -> list[Tensor]:
        return list(self.tables_2PHE)


class Mlp(Layers):
    """All keys and values of a kind of site from P rows by a two-layer MLP (prefix tuning, Li and Liang,
    2021, section 4.3), which trains better than the table of its outputs."""

    def __init__(
        self,
        num_tokens: int,
        dims: Dims,
        *,
        sites: Sequence[str] = SITES,
        hidden: int | None = None,
    ) -> None:
        super().__init__(dims, sites)
        hidden = hidden or dims.width
        self.rows_PD = nn.ParameterDict()
        self.mlps = nn.ModuleDict()
        for kind in dict.fromkeys(site.kind for site in self.sites):
            width = sum(2 * site.num_heads * site.head_width for site in self.sites if site.kind == kind)
            self.rows_PD[kind] = nn.Parameter(torch.randn(num_tokens, dims.width))
            self.mlps[kind] = nn.Sequential(
                nn.Linear(dims.width, hidden), nn.Tanh(), nn.Linear(hidden, width)
            )

    def tables(self) -> list[Tensor]:
        outputs = {kind: self.mlps[kind](rows_PD) for kind, rows_PD in self.rows_PD.items()}
        first = dict.fromkeys(outputs, 0)
        tables = []
        for site in self.sites:
            width = 2 * site.num_heads * site.head_width
            columns = outputs[site.kind][:, first[site.kind] : first[site.kind] + width]
            first[site.kind] += width
            tables.append(columns.unflatten(1, (2, site.num_heads, site.head_width)).transpose(0, 1))
        return tables
