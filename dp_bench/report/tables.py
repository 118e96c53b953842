"""Write tables as Markdown and CSV, and print them on a terminal. Equal records give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from dp_bench.printing import csv_cell
from dp_bench.report.columns import Column, columns
from dp_bench.report.frame import Row, Table
from dp_bench.report.sheet import Sheet, split_notes
from dp_bench.report.stats import Comparison


def to_markdown(sheets: Sequence[Sheet]) -> str:
    """Return tables as Markdown, each with its header and notes."""
    shared, others = split_notes(sheets)
    blocks = [f"**Notes on every table**\n\n{_listed(shared)}\n"] if shared else []
    for sheet, notes in zip(sheets, others, strict=True):
        rule = ["---", *(["---:"] * (len(sheet.heads) - 1))]
        lines = [sheet.heads, rule]
        for number, line in enumerate(sheet.lines):
            if number in sheet.blocks:
                lines.append([f"**{sheet.blocks[number]}**", *[""] * (len(sheet.heads) - 1)])
            lines.append([view.text for view in line])
        body = "\n".join(
            f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in line)} |" for line in lines
        )
        first, *more = sheet.header.lines()
        head = "  \n".join([f"**{first}**", *more])
        blocks.append("\n".join([head, "", body, "", _listed(notes, len(shared) + 1), ""]))
    return "\n".join(blocks)


def _listed(notes: Sequence[str], first: int = 1) -> str:
    return "\n".join(f"{number}. {note}" for number, note in enumerate(notes, first))


def to_csv(tables: Sequence[Table], names: Sequence[str] = ()) -> str:
    """Return one line per cell: header fields, prompt (with the settings that tell rows apart), name, task,
    n, mean, sd, seeds and size, then those of the named columns that have a CSV field."""
    # Seconds and memory depend on the machine, so the CSV has them on request only.
    chosen = [column for column in columns().values() if column.csv and column.name in names]
    return _csv(
        [_csv_line(table, row, task, chosen) for table in tables for row in table.rows for task in row.cells]
    )


def _csv_line(table: Table, row: Row, task: str, chosen: Sequence[Column]) -> dict[str, object]:
    header, cell = table.header, row.cells[task]
    runs = [record for record in row.records if record.task == task]
    return {
        **_head(table),
        "prompt": row.label,
        "name": row.name,
        "task": task,
        "n": cell.n,
        "mean": cell.mean,
        "sd": cell.sd,
        "seeds": " ".join(f"{seed}/{draw}" if draw else str(seed) for seed, draw in cell.values),
        "weights": "random" if header.random_weights else "pretrained",
        "fingerprint": str(runs[0].checkpoint["fingerprint"])[:8],
        "trainable_parameters": runs[0].trainable_parameters,
        **{str(column.csv): column.mean(runs) for column in chosen},
    }


def _head(table: Table) -> dict[str, object]:
    names = ("data", "backbone", "regime", "protocol", "selection", "split")
    return {name: getattr(table.header, name) for name in names}


def comparisons_csv(tables: Sequence[Table], by_table: Sequence[Sequence[Comparison]]) -> str:
    """Return one line per comparison of two rows on a task, with all its tests; empty if not tested."""
    lines = []
    for table, comparisons in zip(tables, by_table, strict=True):
        for c in comparisons:
            line: dict[str, object] = {**_head(table), "a": c.a, "b": c.b, "task": c.task, "n": c.n}
            line |= {"difference": c.difference, "low": c.low, "high": c.high, "p_seeds": c.p}
            line |= {"p_holm": c.p_holm}
            names = ("num_examples", "low", "high", "p_bootstrap", "p_mcnemar")
            lines.append(line | {f"examples_{name}": getattr(c.examples, name, None) for name in names})
    return _csv(lines)


def _csv(lines: list[dict[str, object]]) -> str:
    safe = [{key: csv_cell(value) for key, value in line.items()} for line in lines]
    return pd.DataFrame(safe).to_csv(index=False, float_format="%.4f", lineterminator="\n")


def to_terminal(sheets: Sequence[Sheet]) -> list[RenderableType]:
    """Return tables to print with rich, each as wide as the terminal at most, and the notes on all."""
    compact = [sheet.compact() for sheet in sheets]
    shared, others = split_notes(compact)
    shown: list[RenderableType] = []
    for sheet, notes in zip(compact, others, strict=True):
        shown += [OnTerminal(sheet, notes, len(shared) + 1), Text()]
    if shared:
        shown += [Text("Notes on every table", style="bold"), numbered(shared)]
    return shown


STYLES = {1: "bold", 2: "underline"}
GAP = 2  # between columns


@dataclass(frozen=True)
class OnTerminal:
    """A table that fits the terminal: what is too wide goes on in blocks of columns; no name or number is
    cut."""

    sheet: Sheet
    notes: Sequence[str]
    first: int = 1  # number of the first note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        sheet, width = self.sheet, options.max_width
        first, *more = sheet.header.lines()
        yield Text(first, style="bold")
        yield Text("\n".join(more))
        widths = [_width(column) for column in zip(sheet.heads, *_texts(sheet), strict=True)]
        names = _names_width([line[0].text for line in sheet.lines], width - GAP - max(widths[1:], default=0))
        for block in _fitting(widths, width - names):
            yield _block(sheet, {column: widths[column] for column in block}, names)
            yield Text()
        yield numbered(self.notes, self.first)


def numbered(notes: Sequence[str], first: int = 1) -> RichTable:
    """Return notes with their numbers, to print with rich."""
    grid = RichTable.grid(padding=(0, 1, 0, 0))
    for number, note in enumerate(notes, first):
        grid.add_row(Text(f"{number}."), Text(note))
    return grid


def _texts(sheet: Sheet) -> list[list[str]]:
    return [[view.text for view in line] for line in sheet.lines]


def _width(column: Sequence[str]) -> int:
    """Return the width of a column: its heading may break between words, its cells may not."""
    head, *cells = column
    return max(map(cell_len, [*head.split(), *cells]))


def _names_width(names: Sequence[str], most: int) -> int:
    """Return the width of the column of names, which break between words where they are too long."""
    words = [word for name in names for word in name.split()]
    return max(max(map(cell_len, words), default=0), min(most, max(map(cell_len, names), default=0)), 6)


def _fitting(widths: Sequence[int], width: int) -> list[list[int]]:
    """Return the columns of each block."""
    blocks: list[list[int]] = [[]]
    left = width
    for column, needed in list(enumerate(widths))[1:]:
        if blocks[-1] and needed + GAP > left:
            blocks.append([])
            left = width
        blocks[-1].append(column)
        left -= needed + GAP
    return blocks


def _block(sheet: Sheet, columns: Mapping[int, int], names: int) -> RichTable:
    """Return some columns with these widths, beside the names."""
    table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(Text(sheet.heads[0]), width=names, overflow="fold")
    for column, width in columns.items():
        table.add_column(Text(sheet.heads[column]), justify="right", width=width, overflow="fold")
    for number, line in enumerate(sheet.lines):
        if number in sheet.blocks:
            table.add_row(Text(sheet.blocks[number], style="bold"))
        shown = [line[0], *(line[column] for column in columns)]
        table.add_row(*(Text(view.text, style=STYLES.get(view.rank or 0, "")) for view in shown))
    return table
