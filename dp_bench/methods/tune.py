"""Run a method: the training loop, the fit of a baseline, or texts that are written in another way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from dp_bench import finite
from dp_bench.checkpoints import Progress
from dp_bench.diagnostics import after_training
from dp_bench.evaluation import Predictions, Report, Split, score
from dp_bench.flops import work_of
from dp_bench.machine import make_accelerator
from dp_bench.methods import table
from dp_bench.methods.baselines import Baseline, predictions_of
from dp_bench.methods.build import make_model, make_prompt, tensors_to_save
from dp_bench.methods.context import MethodResult, RunContext
from dp_bench.methods.pruning import prune
from dp_bench.methods.splits import cached_splits, make_splits
from dp_bench.methods.table import Method
from dp_bench.methods.writing import Written, as_tensors, written_anew
from dp_bench.optim import TrainPlan
from dp_bench.prompts.inputs import SelectorInput
from dp_bench.prompts.prompt import Prompt
from dp_bench.prompts.pruned import Pruned
from dp_bench.prompts.sources import load_sources
from dp_bench.settings import Init
from dp_bench.trainer import Trainer
from dp_bench.types import RunFailedError, UserError

LONG = 8  # times the longest text, beyond which the length of a prompt is probably a mistake


def learn(context: RunContext) -> MethodResult:
    """Run the method that `prompt.method` names. Raises UserError where it does not suit the data."""
    method = table.of(context.settings.prompt.method)
    if method.writes is not None:
        return write(context, method)
    return tune(context) if method.fit is None else fit(context, method)


def write(context: RunContext, method: Method) -> MethodResult:
    """Write the selected and the reported texts as a method says, and ask the model for the answers."""
    written: Written = resolve_name(method.writes or "")(context)
    context = written_anew(context, written.tasks)
    result = tune(context)
    diagnostics = {**result.diagnostics, **written.diagnostics}
    weights = {**result.weights, **as_tensors(written.tasks)}
    return replace(result, weights=weights, diagnostics=diagnostics, data=context.data)


def fit(context: RunContext, method: Method) -> MethodResult:
    """Fit a baseline that has no training loop, and evaluate it once."""
    (data,) = context.data
    if method.needs_labels and not data.task.labels:  # no check of settings: a sweep over all tasks continues
        raise UserError(
            f"prompt={context.settings.prompt.name} needs the same labels for every example; examples "
            f"of task={data.task.name} have different choices."
        )
    if method.reads_model:
        read = (data.whole_train, data.report)
        context.backbone.refuse_unknown(max(split.largest_id for split in read))
        context.backbone.refuse_beyond(max(split.longest for split in read))
    splits = make_splits(context, with_summaries=method.reads_summaries)
    (train,), (select,), (report,) = splits.train, splits.select, splits.report
    fitted: Baseline = resolve_name(method.fit or "").fit(train, select)
    context.reporter.line(f"  {fitted.trainable_parameters:,} trainable parameters")
    selected = score(select, predict_fitted(context, fitted, select))
    progress = Progress(best_score=selected.value, best_metrics=selected.metrics)
    progress.history.append({"step": 0, "select_score": selected.value, "select_metrics": selected.metrics})
    predictions = predict_fitted(context, fitted, report)
    reports = {report.task.name: Report(report, predictions, score(report, predictions))}
    return MethodResult(reports, progress, fitted.trainable_parameters, dict(fitted.tensors))


def predict_fitted(context: RunContext, fitted: Baseline, split: Split) -> Predictions:
    """Predict all examples of a split; raise NotFiniteError where a logit is not finite."""
    logits_MC = fitted.logits(split)
    finite_M = np.asarray(np.isfinite(logits_MC).all(axis=1))
    finite.refuse_rows(split.encoded, finite_M, "The logits are", f"of {split.name}", context.backbone)
    return predictions_of(logits_MC)


def tune(context: RunContext) -> MethodResult:
    """Train a prompt; or, with an empty prompt, all weights of the backbone, some of them, or nothing."""
    settings = context.settings
    prompt = make_prompt(context)
    if context.transfer and len(context.data) > 1 and prompt.needs_task:
        raise UserError(
            f"prompt={settings.prompt.name} has task-level pieces, which learn nothing about the tasks of "
            "regime.transfer: remove it, or use a prompt without task-level pieces, such as "
            "prompt=adap_ins_pos."
        )
    if prompt.needs_skill and any(
        task.train.skills is None or task.report.skills is None for task in context.data
    ):
        raise UserError(
            f"prompt={settings.prompt.name} needs the sub-skill of each example, which the data of "
            f"task={context.data[0].task.name} does not have: use a mixture, such as data=micro_mix2, or "
            "the tasks of regime=multitask as sub-skills with prompt.route.group=task."
        )
    _check_lengths(context, prompt)  # before hours of training
    if settings.prompt.init is Init.saved:
        _warn_of_other_weights(context, settings.prompt.saved_file, "prompt.init_from")
    if files := settings.prompt.source_files:
        load_sources(prompt.vectors, context.backbone.dims.width, files)
        for path in files:
            _warn_of_other_weights(context, path, "prompt.vectors.sources")
    model = make_model(context, prompt)
    splits = cached_splits(context, prompt)
    if prompt.input is not None:
        fit_input(prompt.input, splits.train)
    if isinstance(prompt.vectors, Pruned):
        batch_size = settings.trainer.micro_batch_size or settings.trainer.batch_size
        prune(model, splits.train, batch_size, settings.seed_of("gumbel"))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    context.reporter.line(f"  {trainable:,} trainable parameters")
    trainer = Trainer(
        model,
        train=splits.train,
        select=splits.select,
        plan=TrainPlan(settings, context.backbone.embedding_rms),
        directory=context.directory,
        accelerator=make_accelerator(context.backbone.device),
        reporter=context.reporter,
        tracking=context.tracking,
        trained_on={"weights": context.fingerprint, "configuration": context.backbone.configuration()},
    )
    frozen = context.backbone.frozen()
    progress = trainer.fit() if trainable else trainer.evaluate_only()
    _refuse_changes(context, frozen)
    started = time.perf_counter()
    reports = {split.task.name: trainer.report(split, progress.best_step) for split in splits.report}
    diagnostics = after_training(model, reports, settings)
    num_controls = sum(name.endswith("_score") for name in diagnostics) // len(reports)
    if settings.prompt.estimator is not None:
        diagnostics["forwards_per_update"] = prompt.forwards
    progress.eval_seconds += time.perf_counter() - started
    trainer.read_energy()
    work = work_of(trainer, splits.report, num_controls)
    routes = " ".join(str(k) for report in reports.values() for k in report.predictions.routes)
    saved = tensors_to_save(model, settings)
    return MethodResult(reports, progress, trainable, *saved, diagnostics, routes, work)


def _refuse_changes(context: RunContext, before: Mapping[str, int]) -> None:
    """Raise RunFailedError where training has changed frozen tensors of the backbone."""
    after = context.backbone.frozen()
    changed = [name for name in before if after.get(name) != before[name]]
    all_frozen = not any(p.requires_grad for p in context.backbone.parameters())
    if not changed and all_frozen and context.backbone.fingerprint() != context.fingerprint:
        changed = ["of unknown name"]  # between loading and training
    if changed:
        raise RunFailedError(
            f"Training has changed the frozen backbone: {len(changed)} of its tensors, the first "
            f"{changed[0]}. Nothing may write to frozen weights; the scores of this run are meaningless. If "
            "no code was added to dp-bench, check the memory of this machine, and report it."
        )


def fit_input(input: SelectorInput, train: Sequence[Split]) -> None:
    """Fit the transformation of summaries to the training rows of all tasks. Labels are centred within their
    task, so that erasing them does not erase the task; tasks that score choices have none."""
    summaries, labels = [], []
    widths = [len(split.task.labels) for split in train]
    for number, split in enumerate(train):
        assert split.summary_MD is not None
        summaries.append(split.summary_MD[torch.from_numpy(split.encoded.rows)])
        labels_M = torch.from_numpy(split.encoded.labels)
        onehot = (labels_M[:, None] == torch.arange(widths[number])).double()
        before, behind = sum(widths[:number]), sum(widths[number + 1 :])
        labels.append(torch.nn.functional.pad(onehot - onehot.mean(0), (before, behind)))
    input.fit(torch.cat(summaries), torch.cat(labels))


def _check_lengths(context: RunContext, prompt: Prompt) -> None:
    """Raise UserError where text, prompt and choice exceed the positions of the backbone, or where it does
    not know a token; warn of a prompt that is many times as long as any text."""
    splits = [split for task in context.data for split in (task.train, task.select, task.report)]
    splits += [encoded for _, encoded in context.transfer]
    context.backbone.refuse_unknown(max(split.largest_id for split in splits))
    num_tokens = context.settings.prompt.num_tokens
    longest = max(split.longest for split in splits)
    if prompt.text is not None and longest > prompt.text.max_length:
        raise UserError(
            f"prompt.text.max_length={prompt.text.max_length}: the longest text has {longest} tokens. Set "
            f"prompt.text.max_length={longest}, or lower task.max_length."
        )
    context.backbone.refuse_beyond(longest + num_tokens)
    if num_tokens > LONG * longest:
        context.reporter.warn(
            f"prompt.num_tokens={num_tokens}: the prompt is {num_tokens / longest:.0f} times as long as the "
            f"longest text, which has {longest} tokens"
        )
    if context.backbone.continues_texts:  # a choice's last token is scored, but not read
        lengths = [split.longest + num_tokens + max(0, split.longest_choice - 1) for split in splits]
        context.backbone.refuse_beyond(max(lengths), "Text, prompt and the longest choice")


def _warn_of_other_weights(context: RunContext, path: Path, key: str) -> None:
    """Warn where a trained prompt that a run reads was trained on another backbone."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError:
        return  # load_saved refuses it
    current = {"weights": context.fingerprint, "configuration": context.backbone.configuration()}
    saved = {
        "weights": metadata.get("backbone_fingerprint"),
        "configuration": metadata.get("backbone_configuration"),
    }
    other = [name for name, digest in saved.items() if digest is not None and digest != current[name]]
    if other:
        context.reporter.warn(
            f"{key}={path} was trained on a backbone with other {' and other '.join(other)} "
            f"({metadata.get('backbone', 'unknown')}): its vectors were trained for another model"
        )
    if saved["weights"] is None:
        context.reporter.warn(f"{key}={path} does not say which backbone it was trained on")
