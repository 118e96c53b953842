"""Load the data and the model of a run; the model of a finished run without data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers.utils import logging as transformers_logging

from dp_bench import lockstep, machine, ranks
from dp_bench.backbones import probe
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.gguf import dequantised
from dp_bench.backbones.load import load_backbone, load_tokenizer
from dp_bench.compiling import compile_backbone
from dp_bench.config import Experiment
from dp_bench.data.prepare import TaskData, overlap_of_other_task, prepare, prepare_report
from dp_bench.effective import is_trained, needs_fp32
from dp_bench.identity import Sources
from dp_bench.methods.context import RunContext
from dp_bench.progress import Reporter
from dp_bench.records import RunRecord
from dp_bench.settings import Head, RunSettings, TaskSettings
from dp_bench.types import UserError
from dp_bench.verbalizer import make_verbalizer, warn_of_first_pieces


def open_run_context(
    experiment: Experiment, sources: Sources, directory: Path, reporter: Reporter
) -> RunContext:
    """Read the data, then load the model, which takes longer.

    Raises UserError where a file, the checkpoint or the device cannot be used.
    """
    settings = experiment.settings
    _quieten()
    tokenizer = load_tokenizer(dequantised(settings.backbone, settings.cache))
    data = tuple(
        prepare(settings, task, source, tokenizer)
        for task, source in zip(experiment.tasks, sources.trained, strict=True)
    )
    transfer = tuple(
        (task, prepare_report(settings, task, source, tokenizer))
        for task, source in zip(experiment.transfer, sources.transfer, strict=True)
    )
    overlap = {task.name: overlap_of_other_task(data, encoded) for task, encoded in transfer}
    context = open_model(experiment, directory, reporter, tokenizer)
    return replace(context, data=data, transfer=transfer, transfer_overlap=overlap)


def open_model(
    experiment: Experiment,
    directory: Path,
    reporter: Reporter,
    tokenizer: Any = None,
    backbone: Backbone | None = None,
) -> RunContext:
    """Load the frozen backbone, unless it is given, and the verbalizers of all tasks. Reads no data."""
    settings = experiment.settings
    _quieten()
    machine.set_threads(settings.trainer.cpu_threads)
    if backbone is None:
        key = lockstep.backbone_of(experiment.resolved)
        backbone = lockstep.shared(key, lambda: _load(settings, tokenizer))
    fingerprint = backbone.fingerprint()  # before training can change it
    tasks = (*experiment.tasks, *experiment.transfer)
    head, seed = settings.backbone.head, settings.seed_of("init")
    if head is Head.verbalizer and settings.backbone.name_or_path is not None:  # random weights read bytes
        for task in tasks:
            warn_of_first_pieces(task.words, backbone.tokenizer)
    if head is Head.verbalizer and backbone.answers_in_text:
        _refuse_without_cue(settings, tasks, backbone)
    verbalizers = tuple(make_verbalizer(task, backbone, head, seed) for task in tasks)
    return RunContext(experiment, backbone, fingerprint, verbalizers, directory, reporter)


def _load(settings: RunSettings, tokenizer: Any) -> Backbone:
    """Load the backbone of a run, prove it, and prepare it for training."""
    device, dtype, dropout = loading(settings)
    checkpoint = dequantised(settings.backbone, settings.cache)
    is_sharded = settings.backbone.shard and ranks.size() > 1
    first = torch.device("cpu") if is_sharded else device  # one GPU need not hold the whole model
    backbone = load_backbone(checkpoint, device=first, dtype=dtype, dropout=dropout, tokenizer=tokenizer)
    probe.prove(backbone, backbone.fingerprint(), settings.cache)
    if settings.trainer.gradient_checkpointing:
        backbone.checkpoint_activations()
    if settings.trainer.compile:
        compile_backbone(backbone)
    if is_sharded:
        backbone.shard(device)
    return backbone


def loading(settings: RunSettings) -> tuple[torch.device, torch.dtype, bool]:
    """Return device and dtype of a run's frozen weights, and whether they keep dropout in training."""
    device = machine.resolve_device(settings.device)
    exact = needs_fp32(settings)
    dtype = torch.float32 if exact else machine.resolve_dtype(settings.trainer.precision, device)
    return device, dtype, bool(settings.protocol.frozen_dropout)


def _refuse_without_cue(settings: RunSettings, tasks: Sequence[TaskSettings], backbone: Backbone) -> None:
    """Raise UserError where a text does not say where its answer is read."""
    for task in tasks:
        cue = settings.cue_of(task)
        if cue is None or (backbone.answers_at_mask and "{mask}" not in cue):
            example = "' Answer: {mask}'" if backbone.answers_at_mask else "' Answer:'"
            formats = "" if backbone.answers_at_mask else "backbone.format=lm, or "
            raise UserError(
                f"backbone={settings.backbone.name} reads the answer to {task.name} in the text, and "
                f"{'no answer cue is set' if cue is None else f'the cue {cue!r} has no {{mask}}'}: add "
                f'{formats}"backbone.answer_cue={example}".'
            )


def refuse_other_weights(context: RunContext, record: RunRecord) -> None:
    """Raise UserError where the backbone is not the one that a finished run was trained on."""
    if context.fingerprint != record.checkpoint["fingerprint"]:
        raise UserError(
            f"{record.run_id} was trained with other weights than are now at "
            f"{record.checkpoint['name_or_path']}: restore them, or inspect an untrained prompt "
            "with --gradients --fresh."
        )


def announce(context: RunContext) -> None:
    """Print, before training begins, what this run is and what it costs."""
    settings, reporter, backbone = context.settings, context.reporter, context.backbone
    trainer, data = settings.trainer, settings.data
    micro = trainer.micro_batch_size or trainer.batch_size
    reporter.line(context.directory.name)
    if settings.backbone.name_or_path is None:
        reporter.line(
            f"  backbone={settings.backbone.name} has RANDOM weights: its scores say nothing about a method."
        )
    if data.difficulty is not None:
        reporter.line(f"  data={data.name}: {data.title}; its scores say nothing about SuperGLUE")
    if is_trained(settings):
        reporter.line(
            f"  {trainer.max_steps} updates of {trainer.batch_size} examples "
            f"({-(-trainer.batch_size // micro)} × {micro}); {machine.device_name(backbone.device)}, "
            f"weights in {machine.dtype_name(backbone.dtype)}"
        )
    if backbone.is_sharded:
        here, whole = backbone.num_here(), sum(p.numel() for p in backbone.parameters())
        reporter.line(
            f"  layers divided among {ranks.size()} processes: {here:,} of {whole:,} weights in each"
        )
    for part in context.data:
        for note in part.notes:
            reporter.line(f"  {note}")
        title = f"{part.task.title}: " if len(context.data) > 1 else ""
        reporter.line(f"  {title}{_examples(part, trainer.selection.value)}")
    for note in transfer_notes(context):
        reporter.line(f"  {note}")


def transfer_notes(context: RunContext) -> list[str]:
    """Return the notes on the tasks of regime.transfer. They begin with the task, because tables recognise
    the notes on the trained task by their first words."""
    return [
        f"{task.title} (not trained on): {note}"
        for task, encoded in context.transfer
        for note in context.transfer_overlap[task.name].notes(len(encoded))
    ]


def _examples(data: TaskData, selection: str) -> str:
    return (
        f"train {len(data.train)}, select {len(data.select)} ({selection}), report {len(data.report)} "
        f"examples; longest text {max(data.whole_train.longest, data.report.longest)} tokens, "
        f"{100 * data.whole_train.share_truncated:.1f} % of the training texts shortened to "
        f"{data.task.max_length}"
    )


def _quieten() -> None:
    """Silence what libraries print while they load."""
    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
