"""Predict a split with a prompted model, and score the predictions as the benchmark does."""

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
from dp_bench.data.encoded import EncodedSplit
from dp_bench.machine import in_smaller_passes
from dp_bench.model import PromptedModel
from dp_bench.profiling import stage
from dp_bench.prompts.estimators import forced
from dp_bench.prompts.prompt import Prompt
from dp_bench.randomness import generator
from dp_bench.settings import SplitOrder, TaskSettings
from dp_bench.types import Batch


@dataclass(frozen=True)
class Split:
    """Encoded examples of a task and their use: train, select or report.

    `summary_MD` has a row for each example of the whole file, which `Batch.row_B` indexes. `number` is the
    index of the task in the run, which chooses its verbalizer; `prompt_task` is the index of the task whose
    selectors and factors the prompt uses. They differ only for tasks that the prompt was not trained on.
    """

    name: str  # "select"; of several tasks "rte/select"
    task: TaskSettings
    encoded: EncodedSplit
    summary_MD: Tensor | None
    number: int = 0
    prompt_task: int = 0

    def __len__(self) -> int:
        return len(self.encoded)

    def with_shuffled_summaries(self, seed: int) -> Split:
        """Return this split with the summaries of its examples permuted: a control."""
        if self.summary_MD is None:
            return self
        rows = torch.from_numpy(self.encoded.rows)
        others = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
        summary_MD = self.summary_MD.clone()
        summary_MD[rows] = self.summary_MD[others]
        return replace(self, summary_MD=summary_MD)

    @stage("data")
    def batch(self, indices: NDArray[np.int64], pad_id: int, noise: Mapping[str, Tensor]) -> Batch:
        """Return the examples at these indices with their summaries and their rows of `noise`, by selector
        [len(self), J]."""
        batch = self.encoded.collate(indices.tolist(), pad_id, self.prompt_task)
        summary_BD = None if self.summary_MD is None else self.summary_MD[batch.row_B]
        batch_noise = {name: draws[torch.from_numpy(indices)] for name, draws in noise.items()}
        return replace(batch, task=self.number, summary_BD=summary_BD, noise=batch_noise)


@dataclass(frozen=True)
class Predictions:
    """The predictions of a split, one row an example, in the order of the split."""

    logits_MC: NDArray[np.float32]
    position_M: NDArray[np.int64]  # vectors before the text
    length_M: NDArray[np.int64]  # vectors used
    pool_weights_MK: NDArray[np.float32] | None
    is_routed: bool = False  # the member with the largest weight was chosen for the example

    @property
    def route_M(self) -> NDArray[np.int64] | None:
        """The route of each example: its member of the pool; None without a route."""
        if not self.is_routed or self.pool_weights_MK is None:
            return None
        route: NDArray[np.int64] = self.pool_weights_MK.argmax(axis=1)
        return route

    @property
    def routes(self) -> list[int]:
        """`route_M` as a list, empty without a route."""
        return [] if self.route_M is None else self.route_M.tolist()

    @property
    def choices(self) -> NDArray[np.int64]:
        """The predicted label or choice of each example [M]."""
        best: NDArray[np.int64] = self.logits_MC.argmax(axis=1)
        return best

    def losses(self, label_M: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the negative log-probability of each example's label among its choices, in nats [M]."""
        shifted_MC = self.logits_MC.astype(np.float64) - self.logits_MC.max(1, keepdims=True)
        losses_M: NDArray[np.float64] = (
            np.log(np.exp(shifted_MC).sum(1)) - shifted_MC[np.arange(len(label_M)), label_M]
        )
        return losses_M


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
    """Predict all examples of a split. Selectors take the arg-max; only random controls draw, always alike.

    With `sample`, the authors' protocol, selectors draw at evaluation too, again at each `step`. `positions`
    [M], numbers of vectors before each text, and `routes` [M], members of routed vectors, replace those that
    the prompt would choose. Raises RunFailedError where a logit is not finite.
    """
    model.eval()
    prompt = model.prompt
    noise = drawn_noise(prompt, split, seed, sample, step)
    num_vectors = prompt.vectors.num_tokens
    if positions is not None:
        outcomes = positions if model.order is SplitOrder.paper else num_vectors - positions
        noise["position"] = forced(torch.from_numpy(outcomes), num_vectors + 1)
    if routes is not None:
        noise["route"] = forced(torch.from_numpy(routes), prompt.vectors.num_prompts)
    device = model.backbone.device
    pad_id = model.backbone.tokenizer.pad_token_id

    def output_of(rows: NDArray[np.int64]) -> dict[str, Tensor]:
        batch = split.batch(rows, pad_id, noise).to(device)
        answer = model(batch)
        outcome_B = answer.prompt.before_BJ.argmax(-1)
        length_B = answer.prompt.length_B
        output = {
            "logits": answer.logits_BC,
            "finite": _finite(answer.logits_BC, batch),
            "position": outcome_B if model.order is SplitOrder.paper else num_vectors - outcome_B,
            "length": torch.full_like(outcome_B, prompt.num_tokens) if length_B is None else length_B,
            "weights": answer.prompt.pool_weights_BK,
        }
        return {name: value for name, value in output.items() if value is not None}

    def outputs_of(batches: list[NDArray[np.int64]]) -> list[dict[str, Tensor]]:
        outputs = [output_of(rows) for rows in ranks.share_of_rank(batches)]
        return [{name: value.cpu() for name, value in output.items()} for output in outputs]

    lengths = split.encoded.lengths
    on_cpu, batch_size = in_smaller_passes(
        lambda size: outputs_of(evaluation_batches(lengths, size)),
        *(batch_size, f"on {split.name}", "trainer.eval_batch_size"),
    )
    batches = evaluation_batches(lengths, batch_size)
    # In the order of the ranks; rank r of R has batches r, r + R, r + 2R …
    gathered = [output for of_rank in ranks.from_all(on_cpu) for output in of_rank]
    size = ranks.size()
    order = np.argsort(np.concatenate([rows for rank in range(size) for rows in batches[rank::size]]))
    widest = max(output["logits"].shape[1] for output in gathered)  # choices; others are padded with -inf
    for output in gathered:
        missing = widest - output["logits"].shape[1]
        output["logits"] = torch.nn.functional.pad(output["logits"], (0, missing), value=float("-inf"))
    stacked = {name: torch.cat([o[name] for o in gathered]).numpy()[order] for name in gathered[0]}
    where = f"of {split.name} after update {step}"
    finite.refuse_rows(split.encoded, stacked["finite"], "The logits are", where, model)
    return Predictions(
        stacked["logits"],
        stacked["position"],
        stacked["length"],
        stacked.get("weights"),
        prompt.vectors.is_routed,
    )


def drawn_noise(prompt: Prompt, split: Split, seed: int, sample: bool, step: int) -> dict[str, Tensor]:
    """Return the noise of each selector that draws at evaluation, for all examples of a split [M,X]."""
    names = prompt.noisy_selectors(training=False, sample_at_eval=sample)
    stream = generator(seed, "evaluate", split.name, step if sample else 0)
    drawn = prompt.draw_noise(len(split), stream, selectors=names)
    return {name: prompt.selectors[name].share_draws(draws) for name, draws in drawn.items()}


def _finite(logits_BC: Tensor, batch: Batch) -> Tensor:
    """Say whether the logits of all choices of an example are finite [B]."""
    finite_BC = logits_BC.isfinite()
    if batch.choice_mask_BCA is not None:
        finite_BC = finite_BC | ~batch.choice_mask_BCA.any(-1)
    return finite_BC.all(-1)


@dataclass(frozen=True)
class Score:
    """The score of a task, the mean of its metrics, and all metrics, in 0..100."""

    value: float
    metrics: dict[str, float]


def score(split: Split, predictions: Predictions) -> Score:
    """Score predictions with the metrics of the split's task."""
    task, encoded = split.task, split.encoded
    answers = metrics.Answers(
        *(encoded.labels, predictions.choices, encoded.groups, range(len(task.labels))),
        *(encoded.choices, encoded.golds),
    )
    values = metrics.score(task.metrics, answers)
    value = metrics.task_score(task.metrics, values)
    if not np.isfinite(value):
        raise finite.NotFiniteError(f"The score of {split.name} is {value}.")
    return Score(value, values)


@dataclass(frozen=True)
class Report:
    """The predictions of a split, and their score."""

    split: Split
    predictions: Predictions
    score: Score


def mean_score(scores: Mapping[str, Score]) -> Score:
    """Return the mean over tasks, with metrics named `rte/accuracy`; of a single task, its score."""
    if len(scores) == 1:
        return next(iter(scores.values()))
    values = {f"{task}/{name}": v for task, score in scores.items() for name, v in score.metrics.items()}
    return Score(float(np.mean([score.value for score in scores.values()])), values)
