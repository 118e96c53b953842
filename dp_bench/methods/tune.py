"""Learn: enter the training loop, or fit a baseline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from dp_bench import finite
from dp_bench.checkpoints import Progress
from dp_bench.diagnostics import after_training
from dp_bench.evaluation import Predictions, Report, Split, score
from dp_bench.machine import make_accelerator
from dp_bench.methods import table
from dp_bench.methods.baselines import Baseline, predictions_of
from dp_bench.methods.build import make_model, make_prompt, worth_keeping
from dp_bench.methods.context import MethodResult, RunContext
from dp_bench.methods.splits import cached_splits, make_splits
from dp_bench.methods.table import Method
from dp_bench.optim import TrainPlan
from dp_bench.prompts.inputs import SelectorInput
from dp_bench.settings import Init
from dp_bench.trainer import Trainer
from dp_bench.types import RunFailedError, UserError


def learn(context: RunContext) -> MethodResult:
    """Run the method that `prompt.method` names."""
    method = table.of(context.settings.prompt.method)
    return tune(context) if method.fit is None else fit(context, method)


def fit(context: RunContext, method: Method) -> MethodResult:
    """Fit a baseline that has no training loop, and score it: one evaluation, after no update."""
    (data,) = context.data
    if method.needs_labels and not data.task.labels:  # not in checks.py: a sweep over all tasks goes on
        raise UserError(
            f"prompt={context.settings.prompt.name} needs the same labels for every example; those of "
            f"task={data.task.name} have choices of their own."
        )
    if method.reads_model:
        read = (data.whole_train, data.report)
        context.backbone.refuse_unknown(max(split.largest_id for split in read))
        context.backbone.refuse_beyond(max(split.longest for split in read))
    splits = make_splits(context, with_summaries=method.reads_summaries)
    (train,), (select,), (report,) = splits.train, splits.select, splits.report
    fitted: Baseline = table.load(method.fit or "").fit(train, select)
    context.reporter.line(f"  {fitted.trainable_parameters:,} trainable parameters")
    selected = score(select, _predictions(context, fitted, select))
    progress = Progress(best_score=selected.value, best_metrics=selected.metrics)
    progress.history.append({"step": 0, "select_score": selected.value, "select_metrics": selected.metrics})
    predictions = _predictions(context, fitted, report)
    reports = {report.task.name: Report(report, predictions, score(report, predictions))}
    return MethodResult(reports, progress, fitted.trainable_parameters, dict(fitted.tensors))


def _predictions(context: RunContext, fitted: Baseline, split: Split) -> Predictions:
    logits_NC = fitted.logits(split)
    finite_N = np.asarray(np.isfinite(logits_NC).all(axis=1))
    finite.refuse_rows(split.encoded, finite_N, "The logits are", f"of {split.name}", context.backbone)
    return predictions_of(logits_NC)


def tune(context: RunContext) -> MethodResult:
    """Train a prompt; or, with an empty one, all weights of the backbone, some of them, or nothing."""
    settings = context.settings
    prompt = make_prompt(context)
    if context.transfer and len(context.data) > 1 and prompt.needs_task:
        raise UserError(
            f"prompt={settings.prompt.name} chooses by task, and has learned nothing to choose for the tasks "
            "of regime.transfer: take it away, or use a prompt without task-level pieces, such as "
            "prompt=adap_ins_pos."
        )
    if prompt.needs_skill and any(
        own.train.skills is None or own.report.skills is None for own in context.data
    ):
        raise UserError(
            f"prompt={settings.prompt.name} is told which sub-skill each text takes, and the data of "
            f"task={context.data[0].task.name} does not say so: use a mixture, such as data=micro_mix2, or "
            "the tasks of regime=multitask as sub-skills with prompt.route.group=task."
        )
    _refuse_beyond(context)  # before hours of training
    if settings.prompt.init is Init.saved:
        _tell_of_other_weights(context)
    model = make_model(context, prompt)
    splits = cached_splits(context, prompt)
    if prompt.input is not None:
        fit_input(prompt.input, splits.train)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    context.reporter.line(f"  {trainable:,} trainable parameters")
    trainer = Trainer(
        model,
        train=splits.train,
        select=splits.select,
        plan=TrainPlan.of(settings),
        directory=context.directory,
        accelerator=make_accelerator(context.backbone.device),
        reporter=context.reporter,
        trained_on={"weights": context.fingerprint, "configuration": context.backbone.configuration()},
    )
    frozen = context.backbone.frozen()
    progress = trainer.fit() if trainable else trainer.evaluate_only()
    _refuse_changes(context, frozen)
    started = time.perf_counter()
    reports = {split.task.name: trainer.report(split, progress.best_step) for split in splits.report}
    diagnostics = after_training(model, reports, settings)
    if settings.prompt.estimator is not None:
        diagnostics["forwards_per_update"] = prompt.forwards
    progress.eval_seconds += time.perf_counter() - started
    routes = " ".join(str(k) for report in reports.values() for k in report.predictions.routes)
    kept = worth_keeping(model, settings)
    return MethodResult(reports, progress, trainable, *kept, diagnostics, routes)


def _refuse_changes(context: RunContext, before: Mapping[str, int]) -> None:
    """Fail where training has changed what it is to leave alone: the frozen backbone, or the part of it that
    a method such as LoRA does not train."""
    after = context.backbone.frozen()
    changed = [name for name in before if after.get(name) != before[name]]
    wholly = not any(p.requires_grad for p in context.backbone.parameters())
    if not changed and wholly and context.backbone.fingerprint() != context.fingerprint:
        changed = ["of unknown name"]  # between loading and training
    if changed:
        raise RunFailedError(
            f"The frozen backbone is not what it was before training: {len(changed)} of its tensors have "
            f"changed, the first {changed[0]}. Nothing may write to frozen weights; the scores of this run "
            "mean nothing. If no code was added to dp-bench, look for broken memory, and report it."
        )


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


def _refuse_beyond(context: RunContext) -> None:
    """Refuse texts that leave no position for the prompt, or for a whole choice behind them, and tokens that
    the backbone does not know."""
    read = [split for own in context.data for split in (own.train, own.select, own.report)]
    read += [encoded for _, encoded in context.transfer]
    context.backbone.refuse_unknown(max(split.largest_id for split in read))
    num_tokens = context.settings.prompt.num_tokens
    context.backbone.refuse_beyond(max(split.longest for split in read) + num_tokens)
    if context.backbone.continues_texts:  # a choice's last token is scored, but not read
        behind = [split.longest + num_tokens + max(0, split.longest_choice - 1) for split in read]
        context.backbone.refuse_beyond(max(behind), "Text, prompt and the longest choice")


def _tell_of_other_weights(context: RunContext) -> None:
    """Warn where the prompt that a run starts from was trained on another backbone."""
    path = context.settings.prompt.saved_file
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
    except SafetensorError:
        return  # refused where it is read
    here = {"weights": context.fingerprint, "configuration": context.backbone.configuration()}
    there = {"weights": said.get("backbone_fingerprint"), "configuration": said.get("backbone_configuration")}
    other = [name for name, digest in there.items() if digest is not None and digest != here[name]]
    if other:
        context.reporter.warn(
            f"prompt.init_from={path} was trained on a backbone of other {' and other '.join(other)} "
            f"({said.get('backbone', 'unknown')}): its vectors were learned for another model"
        )
    if there["weights"] is None:
        context.reporter.warn(f"prompt.init_from={path} does not say which backbone it was trained on")
