"""The training loop: step, anneal, evaluate, keep the best, checkpoint, stop. No callbacks.

One counter counts updates. An update sees `batch_size` examples in micro-batches whose losses are weighted by
their share, so that accumulation equals the full batch. Batches, noise, learning rate and temperature are
functions of the seed and the counter; what is left to save is the prompt, the optimizer and the history.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dp_bench import finite, guards, profiling, ranks
from dp_bench.data.batches import Rows, mixing_rates, training_rows
from dp_bench.effective import OptimizerUsed, optimizer_of
from dp_bench.evaluation import Predictions, Score, Split, mean_score, predict, score
from dp_bench.model import PromptedModel
from dp_bench.objective import objective
from dp_bench.profiling import stage
from dp_bench.progress import Reporter
from dp_bench.randomness import derive, generator
from dp_bench.records import replace_file, write_json, write_lines, write_text
from dp_bench.settings import OptimizerName, RunSettings, Schedule, TemperatureSettings
from dp_bench.types import Batch


@dataclass
class Progress:
    """What the loop knows at the end of an update; saved with each checkpoint."""

    step: int = 0  # updates done
    best_step: int = 0
    best_score: float = -101.0  # below every score: a Matthews correlation goes down to -100
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_scores: dict[str, float] = field(default_factory=dict)  # of each task
    evaluations_since_best: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    trained_on: dict[str, str] = field(default_factory=dict)  # digests of the backbone
    warnings: list[str] = field(default_factory=list)  # given so far, by whatever part of the run


def temperature(settings: TemperatureSettings, step: int, max_steps: int) -> float:
    """Return tau at update `step`, counted from 0.

    `authors`: after each global step s their code multiplies the *running* tau by exp(-3e-5 s / aneal), down
    to 0.5, so that the exponent is the sum of all s so far (docs/protocol.md A7).
    """
    if settings.schedule is Schedule.constant:
        return settings.start
    if settings.schedule is Schedule.exponential:
        return settings.start * math.pow(settings.end / settings.start, step / max(1, max_steps - 1))
    return max(settings.end, settings.start * math.exp(-3e-5 / settings.anneal * step * (step + 1) / 2))


Groups = Sequence[nn.Parameter] | Sequence[dict[str, Any]]  # with learning rates of their own


def parameter_groups(
    parameters: list[nn.Parameter], apart: Collection[nn.Parameter], lr: float | None
) -> Groups:
    """Give those that stand `apart` the learning rate `lr`; where that is None they have none of their
    own."""
    chosen = {id(parameter) for parameter in apart}
    own = [parameter for parameter in parameters if id(parameter) in chosen]
    if lr is None or not own:
        return parameters
    others = [parameter for parameter in parameters if id(parameter) not in chosen]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": own, "lr": lr}]
    return groups


def make_optimizer(used: OptimizerUsed, parameters: Groups) -> torch.optim.Optimizer:
    """Return Adafactor as Lester et al. (2021) use it, without relative steps or scaling, or AdamW."""
    if used.name == OptimizerName.adamw.value:
        return torch.optim.AdamW(parameters, lr=used.lr, weight_decay=used.weight_decay)
    from transformers.optimization import Adafactor

    optimizer: torch.optim.Optimizer = Adafactor(
        parameters,
        lr=used.lr,
        weight_decay=used.weight_decay,
        relative_step=False,
        scale_parameter=False,
        warmup_init=False,
    )
    return optimizer


class Trainer:
    """Train the prompt of a model on one split of each task, select on another by the mean over tasks."""

    def __init__(
        self,
        model: PromptedModel,
        *,
        train: Sequence[Split],
        select: Sequence[Split],
        settings: RunSettings,
        directory: Path,
        accelerator: Accelerator,
        reporter: Reporter,
        trained_on: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self.trainer = settings.trainer
        self.train_splits = train
        self.select_splits = select
        self.directory = directory
        self.accelerator = accelerator
        self.reporter = reporter
        self.prompt = model.prompt
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        # Ranks share gradients themselves, once an update: no wrapper around the model.
        self.model = accelerator.prepare_model(model, evaluation_mode=ranks.size() > 1)
        used = optimizer_of(settings)
        if self.parameters and used is not None:
            groups = parameter_groups(self.parameters, model.prompt.choosing(), used.selector_lr)
            self.optimizer = accelerator.prepare(make_optimizer(used, groups))
            self.rates = [group["lr"] for group in self.optimizer.param_groups]
        factors = settings.regime.task_weights or {}
        self.weights = [factors.get(split.task.name, 1.0) for split in train]
        self.sample_at_eval = settings.protocol.sample_at_eval
        self.step_each_micro_batch = bool(settings.trainer.step_each_micro_batch)
        self.sum_losses = self.step_each_micro_batch or bool(settings.protocol.sum_losses)
        self.progress = Progress(trained_on=dict(trained_on or {}))
        self.best = self._state()

    def fit(self) -> Progress:
        """Train from the last checkpoint, or from the start, to the end, and leave the best prompt in the
        model."""
        self._resume()
        self._warn(guards.before_training(self.settings))
        t, last = self.trainer, self.trainer.max_steps
        self.reporter.begin("training", total=last, completed=self.progress.step)
        rows = training_rows(
            [split.encoded.lengths for split in self.train_splits],
            mixing_rates([len(split) for split in self.train_splits], self.settings.regime),
            batch_size=t.batch_size,
            bucket_batches=t.bucket_batches,
            seed=self.settings.seed_of("order"),
            start=self.progress.step,
        )
        losses: list[float] = []
        while self.progress.step < last and not self._should_stop():
            started = time.perf_counter()
            losses.append(self._update(next(rows), self.progress.step))
            self.progress.step += 1
            self.progress.train_seconds += time.perf_counter() - started
            self.reporter.advance(note=f"loss {losses[-1]:.3f}")
            if self.progress.step % t.eval_every == 0 or self.progress.step == last:
                self._evaluate(float(np.mean(losses)))
                self.progress.warnings = self.reporter.share_warnings()
                if ranks.leads():
                    self._checkpoint()
                losses.clear()
        self.reporter.finish()
        if t.profile and ranks.size() == 1:
            self._profile(rows)
        self._bare_model.load_trained(self.best)
        return self.progress

    def evaluate_only(self) -> Progress:
        """Score a model that has nothing to train."""
        self._evaluate(None)
        return self.progress

    def _profile(self, rows: Iterator[tuple[Rows, ...]]) -> None:
        """Record where the time goes in updates that are thrown away; leave trace and summary."""
        recorded: Any = profiling.record(
            lambda: self._update(next(rows), self.progress.step), lambda: self._predict(self.select_splits[0])
        )
        folder = self.directory / "profile"
        text = profiling.summary(recorded.events())
        replace_file(folder / "trace.json", lambda path: recorded.export_chrome_trace(str(path)))
        write_text(folder / "summary.txt", text + "\n")
        for line in text.splitlines():
            self.reporter.line(line)
        self.reporter.line(f"written: {folder / 'trace.json'} (for a trace viewer such as Perfetto)")

    def _should_stop(self) -> bool:
        patience = self.trainer.patience
        return patience is not None and self.progress.evaluations_since_best >= patience

    def _update(self, places: tuple[Rows, ...], step: int) -> float:
        """Make one update with the examples at these places of each task; return their mean loss."""
        self.model.train()
        seed = self.settings.seed_of("gumbel")
        torch.manual_seed(derive(seed, "dropout", step))  # nothing else draws from it here
        tau = temperature(self.trainer.temperature, step, self.trainer.max_steps)
        total = torch.zeros((), device=self.accelerator.device)
        num_examples = sum(map(len, places))
        self.prompt.begin_update(step, self.trainer.max_steps)
        number = 0
        for number, (micro_batch, is_last) in enumerate(self._micro_batches(places, step)):
            share = len(micro_batch) / num_examples
            goal = objective(self.model, self.prompt, micro_batch, tau)
            total += goal.loss * share
            loss = goal.to_minimise * self.weights[micro_batch.task]
            if goal.added is not None:
                loss = loss + goal.added
            self._backward(loss if self.sum_losses else loss * share)
            if self.step_each_micro_batch and not is_last:
                self._step_optimizer(step, number)
        ranks.sum_gradients(self.parameters)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.trainer.max_grad_norm)
        mean_loss = float(ranks.total(total))
        if not (math.isfinite(mean_loss) and math.isfinite(float(norm))):
            self._refuse_update(places, step, tau, mean_loss, float(norm))
        self._step_optimizer(step, number)
        self.prompt.end_update()
        return mean_loss

    def _refuse_update(
        self, places: tuple[Rows, ...], step: int, tau: float, loss: float, norm: float
    ) -> NoReturn:
        """Say of an update that is not finite which example is the first to make it so by itself."""
        what = f"The loss is {loss}" if not math.isfinite(loss) else f"The norm of the gradients is {norm}"
        found = ", by no single example of it"
        for batch, _ in self._micro_batches(places, step, size=1):
            self.optimizer.zero_grad()
            goal = objective(self.model, self.prompt, batch, tau)
            if math.isfinite(float(goal.loss)):
                goal.to_minimise.backward()  # type: ignore[no-untyped-call]
            grads = [p.grad for p in self.parameters if p.grad is not None]
            if not (math.isfinite(float(goal.loss)) and all(bool(g.isfinite().all()) for g in grads)):
                encoded = self.train_splits[batch.task].encoded
                first = encoded.ids[int(np.flatnonzero(encoded.rows == int(batch.row_B))[0])]
                found = f", first by the example {first}"
                break
        raise finite.NotFiniteError(
            f"{what} at update {step + 1}{found}. {finite.likely_cause(self._bare_model)}"
        )

    def _refuse_parameters(self) -> None:
        """Refuse to go on with, or to keep, what is not finite."""
        if not all(bool(p.detach().isfinite().all()) for p in self.parameters):
            raise finite.NotFiniteError(
                f"What was trained is not finite after update {self.progress.step}. "
                f"{finite.likely_cause(self._bare_model)}"
            )

    def _micro_batches(
        self, places: tuple[Rows, ...], step: int, size: int | None = None
    ) -> Iterator[tuple[Batch, bool]]:
        """Cut an update's examples, task by task, with their noise, which is drawn for the whole update at
        once; give those that fall to this rank, and whether one is the update's last."""
        names = self.prompt.noisy_selectors(training=True, sample_at_eval=self.sample_at_eval)
        stream = generator(self.settings.seed_of("gumbel"), "noise", step)
        left = sum(map(len, places))
        noise = self.prompt.draw_noise(left, stream, selectors=names)
        size = size or self.trainer.micro_batch_size or -(-left // ranks.size())
        turn = 0
        for split, own in zip(self.train_splits, places, strict=True):
            for part in (own[first : first + size] for first in range(0, len(own), size)):
                here = {name: draws[len(draws) - left :][: len(part)] for name, draws in noise.items()}
                left -= len(part)
                if turn % ranks.size() == ranks.rank():
                    batch = split.batch(part, self._pad_id, {})
                    yield batch.with_(noise=here).to(self.accelerator.device), left == 0
                turn += 1

    @stage("backward")
    def _backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    @stage("optimizer")
    def _step_optimizer(self, step: int, number: int) -> None:
        """Step after micro-batch `number` of update `step`, both counted from 0."""
        warmup = self._warmup(step, number)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * warmup
        if (step + 1) % self.trainer.eval_every == 0:
            self._warn(guards.of_gradients(self._named_parameters()))
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _warmup(self, step: int, number: int) -> float:
        """Return the share of the learning rate that a step of the optimizer has."""
        t = self.trainer
        done = step  # steps of the optimizer before this one
        if self.step_each_micro_batch:
            done = step * -(-t.batch_size // (t.micro_batch_size or t.batch_size)) + number
        counted = done if self.settings.protocol.warmup_from_zero else done + 1
        return min(1.0, counted / t.warmup_steps) if t.warmup_steps else 1.0

    def _evaluate(self, mean_loss: float | None) -> None:
        started = time.perf_counter()
        progress = self.progress
        self._refuse_parameters()
        predictions = {split.task.name: self._predict(split) for split in self.select_splits}
        scores = {s.task.name: score(s, predictions[s.task.name]) for s in self.select_splits}
        overall = mean_score(scores)
        if mean_loss is not None:
            self._look_at(predictions)
        progress.evaluations_since_best += 1
        if overall.value > progress.best_score:
            self._keep(overall, scores)
        progress.eval_seconds += time.perf_counter() - started
        tau = temperature(self.trainer.temperature, progress.step - 1, self.trainer.max_steps)
        progress.history.append(
            {
                "step": progress.step,
                "loss": None if mean_loss is None else round(mean_loss, 6),
                "select_score": overall.value,
                "select_metrics": overall.metrics,
                "temperature": tau,
                **describe(predictions, self.prompt.num_tokens),
                "train_seconds": round(progress.train_seconds, 3),
                "eval_seconds": round(progress.eval_seconds, 3),
            }
        )
        if ranks.leads():
            write_lines(self.directory / "metrics.jsonl", progress.history)
        if mean_loss is None:
            return
        best = "  best so far" if progress.best_step == progress.step else ""
        last = str(self.trainer.max_steps)
        self.reporter.line(
            f"step {progress.step:>{len(last)}}/{last}  loss {mean_loss:.4f}  "
            f"select {overall.value:.2f}  {progress.train_seconds:.0f} s{best}"
        )

    @stage("evaluation")
    def _predict(self, split: Split) -> Predictions:
        return predict(
            self._bare_model,
            split,
            batch_size=self.trainer.eval_batch_size,
            seed=self.settings.seed_of("gumbel"),
            sample=self.sample_at_eval,
            step=self.progress.step,
        )

    def _look_at(self, predictions: Mapping[str, Predictions]) -> None:
        for split in self.select_splits:
            own = predictions[split.task.name]
            self._warn(guards.of_predictions(own.choices, split.name))
            for name, outcomes in (("position", own.position_N), ("length", own.length_N)):
                if self.prompt.selectors[name].is_per_text:
                    self._warn(guards.of_outcomes(name, outcomes, split.name))
            if own.is_routed and own.pool_weights_NK is not None:
                self._warn(guards.of_pool(own.pool_weights_NK, split.name))

    def _warn(self, found: Iterable[str]) -> None:
        for text in found:
            self.reporter.warn(text)

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what is trained by gradient of the prompt and of a classifier head.

        A backbone has gradients that are 0 by nature: with one answer step, those of the queries of a
        decoder's attention to itself.
        """
        fitted = {
            id(p) for own in self.prompt.selectors.values() if own.fits_itself for p in own.parameters()
        }
        for name, parameter in self._bare_model.named_parameters():
            own = parameter.numel() and parameter.requires_grad and id(parameter) not in fitted
            if own and not name.startswith("backbone."):
                yield name, parameter

    def _keep(self, overall: Score, scores: dict[str, Score]) -> None:
        progress = self.progress
        progress.best_step = progress.step
        progress.best_score, progress.best_metrics = overall.value, overall.metrics
        progress.best_scores = {task: own.value for task, own in scores.items()}
        progress.evaluations_since_best = 0
        self.best = self._state()

    @property
    def _bare_model(self) -> PromptedModel:
        model: PromptedModel = self.accelerator.unwrap_model(self.model)
        return model

    @property
    def _pad_id(self) -> int:
        return int(self._bare_model.backbone.tokenizer.pad_token_id)

    def _state(self) -> dict[str, Tensor]:
        trained = self._bare_model.trained_tensors()
        return {name: value.detach().cpu().clone() for name, value in trained.items()}

    def _checkpoint(self) -> None:
        """Save all that the next update depends on, as a new folder by rename; then drop the one before."""
        folder = self.directory / "checkpoint"
        previous = list(folder.glob("step-*"))
        target = folder / f"step-{self.progress.step:08d}"

        temporary = folder / f".{target.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(self._state(), temporary / "learned.safetensors")
        save_file(self.best, temporary / "best.safetensors")
        torch.save(self.optimizer.state_dict(), temporary / "optimizer.pt")
        write_json(temporary / "progress.json", asdict(self.progress))
        temporary.replace(target)
        for path in previous:
            shutil.rmtree(path)

    def _resume(self) -> None:
        saved = ranks.from_leader(self._saved() if ranks.leads() else None)
        if saved is None:
            return
        there, here = saved["progress"].get("trained_on", {}), self.progress.trained_on
        other = [name for name in here if there.get(name) != here[name]]
        if other:
            folder = self.directory / "checkpoint"
            self.reporter.warn(
                f"{folder} was trained on a backbone of other {' and other '.join(other)}: it is not "
                "resumed, and training starts anew"
            )
            if ranks.leads():
                shutil.rmtree(folder)
            return
        self.progress = Progress(**saved["progress"])
        self._warn(self.progress.warnings)
        self._bare_model.load_trained(saved["learned"])
        self.best = saved["best"]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.reporter.line(f"resuming after update {self.progress.step} from {self.directory / 'checkpoint'}")

    def _saved(self) -> dict[str, Any] | None:
        """Return what the last checkpoint holds, or None where there is none."""
        found = sorted((self.directory / "checkpoint").glob("step-*"))
        if not found:
            return None
        folder = found[-1]
        return {
            "progress": json.loads((folder / "progress.json").read_text(encoding="utf-8")),
            "learned": load_file(folder / "learned.safetensors"),
            "best": load_file(folder / "best.safetensors"),
            "optimizer": torch.load(folder / "optimizer.pt", weights_only=True),
        }


def describe(predictions: Mapping[str, Predictions], num_tokens: int) -> dict[str, Any]:
    """Return what the prompt chose over a split of each task: counts, mean and entropy (in nats) of position
    and length, entropy of pool weights; of several tasks under names such as `rte/position_mean`."""
    if len(predictions) == 1:
        (only,) = predictions.values()
        return _chosen(only, num_tokens)
    return {
        f"{task}/{name}": value
        for task, own in predictions.items()
        for name, value in _chosen(own, num_tokens).items()
    }


def _chosen(predictions: Predictions, num_tokens: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, values in (("position", predictions.position_N), ("length", predictions.length_N)):
        counts = np.bincount(values, minlength=num_tokens + 1)
        chosen[f"{name}_counts"] = counts.tolist()  # of 0, 1, … vectors
        chosen[f"{name}_mean"] = float(values.mean())
        chosen[f"{name}_entropy"] = _entropy(counts)
    if predictions.pool_weights_NK is not None:
        weights = np.clip(predictions.pool_weights_NK, 1e-12, 1.0)
        chosen["pool_entropy"] = float(-(weights * np.log(weights)).sum(1).mean())
    if predictions.route_N is not None:
        counts = np.bincount(predictions.route_N, minlength=weights.shape[1])
        chosen["route_counts"] = counts.tolist()  # of the heaviest members
        chosen["route_entropy"] = _entropy(counts)
    return chosen


def _entropy(counts: NDArray[np.int64]) -> float:
    """Return the entropy of shares, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-np.sum(shares * np.log(shares)))
