"""Write tables as Markdown and CSV, and print them on a terminal. Equal records give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from dp_bench.printing import csv_cell
from dp_bench.report.columns import Column, columns
from dp_bench.report.frame import Row, Table
from dp_bench.report.sheet import Sheet
from dp_bench.report.stats import Comparison


def to_markdown(sheets: Sequence[Sheet]) -> str:
    """Return tables as Markdown, each with its header and notes."""
    blocks = []
    for sheet in sheets:
        rule = ["---", *(["---:"] * (len(sheet.heads) - 1))]
        lines = [sheet.heads, rule, *([view.text for view in line] for line in sheet.lines)]
        body = "\n".join(
            f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in line)} |" for line in lines
        )
        first, *more = sheet.header.lines()
        head = "  \n".join([f"**{first}**", *more])
        notes = "\n".join(f"- {note}" for note in sheet.notes)
        blocks.append("\n".join([head, "", body, "", notes, ""]))
    return "\n".join(blocks)


def to_csv(tables: Sequence[Table], names: Sequence[str] = ()) -> str:
    """Return one line per cell: header fields, prompt, task, n, mean, sd, seeds and size, then those of the
    named columns that have a CSV field."""
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


def to_terminal(sheet: Sheet) -> RichTable:
    """Return a table to print with rich."""
    table = RichTable(
        title=Text("\n".join(sheet.header.lines())),
        caption=Text("\n".join(sheet.notes)),
        title_justify="left",
        caption_justify="left",
    )
    for i, head in enumerate(sheet.heads):
        table.add_column(Text(head), justify="left" if i == 0 else "right", overflow="fold")
    for line in sheet.lines:
        table.add_row(*(Text(view.text, style=STYLES.get(view.rank or 0, "")) for view in line))
    return table


STYLES = {1: "bold", 2: "underline"}
