"""Write the files of a finished run: its record, its trained tensors, and its predictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from dp_bench import lockstep, machine, ranks, records
from dp_bench.backbones.checkpoint import commit_of, weights_sha256
from dp_bench.checkpoints import Progress
from dp_bench.compiling import num_graphs
from dp_bench.data.encoded import EncodedSplit
from dp_bench.data.prepare import TaskData
from dp_bench.data.source import Source
from dp_bench.effective import optimizer_of
from dp_bench.evaluation import Report, mean_score
from dp_bench.identity import Identity, Sources
from dp_bench.methods.context import MethodResult, RunContext
from dp_bench.opening import transfer_notes
from dp_bench.progress import Reporter
from dp_bench.records import BACKBONE_FILE, PROMPT_FILE, RunRecord
from dp_bench.settings import TaskSettings

USES = ("train", "select", "report")  # of the splits of a task


def record_of(
    context: RunContext, sources: Sources, identity: Identity, result: MethodResult, **costs: Any
) -> RunRecord:
    """Return the record of a run; `costs` are its time and memory."""
    settings, data, progress = context.settings, context.data, result.progress
    backbone, optimizer = context.backbone, optimizer_of(settings)
    overall = mean_score({part.task.name: result.reports[part.task.name].score for part in data})
    splits: dict[str, list[EncodedSplit]] = {use: [getattr(part, use) for part in data] for use in USES}
    num_examples = {use: sum(map(len, encoded)) for use, encoded in splits.items()}
    overlap = {part.task.name: part.overlap for part in data} | dict(context.transfer_overlap)
    shared = lockstep.size()
    return RunRecord(
        run_id=identity.run_id,
        status="done",
        score=overall.value,
        select_score=progress.best_score,
        metrics=overall.metrics,
        select_metrics=progress.best_metrics,
        num_examples=num_examples,
        best_step=progress.best_step,
        num_updates=progress.step,
        stopped_early=0 < progress.step < settings.trainer.max_steps,
        trainable_parameters=result.trainable_parameters,
        frozen_parameters=sum(p.numel() for p in backbone.parameters() if not p.requires_grad),
        train_seconds=round(progress.train_seconds / shared, 3),
        eval_seconds=round(progress.eval_seconds / shared, 3),
        work=result.work,
        energy_joules=None if progress.energy_joules is None else progress.energy_joules / shared,
        num_processes=ranks.size(),
        num_together=shared if shared > 1 else None,
        device=machine.device_name(backbone.device),
        precision=machine.dtype_name(backbone.dtype),
        data_sha256=sources.trained_sha256,
        data_files=sources.files,
        share_truncated={
            use: sum(split.num_truncated for split in encoded) / num_examples[use]
            for use, encoded in splits.items()
        },
        checkpoint=_checkpoint(context),
        versions=records.versions(),
        git=records.git_state(),
        command=records.command(),
        config=context.experiment.resolved,
        cell_id=identity.cell_id,
        facts=identity.facts,
        notes=[*(note for part in data for note in part.notes), *transfer_notes(context)],
        overlap={task: asdict(counts) for task, counts in overlap.items()},
        diagnostics={
            **{k: v for k, v in progress.history[-1].items() if k.endswith(("_mean", "_entropy"))},
            **result.diagnostics,
            **({"compiled_graphs": num_graphs()} if settings.trainer.compile else {}),
        },
        warnings=context.reporter.share_warnings(),
        routes=result.routes,
        by_task={
            part.task.name: _entry(part.task, result, source, **_trained(part, progress))
            for part, source in zip(data, sources.trained, strict=True)
            if len(data) > 1
        },
        transfer={
            task.name: _entry(task, result, source)
            for (task, _), source in zip(context.transfer, sources.transfer, strict=True)
        },
        optimizer=asdict(optimizer) if progress.step and optimizer is not None else {},
        keeps_backbone=bool(result.backbone_weights) if settings.prompt.trains_backbone else None,
        **_names(context.experiment.resolved),
        **costs,
    )


def _names(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name of a run's choice in each group of its configuration, and other columns of records."""
    groups = ("task", "backbone", "prompt", "regime", "protocol")
    return {
        **{group: resolved[group]["name"] for group in groups},
        "experiment": resolved.get("experiment"),
        "data": resolved["data"]["title"],
        "seed": resolved["seed"],
        "selection": resolved["trainer"]["selection"],
    }


def _checkpoint(context: RunContext) -> dict[str, str | None]:
    backbone = context.settings.backbone
    return {
        "name_or_path": backbone.name_or_path,
        "revision": backbone.revision,
        "commit": commit_of(backbone),
        "sha256": weights_sha256(backbone, context.settings.cache),
        "fingerprint": context.fingerprint,
    }


def _entry(task: TaskSettings, result: MethodResult, source: Source, **trained: Any) -> dict[str, Any]:
    """Return the entry of a task in the record of a run on several, or with regime.transfer."""
    report = result.reports[task.name]
    return {
        "title": task.title,
        "score": report.score.value,
        "metrics": report.score.metrics,
        "num_examples": {"report": len(report.split)},
        **trained,
        "data_sha256": source.sha256,
    }


def _trained(data: TaskData, progress: Progress) -> dict[str, Any]:
    """Return what only the entry of a task that was trained on has."""
    name = data.task.training.name
    prefix, best = f"{name}/", progress.best_metrics
    return {
        "num_examples": {use: len(getattr(data, use)) for use in USES},
        "select_score": progress.best_scores.get(name),
        "select_metrics": {k.removeprefix(prefix): v for k, v in best.items() if k.startswith(prefix)},
        "notes": list(data.notes),
    }


def compare_rerun(record: RunRecord, replaced: RunRecord, directory: Path, reporter: Reporter) -> RunRecord:
    """Return the record of a rerun; where its results differ from the record that it replaces, warn and keep
    both."""
    old, new = records.results_of(replaced), records.results_of(record)
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not changed:
        return record
    examples = [f"{name} is {new.get(name)} and was {old.get(name)}" for name in changed[:4]]
    causes = [name for name in records.CIRCUMSTANCES if getattr(record, name) != getattr(replaced, name)]
    reporter.warn(
        f"rerun=true gave other results than the run that it replaces ({len(changed)} differ): "
        f"{', '.join(examples)}. Possible causes that differ: {', '.join(causes) or 'none on record'}. The "
        f"files of the replaced run are kept in {records.back_up(directory, replaced)}"
    )
    return replace(record, warnings=list(reporter.warnings))


def write_files(context: RunContext, record: RunRecord, result: MethodResult) -> None:
    """Write the files of a finished run: the record after all files that it refers to, status.json last."""
    directory = context.directory
    config_text = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
    records.write_text(directory / "config.yaml", config_text)
    metadata = {
        "run_id": record.run_id,
        "task": record.task,
        "prompt": record.prompt,
        "backbone": str(record.checkpoint["name_or_path"]),
        "backbone_fingerprint": str(record.checkpoint["fingerprint"]),
        "backbone_configuration": context.backbone.configuration(),
        "score": f"{record.score:.4f}",
        "dp_bench": str(record.versions["dp-bench"]),
    }
    _save_tensors(directory / PROMPT_FILE, result.weights, metadata)
    if result.backbone_weights:
        _save_tensors(directory / BACKBONE_FILE, result.backbone_weights, metadata)
    predictions = prediction_table(result.reports)
    records.replace_file(
        directory / "predictions.parquet", lambda path: predictions.to_parquet(path, index=False)
    )
    records.save(record, directory)
    records.write_status(directory, "done")
    shutil.rmtree(directory / "checkpoint", ignore_errors=True)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def write(temporary: Path) -> None:
        save_file(kept, temporary, metadata)
        _sort_metadata(temporary)

    records.replace_file(path, write)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file, whose order is another one at each writing."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= size, "the same text in another order"
        file.seek(8)
        file.write(text.ljust(size))


def prediction_table(reports: Mapping[str, Report]) -> pd.DataFrame:
    """Return one row an example: id, group, source (the text it is about), gold (and golds, where several
    choices are right), prediction, log-probability of each choice, position, length, and route in a pool.
    With several tasks the rows of one follow those of another, and `task` has the name."""
    columns = [pd.DataFrame(_columns(report)) for report in reports.values()]
    if len(columns) == 1:
        return columns[0]
    named = [rows.assign(task=task) for task, rows in zip(reports, columns, strict=True)]
    return pd.concat(named, ignore_index=True)


def _columns(report: Report) -> dict[str, Any]:
    predictions, encoded = report.predictions, report.split.encoded
    names = report.split.task.words or range(predictions.logits_MC.shape[1])
    scores = torch.log_softmax(torch.from_numpy(predictions.logits_MC).double(), dim=1).numpy()
    return {
        "id": encoded.ids,
        "group": encoded.groups,
        "source": encoded.sources,
        "gold": encoded.labels,
        **({"golds": encoded.golds} if any(len(golds) > 1 for golds in encoded.golds) else {}),
        "prediction": predictions.choices,
        **{f"score_{name}": scores[:, i] for i, name in enumerate(names)},
        "position": predictions.position_M,
        "length": predictions.length_M,
        **({} if predictions.route_M is None else {"route": predictions.route_M}),
    }
