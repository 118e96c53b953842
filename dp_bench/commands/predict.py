"""`dp-bench predict RUN… --input FILE|-`: what finished runs answer to records, one line an answer."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dp_bench import faults, reading, records
from dp_bench.commands.finished import find_run
from dp_bench.data.source import SUFFIXES
from dp_bench.printing import counted, say
from dp_bench.suggest import did_you_mean
from dp_bench.types import RunFailedError, UserError

if TYPE_CHECKING:
    from dp_bench.predicting import Predictor
    from dp_bench.trained import TrainedRun

OUTPUTS = (".jsonl", ".parquet")
STREAM = 2_048  # examples of a chunk of what is no file, whose answers should not wait
Rows = list[dict[str, Any]]


def predict(
    runs: Sequence[str],
    results_dir: Path,
    *,
    input: str,
    format: str | None,
    task: str | None,
    out: Path | None,
    score: bool,
    device: str,
) -> int:
    """Print or write the predictions of runs for the records of a file, `-` for stdin; return the exit code,
    1 where a line could not be read."""
    if out is not None:
        _check_out(out, input)
    folders = [find_run(run, results_dir) for run in runs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"{', '.join(runs)} name a run twice: name each once.")
    source, path, is_file = _opened(input)
    suffix = f".{format}" if format else path.suffix.lower()
    try:
        if suffix == ".parquet" and not is_file:
            raise UserError("Parquet is read from a file only: --input FILE.parquet.")
        opened = open_runs(folders, task, device)
    except BaseException:
        source.close()
        raise
    from dp_bench.predicting import IDLE, WHOLE, Predictor, chunks, read

    name = task or opened[0].record.task
    predictor = Predictor(opened, name)
    _announce(predictor)
    refused: list[str] = []

    def refuse(reason: str) -> None:
        refused.append("")
        say(f"dp-bench: {reason}", file=sys.stderr)

    waits = is_file or any(run.reads_neighbours for run in opened)
    asked = read(source, path, opened[0].tasks[name], suffix=suffix, with_labels=score, refuse=refuse)
    started, count = time.perf_counter(), 0

    def answers() -> Iterator[Rows]:
        nonlocal count
        for chunk in chunks(asked, WHOLE if waits else STREAM, None if waits else IDLE):
            answered = list(predictor(chunk, refuse))
            count += len(answered)
            yield [_named(row, run, score) for rows in answered for row, run in zip(rows, names, strict=True)]

    names = [run.record.run_id if len(opened) > 1 else None for run in opened]
    _written(answers(), out, several=len(opened) > 1, score=score)
    if not count and not refused:
        raise UserError(f"{path} has no records: expected one a line.")
    stream = sys.stderr if out is None else sys.stdout
    rate = count * len(opened) / (time.perf_counter() - started)
    if score and count:
        for run, tally in zip(opened, predictor.tallies, strict=True):
            found = tally.score()
            parts = ", ".join(f"{metric} {value:.2f}" for metric, value in found.metrics.items())
            hidden = count - len(tally.labels)
            without = f"; {hidden} without a label are left out" if hidden else ""
            say(
                f"{run.record.run_id}: score {found.value:.2f} ({parts}) on {len(tally.labels)} "
                f"examples{without}",
                file=stream,
            )
    written = f"written: {out}, " if out else ""
    cut = f"; {counted(predictor.num_shortened, 'text')} shortened" if predictor.num_shortened else ""
    say(f"{written}{counted(count * len(opened), 'prediction')}, {rate:.0f} a second{cut}", file=stream)
    if refused:
        say(
            f"dp-bench: {counted(len(refused), 'line')} of {path} could not be read; the others are done.",
            file=sys.stderr,
        )
    return 1 if refused else 0


def open_runs(folders: Sequence[Path], task: str | None, device: str) -> list[TrainedRun]:
    """Return the open runs, which share a backbone where they can, with a task that each can predict.

    Raises UserError where a run is on several tasks, or runs are on different ones, and `task` is None.
    """
    opened_records = [records.load(folder) for folder in folders]
    tasks_of = [
        list(record.by_task) or [record.task] if record is not None else [] for record in opened_records
    ]
    known = list(dict.fromkeys(name for tasks in tasks_of for name in tasks))
    if task is None and len(known) > 1:
        raise UserError(
            f"The records are of one task, and the runs are on {', '.join(known)}: add --task NAME."
        )
    from dp_bench.trained import open_run

    opened: list[TrainedRun] = []
    for folder, record, tasks in zip(folders, opened_records, tasks_of, strict=True):
        has_task = task is None or task in tasks or (record is not None and task in record.transfer)
        if not has_task and task not in _tasks():
            raise UserError(
                f"--task {task} is no task of {folder.name}, which has {', '.join(tasks)}, and no other "
                f"known one. {did_you_mean(str(task), [*tasks, *_tasks()])}"
            )
        others = () if has_task else (str(task),)
        opened.append(open_run(folder, device, transfer=others, beside=opened))
    name = task or known[0]
    forms = {(t.reader, *t.fields, *t.choices) for t in (run.tasks[name] for run in opened)}
    if len(forms) > 1:
        raise UserError(
            f"These runs read the records of {name} in {len(forms)} forms (task.format): predict with those "
            "of one backbone at a time."
        )
    return opened


def _tasks() -> list[str]:
    from dp_bench.tasks import known

    return list(known())


def _announce(predictor: Predictor) -> None:
    """Say which runs cannot be answered with others in one forward pass, and why."""
    from dp_bench.predicting import why_alone

    if len(predictor.runs) == 1 or len(predictor.groups) == 1:
        return
    for group in predictor.groups:
        if len(group) == 1:
            run = predictor.runs[group[0]]
            why = why_alone(run) or "no other run here has its backbone, precision and way of scoring"
            say(f"{run.record.run_id} is answered by forward passes of its own: {why}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------ files


def _check_out(out: Path, input: str) -> None:
    if out.suffix not in OUTPUTS:
        raise UserError(f"--out {out} should end with {' or '.join(OUTPUTS)}.")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file in it.")
    if input != "-" and out.exists() and out.resolve() == Path(input).resolve():
        raise UserError(f"--out {out} is the input: name another file.")


def _opened(input: str) -> tuple[BinaryIO, Path, bool]:
    """Return the input, its path for messages, and whether it is a file rather than a stream."""
    try:
        if input == "-":  # a second descriptor: a thread may wait for it when the process ends
            file: BinaryIO = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
            path = Path("stdin")
        else:
            path = Path(input)
            file = path.open("rb")
        return file, path, stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError) as error:
        instead = f"--input takes a file that ends with {', '.join(SUFFIXES)}, or - for standard input."
        raise reading.unreadable(Path(input), error, instead) from None


def _named(row: dict[str, Any], run: str | None, score: bool) -> dict[str, Any]:
    """Return a row with the name of its run, where there are several, and its gold label, if scored."""
    kept = row if score else {key: value for key, value in row.items() if key != "gold"}
    return kept if run is None else {"run": run, **kept}


def _written(answers: Iterator[Rows], out: Path | None, *, several: bool, score: bool) -> None:
    """Write rows as they come: to stdout, or to a file that appears when it is whole."""
    try:
        if out is None:
            _print_rows(answers)
        else:
            write: Callable[[Path], None] = lambda path: _write_lines(answers, path)  # noqa: E731
            if out.suffix == ".parquet":
                write = lambda path: _write_parquet(answers, path, several, score)  # noqa: E731
            records.replace_file(out, write)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        fault = faults.of_machine(error) or f"{out or 'The output'} cannot be written: {error.strerror}."
        if out is None:  # nothing more can be printed there when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RunFailedError(fault) from None


def _print_rows(answers: Iterator[Rows]) -> None:
    for rows in answers:
        sys.stdout.write("".join(f"{json.dumps(row)}\n" for row in rows))
        sys.stdout.flush()


def _write_lines(answers: Iterator[Rows], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for rows in answers:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)


def _write_parquet(answers: Iterator[Rows], path: Path, several: bool, score: bool) -> None:
    import pyarrow
    from pyarrow import parquet

    text, number = pyarrow.string(), pyarrow.int64()
    columns = {
        **({"run": text} if several else {}),
        **{"line": number, "id": text, "label": text},
        "probabilities": pyarrow.map_(text, pyarrow.float64()),
        **{"position": number, "length": number, "member": number},
        **({"gold": text} if score else {}),
    }
    schema = pyarrow.schema(columns)
    with parquet.ParquetWriter(path, schema) as writer:
        for rows in answers:
            listed = [
                {**row, "id": str(row["id"]), "probabilities": list(row["probabilities"].items())}
                for row in rows
            ]
            writer.write_table(pyarrow.Table.from_pylist(listed, schema=schema))
