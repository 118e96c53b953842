"""Where the raw records come from: a folder in the layout of the official release, or the hub and its cache.

Large libraries are imported only for a parquet or CSV file or the hub, so that a wrong path fails at once.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from dp_bench import reading
from dp_bench.data.cache import cached_folder
from dp_bench.digests import file_sha256
from dp_bench.hub import fetch
from dp_bench.settings import DataSettings, TaskSettings
from dp_bench.types import UserError

HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # release: hub
HUB_FILE = re.compile(r".*-\d+-of-\d+\.parquet")  # a split in the layout of the hub
SUFFIXES = (".jsonl", ".csv", ".parquet")  # of the files of a task
CSV_FIELD = 16_000_000  # characters: an open quote is noticed at last
PARQUET_ROWS = 1000  # read at once: the hub's ReCoRD does not fit into memory as Python objects
INSTEAD = (
    "Set data.dir=PATH to a folder with the official release files "
    "(PATH/BoolQ/train.jsonl, PATH/BoolQ/val.jsonl, …)."
)


@dataclass(frozen=True)
class SplitFile:
    """A file of a task, the sha256 of its content, and the name of the split in example ids."""

    path: Path
    sha256: str
    split: str


@dataclass(frozen=True)
class Source:
    """The two files of a task: one to train on and one to report on."""

    task: str
    train: SplitFile
    validation: SplitFile
    location: str  # the folder, or name@revision on the hub

    @property
    def sha256(self) -> str:
        """One digest over the contents of both files."""
        return digest_of_both(self.train.sha256, self.validation.sha256)

    @property
    def reported_split(self) -> str:
        """The name of the reported split in messages."""
        return HUB_SPLITS.get(self.validation.split, self.validation.split)


def digest_of_both(train: str, validation: str) -> str:
    """Return the digest of the data of a task from the digests of its two files."""
    return sha256(f"{train}\n{validation}\n".encode()).hexdigest()


def locate(task: TaskSettings, data: DataSettings, cache: Path | None = None) -> Source:
    """Find the two files of a task.

    A diagnostic is trained on the train file of another task, `task.train_task`, and reports on its only
    file. The micro benchmark is first written below `cache`, which only it needs. Raises UserError if a file
    is missing, UnreachableError if the hub cannot be reached.
    """
    report_key = "data.validation_file" if task.only_file is None else None
    wanted = [
        (task.training, data.train_file, "data.train_file"),
        (task, task.only_file or data.validation_file, report_key),
    ]
    if data.difficulty is None and data.dir is None:
        for _, stem, key in wanted:
            if key is not None and stem not in HUB_SPLITS:
                raise UserError(
                    f"{key}={stem} is no split of the data set on the hub: use {', '.join(HUB_SPLITS)}, "
                    f"or data.dir=PATH for a folder whose tasks have a {stem}.jsonl."
                )
        (train, _), (report, location) = (
            _on_hub(each, data, stem if key else "test") for each, stem, key in wanted
        )
        return Source(task.name, train, report, location)
    if data.difficulty is not None:
        assert cache is not None, "generated data need a folder"
        root = _generated(task, data, cache)
    else:
        root = Path(str(data.dir)).expanduser()
    # A mixture has a folder of its name and the schema of BoolQ.
    train, report = (
        _release_file(_task_folder(root, data.mixture or each.title), stem, key) for each, stem, key in wanted
    )
    return Source(task.name, train, report, str(root))


def test_file(task: TaskSettings, data: DataSettings) -> SplitFile:
    """Find the test file of a task, whose labels the release hides, or the only file of a diagnostic.

    Raises UserError if it is missing, UnreachableError if the hub cannot be reached.
    """
    stem = task.only_file or "test"
    if data.dir is None:
        return _on_hub(task, data, "test")[0]
    return _release_file(_task_folder(Path(data.dir).expanduser(), task.title), stem, None)


def _generated(task: TaskSettings, data: DataSettings, cache_dir: Path) -> Path:
    """Write a task of the micro benchmark, unless cached; return the root folder, named by all its inputs."""
    from dp_bench.micro import world

    if data.mixture is not None and (data.mixture not in world.MIXTURES or task.name != "boolq"):
        raise UserError(
            f"data.mixture={data.mixture} replaces BoolQ: use task=boolq and one of "
            f"{', '.join(world.MIXTURES)}."
        )
    name = data.mixture or task.name
    if name not in world.TASKS:
        raise UserError(f"The micro benchmark has no task '{name}'; it has {', '.join(world.TASKS)}.")
    if data.difficulty not in world.SIZES:
        raise UserError(f"data.difficulty={data.difficulty} is unknown: use {', '.join(world.SIZES)}.")
    root = cache_dir / "micro" / f"{data.difficulty}-{data.world_seed}-{world.code_digest()[:12]}"
    write = partial(world.write, task=name, seed=data.world_seed, difficulty=data.difficulty)
    cached_folder(root / (data.mixture or task.title), write)
    return root


def split_file(path: Path, split: str | None = None) -> SplitFile:
    """Return a file with its digest; its split is the stem of its name, if `split` names no other."""
    with reading.guarded(path, "Fetch it again."):
        return SplitFile(path, file_sha256(path), split or path.stem)


# ---------------------------------------------------------------------------------------------- records


Numbered = tuple[int, int, dict[str, Any]]  # a record with its line (from 1) and its number (from 0)


def read_records(split_file: SplitFile) -> Iterator[Numbered]:
    """Yield line, number and record of a JSONL, CSV or Parquet file; CSV begins with a line of column names.

    Raises UserError with file and line for a line that cannot be read, such as one that is no JSON object.
    """

    def refuse(problem: str) -> NoReturn:
        raise UserError(problem)

    path = split_file.path
    with path.open("rb") as file:
        yield from streamed(file, path, path.suffix, refuse)


def streamed(file: BinaryIO, path: Path, suffix: str, refuse: Callable[[str], None]) -> Iterator[Numbered]:
    """Yield line, number and record, as they arrive; blank lines of JSONL are numbered too.

    What is wrong with a line is passed to `refuse`, and the next one is read. `path` is for messages; a
    Parquet file is read from it. Raises UserError for a CSV file without a usable line of column names, or
    for a damaged Parquet file.
    """
    if suffix == ".csv":
        yield from _streamed_csv(file, path, refuse)
        return
    if suffix == ".parquet":
        yield from _parquet_records(path)
        return
    for number, raw in enumerate(file, start=1):
        try:
            line = _decoded(path, number, raw).strip()
            record = _parsed(path, number, line) if line else None
        except UserError as error:
            refuse(str(error))
            continue
        if record is not None:
            yield number, number - 1, record


def _streamed_csv(file: BinaryIO, path: Path, refuse: Callable[[str], None]) -> Iterator[Numbered]:
    text = TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    csv.field_size_limit(CSV_FIELD)
    try:
        yield from _csv_rows(csv.reader(text), path, refuse)
    finally:
        text.detach()


def _csv_rows(rows: Any, path: Path, refuse: Callable[[str], None]) -> Iterator[Numbered]:
    names: list[str] | None = None
    record = 0
    while True:
        line = rows.line_num + 1
        problem = ""
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            row, problem = [""], f"{error}"
        if not row:
            continue
        if any("\ud800" <= char <= "\udfff" for value in row for char in value):
            problem = "not UTF-8"
        if names is None:
            if problem := problem or _problem_of_names(row):
                raise UserError(
                    f"{path}, line {line}: expected the names of the columns, each once, in UTF-8, with "
                    f"commas between them: {problem}."
                )
            names = row
            continue
        if not problem and len(row) != len(names):
            problem = f"{len(row)} values, and {len(names)} columns: {', '.join(names)}"
        if problem:
            refuse(f"{path}, line {line}: {problem}.")
        else:
            yield line, record, dict(zip(names, row, strict=True))
        record += 1
    if names is None:
        raise UserError(f"{path} is empty: expected the names of the columns in line 1, and rows after it.")


def _problem_of_names(row: Sequence[str]) -> str:
    """Return what is wrong with the names of columns, or ""."""
    if repeated := [name for name, number in Counter(row).items() if number > 1]:
        return f"'{repeated[0]}' is the name of several columns"
    if not all(map(str.strip, row)):
        return f"a column has no name: {', '.join(row)}"
    other = next((sign for sign in ";\t|" if len(row) == 1 and sign in row[0]), None)
    return f"{other!r} is between them" if other else ""


def _decoded(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        excerpt = raw[max(0, error.start - 20) : error.start + 20].decode("utf-8", errors="backslashreplace")
        raise UserError(
            f"{path}, line {number}: not UTF-8 at byte {error.start + 1} of the line (…{excerpt}…). "
            "Expected one JSON object a line in UTF-8; convert the file or fetch it again."
        ) from None


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except RecursionError:
        raise UserError(
            f"{path}, line {number}: too many lists and objects in each other. Fetch the file again."
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {number}: expected one whole JSON object, but {error.msg} at column {error.colno} "
            f"({_excerpt(line, error.pos)}). The line may be cut short; fetch the file again."
        ) from None
    except ValueError:  # an integer of thousands of digits
        raise UserError(
            f"{path}, line {number}: a number has too many digits. Fetch the file again."
        ) from None
    if not isinstance(record, dict):
        raise UserError(
            f'{path}, line {number}: expected a JSON object, {{"idx": 0, …}}, found {_excerpt(line, 0)}.'
        )
    if reading.ESCAPED_HALF.search(line):
        _refuse_halves(path, number, record)
    return record


def _refuse_halves(path: Path, number: int, record: dict[str, Any]) -> None:
    """Raise UserError for half of a surrogate pair, which JSON can contain but which is no character."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        text, start = str(error.object), error.start
        excerpt = text[max(0, start - 20) : start + 20].encode("utf-8", "backslashreplace").decode()
        raise UserError(
            f"{path}, line {number}: the escape \\u{ord(text[start]):04x} (…{excerpt}…) is half of a "
            "surrogate pair and no character, as in a text that was cut inside an emoji. Remove it, or write "
            "the whole character."
        ) from None


def _excerpt(line: str, position: int) -> str:
    start, end = max(0, position - 30), position + 30
    return f"{'…' if start else ''}{line[start:end]}{'…' if end < len(line) else ''}"


def _parquet_records(path: Path) -> Iterator[Numbered]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for rows in file.iter_batches(PARQUET_ROWS):
                for record in rows.to_pylist():
                    number += 1
                    yield number, number - 1, record
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: a text after row {number} is not UTF-8 ({error.reason}). Write the file again."
        ) from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: expected a parquet file, but {reason}. Fetch it again.") from None


# ---------------------------------------------------------------------------------------------- a folder


def _task_folder(root: Path, title: str) -> Path:
    if not root.is_dir():
        raise UserError(
            f"data.dir={root} is not a folder. Give the folder that contains {title}/ with the files of the "
            "task, as the official SuperGLUE release does (BoolQ/train.jsonl, BoolQ/val.jsonl, …)."
        )
    folder = subfolder(root, title)
    if folder is None:
        raise UserError(f"data.dir={root} has no {title}/ folder{_nearby(root, title)}")
    return folder


def subfolder(root: Path, title: str) -> Path | None:
    """Return the folder called `title`, ignoring case, or None."""
    if (root / title).is_dir():
        return root / title
    return next((child for child in folders(root) if child.name.lower() == title.lower()), None)


def folders(root: Path) -> list[Path]:
    """Return the readable folders within `root`, sorted."""
    return sorted(child for child in root.iterdir() if child.is_dir() and os.access(child, os.R_OK | os.X_OK))


def _nearby(root: Path, title: str) -> str:
    """Return the end of a message: the folder to give, one level down or up, or what `root` contains."""
    for child in folders(root):
        if subfolder(child, title) is not None:
            return f", but {child} does: set data.dir={child}."
    if root.name.lower() == title.lower() and any(root.glob("*.jsonl")):
        return f"; it is the {title} folder itself: set data.dir={root.parent}."
    return f"; it contains {_listing(root)}. Expected {root / title}/train.jsonl (or .csv, .parquet)."


def _release_file(folder: Path, stem: str, key: str | None) -> SplitFile:
    """Return a file of a task's folder; `key` is the setting that named it, None for an only file."""
    files = files_of(folder)
    if stem in files:
        return split_file(files[stem], stem if key else "test")
    path, stems = folder / f"{stem}{next(iter(files.values()), Path('x.jsonl')).suffix}", list(files)
    if key == "data.validation_file" and "dev32" in stems:
        raise UserError(
            f"{path} is missing, but there is a dev32.jsonl, as in FewGLUE: set {key}=dev32 "
            "(its rows are from the train set of SuperGLUE, so its score is no validation score), "
            "or point data.dir at the official release."
        )
    if any(folder.glob("*-of-*.parquet")):
        raise UserError(
            f"{path} is missing, but {folder} contains parquet files, as on the hub: "
            f"set data.dir=null data.hub={folder.parent}."
        )
    instead = ""
    if key is not None and stems:
        instead = f" To read another file, set {key} to one of: {', '.join(stems)}."
    raise UserError(f"{path} is missing; {folder} contains {_listing(folder)}.{instead}")


def files_of(folder: Path) -> dict[str, Path]:
    """Return the data files of a folder by stem, sorted; of two with one stem that with the first suffix."""
    paths = [path for suffix in reversed(SUFFIXES) for path in folder.glob(f"*{suffix}") if path.is_file()]
    files = {path.stem: path for path in paths if not HUB_FILE.fullmatch(path.name)}
    return dict(sorted(files.items()))


def _listing(folder: Path) -> str:
    names = sorted(child.name for child in folder.iterdir())
    return f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}" if names else "nothing"


# ---------------------------------------------------------------------------------------------- the hub


def _on_hub(task: TaskSettings, data: DataSettings, stem: str) -> tuple[SplitFile, str]:
    """Return a file of a task and where it is, in records; `task.hub` overrides data.hub."""
    if task.hub is not None:
        hub, _, revision = task.hub.partition("@")
        data = replace(data, hub=hub, revision=revision or None)
    pattern = f"{task.hub_config}/{HUB_SPLITS[stem]}-*.parquet"
    root = Path(data.hub).expanduser()
    location = str(root)
    if not root.is_dir():
        root, location = _snapshot(task, data, pattern), f"{data.hub}@{data.revision or 'main'}"
    paths = list(root.glob(pattern))
    if len(paths) != 1:
        folder = root / task.hub_config
        content = _listing(folder) if folder.is_dir() else "no such folder"
        raise UserError(f"Expected one file {root / pattern}, the layout of the hub; found {content}.")
    return split_file(paths[0], stem), location


def _snapshot(task: TaskSettings, data: DataSettings, pattern: str) -> Path:
    """Return a snapshot with the file, from the cache if it is there, or else downloaded."""
    revision, patterns = data.revision or "main", [f"{task.hub_config}/*.parquet"]

    def holds(folder: Path) -> bool:
        return any(folder.glob(pattern))

    return fetch(data.hub, "dataset", revision, patterns, holds, subject=task.title, instead=INSTEAD)
