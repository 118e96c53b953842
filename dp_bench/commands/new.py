"""`dp-bench new`: write the first files of a user's task or prompt, from the templates of the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from dp_bench import records
from dp_bench.data.source import SUFFIXES, files_of, read_records, split_file
from dp_bench.types import UserError

if TYPE_CHECKING:
    import pandas

LABELS = ("label", "labels", "target", "class", "category")
MOST_LABELS = 20
PROMPT_FILES = {  # template: file, both below their folders
    "module.py.txt": "{name}_prompt.py",
    "pyproject.toml.txt": "pyproject.toml",
    "prompt.yaml": "prompt/{name}.yaml",
    "vectors.yaml": "prompt/vectors/{name}.yaml",
    "test.py.txt": "test_{name}_prompt.py",
}


def new_task(name: str, source: Path, folder: Path, label: str | None) -> int:
    """Write task/NAME.yaml for the rows of a file, and say what runs it."""
    _refuse_name(name)
    if source.suffix not in SUFFIXES or not source.is_file():
        raise UserError(f"--from {source} is no file of rows: give a {', '.join(SUFFIXES)} file.")
    import pandas

    rows = pandas.DataFrame([record for _, record in read_records(split_file(source))])
    label = label or _label_column(rows, source)
    if label not in rows:
        raise UserError(f"{source} has no column {label}: its columns are {', '.join(map(str, rows))}.")
    others = [str(column) for column in rows if column not in (label, "idx")]
    fields = [column for column in others if all(isinstance(value, str) for value in rows[column])]
    wrong = [field for field in fields if not field.isidentifier()]
    if wrong or not fields:
        why = f"rename '{wrong[0]}' to one word of letters" if wrong else "it has no column of texts"
        raise UserError(f"The columns of {source} cannot all stand in a template: {why}.")
    labels = list(dict.fromkeys(_text(value) for value in rows[label] if value is not None))
    shorten = max(fields, key=lambda field: rows[field].str.len().mean())
    title, where, report = source.resolve().parent.name, source.resolve().parent.parent, _reported(source)
    command = f"dp-bench train --config-dir {folder} task={name} data.dir={where}"
    command += "".join(
        f" {key}={stem}"
        for key, stem, usual in (
            ("data.train_file", source.stem, "train"),
            ("data.validation_file", report, "val"),
        )
        if stem != usual
    )
    distinct = [field for field in fields if rows[field].nunique() > len(rows) / 2]
    values = {
        **{"name": name, "title": json.dumps(title), "file": source.name, "command": command},
        **{"label": json.dumps(label), "labels": _listed(labels), "labels_said": f"{len(labels)} labels"},
        **{"fields": _listed(fields), "shorten": shorten},
        "template": json.dumps(" ".join(f"{field}: {{{field}}}" for field in fields)),
        "together": _listed(distinct) if distinct else "null",
    }
    _write(folder, {"task.yaml": f"task/{name}.yaml"}, values)
    print(f"Run it:\n  {command}")
    return 0


def new_prompt(name: str, folder: Path) -> int:
    """Write a package with one piece, a gated residual prompt, to be changed."""
    _refuse_name(name)
    targets = {template: path.format(name=name) for template, path in PROMPT_FILES.items()}
    _write(folder, targets, {"name": name, "folder": str(folder)})
    print(f"Install and run it:\n  pip install -e {folder}")
    print(f"  dp-bench train --config-dir {folder} prompt={name}")
    return 0


def _write(folder: Path, targets: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Fill templates into files below a folder; raise UserError where one of them is there."""
    there = [str(folder / path) for path in targets.values() if (folder / path).exists()]
    if there:
        raise UserError(f"{', '.join(there)} exists and is left as it is: take another NAME or --dir.")
    for template, path in targets.items():
        text = (files("dp_bench") / "templates" / template).read_text("utf-8")
        records.write_text(folder / path, Template(text).substitute(values))
        print(f"wrote {folder / path}")


def _refuse_name(name: str) -> None:
    if not name.isidentifier() or not name.islower():
        raise UserError(f"NAME={name} must be lower-case letters, digits and _, such as my_task.")


def _label_column(rows: pandas.DataFrame, source: Path) -> str:
    named = [str(column) for column in rows if str(column).lower() in LABELS]
    few = [str(column) for column in rows if 1 < rows[column].astype(str).nunique() <= MOST_LABELS]
    found = named or (few if len(few) == 1 else [])
    if not found:
        raise UserError(
            f"Which column of {source} is the label? Add --label with one of {', '.join(map(str, rows))}."
        )
    return found[0]


def _text(value: object) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _listed(texts: list[str]) -> str:
    """Return texts as a YAML list, quoted."""
    return json.dumps(texts, ensure_ascii=False)


def _reported(source: Path) -> str:
    """Return the stem of the file beside `source` whose rows are reported on."""
    there = files_of(source.parent)
    for stem in ("val", "validation", "valid", "dev", "test"):
        if stem in there and stem != source.stem:
            return stem
    raise UserError(
        f"There is nothing to report on beside {source}: put rows that are not trained on into "
        f"{source.with_name(f'val{source.suffix}')}."
    )
