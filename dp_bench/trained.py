"""Open a finished run: its record, tasks and model, without the data that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

from dp_bench import config, reading, records
from dp_bench.config import Experiment
from dp_bench.data.prepare import encode_task
from dp_bench.evaluation import Predictions, Split, predict
from dp_bench.methods import table
from dp_bench.methods.build import load_learned, make_model, make_prompt
from dp_bench.methods.context import RunContext
from dp_bench.methods.splits import reads_cached_summaries, shuffled, summaries
from dp_bench.methods.tune import predict_fitted
from dp_bench.model import PromptedModel
from dp_bench.opening import open_model, refuse_other_weights
from dp_bench.progress import Reporter
from dp_bench.records import RunRecord
from dp_bench.settings import Init, Selection, TaskSettings
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
        """Predict examples of one of the run's tasks, in their order.

        For the reported examples they equal the recorded predictions, bit for bit on the same machine.
        Raises UserError for another task.
        """
        if task not in self.tasks:
            raise UserError(f"{self.record.run_id} has no task '{task}', only {', '.join(self.tasks)}.")
        return self.predict_split(self.split_of(task, list(examples)))

    def split_of(self, name: str, examples: list[Example]) -> Split:
        """Return examples of one of the run's tasks as its models read them."""
        settings, task, backbone = self.experiment.settings, self.tasks[name], self.context.backbone
        encoded = encode_task(settings, task, backbone.tokenizer, examples)
        number = list(self.tasks).index(name)
        is_trained = number < len(self.experiment.tasks)
        use = "report"  # the name of the run's report split, on which its draws depend
        if is_trained and settings.trainer.selection is Selection.validation:
            use = "select"
        is_recorded = name in (self.record.task, *self.record.by_task, *self.record.transfer)
        several = bool(self.record.by_task or self.record.transfer)
        full_name = f"{name}/{use}" if several or not is_recorded else use
        summary_MD = summaries(self.context, encoded) if self.reads_summaries else None
        split = Split(full_name, task, encoded, summary_MD, number, number if is_trained else 0)
        return shuffled(split, settings) if settings.prompt.shuffle_input else split


def open_run(folder: str | Path, device: str = "auto", *, transfer: Sequence[str] = ()) -> TrainedRun:
    """Open a finished run from its folder; no data is read.

    `transfer` names further tasks that it can then predict, as regime.transfer does, without training again.
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
    with Reporter(quiet=True) as reporter:
        context = open_model(experiment, directory, reporter)
        refuse_other_weights(context, record)
        settings = experiment.settings
        method = table.of(settings.prompt.method)
        model: PromptedModel | None = None
        predict_split: Callable[[Split], Predictions]
        if method.fit is not None:
            with reading.guarded(path, "Train the run again with rerun=true."):
                fitted = resolve_name(method.fit)(reading.tensors(path))
            predict_split = partial(predict_fitted, context, fitted)
            reads_summaries = method.reads_summaries
        else:
            model = make_model(context, make_prompt(context))
            load_learned(model, directory)
            predict_split = partial(
                predict,
                model,
                batch_size=settings.trainer.eval_batch_size,
                seed=settings.seed_of("gumbel"),
                sample=settings.protocol.sample_at_eval,
                step=record.best_step,
            )
            reads_summaries = reads_cached_summaries(model.prompt, settings)
    tasks = {task.name: task for task in (*experiment.tasks, *experiment.transfer)}
    return TrainedRun(experiment, record, tasks, context, model, predict_split, reads_summaries)


def _without_start(experiment: Experiment, device: str) -> Experiment:
    """Remove the prompt's initialization, whose files may be gone, and settings that only training needs."""
    settings = experiment.settings
    prompt = replace(settings.prompt, init=Init.uniform, init_from=None, init_text=None)
    trainer = replace(settings.trainer, gradient_checkpointing=None, compile=None)
    return replace(experiment, settings=replace(settings, prompt=prompt, trainer=trainer, device=device))
