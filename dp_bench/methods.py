"""What a run learns, and how it comes to its predictions: a prompt, all weights, a probe, or nothing.

A prompt is tuned on a frozen backbone; the others are the baselines without which no claim about prompts
stands. All of them select on the same rows, predict the same rows, and leave the same record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from dp_bench import finite, peft_methods
from dp_bench.backbones.backbone import Backbone
from dp_bench.config import Experiment, build_prompt
from dp_bench.data.encode import EncodedSplit
from dp_bench.data.overlap import Overlap
from dp_bench.data.prepare import TaskData
from dp_bench.diagnostics import after_training
from dp_bench.evaluation import Predictions, Report, Split, predict, score
from dp_bench.machine import make_accelerator
from dp_bench.model import PromptedModel
from dp_bench.progress import Reporter
from dp_bench.prompts.init import differences, load_saved
from dp_bench.prompts.inputs import SelectorInput
from dp_bench.prompts.prompt import Prompt
from dp_bench.prompts.summary import cached_summaries, summary_width
from dp_bench.randomness import derive
from dp_bench.settings import Init, Method, RunSettings, TaskSettings
from dp_bench.trainer import Progress, Trainer
from dp_bench.types import RunFailedError, UserError
from dp_bench.verbalizer import Verbalizer, label_word_ids

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the linear probe, per example; the best by the selection score


@dataclass(frozen=True)
class Workplace:
    """What every method is given."""

    experiment: Experiment
    data: tuple[TaskData, ...]  # of each task that is trained on
    transfer: tuple[tuple[TaskSettings, EncodedSplit], ...]  # other tasks, with what is reported of them
    backbone: Backbone
    fingerprint: str  # of the backbone as it was loaded
    verbalizers: tuple[Verbalizer, ...]  # of the tasks in `data`, then of those in `transfer`
    directory: Path
    reporter: Reporter
    transfer_overlap: Mapping[str, Overlap] = field(default_factory=dict)  # of those in `transfer`, by task

    @property
    def settings(self) -> RunSettings:
        return self.experiment.settings


@dataclass(frozen=True)
class Learned:
    """What every method returns. `weights` is what is worth keeping of it: the prompt's or the probe's."""

    reports: dict[str, Report]  # by task
    progress: Progress
    trainable_parameters: int
    weights: dict[str, Tensor]
    diagnostics: dict[str, float] = field(default_factory=dict)
    routes: str = ""


def learn(place: Workplace) -> Learned:
    """Run the method that `prompt.method` names."""
    methods: dict[Method, Callable[[Workplace], Learned]] = {
        Method.prompt: tune,
        Method.zero_shot: tune,
        Method.fine_tuning: tune,
        Method.lora: tune,
        Method.bitfit: tune,
        Method.linear_probe: probe,
        Method.majority: majority,
    }
    return methods[place.settings.prompt.method](place)


def tune(place: Workplace) -> Learned:
    """Train a prompt; or, with an empty one, all weights of the backbone, some of them, or nothing."""
    settings = place.settings
    prompt = make_prompt(place)
    if place.transfer and len(place.data) > 1 and prompt.needs_task:
        raise UserError(
            f"prompt={settings.prompt.name} chooses by task, and has learned nothing to choose for the tasks "
            "of regime.transfer: take it away, or use a prompt without task-level pieces, such as "
            "prompt=adap_ins_pos."
        )
    if prompt.needs_skill and any(
        own.train.skills is None or own.report.skills is None for own in place.data
    ):
        raise UserError(
            f"prompt={settings.prompt.name} is told which sub-skill each text takes, and the data of "
            f"task={settings.task.name} does not say so: use a mixture, such as data=micro_mix2, or the "
            "tasks of regime=multitask as sub-skills with prompt.route.group=task."
        )
    _refuse_beyond(place)  # before hours of training
    if settings.prompt.init is Init.saved:
        _tell_of_other_weights(place)
    model = make_model(place, prompt)
    splits = cached_splits(place, prompt)
    if prompt.input is not None:
        fit_input(prompt.input, splits.train)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    place.reporter.line(f"  {trainable:,} trainable parameters")
    trainer = Trainer(
        model,
        train=splits.train,
        select=splits.select,
        settings=settings,
        directory=place.directory,
        accelerator=make_accelerator(place.backbone.device),
        reporter=place.reporter,
        trained_on={"weights": place.fingerprint, "configuration": place.backbone.configuration()},
    )
    frozen = place.backbone.frozen()
    progress = trainer.fit() if trainable else trainer.evaluate_only()
    _refuse_changes(place, frozen)
    started = time.perf_counter()
    reports = {}
    for split in splits.report:
        predictions = predict(
            model,
            split,
            batch_size=settings.trainer.eval_batch_size,
            seed=settings.seed_of("gumbel"),
            sample=settings.protocol.sample_at_eval,
            step=progress.best_step,
        )
        reports[split.task.name] = Report(split, predictions, score(split, predictions))
    diagnostics = after_training(model, reports, settings)
    if settings.prompt.estimator is not None:
        diagnostics["forwards_per_update"] = prompt.forwards
    progress.eval_seconds += time.perf_counter() - started
    kept = _worth_keeping(model, settings)
    routes = " ".join(str(k) for own in reports.values() for k in own.predictions.routes)
    return Learned(reports, progress, trainable, kept, diagnostics, routes)


def _refuse_changes(place: Workplace, before: Mapping[str, int]) -> None:
    """Fail where training has changed what it is to leave alone: the frozen backbone, or the part of it that
    a method such as LoRA does not train."""
    after = place.backbone.frozen()
    changed = [name for name in before if after.get(name) != before[name]]
    wholly = not any(p.requires_grad for p in place.backbone.parameters())
    if not changed and wholly and place.backbone.fingerprint() != place.fingerprint:
        changed = ["of unknown name"]  # between loading and training
    if changed:
        raise RunFailedError(
            f"The frozen backbone is not what it was before training: {len(changed)} of its tensors have "
            f"changed, the first {changed[0]}. Nothing may write to frozen weights; the scores of this run "
            "mean nothing. If no code was added to dp-bench, look for broken memory, and report it."
        )


def cached_splits(place: Workplace, prompt: Prompt) -> Splits:
    """Return the splits of a run, with the summaries that its prompt looks at."""
    # With dropout on in the frozen model a summary is a random draw: it is made anew in every forward pass.
    settings = place.settings
    cached = prompt.needs_summary and not settings.protocol.frozen_dropout
    splits = _splits(place, with_summaries=cached)
    if not settings.prompt.shuffle_input:
        return splits

    def shuffled(own: list[Split]) -> list[Split]:
        seed = settings.seed_of("order")
        return [split.with_inputs_of_others(derive(seed, "input of others", split.name)) for split in own]

    return Splits(shuffled(splits.train), shuffled(splits.select), shuffled(splits.report))


def fit_input(input: SelectorInput, train: Sequence[Split]) -> None:
    """Fit what becomes of summaries to the training rows of every task. Labels are centred within their task,
    so that the task itself is not erased with them; texts with choices of their own have none."""
    summaries, labels = [], []
    widths = [len(own.task.labels) for own in train]
    for number, split in enumerate(train):
        assert split.summary_ND is not None
        summaries.append(split.summary_ND[torch.from_numpy(split.encoded.rows)])
        labels_N = torch.from_numpy(split.encoded.labels)
        onehot = (labels_N[:, None] == torch.arange(widths[number])).double()
        before, behind = sum(widths[:number]), sum(widths[number + 1 :])
        labels.append(torch.nn.functional.pad(onehot - onehot.mean(0), (before, behind)))
    input.fit(torch.cat(summaries), torch.cat(labels))


def make_model(place: Workplace, prompt: Prompt) -> PromptedModel:
    """Return the model that a run trains: what its method trains of the backbone is trainable."""
    settings = place.settings
    if settings.prompt.trains_backbone:
        place.backbone.thaw()
    if settings.prompt.method is Method.lora:
        peft_methods.add_lora(place.backbone, settings)
    if settings.prompt.method is Method.bitfit:
        peft_methods.thaw_biases(place.backbone, settings)
    model = PromptedModel(
        place.backbone,
        prompt,
        place.verbalizers,
        order=settings.protocol.split_order,
        summary=settings.prompt.summary,
        summary_pad_to=settings.protocol.summary_pad_to,
    )
    return model.to(place.backbone.device)


def make_prompt(place: Workplace) -> Prompt:
    """Build the prompt that the settings describe for the backbone and tasks at hand."""
    settings, backbone = place.settings, place.backbone
    dims = replace(
        backbone.dims,
        num_tasks=len(place.experiment.tasks),
        sites=() if settings.prompt.layers is None else backbone.find_sites(),
        summary_width=summary_width(backbone, settings.prompt.summary),
    )
    prompt = build_prompt(place.experiment, dims, backbone.embedding_VD, _first_ids(place))
    if settings.prompt.init is Init.saved:
        load_saved(prompt, settings.prompt.saved_file)
    return prompt


def _refuse_beyond(place: Workplace) -> None:
    """Refuse texts that leave no position for the prompt, or for a whole choice behind them, and tokens that
    the backbone does not know."""
    read = [split for own in place.data for split in (own.train, own.select, own.report)]
    read += [encoded for _, encoded in place.transfer]
    place.backbone.refuse_unknown(max(split.largest_id for split in read))
    num_tokens = place.settings.prompt.num_tokens
    place.backbone.refuse_beyond(max(split.longest for split in read) + num_tokens)
    if place.backbone.continues_texts:  # a choice's last token is scored, but not read
        behind = [split.longest + num_tokens + max(0, split.longest_choice - 1) for split in read]
        place.backbone.refuse_beyond(max(behind), "Text, prompt and the longest choice")


def _tell_of_other_weights(place: Workplace) -> None:
    """Warn where the prompt that a run starts from was trained on another backbone."""
    path = place.settings.prompt.saved_file
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
    except SafetensorError:
        return  # refused where it is read
    here = {"weights": place.fingerprint, "configuration": place.backbone.configuration()}
    there = {"weights": said.get("backbone_fingerprint"), "configuration": said.get("backbone_configuration")}
    other = [name for name, digest in there.items() if digest is not None and digest != here[name]]
    if other:
        place.reporter.warn(
            f"prompt.init_from={path} was trained on a backbone of other {' and other '.join(other)} "
            f"({said.get('backbone', 'unknown')}): its vectors were learned for another model"
        )
    if there["weights"] is None:
        place.reporter.warn(f"prompt.init_from={path} does not say which backbone it was trained on")


def _first_ids(place: Workplace) -> list[int]:
    """Return the tokens that a prompt starts from: those of a text, or the label words of all tasks."""
    settings, tokenizer = place.settings.prompt, place.backbone.tokenizer
    if settings.init is Init.text:
        ids: list[int] = tokenizer(settings.init_text, add_special_tokens=False).input_ids
        if not ids:
            raise UserError(f"prompt.init_text={settings.init_text!r} has no token: give it some words.")
        return ids
    if settings.init is Init.label_words:
        words = [word for task in place.experiment.tasks for word in task.words]
        if not words:
            raise UserError("prompt.init=label_words: the task has no label words, it scores whole choices.")
        return label_word_ids(list(dict.fromkeys(words)), tokenizer)
    return []


def _worth_keeping(model: PromptedModel, settings: RunSettings) -> dict[str, Tensor]:
    """Return the trained tensors, the prompt's under its own names; of a wholly tuned backbone none."""
    trained = _trained(model)
    if settings.prompt.trains_backbone:
        trained = {name: value for name, value in trained.items() if not name.startswith("backbone.")}
    return trained


def _trained(model: PromptedModel) -> dict[str, Tensor]:
    """Return all that training changes, under the names that a run's prompt.safetensors has for it."""
    return {name.removeprefix("prompt."): value for name, value in model.trained_tensors().items()}


def load_learned(model: PromptedModel, path: Path) -> None:
    """Put all that a finished run has learned into a model that was made as its own was: prompt, classifier
    head, and what it trained of the backbone. Raises UserError unless every tensor is there, in its shape."""
    found, own = load_file(path), _trained(model)
    lost = [name for name in own if name.startswith("backbone.") and name not in found]
    if lost:
        raise UserError(
            f"{path.parent} trained {len(lost)} tensors of the backbone itself and has not kept them, as no "
            "run with prompt.freeze_backbone=false does: what it learned cannot be put together again, and "
            "its prompt means little on the weights that it started from. Train with "
            "prompt.freeze_backbone=true, or look at the model before training with --fresh."
        )
    wrong = differences(found, own)
    if wrong:
        raise UserError(f"{path} holds something else than this run trains: {'; '.join(wrong)}.")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(found[name])


def majority(place: Workplace) -> Learned:
    """Predict the most frequent label of the training rows for every example."""
    (data,) = place.data
    num_classes = len(data.task.labels) or 1  # ReCoRD's choices have no names: the first one
    counts = np.bincount(data.train.labels, minlength=num_classes)[:num_classes]
    shares = np.log((counts + 1e-9) / counts.sum()).astype(np.float32)
    kept = {"shares": torch.from_numpy(shares)}
    return _scored(place, lambda split: np.tile(shares, (len(split), 1)), 0, kept)


def probe(place: Workplace) -> Learned:
    """Fit a linear classifier to the frozen summary: what an instance-level selector's input alone knows.

    Multinomial logistic regression on standardised features with an L2 penalty, solved to its optimum; the
    penalty is the one with the best selection score.
    """
    (data,) = place.data
    num_classes = len(data.task.labels)
    if not num_classes:
        raise UserError(
            "prompt=linear_probe needs the same labels for every example; those of "
            f"task={data.task.name} have choices of their own."
        )
    read = (data.whole_train, data.report)
    place.backbone.refuse_unknown(max(split.largest_id for split in read))
    place.backbone.refuse_beyond(max(split.longest for split in read))
    splits = _splits(place, with_summaries=True)
    named = {"train": splits.train[0], "select": splits.select[0], "report": splits.report[0]}
    raw = {name: _features(split) for name, split in named.items()}
    center, scale = raw["train"].mean(0), raw["train"].std(0) + 1e-6
    features = {name: (x - center) / scale for name, x in raw.items()}
    labels = torch.from_numpy(data.train.labels)
    fitted = []
    for ridge in RIDGES:
        weights = _logistic_regression(features["train"], labels, num_classes, ridge)
        logits = {name: _affine(x, weights) for name, x in features.items()}
        selected = score(named["select"], _predictions(place, named["select"], logits["select"]))
        fitted.append((selected.value, weights, logits))
    _, weights, logits = max(fitted, key=lambda fit: fit[0])
    kept = {"weights": weights, "center": center, "scale": scale}
    return _scored(place, lambda split: logits[split.name], weights.numel(), kept)


def _scored(
    place: Workplace, logits_of: Callable[[Split], np.ndarray], trainable: int, weights: dict[str, Tensor]
) -> Learned:
    """Score a method that has no training loop: one evaluation, after no update."""
    splits = _splits(place, with_summaries=False)
    place.reporter.line(f"  {trainable:,} trainable parameters")
    (select,), (report, *_) = splits.select, splits.report
    selected = score(select, _predictions(place, select, logits_of(select)))
    progress = Progress(best_score=selected.value, best_metrics=selected.metrics)
    progress.history.append({"step": 0, "select_score": selected.value, "select_metrics": selected.metrics})
    predictions = _predictions(place, report, logits_of(report))
    reports = {report.task.name: Report(report, predictions, score(report, predictions))}
    return Learned(reports, progress, trainable, weights)


def _predictions(place: Workplace, split: Split, logits_NC: np.ndarray) -> Predictions:
    finite_N = np.isfinite(logits_NC).all(1)
    finite.refuse_rows(split.encoded, finite_N, "The logits are", f"of {split.name}", place.backbone)
    return predictions_of(logits_NC)


def predictions_of(logits_NC: np.ndarray) -> Predictions:
    """Return the predictions of a method that has no prompt."""
    nowhere = np.zeros(len(logits_NC), dtype=np.int64)
    return Predictions(logits_NC.astype(np.float32), nowhere, nowhere, None)


def probe_logits(split: Split, kept: Mapping[str, Tensor]) -> np.ndarray:
    """Return the logits [N,C] of a probe, from what `probe` has kept of it."""
    return _affine((_features(split) - kept["center"]) / kept["scale"], kept["weights"])


def _features(split: Split) -> Tensor:
    assert split.summary_ND is not None
    return split.summary_ND[torch.from_numpy(split.encoded.rows)].double()


def _affine(x_ND: Tensor, weights_CE: Tensor) -> np.ndarray:
    return torch.nn.functional.linear(x_ND, weights_CE[:, :-1], weights_CE[:, -1]).numpy()


def _logistic_regression(x_ND: Tensor, labels_N: Tensor, num_classes: int, ridge: float) -> Tensor:
    """Return weights and, in the last column, biases [C, D + 1] of the penalised maximum of likelihood."""
    weights = torch.zeros(num_classes, x_ND.shape[1] + 1, dtype=x_ND.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_NC = torch.nn.functional.linear(x_ND, weights[:, :-1], weights[:, -1])
        penalty = 0.5 * ridge * weights[:, :-1].pow(2).sum()
        value = torch.nn.functional.cross_entropy(logits_NC, labels_N) + penalty
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


@dataclass(frozen=True)
class Splits:
    """The splits of all tasks; `report` goes on with the tasks of `Workplace.transfer`."""

    train: list[Split]
    select: list[Split]
    report: list[Split]


def _splits(place: Workplace, *, with_summaries: bool) -> Splits:
    """Name the splits; attach to each the cached summaries of its file where they are looked at."""
    summaries = _summaries(place) if with_summaries else {}

    def split(name: str, task: TaskSettings, encoded: EncodedSplit, number: int) -> Split:
        full_name = f"{task.name}/{name}" if len(place.verbalizers) > 1 else name
        prompt_task = number if number < len(place.data) else 0
        return Split(full_name, task, encoded, summaries.get(encoded.fingerprint), number, prompt_task)

    data = list(enumerate(place.data))
    # What selects on the reported rows is their evaluation, draws and all.
    reported = ["select" if own.select is own.report else "report" for own in place.data]
    transfer = enumerate(place.transfer, start=len(data))
    return Splits(
        [split("train", own.task.training, own.train, i) for i, own in data],
        [split("select", own.task.training, own.select, i) for i, own in data],
        [split(reported[i], own.task, own.report, i) for i, own in data]
        + [split("report", task, encoded, i) for i, (task, encoded) in transfer],
    )


def _summaries(place: Workplace) -> dict[str, Tensor]:
    """Return the cached summaries of every file that is read, by the fingerprint of its encoding."""
    settings = place.settings
    summaries: dict[str, Tensor] = {}
    files = [whole for own in place.data for whole in (own.whole_train, own.report)]
    for whole in (*files, *(encoded for _, encoded in place.transfer)):
        place.reporter.begin("summarising the texts", total=len(whole))
        summaries[whole.fingerprint] = cached_summaries(
            place.backbone,
            whole,
            settings.prompt.summary,
            pad_to=settings.protocol.summary_pad_to,
            batch_size=settings.trainer.eval_batch_size,
            cache_dir=settings.cache,
            weights=place.fingerprint,
            advance=place.reporter.advance,
        )
    place.reporter.finish()
    return summaries
