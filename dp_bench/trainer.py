"""The training loop: step, anneal, evaluate, keep the best, checkpoint, stop.

One counter counts updates. An update sees `batch_size` examples in micro-batches whose losses are weighted by
their share, so that accumulation equals the full batch. Batches, noise, learning rate and temperature are
functions of the seed and the counter; a checkpoint has the prompt, the optimizer and the history.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from dp_bench import checkpoints, finite, guards, lockstep, machine, profiling, ranks, signals
from dp_bench.checkpoints import Checkpoint, Progress
from dp_bench.data.batches import Rows, micro_batches, mixing_rates, training_rows
from dp_bench.diagnostics import describe
from dp_bench.evaluation import Report, Score, Split, mean_score, predict, score
from dp_bench.machine import EnergyMeter, in_smaller_passes
from dp_bench.model import PromptedModel
from dp_bench.objective import Objective, objective
from dp_bench.optim import Reptile, TrainPlan, make_optimizer, parameter_groups
from dp_bench.profiling import stage
from dp_bench.progress import Reporter
from dp_bench.randomness import derive, generator
from dp_bench.records import write_lines
from dp_bench.trackers import Tracking
from dp_bench.types import Batch

START = "reptile_start"  # in the state of the optimizer


class Trainer:
    """Train a model on one split of each task; select the best update on another by the mean over tasks."""

    def __init__(
        self,
        model: PromptedModel,
        *,
        train: Sequence[Split],
        select: Sequence[Split],
        plan: TrainPlan,
        directory: Path,
        accelerator: Accelerator,
        reporter: Reporter,
        tracking: Tracking | None = None,
        trained_on: Mapping[str, str] | None = None,
    ) -> None:
        self.plan = plan
        self.train_splits = train
        self.select_splits = select
        self.directory = directory
        self.checkpoints = directory / "checkpoint"
        self.accelerator = accelerator
        self.reporter = reporter
        self.tracking = tracking or Tracking()
        self.prompt = model.prompt
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.bare_model = model
        # `ranks` sums gradients once an update, so that the model needs no wrapper.
        self.model = accelerator.prepare_model(model, evaluation_mode=ranks.size() > 1)
        if self.parameters and plan.optimizer is not None:
            groups = parameter_groups(
                self.parameters,
                (model.prompt.selector_parameters(), plan.optimizer.selector_lr),
                (model.prompt.network_parameters(), plan.optimizer.network_lr),
                (list(model.backbone.parameters()), plan.optimizer.adapter_lr),
            )
            self.optimizer = accelerator.prepare(make_optimizer(plan.optimizer, groups))
            self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.reptile = Reptile(self.parameters, plan.regime)
        factors = plan.regime.task_weights or {}
        self.weights = [factors.get(split.task.name, 1.0) for split in train]
        self.progress = Progress(trained_on=dict(trained_on or {}), energy_joules=0.0)
        self.energy = EnergyMeter(accelerator.device)
        self.best = self._state()
        self._saved_at = time.monotonic()

    def fit(self) -> Progress:
        """Train from the last checkpoint, or from the start, to the end, and load the best tensors into the
        model."""
        self._resume()
        self._warn(self.plan.unusual)
        t, last = self.plan.trainer, self.plan.trainer.max_steps
        self.reporter.begin("training", total=last, completed=self.progress.step)
        rows = self.rows_of_updates(self.progress.step)
        with self._saved_when_stopped():
            while (is_due := self._is_due()) or not self._is_done():
                if is_due:
                    self._evaluate(float(np.mean(self.progress.losses)))
                    self.progress.losses.clear()
                    self.reporter.share_warnings()
                    self._checkpoint()
                    continue
                started = time.perf_counter()
                self.progress.losses.append(self._update(next(rows), self.progress.step))
                self.progress.step += 1
                self.progress.train_seconds += time.perf_counter() - started
                self.reporter.advance(note=f"loss {self.progress.losses[-1]:.3f}")
                if number := signals.arrived():
                    raise signals.Preempted(number)
                if time.monotonic() - self._saved_at > 60 * (t.checkpoint_minutes or math.inf):
                    self._checkpoint()
        self.reporter.finish()
        if t.profile and ranks.size() == 1:
            profiling.profile(
                self.directory / "profile",
                lambda: self._update(next(rows), self.progress.step),
                lambda: self.report(self.select_splits[0], self.progress.step),
                self.reporter.line,
            )
        self.bare_model.load_trained(self.best)
        return self.progress

    def rows_of_updates(self, start: int) -> Iterator[tuple[Rows, ...]]:
        """Yield the rows of each task for update `start`, counted from 0, and those after it, without end."""
        return training_rows(
            [split.encoded.lengths for split in self.train_splits],
            mixing_rates([len(split) for split in self.train_splits], self.plan.regime),
            batch_size=self.plan.trainer.batch_size,
            bucket_batches=self.plan.trainer.bucket_batches,
            seed=self.plan.order_seed,
            start=start,
            turn=self.plan.regime.reptile_updates,
        )

    def _is_due(self) -> bool:
        """Say whether to evaluate now; a checkpoint may be from just before an evaluation."""
        step, history, trainer = self.progress.step, self.progress.history, self.plan.trainer
        is_last = step % trainer.eval_every == 0 or step == trainer.max_steps
        return step > 0 and is_last and (not history or history[-1]["step"] < step)

    def _is_done(self) -> bool:
        patience = self.plan.trainer.patience
        is_patient = patience is None or self.progress.evaluations_since_best < patience
        return self.progress.step >= self.plan.trainer.max_steps or not is_patient

    @contextmanager
    def _saved_when_stopped(self) -> Iterator[None]:
        """Save a checkpoint where a signal stops the training, after an update or during an evaluation."""
        with signals.deferred():
            try:
                yield
            except signals.Preempted as stop:
                self._checkpoint()
                self.reporter.line(f"{stop}: stopped after update {self.progress.step}, which is saved")
                raise

    def evaluate_only(self) -> Progress:
        """Evaluate a model that has nothing to train."""
        self._evaluate(None)
        return self.progress

    def _update(self, indices: tuple[Rows, ...], step: int) -> float:
        """Make one update with the examples at these indices of each task; return their mean loss.

        Where the memory of a GPU does not suffice it is begun again with smaller micro-batches, which the
        updates after it have as well.
        """
        size = self.micro_batch_size(sum(map(len, indices)))
        (total, number), used = in_smaller_passes(
            lambda micro: self._accumulate(indices, step, micro),
            *(size, f"in update {step + 1}", "trainer.micro_batch_size"),
            fixed="The protocol adds the losses of micro-batches" if self.plan.sum_losses else "",
        )
        if used != size:
            self.progress.micro_batch_size = used
        ranks.sum_gradients(self.parameters)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.plan.trainer.max_grad_norm)
        # Read together: a GPU is waited for once an update.
        mean_loss, norm = map(float, torch.stack([ranks.total(total).double(), norm.double()]).tolist())
        with lockstep.alone():  # gradients are taken without `_backward`
            finite.refuse_update(mean_loss, norm, step + 1, self.bare_model, self._one_by_one(indices, step))
        self._step_optimizer(step, number)
        self.prompt.end_update()
        self.reptile.end_update(step)
        return mean_loss

    def _accumulate(self, indices: tuple[Rows, ...], step: int, size: int) -> tuple[Tensor, int]:
        """Add up the gradients of this rank's micro-batches, from none; return the sum of their losses, each
        weighted by its share of the update, and the number of the last, counted from 0."""
        plan = self.plan
        self.model.train()
        self.optimizer.zero_grad()
        torch.manual_seed(derive(plan.noise_seed, "dropout", step))  # nothing else draws from it here
        total = torch.zeros((), device=self.accelerator.device)
        num_examples = sum(map(len, indices))
        self.prompt.begin_update(step, plan.trainer.max_steps)
        number = 0
        for number, (micro_batch, is_last, counts) in enumerate(self._micro_batches(indices, step, size)):
            share = counts * len(micro_batch) / num_examples
            self.prompt.is_observing = counts
            goal = objective(self.model, self.prompt, micro_batch, plan.temperature(step))
            total += goal.loss * share
            loss = goal.to_minimise * self.weights[micro_batch.task]
            if goal.added is not None:
                loss = loss + goal.added
            self._backward(loss * counts if plan.sum_losses else loss * share)
            if plan.trainer.step_each_micro_batch and not is_last:
                self._step_optimizer(step, number)
        return total, number

    def _micro_batches(
        self, indices: tuple[Rows, ...], step: int, size: int
    ) -> Iterator[tuple[Batch, bool, bool]]:
        """Split an update's examples, task by task, into micro-batches with their noise, which is drawn once
        for the whole update; yield those of this rank, whether one is the last of the update, and whether it
        counts here."""
        plan, total = self.plan, sum(map(len, indices))
        names = self.prompt.noisy_selectors(training=True, sample_at_eval=plan.sample_at_eval)
        noise = self.prompt.draw_noise(total, generator(plan.noise_seed, "noise", step), selectors=names)
        pad_id = int(self.bare_model.backbone.tokenizer.pad_token_id)
        in_step = self.bare_model.backbone.is_sharded
        for (task, first, part), counts in ranks.share_of_rank(micro_batches(indices, size), in_step=in_step):
            end = first + len(part)
            batch = self.train_splits[task].batch(part, pad_id, {})
            batch = replace(batch, noise={name: draws[first:end] for name, draws in noise.items()})
            yield batch.to(self.accelerator.device), end == total, counts

    def micro_batch_size(self, total: int) -> int:
        """Return the most examples of a micro-batch of an update of `total` examples."""
        smaller = self.progress.micro_batch_size  # than was asked for, where the memory did not suffice
        return smaller or self.plan.trainer.micro_batch_size or -(-total // ranks.size())

    def pass_once(self, split: Split, rows: Rows) -> None:
        """Pass rows of a training split forward and backward, without an update: to measure it."""
        self.model.train()
        indices = tuple(rows if each is split else rows[:0] for each in self.train_splits)
        for batch, *_ in self._micro_batches(indices, 0, size=len(rows)):
            goal = objective(self.model, self.prompt, batch, self.plan.temperature(0))
            self._backward(goal.to_minimise if goal.added is None else goal.to_minimise + goal.added)

    def _one_by_one(self, indices: tuple[Rows, ...], step: int) -> Iterator[tuple[str, Objective]]:
        """Yield the id and the objective of each example of an update, run one by one."""
        for batch, *_ in self._micro_batches(indices, step, size=1):
            encoded = self.train_splits[batch.task].encoded
            example = encoded.ids[int(np.flatnonzero(encoded.rows == int(batch.row_B))[0])]
            yield example, objective(self.model, self.prompt, batch, self.plan.temperature(step))

    @stage("backward")
    def _backward(self, loss: Tensor) -> None:
        lockstep.backward(loss, self.accelerator.backward)

    @stage("optimizer")
    def _step_optimizer(self, step: int, number: int) -> None:
        """Step after micro-batch `number` of update `step`, both counted from 0."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.plan.warm_up(step, number)
        if (step + 1) % self.plan.trainer.eval_every == 0:
            self._warn_once(guards.of_gradients(self.bare_model), step + 1)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _evaluate(self, mean_loss: float | None) -> None:
        """Score the selection splits, and keep the trained tensors if they are the best so far."""
        started = time.perf_counter()
        progress = self.progress
        finite.refuse_trained(self.bare_model, progress.step)
        with signals.deferred(wait=False):  # it may take longer than a warning leaves
            reports = {s.task.name: self.report(s, progress.step) for s in self.select_splits}
        scores = {task: report.score for task, report in reports.items()}
        overall = mean_score(scores)
        if mean_loss is not None:
            self._warn_once(guards.of_reports(self.prompt, reports.values()), progress.step)
        progress.evaluations_since_best += 1
        if overall.value > progress.best_score:
            progress.best_step = progress.step
            progress.best_score, progress.best_metrics = overall.value, overall.metrics
            progress.best_scores = {task: score.value for task, score in scores.items()}
            progress.evaluations_since_best = 0
            self.best = self._state()
        progress.eval_seconds += time.perf_counter() - started
        self.read_energy()
        self._log(mean_loss, overall, reports)

    def _log(self, mean_loss: float | None, overall: Score, reports: Mapping[str, Report]) -> None:
        """Add an evaluation to the history, write it, and print its line."""
        progress = self.progress
        progress.history.append(
            {
                "step": progress.step,
                "loss": None if mean_loss is None else round(mean_loss, 6),
                "select_score": overall.value,
                "select_metrics": overall.metrics,
                "temperature": self.plan.temperature(progress.step - 1),
                **describe(reports, self.prompt.num_tokens),
                "train_seconds": round(progress.train_seconds, 3),
                "eval_seconds": round(progress.eval_seconds, 3),
            }
        )
        if ranks.leads():
            write_lines(self.directory / "metrics.jsonl", progress.history)
        self.tracking.log(
            progress.step,
            {
                **{
                    key: value
                    for key, value in progress.history[-1].items()
                    if isinstance(value, int | float)
                },
                **{f"select/{name}": value for name, value in overall.metrics.items()},
                "lr": None if mean_loss is None else self.optimizer.param_groups[0]["lr"],
            },
        )
        if mean_loss is None:
            return
        best = "  best so far" if progress.best_step == progress.step else ""
        last = str(self.plan.trainer.max_steps)
        self.reporter.line(
            f"step {progress.step:>{len(last)}}/{last}  loss {mean_loss:.4f}  "
            f"select {overall.value:.2f}  {progress.train_seconds:.0f} s{best}"
        )

    @stage("evaluation")
    def report(self, split: Split, step: int) -> Report:
        """Predict and score a split; selectors that sample at evaluation draw again at each `step`."""
        predictions = predict(
            self.bare_model,
            split,
            batch_size=self.plan.trainer.eval_batch_size,
            seed=self.plan.noise_seed,
            sample=self.plan.sample_at_eval,
            step=step,
        )
        return Report(split, predictions, score(split, predictions))

    def read_energy(self) -> None:
        """Add what the GPUs of all ranks have used since the last reading; all ranks call it together."""
        used = dict(ranks.from_all(self.energy.since_last()))  # by GPU, which several ranks may use
        self.progress.energy_joules = machine.total_energy([self.progress.energy_joules, *used.values()])

    def _warn_once(self, warnings: Iterable[str], step: int) -> None:
        """Warn of what was seen at an update, unless it was seen before."""
        for text in warnings:
            if not any(known.startswith(text) for known in self.reporter.warnings):
                self.reporter.warn(f"{text} (first at update {step})")

    def _warn(self, warnings: Iterable[str]) -> None:
        for text in warnings:
            self.reporter.warn(text)

    def _state(self) -> dict[str, Tensor]:
        trained = self.bare_model.trained_tensors()
        return {name: value.detach().cpu().clone() for name, value in trained.items()}

    def _checkpoint(self) -> None:
        self._saved_at = time.monotonic()
        if not ranks.leads():
            return
        if ranks.size() == 1:  # ranks come here at different times
            self.read_energy()
        self.progress.warnings = list(self.reporter.warnings)
        optimizer = self.optimizer.state_dict()
        if self.reptile.start:
            optimizer |= {START: self.reptile.start}
        state = Checkpoint(self.progress, self._state(), self.best, optimizer)
        checkpoints.save(state, self.checkpoints)

    def _resume(self) -> None:
        saved = checkpoints.load(self.checkpoints, self.progress.trained_on, self.best)
        if saved is None:
            return
        self.progress, self.best = saved.progress, saved.best
        self._warn(self.progress.warnings)
        self.bare_model.load_trained(saved.learned)
        self.reptile.load(saved.optimizer.pop(START, []))
        self.optimizer.load_state_dict(saved.optimizer)
        self.reporter.line(f"resuming after update {self.progress.step} from {self.checkpoints}")
