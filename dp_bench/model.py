"""The model of all methods with a prompt: embed, summarise, prompt, insert, score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dp_bench.backbones.backbone import Backbone
from dp_bench.profiling import stage
from dp_bench.prompts.layout import insert
from dp_bench.prompts.prompt import Prompt
from dp_bench.settings import SplitOrder, Summary
from dp_bench.summaries import summarise
from dp_bench.types import Batch, Prompted, PromptOutput
from dp_bench.verbalizer import Verbalizer


@dataclass(frozen=True)
class Answer:
    """The logits of a batch, and what its prompt decided."""

    logits_BC: Tensor  # fp32 or finer
    prompt: PromptOutput


def answer_together(models: Sequence[PromptedModel], batches: Sequence[Batch]) -> list[Answer]:
    """Return the answer of each model to its batch, by one forward pass of the backbone that they share.

    The tasks of all batches are scored in one way: by words, by whole choices, or by a classifier. Raises
    ValueError for layer prompts, of which a forward pass has one.
    """
    if len(models) == 1:
        return [models[0](batches[0])]
    made = [model.prompted(batch) for model, batch in zip(models, batches, strict=True)]
    backbone = models[0].backbone
    verbalizers: list[Verbalizer] = [
        model.verbalizers[batch.task]  # type: ignore[misc]
        for model, batch in zip(models, batches, strict=True)
    ]
    parts = verbalizers[0].read_together(backbone, [prompted for prompted, _ in made], batches)
    answers = []
    for verbalizer, part, batch, (_, prompt) in zip(verbalizers, parts, batches, made, strict=True):
        answers.append(Answer(verbalizer.logits(backbone, part, batch), prompt))
    return answers


class PromptedModel(nn.Module):
    """A frozen backbone with a trained prompt and a verbalizer per task.

    Trained parameters are those of the prompt, of a classifier head, and those of the backbone that the
    method trains.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: Prompt,
        verbalizers: Sequence[Verbalizer],
        *,
        order: SplitOrder,
        summary: Summary,
        summary_pad_to: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prompt = prompt
        self.verbalizers = nn.ModuleList(verbalizers)
        self.order = order
        self.summary = summary
        self.summary_pad_to = summary_pad_to

    def forward(self, batch: Batch, temperature: float = 1.0) -> Answer:
        """Return the answer to a batch. Raises UserError where text and prompt exceed the positions."""
        prompted, prompt = self.prompted(batch, temperature)
        return Answer(self.score(prompted, batch), prompt)

    def prompted(self, batch: Batch, temperature: float = 1.0) -> tuple[Prompted, PromptOutput]:
        """Return the input of the backbone for a batch, and what its prompt decided."""
        x_BTD = self.embed(batch)
        summary_BD = self.summarise(batch) if self.prompt.needs_summary else None
        prompt = self.prompt(summary_BD, batch.task_B, batch.noise, temperature, batch.skill_B)
        return insert(x_BTD, batch, prompt, self.order), prompt

    def embed(self, batch: Batch) -> Tensor:
        """Return the embeddings of the texts of a batch, as the prompt changes them: [B,T,D]."""
        x_BTD = self.backbone.embed(batch.ids_BT)
        return x_BTD if self.prompt.text is None else self.prompt.text(x_BTD)

    @stage("backbone forward")
    def score(self, prompted: Prompted, batch: Batch) -> Tensor:
        """Return the logits of the choices: [B,C], fp32 or finer."""
        logits_BC: Tensor = self.verbalizers[batch.task](self.backbone, prompted, batch)
        return logits_BC

    @stage("summary")
    def summarise(self, batch: Batch) -> Tensor:
        """Return the cached summary of a batch, or compute it: [B,D], fp32 or finer."""
        if batch.summary_BD is not None:
            return batch.summary_BD
        return summarise(self.backbone, batch.ids_BT, batch.mask_BT, self.summary, pad_to=self.summary_pad_to)

    def trained_tensors(self) -> dict[str, Tensor]:
        """Return by name all that training changes: parameters and buffers of the prompt, and other trained
        parameters."""
        prompt = {f"prompt.{name}": value for name, value in self.prompt.state_dict(keep_vars=True).items()}
        others = {name: value for name, value in self.named_parameters() if value.requires_grad}
        return {**others, **prompt}

    @torch.no_grad()
    def load_trained(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the result of `trained_tensors`; raises KeyError where the names differ."""
        trained = self.trained_tensors()
        if trained.keys() != tensors.keys():
            raise KeyError(f"these do not match: {sorted(trained.keys() ^ tensors.keys())}")
        for name, value in trained.items():
            value.copy_(tensors[name])
