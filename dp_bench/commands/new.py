"""`dp-bench new`: write files for a user's task or prompt from the package's templates."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas

from dp_bench import extras, records
from dp_bench.data.source import SUFFIXES, files_of, read_records, split_file
from dp_bench.printing import say
from dp_bench.progress import notice
from dp_bench.types import UserError

LABELS = ("label", "labels", "target", "class", "category")
MOST_LABELS = 20
PROMPT_FILES = {  # template: file to write
    "module.py.txt": "{name}_prompt.py",
    "pyproject.toml.txt": "pyproject.toml",
    "prompt.yaml": "prompt/{name}.yaml",
    "vectors.yaml": "prompt/vectors/{name}.yaml",
    "test.py.txt": "test_{name}_prompt.py",
}


def new_task(name: str, source: Path | None, folder: Path, label: str | None) -> int:
    """Write task/NAME.yaml for the rows of `source`, and print the command that trains on it.

    Raises UserError if the file has no usable rows, label column or text fields.
    """
    _check_name(name)
    if source is None or source.suffix not in SUFFIXES:
        raise UserError(f"--from {source or 'FILE'}: give a file of training rows, {' or '.join(SUFFIXES)}.")
    if not source.is_file():
        raise UserError(f"--from {source}: there is no such file.")
    rows = pandas.DataFrame([record for *_, record in read_records(split_file(source))])
    if rows.empty:
        raise UserError(f"{source} has no rows: give a file of training rows.")
    label = label or _label_column(rows, source)
    if label not in rows:
        raise UserError(f"{source} has no column {label}: its columns are {', '.join(map(str, rows))}.")
    fields = [str(column) for column in rows if column != label and _has_texts(rows[column])]
    invalid = [field for field in fields if not field.isidentifier()]
    if invalid or not fields:
        names = ", ".join(map(repr, invalid))
        why = f"rename {names} to one word of letters each" if invalid else "it has no text column"
        raise UserError(f"The columns of {source} do not fit a text template: {why}.")
    counts = Counter(_text(value) for value in rows[label] if value is not None)
    labels = list(counts)
    for once in (text for text, number in counts.items() if number == 1 < len(rows) // 10):
        notice(f"the label '{once}' is that of one row of {source}: correct it, if it is a slip")
    shorten = max(fields, key=lambda field: rows[field].str.len().mean())
    rows_dir = source.resolve().parent
    data_dir = rows_dir.parent if source.is_absolute() else Path(os.path.relpath(rows_dir.parent))
    command = (
        f"dp-bench train --config-dir {folder} task={name} data.dir={data_dir} "
        f"data.train_file={source.stem} data.validation_file={_reported(source)}"
    )
    distinct = [field for field in fields if rows[field].nunique() > len(rows) / 2]
    values = {
        "name": name,
        "title": json.dumps(rows_dir.name),
        "file": source.name,
        "command": command,
        "label": json.dumps(label),
        "labels": _yaml_list(labels),
        "fields": _yaml_list(fields),
        "shorten": shorten,
        "template": json.dumps(" ".join(f"{field}: {{{field}}}" for field in fields)),
        "together": _yaml_list(distinct) if distinct else "null",
    }
    _write(folder, {"task.yaml": f"task/{name}.yaml"}, values)
    say(f"Look through it, then run it:\n  {command}")
    say(f"with T5-base, which is downloaded, or with {extras.SMALL_MODEL}")
    return 0


def _has_texts(values: pandas.Series) -> bool:
    """Say whether a column has texts that a model could read, and no numbers of rows."""
    if not all(isinstance(value, str) for value in values):
        return False
    return not (values.is_unique and all(value.strip().isdecimal() for value in values))


def new_prompt(name: str, folder: Path) -> int:
    """Write an example package with one piece, a gated residual prompt. Raises UserError if a file exists."""
    _check_name(name)
    targets = {template: path.format(name=name) for template, path in PROMPT_FILES.items()}
    _write(folder, targets, {"name": name, "folder": str(folder)})
    say(f"Install and run it:\n  pip install -e {folder}")
    say(f"  dp-bench train --config-dir {folder} prompt={name}")
    return 0


def _write(folder: Path, targets: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Write files from templates into a folder. Raises UserError if one of them exists."""
    existing = [str(folder / path) for path in targets.values() if (folder / path).exists()]
    if existing:
        raise UserError(f"{', '.join(existing)} already exists: choose another NAME or --dir.")
    for template, path in targets.items():
        text = (files("dp_bench") / "templates" / template).read_text("utf-8")
        records.write_text(folder / path, Template(text).substitute(values))
        say(f"wrote {folder / path}")


def _check_name(name: str) -> None:
    if not name.isidentifier() or not name.islower():
        raise UserError(f"NAME={name} must be lower-case letters, digits and _, such as my_task.")


def _label_column(rows: pandas.DataFrame, source: Path) -> str:
    named = [str(column) for column in rows if str(column).lower() in LABELS]
    few = [str(column) for column in rows if 1 < rows[column].astype(str).nunique() <= MOST_LABELS]
    candidates = named or (few if len(few) == 1 else [])
    if not candidates:
        raise UserError(
            f"Which column of {source} is the label? Add --label with one of {', '.join(map(str, rows))}."
        )
    return candidates[0]


def _text(value: object) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _yaml_list(texts: list[str]) -> str:
    """Return texts as a quoted YAML list."""
    return json.dumps(texts, ensure_ascii=False)


def _reported(source: Path) -> str:
    """Return the stem of the file of validation rows beside `source`."""
    present = files_of(source.parent).keys() - {source.stem}
    for stem in ("val", "validation", "valid", "dev", "test"):
        if stem in present:
            return stem
    raise UserError(
        f"There is no file of validation rows beside {source}: put rows that are not trained on into "
        f"{source.with_name(f'val{source.suffix}')}."
    )
