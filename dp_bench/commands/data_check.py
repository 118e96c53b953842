"""`dp-bench data check`: which SuperGLUE files are where, whether they can be read and are the release's.

All of SuperGLUE is known here by its fields and labels, so that a folder can be judged whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dp_bench.data import official
from dp_bench.data.overlap import Overlap, Row, row_of
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import SplitFile, folders, split_file, subfolder
from dp_bench.hub import hub_cache_dir
from dp_bench.settings import Scoring, TaskSettings
from dp_bench.terminal import make_console
from dp_bench.types import UserError

HUB = "aps/super_glue"
BOOLEANS = ("false", "true")
ENTAILMENT = ("entailment", "not_entailment")


def _known(title: str, reader: str, fields: Sequence[str], labels: Sequence[str]) -> TaskSettings:
    name = title.lower().replace("-", "")
    return TaskSettings(
        name=name,
        title=title,
        hub_config=name,
        reader=reader,
        fields=list(fields),
        labels=list(labels),
        scoring=Scoring.words,
        words=list(labels),
        shorten=fields[0],
    )


KNOWN = {
    "BoolQ": _known("BoolQ", "flat", ("question", "passage"), BOOLEANS),
    "CB": _known("CB", "flat", ("premise", "hypothesis"), ("entailment", "contradiction", "neutral")),
    "COPA": _known("COPA", "flat", ("premise", "choice1", "choice2", "question"), ("0", "1")),
    "MultiRC": _known("MultiRC", "multirc", ("paragraph", "question", "answer"), ("0", "1")),
    "ReCoRD": _known("ReCoRD", "record", ("query", "passage"), ()),
    "RTE": _known("RTE", "flat", ("premise", "hypothesis"), ENTAILMENT),
    "WiC": _known("WiC", "flat", ("sentence1", "sentence2", "word"), BOOLEANS),
    "WSC": _known("WSC", "wsc", ("text", "marked", "span1_text", "span2_text"), BOOLEANS),
    "AX-b": _known("AX-b", "flat", ("sentence1", "sentence2"), ENTAILMENT),
    "AX-g": _known("AX-g", "axg", ("premise", "hypothesis"), ENTAILMENT),
}
DIAGNOSTICS = ("AX-b", "AX-g")  # one file each; trained on RTE
TRAINABLE = tuple(title for title in KNOWN if title not in DIAGNOSTICS)


@dataclass(frozen=True)
class Found:
    """One line of the table. `problem` is None for a file that can be read."""

    task: str
    file: str
    counts: tuple[str, str, str] = ("", "", "")  # rows, questions, answers
    labels: str = ""
    sha256: str = ""
    origin: str = ""
    problem: str | None = None
    rows: list[Row] | None = None


def check(directory: Path | None = None) -> int:
    """Print what is found and return 0 if a task can be trained on it and no file is broken, else 2."""
    console = make_console(width=None if sys.stdout.isatty() else 120)
    return _check_cache(console) if directory is None else _check_directory(console, directory.expanduser())


# ---------------------------------------------------------------------------------------------- a folder


def _check_directory(console: Console, root: Path) -> int:
    if not root.is_dir():
        raise UserError(
            f"--dir {root} is not a folder. Give the one that holds BoolQ/train.jsonl and the other tasks."
        )
    titles = [title for title in KNOWN if subfolder(root, title) is not None]
    if not titles:
        raise UserError(f"{root} holds no folder of the SuperGLUE release{_hint(root)}")
    found = [line for title in titles for line in _look(root, title)]
    console.print(_table(found))
    for problem in dict.fromkeys(line.problem for line in found if line.problem is not None):
        tasks = dict.fromkeys(line.task for line in found if line.problem == problem)
        _say(console, f"{', '.join(tasks)}: {problem}")
    for title in titles:
        for note in _overlap(title, found):
            _say(console, f"{title}: {note}.")
    absent = [title for title in TRAINABLE if title not in titles]
    if absent:
        _say(
            console,
            f"No folder for {', '.join(absent)}: expected {root}/{absent[0]}/train.jsonl and val.jsonl.",
        )
    return _verdict(console, root, found)


def _hint(root: Path) -> str:
    for child in folders(root):
        if any(subfolder(child, title) for title in KNOWN):
            return f", but {child} does: use --dir {child}."
    if any(root.name.lower() == title.lower() for title in KNOWN):
        return f"; it is the folder of one task: use --dir {root.parent}."
    if any(root.glob("*/train-*.parquet")):
        return f"; it is laid out as on the hub: train with data.hub={root}."
    return f". Expected {root}/BoolQ/train.jsonl, {root}/BoolQ/val.jsonl and the like."


def _look(root: Path, title: str) -> list[Found]:
    folder = subfolder(root, title)
    assert folder is not None, title
    expected = [f"{title}.jsonl"] if title in DIAGNOSTICS else ["train.jsonl", "val.jsonl"]
    there = sorted(path.name for path in folder.glob("*.jsonl"))
    names = dict.fromkeys([*expected, *there])
    return [
        _inspect(title, folder / name) if name in there else _missing(title, folder / name, there)
        for name in names
    ]


def _missing(title: str, path: Path, there: Sequence[str]) -> Found:
    problem = f"expected {path}, which is not there."
    if path.name == "val.jsonl" and "dev32.jsonl" in there:
        problem = "no val.jsonl, but dev32.jsonl, as FewGLUE has it: train with data.validation_file=dev32."
    return Found(title, path.name, ("missing", "", ""), problem=problem)


def _inspect(title: str, path: Path) -> Found:
    file = split_file(path)
    origin = _origin(title, file)
    try:
        counts, labels, rows = _read(title, file)
    except UserError as error:
        return Found(title, path.name, ("broken", "", ""), "", file.sha256, origin, str(error))
    return Found(title, path.name, counts, labels, file.sha256, origin, rows=rows)


def _overlap(title: str, found: Sequence[Found]) -> Iterator[str]:
    """Yield what is there twice in the files of a task that a run trains and reports on."""
    rows = {line.file: line.rows for line in found if line.task == title and line.rows is not None}
    train, report = rows.get("train.jsonl"), rows.get("val.jsonl")
    if train is not None and report is not None:
        yield from Overlap.of(train, report).notes(len(report))


def _origin(title: str, file: SplitFile) -> str:
    """Return whose file this is; one that holds another file's content says which."""
    origin = official.origin(file.sha256)
    if origin is None:
        return "other"
    release, _, name = origin.partition(" ")
    release = "official release" if release == "SuperGLUE" else release
    return release if name == f"{title}/{file.path.name}" else f"{release}'s {name}"


def _read(title: str, file: SplitFile) -> tuple[tuple[str, str, str], str, list[Row]]:
    task = KNOWN[title]
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
        table.add_row(line.task, line.file, *line.counts, line.labels, line.sha256[:12], line.origin)
    return table


def _verdict(console: Console, root: Path, found: Sequence[Found]) -> int:
    broken = [line for line in found if line.problem is not None and line.sha256]
    readable = {(line.task, line.file) for line in found if line.problem is None}
    usable = [
        title
        for title in TRAINABLE
        if (title, "train.jsonl") in readable and {(title, "val.jsonl"), (title, "dev32.jsonl")} & readable
    ]
    if broken:
        names = ", ".join(f"{line.task}/{line.file}" for line in broken)
        _say(console, f"Not usable as it is: {names} cannot be read. Fetch again what is broken.")
        return 2
    if "RTE" in usable:
        usable += [title for title in DIAGNOSTICS if (title, f"{title}.jsonl") in readable]
    if not usable:
        _say(console, f"Nothing to train on: no task in {root} has both train.jsonl and val.jsonl.")
        return 2
    _say(console, f"Usable: {', '.join(usable)}. Train with data.dir={root}.")
    return 0


# ---------------------------------------------------------------------------------------------- the cache


def _check_cache(console: Console) -> int:
    """Say what the hub's cache holds of SuperGLUE: one look at the disk, none at the network."""
    repository = hub_cache_dir() / f"datasets--{HUB.replace('/', '--')}" / "snapshots"
    table = Table(box=None, pad_edge=False)
    for heading in ("task", "file", "MB", "revision"):
        table.add_column(heading, justify="right" if heading == "MB" else "left", no_wrap=True)
    usable = set()
    titles = {task.hub_config: title for title, task in KNOWN.items()}
    for folder in sorted(path for path in repository.glob("*/*") if path.name in titles):
        files = sorted(folder.glob("*.parquet"))
        for path in files:
            size = f"{path.stat().st_size / 1e6:.1f}"
            table.add_row(titles[folder.name], path.name, size, folder.parent.name[:12])
        splits = {path.name.split("-")[0] for path in files}
        if ({"test"} if titles[folder.name] in DIAGNOSTICS else {"train", "validation"}) <= splits:
            usable.add(titles[folder.name])
    if table.row_count:
        console.print(table)
    if "RTE" not in usable:
        usable -= set(DIAGNOSTICS)
    if usable:
        _say(console, f"Usable from the hub's cache {hub_cache_dir()}: {', '.join(sorted(usable))}.")
        return 0
    _say(
        console,
        f"The hub's cache {hub_cache_dir()} holds no task of {HUB} with train and validation. "
        f"On a connected machine: hf download {HUB} --repo-type dataset. Or point at the official release: "
        "dp-bench data check --dir DIR, then dp-bench train data.dir=DIR.",
    )
    return 2


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
