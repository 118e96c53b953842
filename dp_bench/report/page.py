"""A report on one run in sections, printed on a terminal or written as one self-contained HTML page.

The page has no script and loads nothing. What it shows may come from data: everything is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import accumulate, groupby

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Column, Table
from rich.text import Text

from dp_bench.printing import visible
from dp_bench.report.html import STYLE, document

BLOCKS = "▁▂▃▄▅▆▇█"
WIDEST = 25  # bars of a cell on a terminal; more are summed
LONGEST = 280  # characters of a drawn text on a terminal
FEW = 4  # vectors in a row that are listed each


@dataclass(frozen=True)
class Bars:
    """A cell with one number for each outcome or slot, drawn as bars; `top` is the highest, by default the
    largest number."""

    values: tuple[float, ...]
    top: float | None = None


@dataclass(frozen=True)
class Items:
    """A cell with several texts, of which a terminal shows as many as there is room for in a line."""

    texts: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = accumulate(self.texts, "{}  {}".format)
        fitting = [line for line in lines if cell_len(line) <= options.max_width] or self.texts[:1]
        yield Text(fitting[-1] if fitting else "", no_wrap=True, overflow="ellipsis")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        whole = cell_len("  ".join(self.texts))
        return Measurement(min(whole, 12), whole).clamp(max_width=options.max_width)


Cell = str | Bars | Items


@dataclass(frozen=True)
class Facts:
    """Names and values, a line each."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Grid:
    """A table whose cells are right-aligned, but for the first column and those in `words`. A terminal shows
    the first `most` rows, all by default."""

    heads: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    caption: str = ""
    words: tuple[str, ...] = ()
    most: int | None = None


@dataclass(frozen=True)
class Part:
    """A part of a drawn text: a vector, one that the length selector dropped, text, or what stands around
    it."""

    kind: str  # "vector", "dropped", "text" or "around"
    text: str


@dataclass(frozen=True)
class Drawn:
    """A text with the prompt where it went."""

    name: str
    verdict: str
    is_right: bool
    parts: tuple[Part, ...] = ()


Block = Facts | Grid | Drawn | str


@dataclass(frozen=True)
class Section:
    """A heading and what is below it; a string is a paragraph."""

    title: str
    blocks: Sequence[Block]
    notes: Sequence[str] = field(default=())


# ------------------------------------------------------------------------------------------ terminal


def show(console: Console, title: str, sections: Sequence[Section]) -> None:
    """Print a report in the width of the console."""
    console.print(Text(title, style="bold"))
    for section in sections:
        console.print()
        console.print(Rule(Text(section.title), align="left", characters="-"))
        for block in section.blocks:
            for shown in _shown(block):
                console.print(shown)
        for note in section.notes:
            console.print(_bullet(note))


def _bullet(note: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_row("-", Text(note))
    return grid


def _shown(block: Block) -> Iterator[RenderableType]:
    if isinstance(block, str):
        yield Text(block)
    elif isinstance(block, Drawn):
        yield Text.assemble((block.name, "bold"), "  ", (block.verdict, "" if block.is_right else "red"))
        if block.parts:
            yield Padding(_drawn(block.parts), (0, 0, 0, 2))
    elif isinstance(block, Facts):
        facts = Table.grid(padding=(0, 3, 0, 0))
        for name, value in block.rows:
            facts.add_row(Text(name, style="dim"), Text(value))
        yield facts
    else:
        yield from _table(block)


def _table(grid: Grid) -> Iterator[RenderableType]:
    columns = (
        Column(
            Text(head),
            justify="left" if number == 0 or head in grid.words else "right",
            # Only columns of words give way where the terminal is narrow.
            no_wrap=head not in grid.words,
            overflow="fold",
        )
        for number, head in enumerate(grid.heads)
    )
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for row in grid.rows[: grid.most]:
        table.add_row(*map(_rich_cell, row))
    if grid.caption:
        yield Text(grid.caption, style="bold")
    yield table
    if hidden := len(grid.rows) - len(grid.rows[: grid.most]):
        yield Text(f"and {hidden} more: --html FILE shows all", style="dim")


def _rich_cell(cell: Cell) -> RenderableType:
    if isinstance(cell, Items):
        return cell
    return Text(spark(cell) if isinstance(cell, Bars) else cell)


def spark(bars: Bars) -> str:
    """Return bars as characters: a dot for 0; neighbours are summed where there are more than WIDEST."""
    step = max(1, -(-len(bars.values) // WIDEST))
    values = [sum(bars.values[first : first + step]) for first in range(0, len(bars.values), step)]
    top = (bars.top if step == 1 else None) or max(values, default=0) or 1
    return "".join(
        BLOCKS[min(len(BLOCKS) - 1, int(len(BLOCKS) * value / top))] if value > 0 else "·" for value in values
    )


def _drawn(parts: Sequence[Part]) -> Text:
    """Return a drawn text, the middle of a long one left out."""
    text, looks = Text(), {"vector": ("[]", "cyan"), "dropped": ("()", "dim"), "around": ("", "dim")}
    for kind, group in groupby(parts, key=lambda part: part.kind):
        words = [part.text for part in group]
        brackets, style = looks.get(kind, ("", ""))
        text.append(" " if text else "")
        text.append(_listed(words, brackets) if brackets else _shortened(" ".join(words)), style)
    return text


def _listed(names: list[str], brackets: str) -> str:
    """Return vectors in square brackets, or dropped ones in round ones."""
    return brackets[0] + (" ".join(names) if len(names) <= FEW else f"{names[0]} … {names[-1]}") + brackets[1]


def _shortened(text: str) -> str:
    half = LONGEST // 2
    return (
        text
        if len(text) <= LONGEST
        else f"{text[:half].rpartition(' ')[0]} … {text[-half:].partition(' ')[2]}"
    )


# ------------------------------------------------------------------------------------------ page

MORE_STYLE = """
h2 { margin-bottom: .4rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h1, h2, p, li { overflow-wrap: anywhere; }
.wide { width: fit-content; max-width: 100%; }
.wide table { width: auto; }
caption { text-align: left; font-weight: 600; padding: .5rem .7rem; white-space: nowrap; }
td.words, th.words { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .6rem 0; }
dt { opacity: .75; }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.item { margin-right: .7rem; }
.bars { display: inline-flex; align-items: flex-end; gap: 1px; height: 1.7rem; vertical-align: bottom; }
.bars i { width: .5rem; min-height: 1px; background: var(--accent); }
.bars i.none { background: var(--line); }
article { border: 1px solid var(--line); border-left: .3rem solid #16803c; border-radius: .4rem;
  padding: .5rem .8rem; margin: .7rem 0; overflow-wrap: anywhere; }
article.wrong { border-left-color: #c2410c; }
article h3 { font-size: .95rem; margin: 0; display: inline; }
article p { margin: .4rem 0 0; }
.vector, .dropped { display: inline-block; font: .8em/1.5 ui-monospace, monospace; padding: 0 .3rem;
  margin: 0 .1rem; border-radius: .3rem; border: 1px solid var(--accent); }
.vector { background: var(--accent); color: #fff; }
.dropped { opacity: .55; border-style: dashed; text-decoration: line-through; }
.text, .around { white-space: pre-line; }
.around { opacity: .6; }
@media (max-width: 40rem) { th, td { padding: .3rem .45rem; } .bars i { width: .3rem; } }
"""


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Return the report as a page."""
    body = "\n".join(
        f"<section>\n<h2>{_safe(section.title)}</h2>\n"
        + "\n".join(map(_block, section.blocks))
        + (
            f"\n<ul>{''.join(f'<li>{_safe(note)}</li>' for note in section.notes)}</ul>"
            if section.notes
            else ""
        )
        + "\n</section>"
        for section in sections
    )
    return document(_safe(title), STYLE + MORE_STYLE, f"<h1>{_safe(title)}</h1>\n{body}")


def _safe(text: str) -> str:
    return escape(visible(text))


def _block(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{_safe(block)}</p>"
    if isinstance(block, Facts):
        rows = "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(value)}</dd>" for name, value in block.rows)
        return f"<dl>{rows}</dl>"
    return _article(block) if isinstance(block, Drawn) else _html_table(block)


def _article(drawn: Drawn) -> str:
    text = " ".join(f'<span class="{part.kind}">{_safe(part.text)}</span>' for part in drawn.parts)
    return (
        f"<article{'' if drawn.is_right else ' class=wrong'}><h3>{_safe(drawn.name)}</h3> "
        f'<span class="quiet">{_safe(drawn.verdict)}</span>{f"<p>{text}</p>" if text else ""}</article>'
    )


def _html_table(grid: Grid) -> str:
    kinds = [' class="words"' if head in grid.words else "" for head in grid.heads]
    heads = "".join(
        f'<th scope="col"{kind}>{_safe(head)}</th>' for head, kind in zip(grid.heads, kinds, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in grid.rows
    )
    caption = f"<caption>{_safe(grid.caption)}</caption>" if grid.caption else ""
    return (
        f'<div class="wide" tabindex="0"><table>{caption}\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return _safe(cell)
    if isinstance(cell, Items):
        return " ".join(f'<span class="item">{_safe(text)}</span>' for text in cell.texts)
    top = cell.top or max(cell.values, default=0) or 1
    bars = "".join(
        f'<i{"" if value else " class=none"} style="height:{100 * value / top:.0f}%" '
        f'title="{number}: {value:.4g}"></i>'
        for number, value in enumerate(cell.values)
    )
    listed = ", ".join(f"{number}: {value:.4g}" for number, value in enumerate(cell.values) if value)
    return f'<span class="bars" role="img" aria-label="{listed or "nothing"}">{bars}</span>'
