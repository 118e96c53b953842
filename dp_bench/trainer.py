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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dp_bench.data.batches import training_rows
from dp_bench.evaluation import Predictions, Split, predict, score
from dp_bench.model import PromptedModel
from dp_bench.progress import Reporter
from dp_bench.randomness import derive, generator
from dp_bench.records import write_json, write_lines
from dp_bench.settings import (
    FullSettings,
    Method,
    OptimizerName,
    RunSettings,
    Schedule,
    TemperatureSettings,
    TrainerSettings,
)
from dp_bench.types import Batch


@dataclass
class Progress:
    """What the loop knows at the end of an update; saved with each checkpoint."""

    step: int = 0  # updates done
    best_step: int = 0
    best_score: float = -101.0  # below every score: a Matthews correlation goes down to -100
    best_metrics: dict[str, float] = field(default_factory=dict)
    evaluations_since_best: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


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


def make_optimizer(
    settings: TrainerSettings | FullSettings, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return Adafactor as Lester et al. (2021) use it, without relative steps or scaling, or AdamW."""
    if settings.optimizer is OptimizerName.adamw:
        return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    from transformers.optimization import Adafactor

    optimizer: torch.optim.Optimizer = Adafactor(
        parameters,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        relative_step=False,
        scale_parameter=False,
        warmup_init=False,
    )
    return optimizer


class Trainer:
    """Train the prompt of a model on one split, select on another."""

    def __init__(
        self,
        model: PromptedModel,
        *,
        train: Split,
        select: Split,
        settings: RunSettings,
        directory: Path,
        accelerator: Accelerator,
        reporter: Reporter,
    ) -> None:
        self.settings = settings
        self.trainer = settings.trainer
        self.train_split = train
        self.select_split = select
        self.directory = directory
        self.accelerator = accelerator
        self.reporter = reporter
        self.prompt = model.prompt
        self.learned = model.learned
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        full = settings.prompt.method is Method.fine_tuning
        self.optimizer_settings = settings.trainer.full if full else settings.trainer
        self.model = accelerator.prepare(model)
        if self.parameters:
            self.optimizer = accelerator.prepare(make_optimizer(self.optimizer_settings, self.parameters))
        self.sample_at_eval = settings.protocol.sample_at_eval
        self.step_each_micro_batch = settings.prompt.name in settings.protocol.step_each_micro_batch
        self.progress = Progress()
        self.best = self._state()

    def fit(self) -> Progress:
        """Train from the last checkpoint, or from the start, to the end, and leave the best prompt in the
        model."""
        self._resume()
        t, last = self.trainer, self.trainer.max_steps
        self.reporter.begin("training", total=last, completed=self.progress.step)
        rows = training_rows(
            self.train_split.encoded.lengths,
            batch_size=t.batch_size,
            bucket_batches=t.bucket_batches,
            seed=self.settings.seed,
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
                self._checkpoint()
                losses.clear()
        self.reporter.finish()
        self.learned.load_state_dict(self.best)
        return self.progress

    def evaluate_only(self) -> Progress:
        """Score a model that has nothing to train."""
        self._evaluate(None)
        return self.progress

    def _should_stop(self) -> bool:
        patience = self.trainer.patience
        return patience is not None and self.progress.evaluations_since_best >= patience

    def _update(self, places: np.ndarray[Any, np.dtype[np.int64]], step: int) -> float:
        """Make one update with the examples at these places; return their mean loss."""
        self.model.train()
        torch.manual_seed(derive(self.settings.seed, "dropout", step))  # nothing else draws from it here
        tau = temperature(self.trainer.temperature, step, self.trainer.max_steps)
        total = torch.zeros((), device=self.accelerator.device)
        for micro_batch, is_last in self._micro_batches(places, step):
            share = 1.0 if self.step_each_micro_batch else len(micro_batch) / len(places)
            answer = self.model(micro_batch, tau)
            loss = torch.nn.functional.cross_entropy(answer.logits_BC, micro_batch.label_B)
            self.accelerator.backward(loss * share)
            total += loss.detach() * len(micro_batch) / len(places)
            if is_last:
                self.accelerator.clip_grad_norm_(self.parameters, self.trainer.max_grad_norm)
            if is_last or self.step_each_micro_batch:
                self._step_optimizer(step)
        mean_loss = float(total)
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"The loss is {mean_loss} at update {step + 1}. Lower trainer.lr, or try "
                "trainer.precision=fp32."
            )
        return mean_loss

    def _micro_batches(
        self, places: np.ndarray[Any, np.dtype[np.int64]], step: int
    ) -> Iterator[tuple[Batch, bool]]:
        """Cut an update's examples, with their noise, which is drawn for the whole update at once."""
        names = self.prompt.noisy_selectors(training=True, sample_at_eval=self.sample_at_eval)
        noise = self.prompt.draw_noise(
            len(places), generator(self.settings.seed, "noise", step), selectors=names
        )
        size = self.trainer.micro_batch_size or len(places)
        for first in range(0, len(places), size):
            part = slice(first, first + size)
            batch = self.train_split.batch(places[part], self._pad_id, {})
            own = {name: draws[part] for name, draws in noise.items()}
            yield batch.with_(noise=own).to(self.accelerator.device), first + size >= len(places)

    def _step_optimizer(self, step: int) -> None:
        warmup = min(1.0, (step + 1) / self.trainer.warmup_steps) if self.trainer.warmup_steps else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.optimizer_settings.lr * warmup
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _evaluate(self, mean_loss: float | None) -> None:
        started = time.perf_counter()
        progress = self.progress
        predictions = predict(
            self.accelerator.unwrap_model(self.model),
            self.select_split,
            batch_size=self.trainer.eval_batch_size,
            seed=self.settings.seed,
            sample=self.sample_at_eval,
            step=progress.step,
        )
        value, values = score(self.settings.task.training, self.select_split.encoded, predictions)
        progress.evaluations_since_best += 1
        if value > progress.best_score:
            progress.best_step, progress.best_score, progress.best_metrics = progress.step, value, values
            progress.evaluations_since_best = 0
            self.best = self._state()
        progress.eval_seconds += time.perf_counter() - started
        tau = temperature(self.trainer.temperature, progress.step - 1, self.trainer.max_steps)
        progress.history.append(
            {
                "step": progress.step,
                "loss": None if mean_loss is None else round(mean_loss, 6),
                "select_score": value,
                "select_metrics": values,
                "temperature": tau,
                **describe(predictions, self.prompt.num_tokens),
                "train_seconds": round(progress.train_seconds, 3),
                "eval_seconds": round(progress.eval_seconds, 3),
            }
        )
        write_lines(self.directory / "metrics.jsonl", progress.history)
        if mean_loss is None:
            return
        best = "  best so far" if progress.best_step == progress.step else ""
        last = str(self.trainer.max_steps)
        self.reporter.line(
            f"step {progress.step:>{len(last)}}/{last}  loss {mean_loss:.4f}  "
            f"{self.select_split.name} {value:.2f}  {progress.train_seconds:.0f} s{best}"
        )

    @property
    def _pad_id(self) -> int:
        return int(self.accelerator.unwrap_model(self.model).backbone.tokenizer.pad_token_id)

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.learned.state_dict().items()}

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
        found = sorted((self.directory / "checkpoint").glob("step-*"))
        if not found:
            return
        folder = found[-1]
        self.progress = Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
        self.learned.load_state_dict(load_file(folder / "learned.safetensors"))
        self.best = load_file(folder / "best.safetensors")
        self.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
        self.reporter.line(f"resuming after update {self.progress.step} from {folder}")


def describe(predictions: Predictions, num_tokens: int) -> dict[str, Any]:
    """Return what the prompt chose over a split: mean and entropy (in nats) of position, length and pool
    weights."""
    chosen: dict[str, Any] = {}
    for name, values in (("position", predictions.position_N), ("length", predictions.length_N)):
        shares = np.bincount(values, minlength=num_tokens + 1) / len(values)
        chosen[f"{name}_mean"] = float(values.mean())
        chosen[f"{name}_entropy"] = float(-np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
    if predictions.pool_weights_NK is not None:
        weights = np.clip(predictions.pool_weights_NK, 1e-12, 1.0)
        chosen["pool_entropy"] = float(-(weights * np.log(weights)).sum(1).mean())
    return chosen
