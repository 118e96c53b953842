"""`dp-bench data check`: which files of the tasks are where, whether they can be read and are a release's.

All tasks are known by their YAML files, so that a folder can be judged whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dp_bench import tasks
from dp_bench.data.overlap import Overlap, Row, row_of
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import SplitFile, files_of, folders, split_file, subfolder
from dp_bench.hub import hub_cache_dir
from dp_bench.settings import TaskSettings
from dp_bench.terminal import make_console
from dp_bench.types import UserError


@dataclass(frozen=True)
class Found:
    """One line of the table. `problem` is None for a file that can be read."""

    task: TaskSettings
    file: str
    counts: tuple[str, str, str] = ("", "", "")  # rows, questions, answers
    labels: str = ""
    sha256: str = ""
    origin: str = ""
    problem: str | None = None
    rows: list[Row] | None = None


def check(directory: Path | None = None, extra_dir: Path | None = None) -> int:
    """Print what is found and return 0 if a task can be trained on it and no file is broken, else 2."""
    console = make_console(width=None if sys.stdout.isatty() else 120)
    known = list(tasks.known(extra_dir).values())
    if directory is None:
        return _check_cache(console, known)
    return _check_directory(console, directory.expanduser(), known)


# ---------------------------------------------------------------------------------------------- a folder


def _check_directory(console: Console, root: Path, known: Sequence[TaskSettings]) -> int:
    if not root.is_dir():
        raise UserError(
            f"--dir {root} is not a folder. Give the one that holds BoolQ/train.jsonl and the other tasks."
        )
    there = [task for task in known if subfolder(root, task.title) is not None]
    if not there:
        raise UserError(f"{root} holds no folder of a known task{_hint(root, known)}")
    origins = _origins(known)
    found = [line for task in there for line in _look(root, task, origins)]
    console.print(_table(found))
    for problem in dict.fromkeys(line.problem for line in found if line.problem is not None):
        titles = dict.fromkeys(line.task.title for line in found if line.problem == problem)
        _say(console, f"{', '.join(titles)}: {problem}")
    for task in there:
        for note in _overlap(task, found):
            _say(console, f"{task.title}: {note}.")
    absent = [task.title for task in known if task.train_task is None and task not in there]
    if absent:
        _say(
            console,
            f"No folder for {', '.join(absent)}: expected {root}/{absent[0]}/train.jsonl and val.jsonl.",
        )
    return _verdict(console, root, there, found)


def _hint(root: Path, known: Sequence[TaskSettings]) -> str:
    for child in folders(root):
        if any(subfolder(child, task.title) for task in known):
            return f", but {child} does: use --dir {child}."
    if any(root.name.lower() == task.title.lower() for task in known):
        return f"; it is the folder of one task: use --dir {root.parent}."
    if any(root.glob("*/train-*.parquet")):
        return f"; it is laid out as on the hub: train with data.hub={root}."
    return f". Expected {root}/BoolQ/train.jsonl, {root}/BoolQ/val.jsonl and the like."


def _origins(known: Iterable[TaskSettings]) -> dict[str, tuple[str, str]]:
    """Return, by the digest of a file, its release and what it is called there: ("FewGLUE", "CB/dev32")."""
    return {
        file["sha256"]: (release, f"{task.title}/{stem}")
        for task in known
        for release, files in (task.files or {}).items()
        for stem, file in files.items()
    }


def _look(root: Path, task: TaskSettings, origins: dict[str, tuple[str, str]]) -> list[Found]:
    folder = subfolder(root, task.title)
    assert folder is not None, task.title
    there = files_of(folder)
    stems = dict.fromkeys([*_expected(task), *there])
    return [
        _inspect(task, there[stem], origins) if stem in there else _missing(task, folder / f"{stem}.jsonl")
        for stem in stems
    ]


def _expected(task: TaskSettings) -> list[str]:
    return ["train", "val"] if task.only_file is None else [task.only_file]


def _missing(task: TaskSettings, path: Path) -> Found:
    problem = f"expected {path}, which is not there."
    if path.stem == "val" and "dev32" in files_of(path.parent):
        problem = "no val.jsonl, but dev32.jsonl, as FewGLUE has it: train with data.validation_file=dev32."
    return Found(task, path.name, ("missing", "", ""), problem=problem)


def _inspect(task: TaskSettings, path: Path, origins: dict[str, tuple[str, str]]) -> Found:
    file = split_file(path)
    origin = _origin(task, file, origins)
    try:
        counts, labels, rows = _read(task, file)
    except UserError as error:
        return Found(task, path.name, ("broken", "", ""), "", file.sha256, origin, str(error))
    return Found(task, path.name, counts, labels, file.sha256, origin, rows=rows)


def _overlap(task: TaskSettings, found: Sequence[Found]) -> Iterator[str]:
    """Yield what is there twice in the files of a task that a run trains and reports on."""
    rows = {Path(line.file).stem: line.rows for line in found if line.task is task and line.rows is not None}
    train, report = rows.get("train"), rows.get("val")
    if train is not None and report is not None:
        yield from Overlap.of(train, report).notes(len(report))


def _origin(task: TaskSettings, file: SplitFile, origins: dict[str, tuple[str, str]]) -> str:
    """Return whose file this is; one that holds another file's content says which, and one that should be a
    release's how many rows that has."""
    release, name = origins.get(file.sha256, (None, ""))
    if release is None:
        released: dict[str, Any] = (task.files or {}).get("SuperGLUE", {})
        rows = released.get(file.path.stem, {}).get("rows")
        return f"other (released: {rows:,} rows)" if rows is not None else "other"
    said = "official release" if release == "SuperGLUE" else release
    return said if name == f"{task.title}/{file.path.stem}" else f"{said}'s {name}{file.path.suffix}"


def _read(task: TaskSettings, file: SplitFile) -> tuple[tuple[str, str, str], str, list[Row]]:
    num_labelled, rows = 0, []
    sources, groups = set(), set()
    for example in ExampleFile(task, file, file.split):
        num_labelled += example.label is not None
        sources.add(example.source)
        groups.add(example.group)
        rows.append(row_of(example))
    num_examples = len(rows)
    labelled = "none" if not num_labelled else "all" if num_labelled == num_examples else f"{num_labelled}"
    if task.reader == "multirc":
        return (str(len(sources)), str(len(groups)), str(num_examples)), labelled, rows
    if task.reader == "record":
        return (str(len(sources)), str(num_examples), ""), labelled, rows
    return (str(num_examples), "", ""), labelled, rows


def _table(found: Sequence[Found]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("task", "file"):
        table.add_column(heading, no_wrap=True)
    for heading in ("rows", "questions", "answers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("labels", "sha256", "from"):
        table.add_column(heading, no_wrap=True)
    for line in found:
        table.add_row(line.task.title, line.file, *line.counts, line.labels, line.sha256[:12], line.origin)
    return table


def _verdict(console: Console, root: Path, there: Sequence[TaskSettings], found: Sequence[Found]) -> int:
    broken = [line for line in found if line.problem is not None and line.sha256]
    if broken:
        names = ", ".join(f"{line.task.title}/{line.file}" for line in broken)
        _say(console, f"Not usable as it is: {names} cannot be read. Fetch again what is broken.")
        return 2
    readable = {
        task.title: {Path(line.file).stem for line in found if line.task is task and line.problem is None}
        for task in there
    }
    usable = _usable(there, readable, ("train",), ("val", "dev32"))
    if not usable:
        _say(console, f"Nothing to train on: no task in {root} has both train.jsonl and val.jsonl.")
        return 2
    _say(console, f"Usable: {', '.join(usable)}. Train with data.dir={root}.")
    return 0


def _usable(
    known: Sequence[TaskSettings],
    stems: Mapping[str, Set[str]],
    train: Sequence[str],
    report: Sequence[str],
    only: str | None = None,
) -> list[str]:
    """Return the titles of the tasks that have a file to train on and one to report on, `only` for a
    diagnostic (None: its `only_file`)."""

    def has(task: TaskSettings, names: Sequence[str | None]) -> bool:
        return not stems.get(task.title, set()).isdisjoint(names)

    return [
        task.title
        for task in known
        if has(task.training, train)
        and has(task.training, report)
        and (task.only_file is None or has(task, [only or task.only_file]))
    ]


# ---------------------------------------------------------------------------------------------- the cache


def _check_cache(console: Console, known: Sequence[TaskSettings]) -> int:
    """Say what the hub's cache holds of the tasks: one look at the disk, none at the network."""
    from dp_bench.config import option_file

    hub = option_file("data", "superglue", None)["hub"]
    table = Table(box=None, pad_edge=False)
    for heading in ("task", "file", "MB", "revision"):
        table.add_column(heading, justify="right" if heading == "MB" else "left", no_wrap=True)
    splits: dict[str, set[str]] = {}
    for task in sorted(known, key=lambda task: task.hub_config):
        name = (task.hub or hub).partition("@")[0]
        repository = hub_cache_dir() / f"datasets--{name.replace('/', '--')}" / "snapshots"
        for path in sorted(repository.glob(f"*/{task.hub_config}/*.parquet")):
            size = f"{path.stat().st_size / 1e6:.1f}"
            table.add_row(task.title, path.name, size, path.parent.parent.name[:12])
            splits.setdefault(task.title, set()).add(path.name.split("-")[0])
    if table.row_count:
        console.print(table)
    usable = _usable(known, splits, ("train",), ("validation",), "test")
    if usable:
        _say(console, f"Usable from the hub's cache {hub_cache_dir()}: {', '.join(usable)}.")
        return 0
    _say(
        console,
        f"The hub's cache {hub_cache_dir()} holds no task of {hub} with train and validation. "
        f"On a connected machine: hf download {hub} --repo-type dataset. Or point at the official release: "
        "dp-bench data check --dir DIR, then dp-bench train data.dir=DIR.",
    )
    return 2


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
