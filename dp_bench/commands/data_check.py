"""`dp-bench data check`: the files of each task, whether they can be read, and the release they are from.

The expected tasks and files are those of the task YAML files.
"""

from __future__ import annotations

import shlex
import sys
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from dp_bench import tasks
from dp_bench.data.overlap import Overlap, Row, row_of
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import SplitFile, files_of, folders, split_file, subfolder
from dp_bench.hub import hub_cache_dir
from dp_bench.settings import TaskSettings
from dp_bench.terminal import make_console
from dp_bench.types import UserError

FULL_COMMIT = 40  # digits; a shorter revision names a branch, whose commit the cache does not say


@dataclass(frozen=True)
class CheckedFile:
    """One line of the table. `problem` is None for a file that can be read."""

    task: TaskSettings
    file: str
    counts: Sequence[str] = ("", "", "")  # rows, questions, answers
    labels: str = ""
    sha256: str = ""
    origin: str = ""
    problem: str | None = None
    rows: list[Row] | None = None


def check(directory: Path | None = None, extra_dir: Path | None = None) -> int:
    """Print the files found; return 0 if some task can be trained and no file is broken, else 2."""
    console = make_console(soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    known = list(tasks.known(extra_dir).values())
    if directory is None:
        return _check_cache(console, known)
    return _check_directory(console, directory.expanduser(), known)


# ---------------------------------------------------------------------------------------------- a folder


def _check_directory(console: Console, root: Path, known: Sequence[TaskSettings]) -> int:
    if not root.is_dir():
        raise UserError(
            f"{root} is not a folder. Give the folder that holds BoolQ/train.jsonl and the other tasks."
        )
    present = [task for task in known if subfolder(root, task.title) is not None]
    if not present:
        raise UserError(f"{root} holds no folder of a known task{_hint(root, known)}")
    origins = _origins(known)
    files = [line for task in present for line in _checked_files(root, task, origins)]
    table = _empty_table("task", "file", "rows", "questions", "answers", "labels", "sha256", "from")
    for line in files:
        table.add_row(line.task.title, line.file, *line.counts, line.labels, line.sha256[:12], line.origin)
    console.print(table)
    for problem in dict.fromkeys(line.problem for line in files if line.problem is not None):
        titles = dict.fromkeys(line.task.title for line in files if line.problem == problem)
        console.print(f"{', '.join(titles)}: {problem}")
    rows_of: dict[str, dict[str, list[Row]]] = defaultdict(dict)  # of readable files, by title and stem
    for line in files:
        if line.rows is not None:
            rows_of[line.task.title][Path(line.file).stem] = line.rows
    for title, rows in rows_of.items():
        if rows.keys() >= {"train", "val"}:
            for note in Overlap.of(rows["train"], rows["val"]).notes(len(rows["val"])):
                console.print(f"{title}: {note}.")
    absent = [task.title for task in known if task.train_task is None and task not in present]
    if absent:
        console.print(f"Missing: {', '.join(absent)}: expected {root}/{absent[0]}/train.jsonl and val.jsonl.")
    broken = [f"{line.task.title}/{line.file}" for line in files if line.problem is not None and line.sha256]
    usable = _usable(present, rows_of)
    first = next((task.name for task in present if task.title in usable), "")
    return _verdict(console, root, broken, usable, first)


def _verdict(console: Console, root: Path, broken: Sequence[str], usable: Sequence[str], first: str) -> int:
    if broken:
        names = ", ".join(broken)
        console.print(f"Not usable as it is: {names} cannot be read. Download these files again.")
        return 2
    if not usable:
        console.print(f"Nothing to train on: no task in {root} has both train.jsonl and val.jsonl.")
        return 2
    console.print(f"Usable: {', '.join(usable)}.")
    console.print(f"Next: dp-bench train task={first} prompt=dynamic data.dir={shlex.quote(str(root))}")
    return 0


def _hint(root: Path, known: Sequence[TaskSettings]) -> str:
    for child in folders(root):
        if any(subfolder(child, task.title) for task in known):
            return f", but {child} does: use --dir {child}."
    if any(root.name.lower() == task.title.lower() for task in known):
        return f"; it is the folder of one task: use --dir {root.parent}."
    if any(root.glob("*/train-*.parquet")):
        return f"; it has the layout of the hub: train with data.hub={root}."
    return f". Expected {root}/BoolQ/train.jsonl, {root}/BoolQ/val.jsonl and the like."


def _origins(known: Iterable[TaskSettings]) -> dict[str, tuple[str, str]]:
    """Return, by digest, the release and name of each known file, such as ("FewGLUE", "CB/dev32")."""
    return {
        file["sha256"]: (release, f"{task.title}/{stem}")
        for task in known
        for release, files in (task.files or {}).items()
        for stem, file in files.items()
    }


def _checked_files(root: Path, task: TaskSettings, origins: dict[str, tuple[str, str]]) -> list[CheckedFile]:
    folder = subfolder(root, task.title)
    assert folder is not None, task.title
    paths = files_of(folder)
    expected = ["train", "val"] if task.only_file is None else [task.only_file]
    files = []
    for stem in dict.fromkeys([*expected, *paths]):
        if stem in paths:
            files.append(_checked(task, paths[stem], origins))
            continue
        path = folder / f"{stem}.jsonl"
        problem = f"{path} is missing."
        if stem == "val" and "dev32" in paths:
            problem = "no val.jsonl, but dev32.jsonl, as FewGLUE has: train with data.validation_file=dev32."
        files.append(CheckedFile(task, path.name, ("missing", "", ""), problem=problem))
    return files


def _checked(task: TaskSettings, path: Path, origins: dict[str, tuple[str, str]]) -> CheckedFile:
    file = split_file(path)
    checked = CheckedFile(task, path.name, sha256=file.sha256, origin=_origin(task, file, origins))
    try:
        counts, labels, rows = _read(task, file)
    except UserError as error:
        return replace(checked, counts=("broken", "", ""), problem=str(error))
    return replace(checked, counts=counts, labels=labels, rows=rows)


def _origin(task: TaskSettings, file: SplitFile, origins: dict[str, tuple[str, str]]) -> str:
    """Return the release of a file, with the released name if it differs; of an unknown file, the number of
    rows of the released one."""
    release, name = origins.get(file.sha256, (None, ""))
    if release is None:
        released: dict[str, Any] = (task.files or {}).get("SuperGLUE", {})
        rows = released.get(file.path.stem, {}).get("rows")
        return f"other (released: {rows:,} rows)" if rows is not None else "other"
    label = "official release" if release == "SuperGLUE" else release
    return label if name == f"{task.title}/{file.path.stem}" else f"{label}'s {name}{file.path.suffix}"


def _read(task: TaskSettings, file: SplitFile) -> tuple[Sequence[str], str, list[Row]]:
    num_labelled, rows = 0, []
    sources, groups = set(), set()
    for example in ExampleFile(task, file):
        num_labelled += example.label is not None
        sources.add(example.source)
        groups.add(example.group)
        rows.append(row_of(example))
    labelled = {0: "none", len(rows): "all"}.get(num_labelled, str(num_labelled))
    counted = {"multirc": (sources, groups, rows), "record": (sources, rows)}.get(task.reader, (rows,))
    return [*(str(len(values)) for values in counted), "", ""][:3], labelled, rows


def _empty_table(*headings: str) -> Table:
    numbers = ("rows", "questions", "answers", "MB")
    columns = (Column(h, justify="right" if h in numbers else "left", no_wrap=True) for h in headings)
    return Table(*columns, box=None, pad_edge=False)


def _usable(known: Sequence[TaskSettings], stems: Mapping[str, Container[str | None]]) -> list[str]:
    """Return the titles of the tasks that have a training and a reported file, and of diagnostic sets also
    their only file; `stems` has the names of files without suffix, by title."""

    def has(task: TaskSettings, *names: str | None) -> bool:
        return any(name in stems[task.title] for name in names)

    return [
        task.title
        for task in known
        if has(task.training, "train")
        and has(task.training, "val", "dev32")
        and (task.only_file is None or has(task, task.only_file))
    ]


# ---------------------------------------------------------------------------------------------- the cache


def _check_cache(console: Console, known: Sequence[TaskSettings]) -> int:
    """Print which tasks are in the hub's cache at the revision that runs read, without network access."""
    from dp_bench.config import option_settings

    data = option_settings("data", "superglue")
    table = _empty_table("task", "file", "MB", "revision")
    stems: dict[str, set[str | None]] = defaultdict(set)
    names = {}
    for task in sorted(known, key=lambda task: task.hub_config):
        name, _, revision = (task.hub or f"{data['hub']}@{data['revision']}").partition("@")
        names[task.title] = (name, revision)
        repository = hub_cache_dir() / f"datasets--{name.replace('/', '--')}" / "snapshots"
        for path in sorted(repository.glob(f"*/{task.hub_config}/*.parquet")):
            size, found = f"{path.stat().st_size / 1e6:.1f}", path.parent.parent.name
            is_read = not revision or found == revision or len(revision) < FULL_COMMIT
            table.add_row(task.title, path.name, size, found[:12] if is_read else f"{found[:12]}, not read")
            if is_read:
                split = path.name.split("-")[0]
                stems[task.title].add({"validation": "val", "test": task.only_file}.get(split, split))
    if table.row_count:
        console.print(table)
    usable = _usable(known, stems)
    missing = [task.title for task in known if task.title not in usable]
    if usable:
        console.print(f"Usable from the hub's cache {hub_cache_dir()}: {', '.join(usable)}.")
    else:
        console.print(
            f"The hub's cache {hub_cache_dir()} holds no task of {data['hub']} with train and validation at "
            f"revision {data['revision']}."
        )
    if not missing:
        return 0
    sources = dict.fromkeys(names[title] for title in missing)
    fetch = "; ".join(
        f"hf download {name} --repo-type dataset{f' --revision {revision}' if revision else ''}"
        for name, revision in sources
    )
    console.print(f"Missing: {', '.join(missing)}. On a connected machine: {fetch}")
    if not usable:
        console.print(
            "Next: dp-bench data check DIR for a folder with the official release, and dp-bench train "
            "data.dir=DIR."
        )
    return 0 if usable else 2
