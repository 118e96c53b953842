"""One run: claim it, load its data and model, train, write the record. For use from Python and the shell."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from dp_bench import checks, faults, lockstep, ranks, records, signals, trackers
from dp_bench.claims import claimed
from dp_bench.config import Experiment
from dp_bench.identity import Identity, Sources, identify
from dp_bench.progress import Reporter
from dp_bench.records import RunRecord
from dp_bench.types import UserError


def run(experiment: Experiment, reporter: Reporter | None = None) -> RunRecord:
    """Run an experiment, or return the record of the same run if it is finished.

    Writes `results_dir/runs/<run_id>/`, which results/README.md describes. An interrupted run resumes from
    its checkpoint. A rerun is made in `results_dir/reruns/` and replaces the run once it is complete.
    Raises BusyError where another process has the same run, another UserError where the input is wrong; any
    other exception is recorded in status.json and raised again.
    """
    settings = experiment.settings
    trackers.refuse_missing(settings)
    sources = Sources.of(experiment)
    identity = identify(experiment, sources)
    run_id = identity.run_id
    directory = Path(settings.results_dir) / "runs" / run_id
    if ranks.size() > 1:
        checks.refuse_ranks(settings)
    reporter = reporter or Reporter(quiet=not ranks.leads())
    with ranks.process_group(), signals.watched(), reporter:
        if not ranks.leads():
            return ranks.from_leader(None) or _run(experiment, sources, directory, identity, reporter)
        finished = records.load(directory)
        if finished and not settings.rerun:
            reporter.skipped(
                f"{run_id}: finished before (score {finished.score:.2f}), skipped; rerun=true runs it again."
            )
            if settings.keep_weights and finished.keeps_backbone is False:
                reporter.line("  its trained backbone was not saved: keep_weights=true also needs rerun=true")
            return ranks.from_leader(finished)
        with claimed(Path(settings.results_dir), run_id):
            concurrent = records.load(directory)  # finished by another process since the first check
            if concurrent and not settings.rerun:
                reporter.skipped(f"{run_id}: finished by another process just now, skipped.")
                return ranks.from_leader(concurrent)
            folder = Path(settings.results_dir) / records.RERUNS / run_id if finished else directory
            if finished and (folder / "record.json").is_file():  # killed while it replaced the run
                records.replace_run(directory, folder)
                return ranks.from_leader(records.load(directory) or finished)
            ranks.from_leader(None)  # lets the other ranks begin
            records.remove_temporary(folder)
            with _status_kept(folder):
                return _run(experiment, sources, folder, identity, reporter, finished)


@contextmanager
def _status_kept(directory: Path) -> Iterator[None]:
    """Write to status.json that a run has begun, and how it ended if it failed."""
    records.write_status(directory, "running")
    try:
        yield
    except UserError:
        records.forget(directory)
        raise
    except BaseException as error:
        # What a full disk stopped goes on once there is room, in a sweep without --retry-failed.
        stopped = isinstance(error, KeyboardInterrupt) or faults.is_of_disk(error)
        how = {} if isinstance(error, KeyboardInterrupt) else {"traceback": traceback.format_exc()}
        with suppress(OSError):  # a full disk is why it failed
            records.write_status(directory, "interrupted" if stopped else "failed", **how)
        raise


def _run(
    experiment: Experiment,
    sources: Sources,
    directory: Path,
    identity: Identity,
    reporter: Reporter,
    replaced: RunRecord | None = None,
) -> RunRecord:
    # Imported here, so that a skipped or refused run does not wait for torch.
    from dp_bench import machine
    from dp_bench.methods.tune import learn
    from dp_bench.opening import announce, open_run_context
    from dp_bench.outcome import compare_rerun, record_of, write_files

    started, began = records.timestamp(), time.perf_counter()
    finished = directory.parent.parent / "runs" / directory.name  # another folder, of a rerun
    context = open_run_context(experiment, sources, directory, reporter)
    announce(context)
    machine.watch_memory(context.backbone.device)
    resumes = (directory / "checkpoint").is_dir()
    with trackers.tracking(experiment.settings, identity.run_id, experiment.resolved, resumes) as tracked:
        result = learn(replace(context, tracking=tracked))
        context = replace(context, data=result.data or context.data)
        memory, kind = machine.peak_memory(context.backbone.device)
        seconds = round((time.perf_counter() - began) / lockstep.size(), 3)
        costs = {"started": started, "total_seconds": seconds}
        costs |= {"peak_memory_mb": memory, "peak_memory_kind": kind}
        record = record_of(context, sources, identity, result, **costs)
        tracked.log(record.num_updates, records.scores_of(record))
    if replaced is not None:
        record = compare_rerun(record, replaced, finished, reporter)
    with signals.deferred():  # what is left takes a moment
        if ranks.leads():
            write_files(context, record, result)
            if replaced is not None:
                records.replace_run(finished, directory)
        _conclude(record, sources.trained[0].reported_split, reporter)
    return record


def _conclude(record: RunRecord, split: str, reporter: Reporter) -> None:
    reporter.line(
        f"{record.run_id}: score {record.score:.2f} on {record.num_examples['report']} {split} examples "
        f"(best of update {record.best_step}, select {record.select_score:.2f} ± {record.select_error:.1f}), "
        f"{record.total_seconds:.0f} s"
    )
    for name, entry in {**record.by_task, **record.transfer}.items():
        untrained = " (not trained on)" if name in record.transfer else ""
        reporter.line(f"  {entry['title']} {entry['score']:.2f}{untrained}")
