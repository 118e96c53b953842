"""The files of runs, written by rename, so that a reader never sees half a file.

The id of a run is a digest of its resolved configuration, without what cannot change its result, and of the
data it read. The same run has the same id, wherever the data is stored and however it was typed.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dp_bench import faults, pack, reading
from dp_bench.types import UserError

SCHEMA_VERSION = 1
VOLATILE = (
    "device",
    "results_dir",
    "cache_dir",
    "on_missing",
    "rerun",
    "keep_weights",
    "logger",
    "experiment",  # these five: what the run is part of
    "hpo.name",
    "hpo.trials",
    "hpo.seed",
    "hpo.searched",
    "trainer.profile",
    "trainer.checkpoint_minutes",
    "prompt.init_from",  # prompt.init_sha256 is in the id
    "prompt.vectors.sources",  # and prompt.sources_sha256
    "data.dir",
    "data.revision",
    "data.templated",
    "backbone.sha256",
    "backbone.shard",
)
PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "hydra-core",
    "omegaconf",
    "pandas",
    "numpy",
    "safetensors",
)


CIRCUMSTANCES = ("versions", "git", "device", "precision", "checkpoint")  # may explain other results
RERUNS = "reruns"  # the folder of unfinished reruns, beside runs/
FOLDER = re.compile(r"(?!\.\.?$)[^/\\*?\[\]\x00-\x1f\x7f]{1,255}")  # a run id, the name of its folder
PROMPT_FILE = "prompt.safetensors"  # the trained tensors
BACKBONE_FILE = "backbone.safetensors"  # a fully trained backbone, with keep_weights
TEMPORARY = ".tmp"  # the end of the names of files that are being written
BACKED_UP = ("record.json", "config.yaml", "predictions.parquet", PROMPT_FILE, BACKBONE_FILE)


@dataclass(frozen=True)
class RunRecord:
    """One finished run. Scores are in 0..100; `score` is on the reported split, `select_score` on the
    other."""

    run_id: str
    status: str
    experiment: str | None
    task: str
    backbone: str
    prompt: str
    regime: str
    protocol: str
    data: str
    seed: int
    score: float
    select_score: float
    selection: str
    metrics: dict[str, float]
    select_metrics: dict[str, float]
    num_examples: dict[str, int]  # train, select, report
    best_step: int
    num_updates: int
    stopped_early: bool
    trainable_parameters: int
    frozen_parameters: int
    train_seconds: float
    eval_seconds: float
    total_seconds: float
    peak_memory_mb: float
    peak_memory_kind: str  # "cuda" or "process"
    device: str
    precision: str
    data_sha256: str  # of the files of the trained tasks; entries of `transfer` have theirs
    data_files: dict[str, dict[str, str]]
    share_truncated: dict[str, float]
    checkpoint: dict[str, str | None]
    versions: dict[str, str | None]
    git: dict[str, Any] | None
    command: list[str]
    started: str
    config: dict[str, Any]
    cell_id: str  # equal for runs that differ in their seed only
    schema_version: int = SCHEMA_VERSION
    facts: dict[str, str] = field(default_factory=dict)  # in the id with config and data (identity.py)
    notes: list[str] = field(default_factory=list)  # of the draw of few-shot rows
    diagnostics: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)  # printed by the run, each once
    routes: str = ""  # the member of a pool that each reported example has, separated by spaces
    # By task, how many examples share texts with others (data/overlap.py).
    overlap: dict[str, dict[str, int]] = field(default_factory=dict)
    # Of a multitask run, title, score, select_score, metrics, num_examples and notes of each task; `score` is
    # their mean and `metrics` has names such as "rte/accuracy".
    by_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    transfer: dict[str, dict[str, Any]] = field(default_factory=dict)  # the same of regime.transfer's tasks
    # name, lr, weight_decay, selector_lr; empty without training, and in older records, for which
    # effective.optimizer_of computes it.
    optimizer: dict[str, Any] = field(default_factory=dict)
    # Whether a fully trained backbone was saved (keep_weights); None where the backbone was frozen.
    keeps_backbone: bool | None = None
    # By "training" and "evaluation", the examples, tokens of texts and FLOPs (flops.py): equal in identical
    # runs, unlike seconds and joules. Empty for baselines without passes, and in older records.
    work: dict[str, dict[str, float]] = field(default_factory=dict)
    energy_joules: float | None = None  # of all GPUs in training and evaluation; None where it is unknown
    num_processes: int | None = None
    # Of runs that were trained at once in its process (sweep --pack); seconds and joules are its equal share.
    num_together: int | None = None

    @property
    def select_error(self) -> float:
        """The standard error of a share of `select_score` among as many examples, in points: how much of a
        difference between two evaluations means nothing."""
        share = self.select_score / 100
        return 100 * math.sqrt(share * (1 - share) / max(1, self.num_examples["select"]))


# Settings of earlier versions, which are in every id. Settings of pieces and of the trainer replaced them: a
# protocol that set them has other ids.
FORMER: Mapping[str, Any] = MappingProxyType(
    {
        **{"protocol.relu_position": False, "protocol.shared_task_draw": False},
        **{f"protocol.{name}": [] for name in ("first_vocab_init", "uniform_init", "tanh_pool")},
        "protocol.step_each_micro_batch": [],
    }
)


def identify(
    resolved: Mapping[str, Any], data_sha256: str, extra: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, str]:
    """Return run id and cell id of a resolved configuration on data with this digest; `extra` has further
    facts on which the result depends."""
    kept = {**decisive(resolved), "data.sha256": data_sha256, **extra}
    seed = kept.pop("seed")
    cell = _digest(kept)
    readable = "-".join(
        str(kept[f"{group}.name"]) for group in ("task", "backbone", "prompt", "regime", "protocol")
    )
    return f"{readable}-s{seed}-{_digest({**kept, 'seed': seed})}", cell


def decisive(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a resolved configuration that are in its id, by dotted key."""
    # null is "not set": a new setting that is null does not change the ids.
    kept = {k: v for k, v in flatten(resolved).items() if not is_volatile(k) and v is not None}
    return {**FORMER, **kept}


def is_volatile(key: str) -> bool:
    """Say whether a setting is not in the id: it changes no result, or is represented by something else."""
    # Of each task: identity.facts represents `together`, and the digest of the data `hub`.
    return key in VOLATILE or key.endswith((".together", ".hub"))


def digest_of(digests: Sequence[str]) -> str:
    """Return the digest of the only task's files, or the digest of those of several tasks."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat


def _digest(flat: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:10]


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary file beside `path`, then rename it to `path`.

    A power cut leaves the old file or the new one. Its mode is the umask's, whatever `write` makes.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with faults.writing(path):
            temporary.touch()
            mode = temporary.stat().st_mode
            write(temporary)
            if temporary.stat().st_mode != mode:  # safetensors makes private files
                temporary.chmod(mode)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, on the disk."""
    if folder.is_file():
        raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(folder))
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        if not is_folder:  # some file systems sync no folders, or one above is not ours to open
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file by rename."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file by rename."""
    write_text(path, json.dumps(content, indent=2, sort_keys=False, ensure_ascii=False) + "\n")


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def save(record: RunRecord, directory: Path) -> None:
    """Write record.json into the folder of a run."""
    write_json(directory / "record.json", asdict(record))


def write_status(directory: Path, status: str, **details: Any) -> None:
    """Write status.json into the folder of a run."""
    write_json(
        directory / "status.json", {"status": status, "time": timestamp(), "pid": os.getpid(), **details}
    )


def forget(directory: Path) -> None:
    """Remove the folder of a run that could not start, unless it has a checkpoint or a record."""
    if {path.name for path in directory.iterdir()} == {"status.json"}:
        (directory / "status.json").unlink()
        directory.rmdir()


def replace_run(directory: Path, rerun: Path) -> None:
    """Move the files of a complete rerun over those of the run: its record after the others, then its status.

    Killed between two files, it leaves a rerun with a record, for which it is called again.
    """
    make_folder(directory)
    last = ("record.json", "status.json")
    for name in sorted((path.name for path in rerun.iterdir()), key=lambda name: (name in last, name)):
        if (directory / name).is_dir():
            shutil.rmtree(directory / name)
        (rerun / name).replace(directory / name)
        sync(directory)
    for folder in (rerun, rerun.parent):
        with suppress(OSError):  # of other reruns
            folder.rmdir()
    shutil.rmtree(directory / "checkpoint", ignore_errors=True)  # of a rerun by an earlier version


def remove_temporary(directory: Path) -> None:
    """Remove half-written files of killed processes from the folder of a run that nobody else runs."""
    for path in directory.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def load(directory: Path) -> RunRecord | None:
    """Return the record of a finished run, from its folder or the pack, or None where there is none.

    Raises UserError where it cannot be read.
    """
    path = directory / "record.json"
    if path.is_file():
        return parse(reading.json_object(path), path)
    file, row = directory.parent.parent / pack.FILE, _packed(directory)
    if row is None:
        return None
    ((_, content),) = pack.contents({directory.name: row}, file)
    return parse(content, file)


def content_of(path: Path) -> dict[str, Any]:
    """Return the content of a record.json; raise UserError where it is not a record."""
    content = reading.json_object(path)
    parse(content, path)
    return content


def parse(content: dict[str, Any], path: Path) -> RunRecord:
    """Return the record with this content, read from `path`; raise UserError where it is not a record."""
    if content.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {content.get('schema_version')}, this dp-bench reads "
            f"{SCHEMA_VERSION}: read it with the version that wrote it (its `versions`), or move it away."
        )
    try:
        record = RunRecord(**content)
    except TypeError as error:
        problem = str(error)
    else:
        problem = reading.misfit(content, RunRecord, "") or _impossible(record) or ""
        if not problem and not FOLDER.fullmatch(record.run_id):
            problem = f"its run_id {record.run_id[:80]!r} is no name of a folder"
        if not problem:
            return record
    raise UserError(f"{path} is not a record of a run ({problem}). Move it away and run again.")


def _impossible(record: RunRecord) -> str | None:
    """Return what no run can have recorded, or None."""
    for name in ("score", "select_score"):
        if not -100 <= (value := getattr(record, name)) <= 100:
            return f"{name} is {value} and not a score of at most 100"
    if missing := {"train", "select", "report"} - record.num_examples.keys():
        return f"num_examples has no {sorted(missing)[0]}"
    return None


def _packed(directory: Path) -> pack.Row | None:
    """Return the row of a run in the pack, given its folder below runs/, which need not exist."""
    runs = directory.parent
    return pack.packed_rows(runs.parent).get(directory.name) if runs.name == "runs" else None


def results_of(record: RunRecord) -> dict[str, float]:
    """Return the results of a run by dotted name: scores and metrics on both splits, and those of each
    task."""
    names = ("score", "select_score", "metrics", "select_metrics", "best_step", "num_updates")
    content = asdict(record)
    entries = {
        f"{task}.{name}": value
        for part in (record.by_task, record.transfer)
        for task, entry in part.items()
        for name, value in flatten(entry).items()
        if name.split(".")[0] in names
    }
    return {**flatten({name: content[name] for name in names}), **entries}


def scores_of(record: RunRecord) -> dict[str, float]:
    """Return the final score and metrics of a run, and of each of its tasks, by name."""
    several = {**record.by_task, **record.transfer}
    return {
        "score": record.score,
        **{f"report/{name}": value for name, value in record.metrics.items()},
        **{f"report/{task}/score": entry["score"] for task, entry in several.items()},
    }


def back_up(directory: Path, record: RunRecord) -> Path:
    """Copy the files of a finished run to a new folder below its folder, where no table counts them, and
    return the new folder. `record` is the run's, which may be in a pack only."""
    folders = (directory / f"before-{number}" for number in itertools.count(1))
    folder = next(path for path in folders if not path.exists())
    make_folder(folder)
    for name in BACKED_UP:
        if (directory / name).is_file():
            shutil.copy2(directory / name, folder / name)
    if not (folder / "record.json").is_file():
        save(record, folder)
    return folder


def load_all(results_dir: Path) -> list[RunRecord]:
    """Return the records of all finished runs, in the order of their ids."""
    return [record for name in finished(results_dir) if (record := load(results_dir / "runs" / name))]


def finished(results_dir: Path) -> list[str]:
    """Return the ids of all finished runs, without reading their records."""
    saved = {path.parent.name for path in (results_dir / "runs").glob("*/record.json")}
    return sorted(saved | pack.packed_rows(results_dir).keys())


def status_of(directory: Path) -> dict[str, Any] | None:
    """Return the content of a run's status.json, or None where it never began. Damage is a status too."""
    path = directory / "status.json"
    if not path.is_file():
        return None
    try:
        content = reading.json_object(path)
    except UserError:
        content = {}
    return content if isinstance(content.get("status"), str) else {"status": "unreadable"}


def is_finished(directory: Path) -> bool:
    """Say whether a run has a record, in its folder or the pack, without reading it."""
    return (directory / "record.json").is_file() or _packed(directory) is not None


def is_packed(directory: Path) -> bool:
    """Say whether a finished run has its record in the pack and no other files."""
    return not (directory / "record.json").is_file() and _packed(directory) is not None


def weights_of(directory: Path) -> Path:
    """Return the file of a finished run's trained tensors; raise UserError where it is missing."""
    path = directory / PROMPT_FILE
    if path.is_file():
        return path
    if is_packed(directory):
        raise UserError(
            f"{directory.name} has its record in {directory.parent.parent / pack.FILE}, but not its weights. "
            "Copy its folder from where it was trained, or train it again with rerun=true; dp-bench inspect "
            "--gradients --fresh needs no weights."
        )
    raise UserError(f"{directory} has no {PROMPT_FILE}: train the run again with rerun=true.")


def statuses(results_dir: Path, *, unfinished: bool = False) -> dict[str, dict[str, Any]]:
    """Return the content of status.json of all runs, by id; with `unfinished`, of those without a record."""
    folders = sorted(path.parent for path in (results_dir / "runs").glob("*/status.json"))
    return {
        folder.name: status
        for folder in folders
        if not (unfinished and is_finished(folder)) and (status := status_of(folder)) is not None
    }


def timestamp() -> str:
    """Return the time in UTC, as 2026-01-31T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def versions() -> dict[str, str | None]:
    """Return the versions of Python, dp-bench and the packages that can change a result."""
    installed: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("dp-bench", *PACKAGES):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = None
    return installed


def git_state() -> dict[str, Any] | None:
    """Return commit and dirty flag of the checkout that this package is in; None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        answer = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
        return answer.stdout.strip()

    try:
        # A wheel may be installed in a virtual environment inside another checkout.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"commit": git("rev-parse", "HEAD"), "dirty": dirty}
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git on this machine, or no checkout
        return None


_typed: ContextVar[tuple[str, ...] | None] = ContextVar("dp_bench_typed", default=None)


def typed(words: Iterable[str]) -> None:
    """Keep what was typed after `dp-bench train`, for the `command` of the records that follow."""
    _typed.set(tuple(words))


def command() -> list[str]:
    """Return the command that made this run, or the script that called `run`."""
    words = _typed.get()
    return list(sys.argv) if words is None else ["dp-bench", "train", *words]
