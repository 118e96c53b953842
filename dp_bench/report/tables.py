"""Write tables as Markdown and CSV, and draw them on a terminal. The same records give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from dp_bench.report.columns import columns
from dp_bench.report.frame import Row, Table
from dp_bench.report.sheet import Sheet
from dp_bench.report.stats import Comparison


def to_markdown(sheets: Sequence[Sheet]) -> str:
    blocks = []
    for sheet in sheets:
        rule = ["---", *(["---:"] * (len(sheet.heads) - 1))]
        lines = [sheet.heads, rule, *([shown.text for shown in line] for line in sheet.lines)]
        body = "\n".join(
            f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in line)} |" for line in lines
        )
        first, *others = sheet.header.lines()
        head = "  \n".join([f"**{first}**", *others])
        notes = "\n".join(f"- {note}" for note in sheet.notes)
        blocks.append("\n".join([head, "", body, "", notes, ""]))
    return "\n".join(blocks)


def to_csv(tables: Sequence[Table], names: Sequence[str] = ()) -> str:
    """Return one line a cell: what the table's header says, prompt, task, n, mean, sd, seeds and size; and
    of the columns of these names, what is a mean."""
    # What runs cost depends on the machine and the hour: the CSV has it where it is asked for.
    fields = [column.csv for column in columns().values() if column.csv and column.name in names]
    return _csv(
        [_csv_line(table, row, task, fields) for table in tables for row in table.rows for task in row.cells]
    )


def _csv_line(table: Table, row: Row, task: str, fields: Sequence[str]) -> dict[str, object]:
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
        **{name: mean(getattr(record, name) for record in runs) for name in fields},
    }


def _head(table: Table) -> dict[str, object]:
    header = table.header
    named = ("data", "backbone", "regime", "protocol", "selection", "split")
    return {name: getattr(header, name) for name in named}


def comparisons_csv(tables: Sequence[Table], found: Sequence[Sequence[Comparison]]) -> str:
    """Return one line a comparison of two rows on a task, with every test that could be made."""
    lines = []
    for table, comparisons in zip(tables, found, strict=True):
        for c in comparisons:
            line: dict[str, object] = {**_head(table), "a": c.a, "b": c.b, "task": c.task, "n": c.n}
            line |= {"difference": c.difference, "low": c.low, "high": c.high, "p_seeds": c.p}
            line |= {"p_holm": c.p_holm}
            names = ("num_examples", "low", "high", "p_bootstrap", "p_mcnemar")
            line |= {f"examples_{name}": getattr(c.examples, name, None) for name in names}
            lines.append(line)
    return _csv(lines)


def _csv(lines: list[dict[str, object]]) -> str:
    return pd.DataFrame(lines).to_csv(index=False, float_format="%.4f", lineterminator="\n")


def to_terminal(sheet: Sheet) -> RichTable:
    drawn = RichTable(
        title=Text("\n".join(sheet.header.lines())),
        caption=Text("\n".join(sheet.notes)),
        title_justify="left",
        caption_justify="left",
    )
    for i, head in enumerate(sheet.heads):
        drawn.add_column(Text(head), justify="left" if i == 0 else "right", overflow="fold")
    for line in sheet.lines:
        drawn.add_row(*(Text(shown.text, style=STYLES.get(shown.rank or 0, "")) for shown in line))
    return drawn


STYLES = {1: "bold", 2: "underline"}
