"""Open a finished run: its record, tasks and model, without the data that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name

from torch import Tensor

from dp_bench import config, reading, records
from dp_bench.config import Experiment
from dp_bench.data.encode import Encoder
from dp_bench.data.encoded import EncodedSplit
from dp_bench.data.prepare import encoder_of
from dp_bench.evaluation import Asked, Predictions, Split, predict_together
from dp_bench.methods import table
from dp_bench.methods.build import load_learned, make_model, make_prompt
from dp_bench.methods.context import RunContext
from dp_bench.methods.splits import reads_cached_summaries, shuffled
from dp_bench.methods.tune import predict_fitted
from dp_bench.methods.writing import from_tensors
from dp_bench.model import PromptedModel
from dp_bench.opening import loading, open_model, refuse_other_weights
from dp_bench.progress import Reporter
from dp_bench.records import RunRecord
from dp_bench.settings import Init, RunSettings, Selection, TaskSettings
from dp_bench.summaries import summaries_of
from dp_bench.types import Example, UserError


@dataclass(frozen=True)
class TrainedRun:
    """A finished run that can predict.

    `tasks` are those that it was trained on, then those of regime.transfer, then further ones. `model` has
    the prompt, the head and all weights; None for a baseline that is fitted without the training loop.
    """

    experiment: Experiment
    record: RunRecord
    tasks: dict[str, TaskSettings]
    context: RunContext
    model: PromptedModel | None
    predict_split: Callable[[Split], Predictions]
    reads_summaries: bool

    def predict(self, task: str, examples: Iterable[Example]) -> Predictions:
        """Predict examples of one of the run's tasks, in their order. Nothing is cached.

        For the reported examples they equal the recorded predictions, bit for bit on the same machine.
        Raises UserError for another task.
        """
        return self.predict_split(self.split(task, self.encoder(task).in_memory(examples)))

    def encoder(self, task: str) -> Encoder:
        """Return what encodes examples of one of the run's tasks; raise UserError for another task."""
        if task not in self.tasks:
            raise UserError(f"{self.record.run_id} has no task '{task}', only {', '.join(self.tasks)}.")
        return encoder_of(self.experiment.settings, self.tasks[task], self.context.backbone.tokenizer)

    def summaries(self, encoded: EncodedSplit) -> Tensor | None:
        """Return the summaries [M,D] that the run reads of encoded examples; None if it reads none."""
        settings = self.experiment.settings
        if not self.reads_summaries:
            return None
        return summaries_of(
            self.context.backbone,
            encoded,
            settings.prompt.summary,
            pad_to=settings.protocol.summary_pad_to,
            batch_size=settings.trainer.eval_batch_size,
        )

    def split(self, name: str, encoded: EncodedSplit, summary_MD: Tensor | None = None) -> Split:
        """Return encoded examples of a task as the split that the run reports, with `summaries`, which are
        computed where they are not given."""
        settings, task = self.experiment.settings, self.tasks[name]
        number = list(self.tasks).index(name)
        is_trained = number < len(self.experiment.tasks)
        use = "report"  # the name of the run's report split, on which its draws depend
        if is_trained and settings.trainer.selection is Selection.validation:
            use = "select"
        is_recorded = name in (self.record.task, *self.record.by_task, *self.record.transfer)
        several = bool(self.record.by_task or self.record.transfer)
        full_name = f"{name}/{use}" if several or not is_recorded else use
        summary_MD = self.summaries(encoded) if summary_MD is None else summary_MD
        split = Split(full_name, task, encoded, summary_MD, number, number if is_trained else 0)
        return shuffled(split, settings) if settings.prompt.shuffle_input else split

    def asked(self, split: Split) -> Asked:
        """Return what the model of a run is asked to predict a split."""
        assert self.model is not None
        settings = self.experiment.settings
        seed, sample = settings.seed_of("gumbel"), settings.protocol.sample_at_eval
        return Asked(self.model, split, seed, sample, self.record.best_step)

    @property
    def reads_neighbours(self) -> bool:
        """Whether the prediction of an example depends on the others that are predicted with it: by draws, or
        by the summary of another."""
        if self.model is None:
            return False
        sample = self.experiment.settings.protocol.sample_at_eval
        draws = self.model.prompt.noisy_selectors(training=False, sample_at_eval=sample)
        return bool(draws or self.experiment.settings.prompt.shuffle_input)

    @property
    def trains_prompt_alone(self) -> bool:
        """Whether the backbone is as it was loaded, so that other runs can use it."""
        return self.model is None or not any(p.requires_grad for p in self.context.backbone.parameters())


def open_run(
    folder: str | Path,
    device: str = "auto",
    *,
    transfer: Sequence[str] = (),
    beside: Iterable[TrainedRun] = (),
) -> TrainedRun:
    """Open a finished run from its folder; no data is read.

    `transfer` names further tasks that it can then predict, as regime.transfer does, without training again.
    Its backbone is that of one of the runs `beside` it, where they have the same one and left it unchanged.
    Raises UserError where there is no such run or task, where the backbone differs from the one that it was
    trained on, or where its trained tensors are missing: of a packed run, or a fine-tuned backbone.
    """
    directory = Path(folder)
    record = records.load(directory)
    if record is None:
        raise UserError(f"{directory} has no finished run; dp-bench list runs lists finished runs.")
    path = records.weights_of(directory)
    experiment = _without_start(config.reopen(record.config, directory.parent.parent), device)
    if transfer:
        experiment = config.with_transfer(experiment, transfer)
    settings = experiment.settings
    method = table.of(settings.prompt.method)
    if method.writes is not None:
        experiment = replace(experiment, tasks=from_tensors(experiment.tasks, path))
    with Reporter(quiet=True) as reporter:
        backbone = None
        if method.prepare is None and not settings.prompt.trains_backbone:
            backbone = next((run.context.backbone for run in beside if _is_same(run, settings)), None)
        context = open_model(experiment, directory, reporter, backbone=backbone)
        refuse_other_weights(context, record)
        model: PromptedModel | None = None
        if method.fit is not None:
            with reading.guarded(path, "Train the run again with rerun=true."):
                fitted = resolve_name(method.fit)(reading.tensors(path))
            reads_summaries = method.reads_summaries
        else:
            model = make_model(context, make_prompt(context))
            load_learned(model, directory)
            reads_summaries = reads_cached_summaries(model.prompt, settings)

    def predict_split(split: Split) -> Predictions:
        if model is None:
            return predict_fitted(context, fitted, split)
        return predict_together([run.asked(split)], settings.trainer.eval_batch_size)[0]

    tasks = {task.name: task for task in (*experiment.tasks, *experiment.transfer)}
    run = TrainedRun(experiment, record, tasks, context, model, predict_split, reads_summaries)
    return run


def _is_same(run: TrainedRun, settings: RunSettings) -> bool:
    """Say whether the backbone of an open run serves for a run with these settings."""
    other = run.experiment.settings
    same = settings.backbone == other.backbone and loading(settings) == loading(other)
    return same and run.trains_prompt_alone


def _without_start(experiment: Experiment, device: str) -> Experiment:
    """Remove the prompt's initialization, whose files may be gone, and settings that only training needs."""
    settings = experiment.settings
    prompt = replace(settings.prompt, init=Init.uniform, init_from=None, init_text=None)
    trainer = replace(settings.trainer, gradient_checkpointing=None, compile=None)
    return replace(experiment, settings=replace(settings, prompt=prompt, trainer=trainer, device=device))
