"""What a run leaves behind, written whole and by rename: a reader never sees half a file.

A run is named by the hash of its resolved configuration, less what cannot change its result, and of the data
it read. Whoever starts the same run again finds it, wherever the data lies and whatever was typed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dp_bench import pack
from dp_bench.types import UserError

SCHEMA_VERSION = 1
VOLATILE = (
    "device",
    "results_dir",
    "cache_dir",
    "on_missing",
    "rerun",
    "keep_weights",
    "experiment",  # these five: what a run is part of
    "hpo.name",
    "hpo.trials",
    "hpo.seed",
    "hpo.searched",
    "trainer.profile",
    "prompt.init_from",  # prompt.init_sha256 says what was there
    "data.dir",
    "data.revision",
    "data.templated",
    "backbone.sha256",
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


CIRCUMSTANCES = ("versions", "git", "device", "precision", "checkpoint")  # may explain other numbers
PROMPT_FILE = "prompt.safetensors"  # what a run has learned
BACKBONE_FILE = "backbone.safetensors"  # a wholly tuned backbone, where keep_weights asks for it
KEPT_ASIDE = ("record.json", "config.yaml", "predictions.parquet", PROMPT_FILE, BACKBONE_FILE)


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
    data_sha256: str  # of the files of the tasks that were trained on; those of `transfer` have their own
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
    facts: dict[str, str] = field(default_factory=dict)  # what named it beside config and data (identity.py)
    notes: list[str] = field(default_factory=list)  # of the draw of few-shot rows
    diagnostics: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)  # what the run said a reader should know, each once
    routes: str = ""  # which member of a pool each reported example has: numbers, one behind the other
    # By task, how many examples have the texts of others (data/overlap.py).
    overlap: dict[str, dict[str, int]] = field(default_factory=dict)
    # Of a multitask run, title, score, select_score, metrics, num_examples and notes of each task; `score` is
    # their mean and `metrics` has names such as "rte/accuracy".
    by_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    transfer: dict[str, dict[str, Any]] = field(default_factory=dict)  # the same of regime.transfer's tasks
    # What it was trained with: name, lr, weight_decay, selector_lr. Empty where nothing was; older records
    # have none, and effective.optimizer_of computes it.
    optimizer: dict[str, Any] = field(default_factory=dict)
    # Whether a wholly tuned backbone was kept (keep_weights); None where the backbone was frozen.
    keeps_backbone: bool | None = None


# Settings that earlier versions had, and that every id has in it. Pieces and the trainer say now what they
# said: a protocol that set them has other ids.
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
    # null is "not set": a setting that a later version adds, and that is null, leaves the ids as they are.
    kept = {k: v for k, v in flatten(resolved).items() if not is_volatile(k) and v is not None}
    kept = {**FORMER, **kept, "data.sha256": data_sha256, **extra}
    seed = kept.pop("seed")
    cell = _digest(kept)
    readable = "-".join(
        str(kept[f"{group}.name"]) for group in ("task", "backbone", "prompt", "regime", "protocol")
    )
    return f"{readable}-s{seed}-{_digest({**kept, 'seed': seed})}", cell


def is_volatile(key: str) -> bool:
    """Say whether a setting stays out of the id: it changes no result, or enters as something else."""
    # Of each task: what `together` leads to is in identity.facts, and what `hub` holds in the data's digest.
    return key in VOLATILE or key.endswith((".together", ".hub"))


def digest_of(digests: Sequence[str]) -> str:
    """Return the digest of the only task's files, or one over those of several tasks."""
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


def replace_file(path: Path, write: Callable[[Path], object], *, durable: bool = False) -> None:
    """Have `write` fill a temporary neighbour of `path`, then rename it into place; `durable` waits until the
    disk has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        if durable:
            _sync(temporary)
        temporary.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(path: Path, text: str) -> None:
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=False, ensure_ascii=False) + "\n")


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def save(record: RunRecord, directory: Path) -> None:
    write_json(directory / "record.json", asdict(record))


def write_status(directory: Path, status: str, **details: Any) -> None:
    write_json(
        directory / "status.json", {"status": status, "time": timestamp(), "pid": os.getpid(), **details}
    )


def forget(directory: Path) -> None:
    """Remove the traces of a run that could not start; one with a checkpoint or a record stays."""
    if {path.name for path in directory.iterdir()} == {"status.json"}:
        (directory / "status.json").unlink()
        directory.rmdir()


def load(directory: Path) -> RunRecord | None:
    """Return the record of a finished run, out of its folder or the pack, or None where there is none yet."""
    path = directory / "record.json"
    if path.is_file():
        return made_of(_read_json(path), path)
    file, row = directory.parent.parent / pack.FILE, _packed(directory)
    if row is None:
        return None
    ((_, content),) = pack.contents({directory.name: row}, file)
    return made_of(content, file)


def content_of(path: Path) -> dict[str, Any]:
    """Return what a record.json holds; raise UserError where that is no record."""
    content = _read_json(path)
    made_of(content, path)
    return content


def made_of(content: dict[str, Any], path: Path) -> RunRecord:
    """Return the record that a file holds; raise UserError where that is none."""
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
        if isinstance(record.config, dict):
            return record
        problem = "its config is no mapping"
    raise UserError(f"{path} is no record of a run ({problem}). Move it away and run again.")


def _packed(directory: Path) -> pack.Row | None:
    """Return what the pack holds of a run, given the folder that it had below runs/."""
    runs = directory.parent
    return pack.beside(runs.parent).get(directory.name) if runs.name == "runs" else None


def outcome(record: RunRecord) -> dict[str, float]:
    """Return what a run came to, by dotted name: its scores and metrics on both splits, and each task's."""
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


def keep_aside(directory: Path, record: RunRecord) -> Path:
    """Copy what a finished run has left to a folder of its own below it, where no table counts it, and
    return that folder; `record` is the run's, which may be in a pack alone."""
    free = (directory / f"before-{number}" for number in itertools.count(1))
    folder = next(path for path in free if not path.exists())
    folder.mkdir()
    for name in KEPT_ASIDE:
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
    return sorted(saved | pack.beside(results_dir).keys())


def status_of(directory: Path) -> dict[str, Any] | None:
    """Return what a run says of itself, or None where it never began."""
    path = directory / "status.json"
    return _read_json(path) if path.is_file() else None


def is_finished(directory: Path) -> bool:
    """Say whether a run has left its record, in its folder or the pack, without reading it."""
    return (directory / "record.json").is_file() or _packed(directory) is not None


def is_packed(directory: Path) -> bool:
    """Say whether the record is all that there is of a finished run, and is in the pack."""
    return not (directory / "record.json").is_file() and _packed(directory) is not None


def weights_of(directory: Path) -> Path:
    """Return the file of what a finished run has learned; raise UserError where it is not there."""
    path = directory / PROMPT_FILE
    if path.is_file():
        return path
    if is_packed(directory):
        raise UserError(
            f"Of {directory.name} only the record is here, in {directory.parent.parent / pack.FILE}, and not "
            "its weights. Copy its folder from where it was trained, or train it again with rerun=true. "
            "dp-bench inspect --fresh needs none."
        )
    raise UserError(f"{directory} has no {PROMPT_FILE}: what the run has learned was not kept.")


def statuses(results_dir: Path, *, unfinished: bool = False) -> dict[str, dict[str, Any]]:
    """Return what each run says of itself: running, done, interrupted or failed; or those without a
    record."""
    files = sorted((results_dir / "runs").glob("*/status.json"))
    asked = (path for path in files if not (unfinished and is_finished(path.parent)))
    return {path.parent.name: _read_json(path) for path in asked}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}). Move it away and run again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object. Move it away and run again.")
    return content


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def versions() -> dict[str, str | None]:
    """Return the versions of Python, dp-bench and the packages that can change a result."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("dp-bench", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def git_state() -> dict[str, Any] | None:
    """Return commit and dirty flag of the checkout this package runs from; None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:  # no git on this machine
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if (
        top is None or Path(top).resolve() != root
    ):  # a wheel in a virtual environment inside some other checkout
        return None
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
    }


def command() -> list[str]:
    """Return what was typed: `dp-bench train` puts its own two words in the place of the script's path."""
    return [*sys.argv[0].split(" "), *sys.argv[1:]] if sys.argv[0].startswith("dp-bench") else list(sys.argv)
