"""Write tables as Markdown and CSV, and draw them on a terminal. The same records give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from dp_bench.report.frame import DEGENERATE_MARK, Cell, Row, Table

COLUMNS = {
    "params": "trainable parameters",
    "seconds": "seconds a run",
    "memory": "peak memory (MB)",
    "optimism": "optimism",
}


def cell_text(cell: Cell | None) -> str:
    """Return `mean ± sd (n)`, without ± for one seed, `-` for none."""
    if cell is None:
        return "-"
    spread = "" if cell.sd is None else f" ± {cell.sd:.2f}"
    mark = DEGENERATE_MARK if cell.degenerate else ""
    return f"{cell.mean:.2f}{spread} ({cell.n}){mark}"


def extra_text(row: Row, column: str) -> str:
    """Return a row's mean parameters, seconds or peak memory over its runs, or how much better it looks when
    the prompt is selected on the reported split."""
    if column == "optimism":
        return "-" if row.optimism is None else f"{row.optimism.mean:+.2f} ({row.optimism.n})"
    if column == "params":
        counts = sorted({record.trainable_parameters for record in row.records})
        return " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    if column == "seconds":
        return f"{mean(record.total_seconds for record in row.records):.0f}"
    return f"{mean(record.peak_memory_mb for record in row.records):.0f}"


def grid(table: Table, columns: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the lines of a table as text."""
    heads = [
        table.row_head,
        *(table.titles[task] for task in table.tasks),
        "mean",
        *(COLUMNS[column] for column in columns),
    ]
    lines = [
        [
            row.label,
            *(cell_text(row.cells.get(task)) for task in table.tasks),
            cell_text(row.average(table.tasks)),
            *(extra_text(row, column) for column in columns),
        ]
        for row in table.rows
    ]
    return heads, lines


def to_markdown(tables: Sequence[Table], columns: Sequence[str] = ()) -> str:
    blocks = []
    for table in tables:
        heads, lines = grid(table, columns)
        rule = ["---", *(["---:"] * (len(heads) - 1))]
        body = "\n".join(
            f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in line)} |"
            for line in (heads, rule, *lines)
        )
        notes = "\n".join(f"- {note}" for note in table.notes)
        blocks.append(
            "\n".join(
                [f"**{table.header.lines()[0]}**  ", f"{table.header.lines()[1]}", "", body, "", notes, ""]
            )
        )
    return "\n".join(blocks)


def to_csv(tables: Sequence[Table]) -> str:
    """Return one line a cell: what the table's header says, prompt, task, n, mean, sd, seeds and costs."""
    lines = [_csv_line(table, row, task) for table in tables for row in table.rows for task in row.cells]
    return pd.DataFrame(lines).to_csv(index=False, float_format="%.4f", lineterminator="\n")


def _csv_line(table: Table, row: Row, task: str) -> dict[str, str | int | float | None]:
    header, cell = table.header, row.cells[task]
    runs = [record for record in row.records if record.task == task]
    return {
        "data": header.data,
        "backbone": header.backbone,
        "weights": "random" if header.random_weights else "pretrained",
        "fingerprint": str(runs[0].checkpoint["fingerprint"])[:8],
        "regime": header.regime,
        "protocol": header.protocol,
        "selection": header.selection,
        "split": header.split,
        "prompt": row.label,
        "task": task,
        "n": cell.n,
        "mean": cell.mean,
        "sd": cell.sd,
        "seeds": " ".join(f"{seed}/{draw}" if draw else str(seed) for seed, draw in cell.values),
        "trainable_parameters": runs[0].trainable_parameters,
        "seconds": mean(record.total_seconds for record in runs),
        "peak_memory_mb": mean(record.peak_memory_mb for record in runs),
    }


def to_terminal(table: Table, columns: Sequence[str] = ()) -> RichTable:
    heads, lines = grid(table, columns)
    drawn = RichTable(
        title="\n".join(table.header.lines()),
        caption="\n".join(table.notes),
        title_justify="left",
        caption_justify="left",
    )
    for i, head in enumerate(heads):
        drawn.add_column(head, justify="left" if i == 0 else "right", overflow="fold")
    for line in lines:
        drawn.add_row(*map(Text, line))
    return drawn
