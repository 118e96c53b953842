"""`dp-bench submit RUN… --out FILE.zip`: predictions of the test files in the format of the leaderboard.

File names and label spellings are those that the benchmark's toolkit wrote for its server (jiant 1,
`evaluate.py`): texts such as "true" and "not_entailment", integers for COPA and MultiRC, and "True" for WSC.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp_bench import config, faults, records
from dp_bench.commands.finished import find_run
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import SplitFile, locate, test_file
from dp_bench.printing import say
from dp_bench.records import RunRecord
from dp_bench.settings import DataSettings, TaskSettings
from dp_bench.tasks import known
from dp_bench.types import Example, RunFailedError, UserError

if TYPE_CHECKING:
    from dp_bench.trained import TrainedRun

RELEASE = "SuperGLUE"  # in `files` of the tasks of the leaderboard
Line = dict[str, Any]


@dataclass(frozen=True)
class Answerer:
    """The run that answers a task of the leaderboard."""

    folder: Path
    record: RunRecord
    task: str  # as which it answers: RTE for a diagnostic


def submit(
    runs: Sequence[str],
    results_dir: Path,
    *,
    out: Path,
    data_dir: Path | None,
    fill_majority: bool,
    device: str,
) -> int:
    """Write the zip; return 1 where a task is missing from it because its test file is missing.

    Raises UserError where no run answers a task, unless its majority class may stand for it.
    """
    if out.suffix != ".zip" or out.is_dir():
        raise UserError(f"--out {out} should be the name of a file that ends with .zip.")
    tasks = [task for task in known().values() if RELEASE in (task.files or {})]
    folders = [find_run(run, results_dir) for run in runs]
    answerers = _answerers(folders, tasks)
    missing = [task for task in tasks if task.name not in answerers]
    if missing and not fill_majority:
        raise UserError(
            f"No run here answers {', '.join(task.title for task in missing)}, and the leaderboard takes "
            "whole submissions only. Name a run for each; or add --fill-majority, which answers with the "
            "most frequent label of their training files."
        )
    data = _data(folders[0], data_dir)
    contents: dict[str, list[Line]] = {}
    absent: list[str] = []
    opened: list[TrainedRun] = []
    for task in tasks:
        try:
            file = test_file(task, data)
        except UserError as error:
            if task.name in answerers:
                raise
            absent.append(f"{task.title}.jsonl is NOT in the zip: {error}")
            continue
        examples = list(ExampleFile(task, file))
        if task.name in answerers:
            answers, by = _predicted(answerers[task.name], task, file, opened, device)
        else:
            answers, by = _majority(task, data, examples)
        contents[f"{task.title}.jsonl"] = lines = submitted(task, examples, answers)
        _check(lines, examples, file)
        say(f"{task.title}.jsonl: {len(examples):,} answers by {by}{_unlike_release(task, file)}")
    try:
        records.replace_file(out, lambda path: _zip(contents, path))
    except OSError as error:
        raise RunFailedError(faults.of_machine(error) or f"{out} cannot be written: {error}.") from None
    for line in absent:
        say(line)
    say(f"written: {out}, {len(contents)} of {len(tasks)} files")
    return 1 if absent else 0


def _answerers(folders: Sequence[Path], tasks: Sequence[TaskSettings]) -> dict[str, Answerer]:
    """Return the run of each task: one trained on it, or else the one of the task it is trained on."""
    found: dict[str, Answerer] = {}
    for folder in folders:
        record = records.load(folder)
        assert record is not None
        for name in (*(record.by_task or (record.task,)), *record.transfer):
            if name in found and name not in record.transfer:
                raise UserError(
                    f"{found[name].record.run_id} and {record.run_id} both answer {name}: name one."
                )
            found.setdefault(name, Answerer(folder, record, name))
    titles = {task.name for task in tasks}
    if not found.keys() & titles:
        raise UserError(f"None of these runs is on a task of the leaderboard, but on {', '.join(found)}.")
    for task in tasks:
        trained = found.get(task.training.name)
        if task.train_task is not None and trained is not None:
            found.setdefault(task.name, trained)
    return {name: answerer for name, answerer in found.items() if name in titles}


def _data(folder: Path, data_dir: Path | None) -> DataSettings:
    """Return where the test files are: in --data-dir, or where the first run's data were."""
    record = records.load(folder)
    assert record is not None
    data = config.reopen(record.config, folder.parent.parent).settings.data
    if data_dir is not None:
        return replace(data, dir=str(data_dir), difficulty=None, mixture=None, limit=None)
    if data.difficulty is not None or data.mixture is not None:
        raise UserError(
            f"{record.run_id} read the {data.title}, which the leaderboard does not know: add --data-dir DIR "
            "with the official test files (DIR/BoolQ/test.jsonl …)."
        )
    return data


# ---------------------------------------------------------------------------------------------- answers


def _predicted(
    answerer: Answerer, task: TaskSettings, file: SplitFile, opened: list[TrainedRun], device: str
) -> tuple[list[int], str]:
    """Return the index of the predicted choice of each example, and who predicted it; runs share a
    backbone."""
    from dp_bench.trained import open_run

    name = answerer.task
    run = next((each for each in opened if each.record.run_id == answerer.record.run_id), None)
    if run is None:
        run = open_run(answerer.folder, device, beside=opened)
        opened.append(run)
    asked = run.tasks[name]
    examples = ExampleFile(asked if name == task.name else task, file)
    if name != task.name:  # RTE's fields, in their order, have other names in the diagnostics
        pairs = list(zip(asked.fields, task.fields, strict=False))
        given = [replace(each, fields={to: each.fields[by] for to, by in pairs}) for each in examples]
    else:
        given = list(examples)
    return run.predict(name, given).choices.tolist(), run.record.run_id


def _majority(task: TaskSettings, data: DataSettings, examples: Sequence[Example]) -> tuple[list[int], str]:
    """Return the most frequent label of the training file for every example; where examples have different
    choices, the first that the text mentions."""
    if not task.labels:
        return [0] * len(examples), "NO RUN: the choice that the text mentions first"
    source = locate(task, data)
    labels = Counter(example.label for example in ExampleFile(task.training, source.train))
    del labels[None]
    if not labels:
        raise UserError(f"{source.train.path} hides its labels, so that it has no most frequent one.")
    best = min(
        label for label, number in labels.items() if number == max(labels.values()) and label is not None
    )
    return [best] * len(examples), f"NO RUN: always {task.labels[best]}, most frequent in {source.train.path}"


# ----------------------------------------------------------------------------------------------- format


def submitted(task: TaskSettings, examples: Sequence[Example], answers: Sequence[int]) -> list[Line]:
    """Return the lines of the file of a task.

    Ids have the numbers of the release: of an example; of passage and query; of passage, question and answer,
    which are inside each other in a line a passage.
    """
    lines: list[Line] = []
    questions: dict[tuple[int, int], list[Line]] = {}
    for example, answer in zip(examples, answers, strict=True):
        label, (*outer, idx) = _label(task, example, answer), _numbers(example)
        if len(outer) < 2:
            lines.append({"idx": idx, "label": label})
            continue
        passage, question = outer
        if not lines or lines[-1]["idx"] != passage:
            lines.append({"idx": passage, "passage": {"questions": []}})
        if (passage, question) not in questions:
            answers_of = questions[passage, question] = list[Line]()
            lines[-1]["passage"]["questions"].append({"idx": question, "answers": answers_of})
        questions[passage, question].append({"idx": idx, "label": label})
    return lines


def _numbers(example: Example) -> list[int]:
    return [int(number) for number in example.id.split("/")[2:]]


def _label(task: TaskSettings, example: Example, answer: int) -> str | int:
    """Return a label as the leaderboard spells it."""
    if not task.labels:
        return example.choices[answer]
    label = (task.submitted or task.labels)[answer]
    return int(label) if label.isdecimal() else label


def _check(lines: Iterable[Mapping[str, Any]], examples: Sequence[Example], file: SplitFile) -> None:
    """Assert that a file answers each example once, in order, as it will be read."""
    found: list[list[int]] = []
    for line in json.loads(json.dumps(list(lines))):
        if "passage" not in line:
            found.append([line["idx"]])
            continue
        found += [
            [line["idx"], question["idx"], answer["idx"]]
            for question in line["passage"]["questions"]
            for answer in question["answers"]
        ]
    expected = [numbers if len(numbers) == 3 else numbers[-1:] for numbers in map(_numbers, examples)]
    if sorted(found) != sorted(expected) or len({tuple(numbers) for numbers in found}) < len(found):
        raise UserError(
            f"The answers do not have the ids of {file.path}, each once: {len(found)} answers, "
            f"{len(expected)} examples. The leaderboard would refuse them: fetch the file again."
        )


def _unlike_release(task: TaskSettings, file: SplitFile) -> str:
    """Return a warning where a test file is not the one of the release."""
    released = task.files[RELEASE].get(task.only_file or "test")
    if released is None or released["sha256"] == file.sha256:
        return ""
    rows = f" of {released['rows']:,} records" if "rows" in released else ""
    return f"; WARNING: {file.path} is not the test file of the release{rows}"


def _zip(contents: Mapping[str, Sequence[Line]], path: Path) -> None:
    """Write the files with the same bytes for the same answers."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in contents.items():
            text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, text)
