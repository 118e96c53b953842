"""Zero-shot answers without the model's preference for some labels: contextual calibration.

Zhao et al. (ICML 2021), section 5: the probabilities p of the labels are divided by those that the model
gives where the text says nothing, p_cf, the mean over the content-free texts "N/A", "[MASK]" and the empty
text: argmax diag(p_cf)^-1 p. It reads no example and no label, so that it is the same in every regime; a
prior that is estimated from unlabelled training texts would depend on which rows these are. Choices that
differ by example are scored in the same way, each with its probability behind the content-free texts, as by
the domain-conditional mutual information of Holtzman et al. (EMNLP 2021).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dp_bench.backbones.backbone import Backbone
from dp_bench.data.encode import Encoder
from dp_bench.data.template import Template
from dp_bench.methods.context import RunContext
from dp_bench.prompts.layout import insert
from dp_bench.settings import RunSettings, Scoring, SplitOrder, TaskSettings
from dp_bench.types import Batch, Example, Prompted, PromptOutput
from dp_bench.verbalizer import Verbalizer

CONTENT_FREE = ("N/A", "[MASK]", "")  # what every field of the template is filled with


def calibrated(context: RunContext) -> tuple[Verbalizer, ...]:
    """Return the calibrated verbalizers of a run's tasks."""
    settings, backbone, tasks = context.settings, context.backbone, context.experiment.tasks
    pairs = zip(context.verbalizers, tasks, strict=True)
    return tuple(Calibrated(scorer, content_free(settings, task, backbone)) for scorer, task in pairs)


def content_free(settings: RunSettings, task: TaskSettings, backbone: Backbone) -> Batch:
    """Return the content-free texts of a task, without those in which there is no token to read."""
    filled = [Example(text, dict.fromkeys(task.fields, text), (), None, text, text) for text in CONTENT_FREE]
    cue = settings.cue_of(task)
    encoder = Encoder(Template.of(task), backbone.tokenizer, task.max_length, Scoring.words, cue)
    encoded = encoder.in_memory(filled)
    batch = encoded.collate(range(len(encoded)), backbone.tokenizer.pad_token_id)
    return _rows(batch, torch.nonzero(batch.body_end_B >= batch.body_start_B)[:, 0])


def _rows(batch: Batch, rows: Tensor) -> Batch:
    tensors: dict[str, Any] = {n: x[rows] for n, x in vars(batch).items() if isinstance(x, Tensor)}
    return replace(batch, **tensors)


class Calibrated(Verbalizer):
    """Subtract the log-probabilities of the choices behind content-free texts from their logits."""

    def __init__(self, scorer: Verbalizer, free: Batch) -> None:
        super().__init__()
        self.scorer, self.free = scorer, free
        self._prior_C: Tensor | None = None  # of label words, which are the same for every example

    def read(self, backbone: Backbone, prompted: Prompted, batch: Batch) -> Tensor:
        return self.scorer.read(backbone, prompted, batch)

    def logits(self, backbone: Backbone, read: Tensor, batch: Batch) -> Tensor:
        logits_BC = self.scorer.logits(backbone, read, batch)
        return logits_BC - self._log_prior(backbone, batch).masked_fill(logits_BC.isneginf(), 0.0)

    @torch.no_grad()
    def _log_prior(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Return log p_cf of the choices of each example: [B,C]."""
        if batch.choice_ids_BCA is None:
            if self._prior_C is None:
                self._prior_C = self._shares(backbone, self.free.to(backbone.device)).mean(0).log()
            return self._prior_C.expand(len(batch), -1)
        total_BC = torch.stack(
            [self._of_choices(backbone, batch, number) for number in range(len(self.free))]
        )
        return total_BC.mean(0).log()

    def _of_choices(self, backbone: Backbone, batch: Batch, number: int) -> Tensor:
        """Return the probabilities of each example's choices behind one of the content-free texts: [B,C]."""
        free = _rows(self.free, torch.full((len(batch),), number)).to(backbone.device)
        ids_BCA, mask_BCA = batch.choice_ids_BCA, batch.choice_mask_BCA
        return self._shares(backbone, replace(free, choice_ids_BCA=ids_BCA, choice_mask_BCA=mask_BCA))

    def _shares(self, backbone: Backbone, free: Batch) -> Tensor:
        """Return the probabilities of the choices behind content-free texts, which sum to 1."""
        x_BTD = backbone.embed(free.ids_BT)
        nothing = PromptOutput(x_BTD.new_zeros(len(free), 0, x_BTD.shape[-1]), x_BTD.new_ones(len(free), 1))
        prompted = insert(x_BTD, free, nothing, SplitOrder.paper)
        return torch.softmax(self.scorer(backbone, prompted, free), dim=-1)
