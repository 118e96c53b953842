"""The input of selectors: a frozen summary, standardised, or with the label erased from it.

A selector that can predict the answer from the frozen features routes by it, and a pool becomes "a prompt
that says yes and a prompt that says no". `erase_label` is LEACE (Belrose et al., 2023): of all affine maps
after which no linear predictor of the label beats a constant, the one that changes the input
least in mean square:

    r(x) = x - W+ P W (x - mean),   W = Cov(x)^(-1/2),   P = projection onto the columns of W Cov(x, label)

Both are fitted to training rows alone, in float64, and saved with the prompt. LEACE erases only what is
linear in the label, and with it whatever of a sub-skill correlates with the label.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SelectorInput(nn.Module):
    """An affine map of summaries, `(x - center) @ map`; the identity until it is fitted."""

    center_D: Tensor
    map_DD: Tensor

    def __init__(self, width: int, *, standardise: bool, erase_label: bool) -> None:
        super().__init__()
        self.standardise, self.erase_label = standardise, erase_label
        self.register_buffer("center_D", torch.zeros(width))
        self.register_buffer("map_DD", torch.eye(width))

    def forward(self, summary_BD: Tensor) -> Tensor:
        """Return the transformed summaries: [B,D], fp32."""
        return (summary_BD - self.center_D) @ self.map_DD

    @torch.no_grad()
    def fit(self, x_MD: Tensor, labels_MC: Tensor) -> None:
        """Fit to summaries of training rows; `labels_MC` is one-hot, centred within each task."""
        x_MD = x_MD.double()
        center_D = x_MD.mean(0)
        scale_D = x_MD.std(0) if self.standardise else torch.ones_like(center_D)
        scale_D = torch.where(scale_D > 0, scale_D, 1.0)
        map_DD = torch.diag(1 / scale_D)
        if self.erase_label:
            map_DD = map_DD @ (torch.eye(len(center_D)) - erased(x_MD @ map_DD, labels_MC))
        self.center_D.copy_(center_D)
        self.map_DD.copy_(map_DD)


def erased(x_MD: Tensor, labels_MC: Tensor) -> Tensor:
    """Return the matrix R of LEACE for inputs as rows, `r(x) = x - (x - mean) @ R`: [D,D], in float64."""
    x_MD, labels_MC = x_MD.double(), labels_MC.double()
    centred_MD, labels_MC = x_MD - x_MD.mean(0), labels_MC - labels_MC.mean(0)
    covariance_DD = centred_MD.T @ centred_MD / len(x_MD)
    shared_DC = centred_MD.T @ labels_MC / len(x_MD)
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
    # A direction without variance has no covariance with the label: its inverse counts as 0.
    alive_D = values_D > values_D.max() * len(values_D) * torch.finfo(values_D.dtype).eps
    root_D = torch.where(alive_D, values_D, 0.0).sqrt()
    inverse_D = torch.where(alive_D, 1 / torch.where(alive_D, root_D, 1.0), 0.0)
    whiten_DD = (vectors_DD * inverse_D) @ vectors_DD.T
    unwhiten_DD = (vectors_DD * root_D) @ vectors_DD.T
    basis, sizes, _ = torch.linalg.svd(whiten_DD @ shared_DC, full_matrices=False)
    basis = basis[:, sizes > 1e-10]  # correlations: at most 1
    removed_DD: Tensor = unwhiten_DD @ basis @ basis.T @ whiten_DD
    return removed_DD.T
