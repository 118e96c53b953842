"""One run: find the data, build the model, train, report, record. Callable from a test as from the command
line."""

from __future__ import annotations

import resource
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp_bench import records
from dp_bench.config import Experiment, build_prompt
from dp_bench.data.source import Source, locate
from dp_bench.progress import Reporter
from dp_bench.records import RunRecord
from dp_bench.types import UserError

if TYPE_CHECKING:
    import torch

    from dp_bench.data.prepare import TaskData
    from dp_bench.evaluation import Predictions, Split
    from dp_bench.model import PromptedModel


def run(experiment: Experiment, reporter: Reporter | None = None) -> RunRecord:
    """Run an experiment, or return the record of the same run if it has been finished before.

    Leaves `results_dir/runs/<run_id>/` as DESIGN.md 1.3 says. A run that was interrupted goes on from its
    checkpoint. Raises UserError where the input is wrong; any other exception is recorded in status.json and
    raised again.
    """
    settings = experiment.settings
    source = locate(settings.task, settings.data, settings.cache)
    run_id, _ = records.identify(experiment.resolved, source.sha256)
    directory = Path(settings.results_dir) / "runs" / run_id
    with reporter or Reporter() as report:
        finished = records.load(directory)
        if finished and not settings.rerun:
            report.line(
                f"{run_id}: finished before (score {finished.score:.2f}), skipped; rerun=true runs it again."
            )
            return finished
        if finished:
            shutil.rmtree(directory / "checkpoint", ignore_errors=True)
        records.write_status(directory, "running")
        try:
            record = _run(experiment, source, directory, report)
        except (UserError, KeyboardInterrupt) as stop:
            records.write_status(directory, "interrupted", reason=str(stop))
            raise
        except BaseException:
            records.write_status(directory, "failed", traceback=traceback.format_exc())
            raise
    return record


def _run(experiment: Experiment, source: Source, directory: Path, report: Reporter) -> RunRecord:
    # Imported here: a skipped or rejected run must not wait for torch.
    import torch

    from dp_bench.backbones.load import load_backbone, load_tokenizer, resolve_device, resolve_dtype
    from dp_bench.data.prepare import prepare
    from dp_bench.evaluation import predict, score
    from dp_bench.model import PromptedModel
    from dp_bench.trainer import Trainer
    from dp_bench.verbalizer import LabelWords

    settings = experiment.settings
    started, began = records.timestamp(), time.perf_counter()
    _quieten()
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.trainer.precision, device)
    tokenizer = load_tokenizer(settings.backbone)
    verbalizer = LabelWords(settings.task.words, tokenizer)
    data = prepare(settings, source, tokenizer)
    backbone = load_backbone(
        settings.backbone, device=device, dtype=dtype, dropout=settings.protocol.frozen_dropout
    )
    prompt = build_prompt(experiment, backbone.dims, backbone.embedding_VD)
    model = PromptedModel(
        backbone,
        prompt,
        verbalizer,
        order=settings.protocol.split_order,
        summary=settings.prompt.summary,
        summary_pad_to=settings.protocol.summary_pad_to,
    ).to(device)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    _announce(experiment, directory.name, data, trainable, device, dtype, report)
    splits = _splits(experiment, model, data, report)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(
        model,
        train=splits["train"],
        select=splits["select"],
        settings=settings,
        directory=directory,
        accelerator=_accelerator(device),
        reporter=report,
    )
    progress = trainer.fit()

    before_report = time.perf_counter()
    predictions = predict(
        model,
        splits["report"],
        batch_size=settings.trainer.eval_batch_size,
        seed=settings.seed,
        sample=settings.protocol.sample_at_eval,
        step=progress.best_step,
    )
    value, values = score(settings.task, data.report, predictions)
    _, cell_id = records.identify(experiment.resolved, source.sha256)
    memory, memory_kind = _peak_memory(device)
    record = RunRecord(
        run_id=directory.name,
        status="done",
        experiment=experiment.resolved.get("experiment"),
        task=settings.task.name,
        backbone=settings.backbone.name,
        prompt=settings.prompt.name,
        regime=settings.regime.name,
        protocol=settings.protocol.name,
        data=settings.data.name,
        seed=settings.seed,
        score=value,
        select_score=progress.best_score,
        selection=settings.trainer.selection.value,
        metrics=values,
        select_metrics=progress.best_metrics,
        num_examples={name: len(split) for name, split in splits.items()},
        best_step=progress.best_step,
        num_updates=progress.step,
        stopped_early=progress.step < settings.trainer.max_steps,
        trainable_parameters=trainable,
        frozen_parameters=sum(p.numel() for p in backbone.parameters()),
        train_seconds=round(progress.train_seconds, 3),
        eval_seconds=round(progress.eval_seconds + time.perf_counter() - before_report, 3),
        total_seconds=round(time.perf_counter() - began, 3),
        peak_memory_mb=memory,
        peak_memory_kind=memory_kind,
        device=_device_name(device),
        precision=str(dtype).removeprefix("torch."),
        data_sha256=source.sha256,
        data_files={
            name: {"file": file.path.name, "sha256": file.sha256}
            for name, file in (("train", source.train), ("validation", source.validation))
        },
        share_truncated={name: split.encoded.share_truncated for name, split in splits.items()},
        checkpoint={
            "name_or_path": settings.backbone.name_or_path,
            "revision": settings.backbone.revision,
            "commit": getattr(getattr(backbone.model, "config", None), "_commit_hash", None),
            "fingerprint": backbone.fingerprint(),
        },
        versions=records.versions(),
        git=records.git_state(),
        command=records.command(),
        started=started,
        config=experiment.resolved,
        cell_id=cell_id,
        diagnostics={k: v for k, v in progress.history[-1].items() if k.endswith(("_mean", "_entropy"))},
    )
    _leave(record, directory, model, predictions, splits["report"])
    report.line(
        f"{record.run_id}: score {record.score:.2f} on {len(data.report)} {_split_name(source)} examples "
        f"(best of update {record.best_step}, {splits['select'].name} {record.select_score:.2f}), "
        f"{record.total_seconds:.0f} s"
    )
    return record


def _splits(
    experiment: Experiment, model: PromptedModel, data: TaskData, report: Reporter
) -> dict[str, Split]:
    """Attach to each split the cached summaries of its file, where the prompt looks at them."""
    from dp_bench.evaluation import Split
    from dp_bench.prompts.summary import cached_summaries

    settings = experiment.settings
    named = {"train": data.train, "select": data.select, "report": data.report}
    # With dropout on in the frozen model a summary is a random draw: it is made anew in every forward pass.
    if not model.prompt.needs_summary or settings.protocol.frozen_dropout:
        return {name: Split(name, encoded, None) for name, encoded in named.items()}
    summaries: dict[str, Any] = {}
    for whole in (data.whole_train, data.report):
        report.begin("summarising the texts", total=len(whole))
        summaries[whole.fingerprint] = cached_summaries(
            model.backbone,
            whole,
            settings.prompt.summary,
            pad_to=settings.protocol.summary_pad_to,
            batch_size=settings.trainer.eval_batch_size,
            cache_dir=settings.cache,
            advance=report.advance,
        )
    report.finish()
    return {name: Split(name, encoded, summaries[encoded.fingerprint]) for name, encoded in named.items()}


def _announce(
    experiment: Experiment,
    run_id: str,
    data: TaskData,
    trainable: int,
    device: torch.device,
    dtype: torch.dtype,
    report: Reporter,
) -> None:
    settings = experiment.settings
    trainer = settings.trainer
    micro = trainer.micro_batch_size or trainer.batch_size
    report.line(run_id)
    if settings.backbone.name_or_path is None:
        report.line(
            f"  backbone={settings.backbone.name} has RANDOM weights: its scores say nothing about a method."
        )
    report.line(
        f"  {trainable:,} trainable parameters; {trainer.max_steps} updates of {trainer.batch_size} examples "
        f"({-(-trainer.batch_size // micro)} × {micro}); {_device_name(device)}, frozen weights in "
        f"{str(dtype).removeprefix('torch.')}"
    )
    report.line(
        f"  train {len(data.train)}, select {len(data.select)} ({trainer.selection.value}), report "
        f"{len(data.report)} "
        f"examples; longest text {max(data.whole_train.longest, data.report.longest)} tokens, "
        f"{100 * data.whole_train.share_truncated:.1f} % of the training texts shortened to "
        f"{settings.task.max_length}"
    )


def _leave(
    record: RunRecord, directory: Path, model: PromptedModel, predictions: Predictions, split: Split
) -> None:
    """Write what a finished run leaves; the record last but one, so that what it speaks of is there."""
    import yaml
    from safetensors.torch import save_file

    config_text = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
    records.write_text(directory / "config.yaml", config_text)
    metadata = {
        "run_id": record.run_id,
        "task": record.task,
        "prompt": record.prompt,
        "backbone": str(record.checkpoint["name_or_path"]),
        "backbone_fingerprint": str(record.checkpoint["fingerprint"]),
        "score": f"{record.score:.4f}",
        "dp_bench": str(record.versions["dp-bench"]),
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in model.prompt.state_dict().items()}
    records.replace_file(directory / "prompt.safetensors", lambda path: save_file(weights, path, metadata))
    table = prediction_table(record, predictions, split)
    records.replace_file(directory / "predictions.parquet", lambda path: table.to_parquet(path, index=False))
    records.save(record, directory)
    records.write_status(directory, "done")
    shutil.rmtree(directory / "checkpoint", ignore_errors=True)


def prediction_table(record: RunRecord, predictions: Predictions, split: Split) -> Any:
    """Return one row an example: id, gold, prediction, log-probability of each choice, chosen position and
    length."""
    import pandas as pd
    import torch

    words = record.config["task"]["words"]
    scores = torch.log_softmax(torch.from_numpy(predictions.logits_NC).double(), dim=1).numpy()
    return pd.DataFrame(
        {
            "id": split.encoded.ids,
            "group": split.encoded.groups,
            "gold": split.encoded.labels,
            "prediction": predictions.choices,
            **{f"score_{word}": scores[:, i] for i, word in enumerate(words)},
            "position": predictions.position_N,
            "length": predictions.length_N,
        }
    )


def _accelerator(device: torch.device) -> Any:
    """Return an Accelerator on this device; its state is global, so a sweep that changes device resets it."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if PartialState._shared_state and PartialState().device.type != device.type:
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no")


def _peak_memory(device: torch.device) -> tuple[float, str]:
    """Return peak MB on the GPU during the run; on a CPU of the process, which includes earlier runs of a
    sweep."""
    import torch

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1), "cuda"
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1), "process"


def _device_name(device: torch.device) -> str:
    import torch

    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu ({torch.get_num_threads()} threads)"
    )


def _split_name(source: Source) -> str:
    return "validation" if source.validation.split == "val" else source.validation.split


def _quieten() -> None:
    """Silence what libraries print of themselves while they load; our own lines say what matters."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"torch\.cuda|transformers\..*", category=FutureWarning)
