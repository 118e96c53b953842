"""Predict a split with a prompted model, and score the predictions as the benchmark does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dp_bench import finite, ranks
from dp_bench.data import metrics
from dp_bench.data.batches import evaluation_batches
from dp_bench.data.encoded import EncodedSplit
from dp_bench.machine import in_smaller_passes
from dp_bench.model import Answer, PromptedModel, answer_together
from dp_bench.profiling import stage
from dp_bench.prompts.estimators import forced
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
    position_M: NDArray[np.int64]  # vectors before the text, or the place inside it
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


@dataclass(frozen=True)
class Asked:
    """What a model is asked: to predict all examples of a split.

    Selectors take the arg-max; only random controls draw, by `seed` always alike. With `sample`, the authors'
    protocol, selectors draw at evaluation too, again at each `step`. `positions` [M], numbers of vectors
    before each text, and `routes` [M], members of routed vectors, replace those that the prompt would choose.
    """

    model: PromptedModel
    split: Split
    seed: int
    sample: bool = False
    step: int = 0
    positions: NDArray[np.int64] | None = None
    routes: NDArray[np.int64] | None = None

    def noise(self) -> dict[str, Tensor]:
        """Return the rows of noise, by selector [M,J]."""
        prompt = self.model.prompt
        names = prompt.noisy_selectors(training=False, sample_at_eval=self.sample)
        stream = generator(self.seed, "evaluate", self.split.name, self.step if self.sample else 0)
        drawn = prompt.draw_noise(len(self.split), stream, selectors=names)
        noise = {name: prompt.selectors[name].share_draws(draws) for name, draws in drawn.items()}
        if self.positions is not None:
            outcomes = _before(self.model, torch.from_numpy(self.positions))
            noise["position"] = forced(outcomes, prompt.position.num_outcomes)
        if self.routes is not None:
            noise["route"] = forced(torch.from_numpy(self.routes), prompt.vectors.num_prompts)
        return noise

    def output(self, answer: Answer, batch: Batch) -> dict[str, Tensor]:
        """Return what is kept of the answer to a batch, a row an example."""
        outcome_B, length_B = answer.prompt.before_BJ.argmax(-1), answer.prompt.length_B
        all_kept = torch.full_like(outcome_B, self.model.prompt.num_tokens)
        output = {
            "logits": answer.logits_BC,
            "finite": _finite(answer.logits_BC, batch),
            "position": _before(self.model, outcome_B),
            "length": all_kept if length_B is None else length_B,
            "weights": answer.prompt.pool_weights_BK,
        }
        return {name: x for name, x in output.items() if x is not None}


def _before(model: PromptedModel, outcomes: Tensor) -> Tensor:
    """Turn outcomes of the position selector into numbers of vectors before the text, or back; those inside
    the text stay."""
    return (
        outcomes
        if model.order is SplitOrder.paper or model.prompt.is_inside
        else model.prompt.vectors.num_tokens - outcomes
    )


def predict(model: PromptedModel, split: Split, *, batch_size: int, **options: Any) -> Predictions:
    """Predict all examples of a split; `options` are further fields of `Asked`."""
    return predict_together([Asked(model, split, **options)], batch_size)[0]


@torch.inference_mode()
def predict_together(asked: Sequence[Asked], batch_size: int) -> list[Predictions]:
    """Return the predictions of several models on one backbone, each of its split.

    The splits have the same examples. A forward pass has up to `batch_size` rows: some examples, with the
    prompt of every model. Raises RunFailedError where a logit is not finite.
    """
    models = [each.model for each in asked]
    for model in models:
        model.eval()
    noises = [each.noise() for each in asked]
    backbone = models[0].backbone
    pad_id = backbone.tokenizer.pad_token_id

    def output_of(rows: NDArray[np.int64]) -> list[dict[str, Tensor]]:
        read = [
            each.split.batch(rows, pad_id, noise).to(backbone.device)
            for each, noise in zip(asked, noises, strict=True)
        ]
        answers = answer_together(models, read)
        return [each.output(a, b) for each, a, b in zip(asked, answers, read, strict=True)]

    def batches_of(size: int) -> list[NDArray[np.int64]]:
        return evaluation_batches(asked[0].split.encoded.lengths, max(1, size // len(asked)))

    def outputs_of(size: int) -> list[list[dict[str, Tensor]]]:
        shares = ranks.share_of_rank(batches_of(size), in_step=backbone.is_sharded)
        made = [(output_of(rows), counts) for rows, counts in shares]
        outputs = [output for output, counts in made if counts]
        return [[{name: x.cpu() for name, x in output.items()} for output in batch] for batch in outputs]

    where = (f"on {asked[0].split.name}", "trainer.eval_batch_size")
    on_cpu, batch_size = in_smaller_passes(outputs_of, batch_size, *where)
    batches = batches_of(batch_size)
    # In the order of the ranks; rank r of R has batches r, r + R, r + 2R …
    gathered = [output for of_rank in ranks.from_all(on_cpu) for output in of_rank]
    size = ranks.size()
    order = np.argsort(np.concatenate([rows for rank in range(size) for rows in batches[rank::size]]))
    by_model = zip(*gathered, strict=True)
    return [_stacked(each, list(parts), order) for each, parts in zip(asked, by_model, strict=True)]


def _stacked(asked: Asked, outputs: list[dict[str, Tensor]], order: NDArray[np.int64]) -> Predictions:
    """Return the predictions from the outputs of all batches."""
    widest = max(output["logits"].shape[1] for output in outputs)  # choices; others are padded with -inf
    for output in outputs:
        missing = widest - output["logits"].shape[1]
        output["logits"] = torch.nn.functional.pad(output["logits"], (0, missing), value=float("-inf"))
    stacked = {name: torch.cat([o[name] for o in outputs]).numpy()[order] for name in outputs[0]}
    split = asked.split
    where = f"of {split.name} after update {asked.step}"
    finite.refuse_rows(split.encoded, stacked["finite"], "The logits are", where, asked.model)
    return Predictions(
        stacked["logits"],
        stacked["position"],
        stacked["length"],
        stacked.get("weights"),
        asked.model.prompt.vectors.is_routed,
    )


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
    encoded = split.encoded
    known = (encoded.labels, predictions.choices, encoded.groups, range(len(split.task.labels)))
    return score_of(split.task, metrics.Answers(*known, encoded.choices, encoded.golds))


def score_of(task: TaskSettings, answers: metrics.Answers) -> Score:
    """Return the score of answers to examples of a task."""
    values = metrics.score(task.metrics, answers)
    value = metrics.task_score(task.metrics, values)
    if not np.isfinite(value):
        raise finite.NotFiniteError(f"The score of {task.name} is {value}.")
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
