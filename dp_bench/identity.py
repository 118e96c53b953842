"""The id of a run, from its resolved configuration, the files that it reads, and further facts."""

from __future__ import annotations

from dataclasses import dataclass

from dp_bench import plugins, records
from dp_bench.backbones import checkpoint
from dp_bench.config import Experiment
from dp_bench.data.grouping import grouping
from dp_bench.data.readers import REVISIONS
from dp_bench.data.source import Source, locate
from dp_bench.methods import table
from dp_bench.prompts import catalogue
from dp_bench.settings import FewShotSplit, RunSettings, Selection


@dataclass(frozen=True)
class Sources:
    """The files of a run's tasks, in the order of `Experiment.tasks` and `.transfer`."""

    trained: tuple[Source, ...]
    transfer: tuple[Source, ...]

    @classmethod
    def of(cls, experiment: Experiment) -> Sources:
        """Locate the files of an experiment; raise UserError where one cannot be found."""
        data, cache = experiment.settings.data, experiment.settings.cache
        trained, transfer = (
            tuple(locate(task, data, cache) for task in tasks)
            for tasks in (experiment.tasks, experiment.transfer)
        )
        return cls(trained, transfer)

    @property
    def sha256(self) -> str:
        """The digest of all files that a run reads, including those of regime.transfer."""
        return records.digest_of([source.sha256 for source in (*self.trained, *self.transfer)])

    @property
    def trained_sha256(self) -> str:
        """The digest of the files of the tasks that are trained on."""
        return records.digest_of([source.sha256 for source in self.trained])

    @property
    def files(self) -> dict[str, dict[str, str]]:
        """Name and digest of each file, under train and validation; with several tasks, under `rte/train`."""
        several = len(self.trained) > 1
        files = {
            f"{source.task}/{name}" if several else name: file
            for source in self.trained
            for name, file in (("train", source.train), ("validation", source.validation))
        }
        files |= {f"{source.task}/validation": source.validation for source in self.transfer}
        return {name: {"file": file.path.name, "sha256": file.sha256} for name, file in files.items()}


@dataclass(frozen=True)
class Identity:
    """The id of a run, that of its cell, and the facts in both."""

    run_id: str
    cell_id: str  # equal for runs that differ in their seed only
    facts: dict[str, str]


def facts(experiment: Experiment, trained: tuple[Source, ...]) -> dict[str, str]:
    """Return what enters a run's id in addition to its configuration and the digest of its files, or instead
    of a setting with the same key.

    `backbone.…`: the content of weights and tokenizer, instead of their location.
    `split.TASK`: which training rows were kept together, where rows are held out or drawn and earlier
    versions kept others together.
    `revision.TASK`: the revision of the task's reader, where earlier versions read records differently and
    the task's file has no `task.revision`.
    `code`: the digest of the file of --code, where a piece or the method is defined there.
    `reported`: the score is that of the evaluation that selected, where both use the same rows and a control
    draws; earlier versions drew again. (A protocol whose evaluations draw has a revision.)
    """
    settings = experiment.settings
    found = checkpoint.facts(settings.backbone, settings.cache)
    for task in (*experiment.tasks, *experiment.transfer):
        if task.reader in REVISIONS and task.revision is None:
            found[f"revision.{task.name}"] = str(REVISIONS[task.reader])
    if (code := plugins.code_sha256(_modules(settings))) is not None:
        found["code"] = code
    if settings.trainer.selection is Selection.validation and _draws_always(settings):
        found["reported"] = "the evaluation that selected"
    if _divides_rows(settings):
        for task, source in zip(experiment.tasks, trained, strict=True):
            digest = grouping(task.training, source.train, settings.data.limit)
            if digest is not None:
                found[f"split.{task.training.name}"] = digest[:16]
    return found


def _modules(settings: RunSettings) -> set[str]:
    """Return the modules that a run's pieces and its method come from."""
    method = table.of(settings.prompt.method)
    pieces = {piece.target.rpartition(".")[0] for piece in catalogue.used(settings.prompt.pieces).values()}
    parts = (method.prepare, method.fit, method.writes, method.scores)
    return pieces | {name.partition(":")[0] for name in parts if name}


def _draws_always(settings: RunSettings) -> bool:
    return any(piece.is_random for piece in catalogue.used(settings.prompt.pieces).values())


def _divides_rows(settings: RunSettings) -> bool:
    regime = settings.regime
    if regime.shots is not None:
        return regime.split is FewShotSplit.sampled
    return settings.trainer.selection is Selection.heldout


def identify(experiment: Experiment, sources: Sources) -> Identity:
    """Return the identity of an experiment that reads these files."""
    extra = facts(experiment, sources.trained)
    return Identity(*records.identify(experiment.resolved, sources.sha256, extra), extra)
