"""Layers: keys and values that a prompt adds to every attention of the backbone, one pair a vector and site.

`sites` names where: encoder, decoder (self-attention of either kind of decoder), cross. A prompt counts its P
vectors the same at every site; a length selector drops them everywhere at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dp_bench.types import Dims, LayerPrompt, Site, UserError

KINDS = ("encoder", "decoder", "cross")


class Layers(nn.Module):
    """Base of both: forward returns keys and values [P,H,E] of each site that is used."""

    def __init__(self, dims: Dims, sites: Sequence[str]) -> None:
        super().__init__()
        self.all_sites = dims.sites
        self.used = [place for place, site in enumerate(dims.sites) if site.kind in sites]
        if not self.used:
            kinds = sorted({site.kind for site in dims.sites})
            raise UserError(
                f"prompt.layers.sites={list(sites)} names no attention of this backbone, which has "
                f"{', '.join(kinds)}."
            )

    @property
    def sites(self) -> list[Site]:
        return [self.all_sites[place] for place in self.used]

    def tables(self) -> list[Tensor]:
        """Return keys and values of each used site: [2,P,H,E]."""
        raise NotImplementedError

    def forward(self, num_rows: int, keep_BP: Tensor | None) -> LayerPrompt:
        """Return them for each example of a batch, in the places of all sites: [B,H,P,E]."""
        keys: list[Tensor | None] = [None] * len(self.all_sites)
        values: list[Tensor | None] = [None] * len(self.all_sites)
        for place, table in zip(self.used, self.tables(), strict=True):
            rows = table.transpose(1, 2)[:, None].expand(-1, num_rows, -1, -1, -1)
            if keep_BP is not None:
                rows = rows * keep_BP[:, None, :, None]
            keys[place], values[place] = rows
        return LayerPrompt(tuple(keys), tuple(values), keep_BP)


class Table(Layers):
    """A key and a value a vector and site, trained as they are (P-tuning v2, Liu et al., 2022)."""

    def __init__(self, num_tokens: int, dims: Dims, *, sites: Sequence[str] = KINDS) -> None:
        super().__init__(dims, sites)
        # As torch's embedding layers begin, which P-tuning v2 keeps its table in.
        self.tables_2PHE = nn.ParameterList(
            torch.randn(2, num_tokens, site.num_heads, site.head_width) for site in self.sites
        )

    def tables(self) -> list[Tensor]:
        return list(self.tables_2PHE)


class Mlp(Layers):
    """All keys and values of a kind of site out of P rows by a two-layer MLP (prefix tuning, Li and Liang,
    2021, section 4.3), which trains better than the table that it amounts to."""

    def __init__(
        self,
        num_tokens: int,
        dims: Dims,
        *,
        sites: Sequence[str] = KINDS,
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
        made = {kind: self.mlps[kind](rows_PD) for kind, rows_PD in self.rows_PD.items()}
        taken = dict.fromkeys(made, 0)
        tables = []
        for site in self.sites:
            width = 2 * site.num_heads * site.head_width
            own = made[site.kind][:, taken[site.kind] : taken[site.kind] + width]
            taken[site.kind] += width
            tables.append(own.unflatten(1, (2, site.num_heads, site.head_width)).transpose(0, 1))
        return tables
