"""What the runs of a plan will take, by what finished runs took: time, memory and disk. Needs no torch.

The time of a run is a fixed part (loading, first summaries), the time of its updates in proportion to their
texts, and that of its evaluations in proportion to theirs. The most similar finished runs say how long each
takes: those of its cell, else of its task and prompt, its task, its data, or its backbone. A text counts by
its tokens, prompt included, where finished runs have counted them (RunRecord.work).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from dp_bench.costs import EVALUATION, TRAINING, work_of
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import SplitFile
from dp_bench.data.split import number_held_out
from dp_bench.effective import is_trained
from dp_bench.records import RunRecord
from dp_bench.settings import Selection, TaskSettings
from dp_bench.sweep.plan import Run
from dp_bench.types import UserError

Config = Mapping[str, Any]
LARGE = 50_000_000  # bytes: examples of a larger file are not counted, its lines are
RECORD_BYTES, BYTES_AN_EXAMPLE = 30_000, 60  # of record, configuration and history; of the predictions


@dataclass(frozen=True)
class Passes:
    """How many examples a run trains on, with repetition, and how many it evaluates."""

    trained: float
    evaluated: float


class Costs:
    """What finished runs took, which estimates what others will take."""

    def __init__(self, finished: Iterable[RunRecord], results_dir: Path | None = None) -> None:
        self.results_dir = results_dir
        self.trainable: dict[str, int] = {}  # number of trained parameters, by cell
        self._similar: dict[tuple[str, ...], list[RunRecord]] = {}
        self._sizes: dict[str, dict[str, int]] = {}  # numbers of examples, by what decides them
        self._tokens: dict[tuple[str, str], float] = {}  # of a text, by data and task
        self._seconds: dict[str, float | None] = {}  # by cell, until a run is added
        for record in finished:
            self.add(record)

    def add(self, record: RunRecord) -> None:
        """Count one more finished run."""
        self._seconds.clear()
        self.trainable[record.cell_id] = record.trainable_parameters
        self._sizes[_data_key(record.config)] = record.num_examples
        examples = work_of(record, EVALUATION, "examples")
        if examples:
            self._tokens[_texts(record.config)] = (work_of(record, EVALUATION, "tokens") or 0.0) / examples
        for key in _kinds(record.cell_id, record.config):
            self._similar.setdefault(key, []).append(record)

    def similar(self, run: Run) -> list[RunRecord]:
        """Return the most similar finished runs."""
        return next(filter(None, map(self._similar.get, _kinds(run.cell_id, run.resolved))), [])

    def seconds(self, run: Run) -> float | None:
        """Return the time that a run will take; None without finished runs that are like it."""
        if run.cell_id not in self._seconds:
            self._seconds[run.cell_id] = self._estimate(run)
        return self._seconds[run.cell_id]

    def _estimate(self, run: Run) -> float | None:
        records = self.similar(run)
        if not records:
            return None
        fixed = fmean(max(0.0, r.total_seconds - r.train_seconds - r.eval_seconds) for r in records)
        sizes = self.sizes(run) or records[-1].num_examples
        passes = passes_of(run.resolved, _updates(run.resolved), sizes, fmean(map(_reports, records)))
        done = [(r, _passes_of_record(r), self._length(r.config, run.resolved)) for r in records]
        trained = sum(each.trained * length for _, each, length in done)
        evaluated = sum(each.evaluated * length for _, each, length in done)
        train, evaluate = (
            sum(getattr(r, name) for r in records) for name in ("train_seconds", "eval_seconds")
        )
        return (
            fixed
            + (passes.trained * train / trained if trained else 0.0)
            + (passes.evaluated * evaluate / evaluated if evaluated else 0.0)
        )

    def memory(self, run: Run) -> float | None:
        """Return the peak MiB of the most similar finished runs; None without any."""
        return max((record.peak_memory_mb for record in self.similar(run)), default=None)

    def disk(self, run: Run, trainable: int | None) -> float | None:
        """Return the bytes that a run will leave: those of a similar one whose files are here, or an estimate
        from its number of trained parameters, or theirs; None where that is unknown, too."""
        similar = self.similar(run)
        for record in similar[-3:] if self.results_dir else ():
            folder = Path(str(self.results_dir)) / "runs" / record.run_id
            if (folder / "record.json").is_file():
                return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        if trainable is None:
            if not similar:
                return None
            trainable = max(record.trainable_parameters for record in similar)
        sizes = self.sizes(run) or {"report": 0}
        return float(RECORD_BYTES + BYTES_AN_EXAMPLE * sizes["report"] + 4 * trainable)

    def sizes(self, run: Run) -> dict[str, int] | None:
        """Return the numbers of examples that select and are reported: from a finished run on the same
        examples, or from the files."""
        known = self._sizes.get(_data_key(run.resolved))
        with suppress(UserError):  # of a file that cannot be read: its runs say so
            known = known or (_counted(run) if run.sources else None)
        return known

    def _length(self, config: Config, other: Config) -> float:
        """Return the length of a run's texts and prompt as a share of another's; 1 where one is unknown."""
        texts, other_texts = self._tokens.get(_texts(config)), self._tokens.get(_texts(other))
        if texts is None or other_texts is None:
            return 1.0
        longer, shorter = texts + _num_tokens(config), other_texts + _num_tokens(other)
        return longer / shorter if longer and shorter else 1.0


def passes_of(config: Config, updates: int, sizes: Mapping[str, int], reports: float) -> Passes:
    """Return the passes of a run of so many updates; `reports` times it evaluates the reported examples."""
    trainer = config["trainer"]
    evaluations = max(1, -(-updates // int(trainer["eval_every"])))
    evaluated = evaluations * sizes["select"] + reports * sizes["report"]
    return Passes(updates * float(trainer["batch_size"]), evaluated)


def _passes_of_record(record: RunRecord) -> Passes:
    passes = passes_of(record.config, record.num_updates, record.num_examples, _reports(record))
    trained, evaluated = (work_of(record, phase, "examples") for phase in (TRAINING, EVALUATION))
    return Passes(trained or passes.trained, evaluated or passes.evaluated)


def _reports(record: RunRecord) -> float:
    """Return how often a run evaluated the reported examples: once, and once for each control."""
    controls = [name for name in record.diagnostics if name.endswith("_score")]
    return 1 + len(controls) / max(1, len({*record.by_task, *record.transfer}))


def _kinds(cell_id: str, resolved: Config) -> list[tuple[str, ...]]:
    task, prompt = resolved["task"]["name"], resolved["prompt"]
    anywhere = (resolved["backbone"]["name"], prompt["method"])
    where = (resolved["data"]["name"], *anywhere)
    return [(cell_id,), (*where, task, prompt["name"]), (*where, task), where, anywhere]


def _texts(config: Config) -> tuple[str, str]:
    return config["data"]["name"], "+".join(config["regime"].get("tasks") or [config["task"]["name"]])


def _num_tokens(config: Config) -> int:
    return int(config["prompt"].get("num_tokens") or 0)


def _updates(resolved: Config) -> int:
    return int(resolved["trainer"]["max_steps"]) if is_trained(resolved) else 0


def _data_key(config: Config) -> str:
    """Return what decides how many examples select and are reported."""
    data, regime, trainer = config["data"], config["regime"], config["trainer"]
    held = [trainer.get(f"heldout_{name}") for name in ("fraction", "min", "max")]
    files = [data.get(name) for name in ("name", "limit", "train_file", "validation_file")]
    return repr(
        [_texts(config), files, regime.get("shots"), regime.get("transfer"), trainer["selection"], held]
    )


def _counted(run: Run) -> dict[str, int]:
    """Return the numbers of examples that select and are reported, from the files of a run."""
    assert run.experiment is not None and run.sources is not None
    settings = run.experiment.settings
    select = report = 0
    for task, source in zip(run.experiment.tasks, run.sources.trained, strict=True):
        reported = _number(task, source.validation, settings.data.limit)
        report += reported
        if settings.trainer.selection is Selection.validation:
            select += reported
        elif settings.regime.shots is not None:
            select += settings.regime.shots * max(1, len(task.labels))
        else:
            number = _number(task.training, source.train, settings.data.limit)
            select += number_held_out(number, settings.trainer)
    for task, source in zip(run.experiment.transfer, run.sources.transfer, strict=True):
        report += _number(task, source.validation, settings.data.limit)
    return {"select": select, "report": report}


_counts: dict[tuple[str, Path, int | None], int] = {}


def _number(task: TaskSettings, file: SplitFile, limit: int | None) -> int:
    """Return the number of examples of a file; of a large file, that of its lines."""
    key = (task.name, file.path, limit)
    if key not in _counts:
        if limit is None and file.path.stat().st_size > LARGE and file.path.suffix == ".jsonl":
            _counts[key] = _lines(file.path)
        else:
            _counts[key] = sum(1 for _ in ExampleFile(task, file, limit))
    return _counts[key]


@lru_cache
def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def total(numbers: Sequence[float | None]) -> tuple[float | None, int]:
    """Return the sum of the known numbers, None without any, and how many are unknown."""
    known = [number for number in numbers if number is not None]
    return (sum(known) if known else None), len(numbers) - len(known)
