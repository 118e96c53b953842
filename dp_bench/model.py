"""The sentence the whole package says: embed, summarise, prompt, insert, score."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dp_bench.backbones.backbone import Backbone
from dp_bench.prompts.layout import insert
from dp_bench.prompts.prompt import Prompt
from dp_bench.prompts.summary import summarise
from dp_bench.settings import SplitOrder, Summary
from dp_bench.types import Batch, PromptOutput
from dp_bench.verbalizer import Verbalizer


@dataclass(frozen=True)
class Answer:
    """What the model says of a batch, and what its prompt decided."""

    logits_BC: Tensor
    prompt: PromptOutput


class PromptedModel(nn.Module):
    """A frozen backbone with a trained prompt. Only `learned` has parameters that require a gradient."""

    def __init__(
        self,
        backbone: Backbone,
        prompt: Prompt,
        verbalizer: Verbalizer,
        *,
        order: SplitOrder,
        summary: Summary,
        summary_pad_to: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prompt = prompt
        self.verbalizer = verbalizer
        self.order = order
        self.summary = summary
        self.summary_pad_to = summary_pad_to

    @property
    def learned(self) -> nn.Module:
        """What training changes: the prompt, or the backbone when it was thawed."""
        thawed = any(p.requires_grad for p in self.backbone.parameters())
        return self.backbone.model if thawed else self.prompt

    def forward(self, batch: Batch, temperature: float = 1.0) -> Answer:
        x_BTD = self.backbone.embed(batch.ids_BT)
        summary_BD = self.summarise(batch) if self.prompt.needs_summary else None
        prompt = self.prompt(summary_BD, batch.task_B, batch.noise, temperature)
        prompted = insert(x_BTD, batch, prompt, self.order)
        return Answer(self.verbalizer(self.backbone, prompted, batch), prompt)

    def summarise(self, batch: Batch) -> Tensor:
        """Return the batch's cached summary, or compute it."""
        if batch.summary_BD is not None:
            return batch.summary_BD
        return summarise(self.backbone, batch.ids_BT, batch.mask_BT, self.summary, pad_to=self.summary_pad_to)
