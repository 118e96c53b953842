"""One run: find the data, build, learn, report, record. Callable from a test as from the command line."""

from __future__ import annotations

import shutil
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp_bench import checks, ranks, records
from dp_bench.config import Experiment
from dp_bench.data.source import Source, locate
from dp_bench.effective import needs_fp32, optimizer_of
from dp_bench.identity import Identity, identify
from dp_bench.progress import Reporter
from dp_bench.records import RunRecord
from dp_bench.settings import Head, Method, TaskSettings
from dp_bench.sweep.claims import claimed
from dp_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dp_bench.data.encode import EncodedSplit
    from dp_bench.data.prepare import TaskData
    from dp_bench.evaluation import Report
    from dp_bench.methods import Learned, Workplace


def run(experiment: Experiment, reporter: Reporter | None = None) -> RunRecord:
    """Run an experiment, or return the record of the same run if it has been finished before.

    Leaves `results_dir/runs/<run_id>/` as results/README.md says. A run that was interrupted goes on from its
    checkpoint. Raises BusyError where another process is at the same run, another UserError where the input
    is wrong; any other exception is recorded in status.json and raised again.
    """
    settings = experiment.settings
    sources = Sources.of(experiment)
    identity = identify(experiment, sources.trained, sources.sha256)
    run_id = identity.run_id
    directory = Path(settings.results_dir) / "runs" / run_id
    if ranks.size() > 1:
        checks.refuse_ranks(settings)
    with ranks.together(), reporter or Reporter(quiet=not ranks.leads()) as report:
        if not ranks.leads():
            return ranks.from_leader(None) or _run(experiment, sources, directory, identity, report)
        finished = records.load(directory)
        if finished and not settings.rerun:
            report.skipped(
                f"{run_id}: finished before (score {finished.score:.2f}), skipped; rerun=true runs it again."
            )
            return ranks.from_leader(finished)
        with claimed(Path(settings.results_dir), run_id):
            elsewhere = records.load(directory)  # finished by another process since we looked
            if elsewhere and not settings.rerun:
                report.skipped(f"{run_id}: finished by another process just now, skipped.")
                return ranks.from_leader(elsewhere)
            if finished:
                shutil.rmtree(directory / "checkpoint", ignore_errors=True)
            ranks.from_leader(None)  # the others may begin
            return _recorded(experiment, sources, directory, identity, report, finished)


def _recorded(
    experiment: Experiment,
    sources: Sources,
    directory: Path,
    identity: Identity,
    report: Reporter,
    replaced: RunRecord | None,
) -> RunRecord:
    """Run, and leave word of how it ended in status.json."""
    records.write_status(directory, "running")
    try:
        return _run(experiment, sources, directory, identity, report, replaced)
    except UserError:
        records.forget(directory)
        raise
    except KeyboardInterrupt:
        records.write_status(directory, "interrupted")
        raise
    except BaseException:
        records.write_status(directory, "failed", traceback=traceback.format_exc())
        raise


@dataclass(frozen=True)
class Sources:
    """Where the files of a run's tasks are, in the order of `Experiment.tasks` and `.transfer`."""

    trained: tuple[Source, ...]
    transfer: tuple[Source, ...]

    @classmethod
    def of(cls, experiment: Experiment) -> Sources:
        data, cache = experiment.settings.data, experiment.settings.cache
        trained, transfer = (
            tuple(locate(task, data, cache) for task in tasks)
            for tasks in (experiment.tasks, experiment.transfer)
        )
        return cls(trained, transfer)

    @property
    def sha256(self) -> str:
        """The digest of all that a run reads, for its id: what it is tried on besides is part of that."""
        return records.digest_of([source.sha256 for source in (*self.trained, *self.transfer)])

    @property
    def trained_sha256(self) -> str:
        """The digest of what it is trained on."""
        return records.digest_of([source.sha256 for source in self.trained])

    @property
    def files(self) -> dict[str, dict[str, str]]:
        """Name and digest of each file: train, validation; of several tasks, `rte/train`."""
        several = len(self.trained) > 1
        found = {
            f"{source.task}/{name}" if several else name: file
            for source in self.trained
            for name, file in (("train", source.train), ("validation", source.validation))
        }
        found |= {f"{source.task}/validation": source.validation for source in self.transfer}
        return {name: {"file": file.path.name, "sha256": file.sha256} for name, file in found.items()}


def open_data(
    experiment: Experiment, sources: Sources
) -> tuple[tuple[TaskData, ...], tuple[tuple[TaskSettings, EncodedSplit], ...]]:
    """Read and encode the examples of the tasks that are trained on, and of those of regime.transfer."""
    from dp_bench.backbones.load import load_tokenizer
    from dp_bench.data.prepare import prepare, prepare_report

    settings = experiment.settings
    _quieten()
    tokenizer = load_tokenizer(settings.backbone)
    data = tuple(
        prepare(settings, task, source, tokenizer)
        for task, source in zip(experiment.tasks, sources.trained, strict=True)
    )
    transfer = tuple(
        (task, prepare_report(settings, task, source, tokenizer))
        for task, source in zip(experiment.transfer, sources.transfer, strict=True)
    )
    return data, transfer


def open_model(experiment: Experiment, directory: Path, report: Reporter) -> Workplace:
    """Load the frozen backbone, and make what scores its answers. Reads no data."""
    import torch

    from dp_bench import machine
    from dp_bench.backbones.load import load_backbone
    from dp_bench.methods import Workplace
    from dp_bench.verbalizer import make_verbalizer, tell_of_pieces

    settings = experiment.settings
    _quieten()
    device = machine.resolve_device(settings.device)
    machine.set_threads(settings.trainer.cpu_threads)
    dtype = machine.resolve_dtype(settings.trainer.precision, device)
    if needs_fp32(settings):
        dtype = torch.float32
    dropout = settings.protocol.frozen_dropout
    backbone = load_backbone(settings.backbone, device=device, dtype=dtype, dropout=dropout)
    if settings.trainer.gradient_checkpointing:
        backbone.checkpoint_activations()
    if settings.trainer.compile:
        backbone.compile_stacks()
    fingerprint = backbone.fingerprint()  # before fine-tuning changes it
    tasks = (*experiment.tasks, *experiment.transfer)
    head, seed = settings.backbone.head, settings.seed_of("init")
    if head is Head.verbalizer and settings.backbone.name_or_path is not None:  # random weights read bytes
        for task in tasks:
            tell_of_pieces(task.words, backbone.tokenizer)
    verbalizers = tuple(make_verbalizer(task, backbone, head, seed) for task in tasks)
    return Workplace(experiment, (), (), backbone, fingerprint, verbalizers, directory, report)


def open_workplace(experiment: Experiment, sources: Sources, directory: Path, report: Reporter) -> Workplace:
    """Read the data, then load the model, which takes longer."""
    data, transfer = open_data(experiment, sources)
    from dp_bench.data.prepare import overlap_of_other_task

    overlap = {task.name: overlap_of_other_task(data, encoded) for task, encoded in transfer}
    place = open_model(experiment, directory, report)
    return replace(place, data=data, transfer=transfer, transfer_overlap=overlap)


def _run(
    experiment: Experiment,
    sources: Sources,
    directory: Path,
    identity: Identity,
    report: Reporter,
    replaced: RunRecord | None = None,
) -> RunRecord:
    # Imported here: a skipped or rejected run must not wait for torch.
    from dp_bench import machine
    from dp_bench.backbones.checkpoint import commit_of, folder_sha256
    from dp_bench.evaluation import mean_score
    from dp_bench.methods import learn

    settings = experiment.settings
    started, began = records.timestamp(), time.perf_counter()
    place = open_workplace(experiment, sources, directory, report)
    data, backbone, fingerprint = place.data, place.backbone, place.fingerprint
    device, dtype = backbone.device, backbone.dtype
    _announce(place, f"{machine.device_name(device)}, weights in {machine.dtype_name(dtype)}")
    machine.watch_memory(device)
    learned = learn(place)
    used = optimizer_of(settings)

    memory, memory_kind = machine.peak_memory(device)
    progress = learned.progress
    overall = mean_score({own.task.name: learned.reports[own.task.name].score for own in data})
    by_task = {
        own.task.name: {**_task_entry(own, learned), "data_sha256": source.sha256}
        for own, source in zip(data, sources.trained, strict=True)
    }
    tried = {
        task.name: {**_transfer_entry(task, learned.reports[task.name]), "data_sha256": source.sha256}
        for task, source in zip(experiment.transfer, sources.transfer, strict=True)
    }
    num_examples = {name: sum(len(own) for own in splits) for name, splits in _by_use(data).items()}
    record = RunRecord(
        run_id=directory.name,
        status="done",
        experiment=experiment.resolved.get("experiment"),
        task=settings.task.name,
        backbone=settings.backbone.name,
        prompt=settings.prompt.name,
        regime=settings.regime.name,
        protocol=settings.protocol.name,
        data=settings.data.title,
        seed=settings.seed,
        score=overall.value,
        select_score=progress.best_score,
        selection=settings.trainer.selection.value,
        metrics=overall.metrics,
        select_metrics=progress.best_metrics,
        num_examples=num_examples,
        best_step=progress.best_step,
        num_updates=progress.step,
        stopped_early=0 < progress.step < settings.trainer.max_steps,
        trainable_parameters=learned.trainable_parameters,
        frozen_parameters=sum(p.numel() for p in backbone.parameters() if not p.requires_grad),
        train_seconds=round(progress.train_seconds, 3),
        eval_seconds=round(progress.eval_seconds, 3),
        total_seconds=round(time.perf_counter() - began, 3),
        peak_memory_mb=memory,
        peak_memory_kind=memory_kind,
        device=machine.device_name(device),
        precision=machine.dtype_name(dtype),
        data_sha256=sources.trained_sha256,
        data_files=sources.files,
        share_truncated={
            name: sum(own.num_truncated for own in splits) / num_examples[name]
            for name, splits in _by_use(data).items()
        },
        checkpoint={
            "name_or_path": settings.backbone.name_or_path,
            "revision": settings.backbone.revision,
            "commit": commit_of(settings.backbone),
            "sha256": folder_sha256(settings.backbone.name_or_path, settings.cache),
            "fingerprint": fingerprint,
        },
        versions=records.versions(),
        git=records.git_state(),
        command=records.command(),
        started=started,
        config=experiment.resolved,
        cell_id=identity.cell_id,
        facts=identity.facts,
        notes=[*(note for own in data for note in own.notes), *_transfer_notes(place)],
        overlap={
            name: asdict(overlap)
            for name, overlap in {**{d.task.name: d.overlap for d in data}, **place.transfer_overlap}.items()
        },
        diagnostics={
            **{k: v for k, v in progress.history[-1].items() if k.endswith(("_mean", "_entropy"))},
            **learned.diagnostics,
        },
        warnings=report.share_warnings(),
        routes=learned.routes,
        by_task=by_task if len(data) > 1 else {},
        transfer=tried,
        optimizer=asdict(used) if progress.step and used is not None else {},
    )
    if replaced is not None:
        record = _compared(record, replaced, directory, report)
    if ranks.leads():
        table = prediction_table(learned.reports)
        _leave(record, directory, learned.weights, table, backbone.configuration())
    report.line(
        f"{record.run_id}: score {record.score:.2f} on {num_examples['report']} "
        f"{_split_name(sources.trained[0])} examples (best of update {record.best_step}, select "
        f"{record.select_score:.2f}), {record.total_seconds:.0f} s"
    )
    for name, entry in {**record.by_task, **record.transfer}.items():
        untrained = " (not trained on)" if name in record.transfer else ""
        report.line(f"  {entry['title']} {entry['score']:.2f}{untrained}")
    return record


def _by_use(data: Sequence[TaskData]) -> dict[str, list[EncodedSplit]]:
    return {
        "train": [own.train for own in data],
        "select": [own.select for own in data],
        "report": [own.report for own in data],
    }


def _task_entry(own: TaskData, learned: Learned) -> dict[str, Any]:
    """Return what the record of a multitask run says of one task."""
    name = own.task.training.name
    prefix = f"{name}/"
    best = learned.progress.best_metrics
    return {
        **_transfer_entry(own.task, learned.reports[own.task.name]),
        "select_score": learned.progress.best_scores.get(name),
        "select_metrics": {k.removeprefix(prefix): v for k, v in best.items() if k.startswith(prefix)},
        "num_examples": {use: len(splits[0]) for use, splits in _by_use([own]).items()},
        "notes": list(own.notes),
    }


def _transfer_entry(task: TaskSettings, report: Report) -> dict[str, Any]:
    return {
        "title": task.title,
        "score": report.score.value,
        "metrics": report.score.metrics,
        "num_examples": {"report": len(report.split)},
    }


def _announce(place: Workplace, machine: str) -> None:
    """Say, before anything long begins, what this run is and what it will cost."""
    settings, report = place.settings, place.reporter
    trainer = settings.trainer
    micro = trainer.micro_batch_size or trainer.batch_size
    report.line(place.directory.name)
    if settings.backbone.name_or_path is None:
        report.line(
            f"  backbone={settings.backbone.name} has RANDOM weights: its scores say nothing about a method."
        )
    if settings.data.difficulty is not None:
        report.line(
            f"  data={settings.data.name}: {settings.data.title}; its scores say nothing about SuperGLUE"
        )
    if settings.prompt.method not in (Method.zero_shot, Method.majority, Method.linear_probe):
        report.line(
            f"  {trainer.max_steps} updates of {trainer.batch_size} examples "
            f"({-(-trainer.batch_size // micro)} × {micro}); {machine}"
        )
    for own in place.data:
        for note in own.notes:
            report.line(f"  {note}")
        title = f"{own.task.title}: " if len(place.data) > 1 else ""
        report.line(f"  {title}{_examples(own, trainer.selection.value)}")
    for note in _transfer_notes(place):
        report.line(f"  {note}")


def _transfer_notes(place: Workplace) -> list[str]:
    """Say what a reader should know of the tasks of regime.transfer. Tables mark the trained task by how its
    notes begin, and these begin otherwise."""
    return [
        f"{task.title} (not trained on): {note}"
        for task, encoded in place.transfer
        for note in place.transfer_overlap[task.name].notes(len(encoded))
    ]


def _examples(data: TaskData, selection: str) -> str:
    return (
        f"train {len(data.train)}, select {len(data.select)} ({selection}), report {len(data.report)} "
        f"examples; longest text {max(data.whole_train.longest, data.report.longest)} tokens, "
        f"{100 * data.whole_train.share_truncated:.1f} % of the training texts shortened to "
        f"{data.task.max_length}"
    )


def _compared(record: RunRecord, replaced: RunRecord, directory: Path, report: Reporter) -> RunRecord:
    """Where a rerun comes to other numbers than the record that it replaces, say so and keep both."""
    old, new = records.outcome(replaced), records.outcome(record)
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not changed:
        return record
    shown = [f"{name} is {new.get(name)} and was {old.get(name)}" for name in changed[:4]]
    also = [name for name in records.CIRCUMSTANCES if getattr(record, name) != getattr(replaced, name)]
    report.warn(
        f"rerun=true came to other numbers than the run that it replaces ({len(changed)} differ): "
        f"{', '.join(shown)}. Different circumstances: {', '.join(also) or 'none that are recorded'}. What "
        f"the run before left is kept in {records.keep_aside(directory)}"
    )
    return replace(record, warnings=list(report.warnings))


def _leave(
    record: RunRecord, directory: Path, weights: dict[str, Tensor], predictions: Any, configuration: str
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
        "backbone_configuration": configuration,
        "score": f"{record.score:.4f}",
        "dp_bench": str(record.versions["dp-bench"]),
    }
    kept = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    records.replace_file(directory / "prompt.safetensors", lambda path: save_file(kept, path, metadata))
    records.replace_file(
        directory / "predictions.parquet", lambda path: predictions.to_parquet(path, index=False)
    )
    records.save(record, directory)
    records.write_status(directory, "done")
    shutil.rmtree(directory / "checkpoint", ignore_errors=True)


def prediction_table(reports: Mapping[str, Report]) -> Any:
    """Return one row an example: id, group, source (which texts it is about), gold (and golds, where several
    choices are right), prediction, log-probability of each choice, chosen position and length, and member of
    a pool; with several tasks, those of one after another, named in `task`."""
    import pandas as pd

    columns = [pd.DataFrame(_columns(report)) for report in reports.values()]
    if len(columns) == 1:
        return columns[0]
    named = [own.assign(task=task) for task, own in zip(reports, columns, strict=True)]
    return pd.concat(named, ignore_index=True)


def _columns(report: Report) -> dict[str, Any]:
    import torch

    predictions, encoded = report.predictions, report.split.encoded
    names = report.split.task.words or range(predictions.logits_NC.shape[1])
    scores = torch.log_softmax(torch.from_numpy(predictions.logits_NC).double(), dim=1).numpy()
    return {
        "id": encoded.ids,
        "group": encoded.groups,
        "source": encoded.sources,
        "gold": encoded.labels,
        **({"golds": encoded.golds} if any(len(own) > 1 for own in encoded.golds) else {}),
        "prediction": predictions.choices,
        **{f"score_{name}": scores[:, i] for i, name in enumerate(names)},
        "position": predictions.position_N,
        "length": predictions.length_N,
        **({} if predictions.route_N is None else {"route": predictions.route_N}),
    }


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
