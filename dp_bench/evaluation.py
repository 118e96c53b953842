"""Predict a whole split with a prompted model, and score it as the benchmark does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dp_bench.data import metrics
from dp_bench.data.batches import evaluation_batches
from dp_bench.data.encode import EncodedSplit
from dp_bench.model import PromptedModel
from dp_bench.randomness import generator
from dp_bench.settings import SplitOrder, TaskSettings
from dp_bench.types import Batch


@dataclass(frozen=True)
class Split:
    """Encoded examples and what they are for: train, select or report.

    `summary_ND` has a row for each example of the whole file, which `Batch.row_B` addresses.
    """

    name: str
    encoded: EncodedSplit
    summary_ND: Tensor | None

    def __len__(self) -> int:
        return len(self.encoded)

    def batch(self, places: NDArray[np.int64], pad_id: int, noise: Mapping[str, Tensor]) -> Batch:
        """Return the examples at these places with their summaries and their rows of `noise` [len(self),
        J]."""
        batch = self.encoded.collate(places.tolist(), pad_id)
        summary_BD = None if self.summary_ND is None else self.summary_ND[batch.row_B]
        own = {name: draws[torch.from_numpy(places)] for name, draws in noise.items()}
        return batch.with_(summary_BD=summary_BD, noise=own)


@dataclass(frozen=True)
class Predictions:
    """One row an example, in the order of the split."""

    logits_NC: NDArray[np.float32]
    position_N: NDArray[np.int64]  # vectors before the text
    length_N: NDArray[np.int64]  # vectors kept
    pool_weights_NK: NDArray[np.float32] | None

    @property
    def choices(self) -> NDArray[np.int64]:
        best: NDArray[np.int64] = self.logits_NC.argmax(axis=1)
        return best


@torch.inference_mode()
def predict(
    model: PromptedModel, split: Split, *, batch_size: int, seed: int, sample: bool = False, step: int = 0
) -> Predictions:
    """Predict every row. Choices are arg-max; only random controls draw, the same draw each time.

    `sample` is the authors' protocol: selectors draw at evaluation too, anew at each `step`.
    """
    model.eval()
    prompt = model.prompt
    names = prompt.noisy_selectors(training=False, sample_at_eval=sample)
    stream = generator(seed, "evaluate", split.name, step if sample else 0)
    noise = prompt.draw_noise(len(split), stream, selectors=names)
    device = model.backbone.device
    pad_id = model.backbone.tokenizer.pad_token_id
    columns: dict[str, list[Tensor]] = {"logits": [], "position": [], "length": [], "weights": []}
    batches = evaluation_batches(split.encoded.lengths, batch_size)
    for rows in batches:
        answer = model(split.batch(rows, pad_id, noise).to(device))
        outcome_B = answer.prompt.before_BJ.argmax(-1)
        keep_BP = answer.prompt.keep_BP
        columns["logits"].append(answer.logits_BC)
        columns["position"].append(
            outcome_B if model.order is SplitOrder.paper else prompt.num_tokens - outcome_B
        )
        columns["length"].append(
            torch.full_like(outcome_B, prompt.num_tokens) if keep_BP is None else keep_BP.sum(1).long()
        )
        if answer.prompt.pool_weights_BK is not None:
            columns["weights"].append(answer.prompt.pool_weights_BK)
    back = np.argsort(np.concatenate(batches))
    columns["logits"] = _padded(columns["logits"])
    stacked = {name: torch.cat(parts).cpu().numpy()[back] for name, parts in columns.items() if parts}
    return Predictions(stacked["logits"], stacked["position"], stacked["length"], stacked.get("weights"))


def _padded(parts: list[Tensor]) -> list[Tensor]:
    """Give batches whose examples bring more or fewer choices the same width: -inf for a choice that is
    none."""
    widest = max(part.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return [pad(part, (0, widest - part.shape[1]), value=float("-inf")) for part in parts]


def score(
    task: TaskSettings, split: EncodedSplit, predictions: Predictions
) -> tuple[float, dict[str, float]]:
    """Return the task score, which is the mean of the task's metrics, and all metrics."""
    values = metrics.score(
        task.metrics,
        split.labels,
        predictions.choices,
        split.groups,
        len(task.labels),
        choices=split.choices,
        golds=split.golds,
    )
    return metrics.task_score(task.metrics, values), values
