"""Predict a whole split with a prompted model, and score it as the benchmark does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dp_bench import finite, ranks
from dp_bench.data import metrics
from dp_bench.data.batches import evaluation_batches
from dp_bench.data.encode import EncodedSplit
from dp_bench.model import PromptedModel
from dp_bench.profiling import stage
from dp_bench.prompts.estimators import forced
from dp_bench.randomness import generator
from dp_bench.settings import SplitOrder, TaskSettings
from dp_bench.types import Batch


@dataclass(frozen=True)
class Split:
    """Encoded examples of a task and what they are for: train, select or report.

    `summary_ND` has a row for each example of the whole file, which `Batch.row_B` addresses. `number` is the
    task's place among those of the run, which picks its verbalizer; `prompt_task` the one whose selectors and
    factors the prompt uses, another one only where a prompt is tried on a task that it was not trained on.
    """

    name: str  # "select"; of several tasks "rte/select"
    task: TaskSettings
    encoded: EncodedSplit
    summary_ND: Tensor | None
    number: int = 0
    prompt_task: int = 0

    def __len__(self) -> int:
        return len(self.encoded)

    def with_inputs_of_others(self, seed: int) -> Split:
        """Return this split with every text's summary in the place of another one's: a control."""
        if self.summary_ND is None:
            return self
        rows = torch.from_numpy(self.encoded.rows)
        others = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
        summary_ND = self.summary_ND.clone()
        summary_ND[rows] = self.summary_ND[others]
        return replace(self, summary_ND=summary_ND)

    @stage("data")
    def batch(self, places: NDArray[np.int64], pad_id: int, noise: Mapping[str, Tensor]) -> Batch:
        """Return the examples at these places with their summaries and their rows of `noise` [len(self),
        J]."""
        batch = self.encoded.collate(places.tolist(), pad_id, self.prompt_task)
        summary_BD = None if self.summary_ND is None else self.summary_ND[batch.row_B]
        own = {name: draws[torch.from_numpy(places)] for name, draws in noise.items()}
        return replace(batch, task=self.number, summary_BD=summary_BD, noise=own)


@dataclass(frozen=True)
class Predictions:
    """One row an example, in the order of the split."""

    logits_NC: NDArray[np.float32]
    position_N: NDArray[np.int64]  # vectors before the text
    length_N: NDArray[np.int64]  # vectors kept
    pool_weights_NK: NDArray[np.float32] | None
    is_routed: bool = False  # the pool's heaviest member is what was chosen for an example

    @property
    def route_N(self) -> NDArray[np.int64] | None:
        """Which member of a pool each example has, or has most of; None where there is no such choice."""
        if not self.is_routed or self.pool_weights_NK is None:
            return None
        route: NDArray[np.int64] = self.pool_weights_NK.argmax(axis=1)
        return route

    @property
    def routes(self) -> list[int]:
        return [] if self.route_N is None else self.route_N.tolist()

    @property
    def choices(self) -> NDArray[np.int64]:
        best: NDArray[np.int64] = self.logits_NC.argmax(axis=1)
        return best


@torch.inference_mode()
def predict(
    model: PromptedModel,
    split: Split,
    *,
    batch_size: int,
    seed: int,
    sample: bool = False,
    step: int = 0,
    positions: NDArray[np.int64] | None = None,
    routes: NDArray[np.int64] | None = None,
) -> Predictions:
    """Predict every row. Choices are arg-max; only random controls draw, the same draw each time.

    `sample` is the authors' protocol: selectors draw at evaluation too, anew at each `step`. `positions` are
    numbers of vectors before each text to use in place of those that the prompt would choose, `routes` the
    members of its routed vectors.
    """
    model.eval()
    prompt = model.prompt
    names = prompt.noisy_selectors(training=False, sample_at_eval=sample)
    stream = generator(seed, "evaluate", split.name, step if sample else 0)
    drawn = prompt.draw_noise(len(split), stream, selectors=names)
    noise = {name: prompt.selectors[name].shared(draws) for name, draws in drawn.items()}
    num_vectors = prompt.vectors.num_tokens
    if positions is not None:
        outcomes = positions if model.order is SplitOrder.paper else num_vectors - positions
        noise["position"] = forced(torch.from_numpy(outcomes), num_vectors + 1)
    if routes is not None:
        noise["route"] = forced(torch.from_numpy(routes), prompt.vectors.num_prompts)
    device = model.backbone.device
    pad_id = model.backbone.tokenizer.pad_token_id
    columns: dict[str, list[Tensor]] = {
        name: [] for name in ("logits", "finite", "position", "length", "weights")
    }
    batches = evaluation_batches(split.encoded.lengths, batch_size)
    for rows in ranks.own_share(batches):
        batch = split.batch(rows, pad_id, noise).to(device)
        answer = model(batch)
        outcome_B = answer.prompt.before_BJ.argmax(-1)
        length_B = answer.prompt.length_B
        columns["logits"].append(answer.logits_BC)
        columns["finite"].append(_finite(answer.logits_BC, batch))
        columns["position"].append(outcome_B if model.order is SplitOrder.paper else num_vectors - outcome_B)
        columns["length"].append(
            torch.full_like(outcome_B, prompt.num_tokens) if length_B is None else length_B
        )
        if answer.prompt.pool_weights_BK is not None:
            columns["weights"].append(answer.prompt.pool_weights_BK)
    # In the order of the ranks, each with every so-manieth batch.
    columns = {
        name: [part for own in ranks.from_all([part.cpu() for part in parts]) for part in own]
        for name, parts in columns.items()
    }
    number = ranks.size()
    back = np.argsort(np.concatenate([rows for first in range(number) for rows in batches[first::number]]))
    columns["logits"] = _padded(columns["logits"])
    stacked = {name: torch.cat(parts).numpy()[back] for name, parts in columns.items() if parts}
    where = f"of {split.name} after update {step}"
    finite.refuse_rows(split.encoded, stacked["finite"], "The logits are", where, model)
    return Predictions(
        stacked["logits"],
        stacked["position"],
        stacked["length"],
        stacked.get("weights"),
        prompt.vectors.is_routed,
    )


def _finite(logits_BC: Tensor, batch: Batch) -> Tensor:
    """Tell whether the logits of all choices that an example has are finite: [B]."""
    finite_BC = logits_BC.isfinite()
    if batch.choice_mask_BCA is not None:
        finite_BC = finite_BC | ~batch.choice_mask_BCA.any(-1)
    return finite_BC.all(-1)


def _padded(parts: list[Tensor]) -> list[Tensor]:
    """Give batches whose examples bring more or fewer choices the same width: -inf for a choice that is
    none."""
    widest = max(part.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return [pad(part, (0, widest - part.shape[1]), value=float("-inf")) for part in parts]


@dataclass(frozen=True)
class Score:
    """The task score, which is the mean of the task's metrics, and all metrics, in 0..100."""

    value: float
    metrics: dict[str, float]


def score(split: Split, predictions: Predictions) -> Score:
    """Score predictions as the benchmark scores the split's task."""
    task, encoded = split.task, split.encoded
    answers = metrics.Answers(
        *(encoded.labels, predictions.choices, encoded.groups, len(task.labels)),
        *(encoded.choices, encoded.golds),
    )
    values = metrics.score(task.metrics, answers)
    value = metrics.task_score(task.metrics, values)
    finite.refuse_score(value, f"The score of {split.name}")
    return Score(value, values)


@dataclass(frozen=True)
class Report:
    """The predictions of a reported split, and their score."""

    split: Split
    predictions: Predictions
    score: Score


def mean_score(scores: Mapping[str, Score]) -> Score:
    """Return the mean over tasks, with metrics named `rte/accuracy`; of one task, its own score."""
    if len(scores) == 1:
        return next(iter(scores.values()))
    values = {f"{task}/{name}": v for task, own in scores.items() for name, v in own.metrics.items()}
    return Score(float(np.mean([own.value for own in scores.values()])), values)
