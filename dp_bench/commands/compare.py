"""`dp-bench compare A B`: two finished runs side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.table import Column, Table

from dp_bench import records
from dp_bench.commands.finished import find_run
from dp_bench.commands.inspect import Inspected
from dp_bench.printing import csv_cell, say, visible
from dp_bench.report.pair import FLIPS, Section, compare_runs
from dp_bench.terminal import make_console
from dp_bench.types import UserError

SHOWN = 20  # rows of a table on the terminal
TEXTS = 5  # of flipped examples
LONGEST = 400  # characters of a text


def compare(a: str, b: str, results_dir: Path, out: Path | None) -> int:
    """Print a comparison of two runs, and write all of it to `out`."""
    if out and (out.suffix not in WRITERS or out.is_dir()):
        raise UserError(
            f"--out {out} is no file that compare writes: name one ending in {', '.join(WRITERS)}."
        )
    folder_a, folder_b = find_run(a, results_dir), find_run(b, results_dir)
    sections = compare_runs(folder_a, folder_b)
    index, flips = next((i, section) for i, section in enumerate(sections) if section.title == FLIPS)
    if flips.rows:
        sections.insert(index + 1, _texts(Inspected(folder_a), [str(row[0]) for row in flips.rows[:TEXTS]]))
    show(sections)
    if out:
        try:
            WRITERS[out.suffix](out, sections)
        except OSError as error:
            raise UserError(f"{out} cannot be written: {error.strerror}. Name another file.") from error
        say(f"\nwrote {out}")
    return 0


def show(sections: Sequence[Section], more: str = ": --out FILE.csv has all") -> None:
    """Print sections; `more` says where the rows are that are not shown."""
    console = make_console()
    for section in sections:
        say(f"\n{section.title}")
        if section.rows:
            table = Table(*(Column(name, overflow="fold") for name in section.columns))
            for row in section.rows[:SHOWN]:
                table.add_row(*map(_shown, row))
            console.print(table)
        if len(section.rows) > SHOWN:
            say(f"and {len(section.rows) - SHOWN} more{more}")
        for note in section.notes:
            say(note)


def _texts(run: Inspected, ids: list[str]) -> Section:
    """Return the texts of examples, in this order, where the data of a run can be found."""
    found: dict[str, str] = {}
    notes = []
    for task in run.tasks:
        try:
            examples = [example for example in run.examples(task) if example.id in ids]
        except UserError as error:
            notes.append(f"{task}: {error}")
            continue
        for example in examples:
            fields = "; ".join(f"{name}: {text}" for name, text in example.fields.items())
            found[example.id] = shorten(fields, LONGEST, placeholder=" …")
    return Section(
        "Their texts", ("id", "text"), [(name, found[name]) for name in ids if name in found], notes
    )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_markdown(path: Path, sections: list[Section]) -> None:
    lines = []
    for section in sections:
        lines += [f"## {section.title}", ""]
        if section.rows:
            rows = [section.columns, ["---"] * len(section.columns), *section.rows]
            cells = [[visible(_shown(v)).replace("|", "\\|").replace("\n", " ") for v in row] for row in rows]
            lines += [*(f"| {' | '.join(row)} |" for row in cells), ""]
        lines += [f"- {visible(note)}" for note in section.notes]
        lines += [""] if section.notes else []
    records.write_text(path, "\n".join(lines))


def _write_json(path: Path, sections: list[Section]) -> None:
    records.write_json(path, [asdict(section) for section in sections])


def _write_csv(path: Path, sections: list[Section]) -> None:
    """Write a row per row of each section, which begins with the section's title."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for section in sections:
        notes = [("note", note) for note in section.notes]
        for row in (section.columns, *section.rows, *notes):
            writer.writerow([csv_cell(value) for value in (section.title, *row)])
    records.write_text(path, text.getvalue())


WRITERS = {".md": _write_markdown, ".json": _write_json, ".csv": _write_csv}
