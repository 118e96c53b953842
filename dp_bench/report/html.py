"""Write tables as one self-contained HTML page: click a heading to sort, type to filter."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from dp_bench.report.columns import CellView
from dp_bench.report.sheet import Sheet

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2563eb; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .5rem; }
h2 { font-size: 1rem; margin: 2rem 0 0; }
p { margin: .2rem 0; }
.quiet { opacity: .75; }
label { display: block; margin: .8rem 0; }
input {
  font: inherit; padding: .35rem .6rem; width: min(100%, 26rem); box-sizing: border-box;
  border: 1px solid var(--line); border-radius: .4rem; background: transparent; color: inherit;
}
.wide { overflow-x: auto; margin: .6rem 0; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap; }
th, td { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
tr:last-child td { border-bottom: 0; }
tbody tr:hover td { background: var(--soft); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.first { font-weight: 700; }
.second { text-decoration: underline; }
ul { padding-left: 1.2rem; font-size: .9em; }
[hidden] { display: none; }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("th button").forEach((button, column) => button.addEventListener("click", () => {
    const head = button.parentElement, up = head.getAttribute("aria-sort") === "descending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.cells[column].dataset.n;
    const number = row => value(row) === undefined ? null : Number(value(row));
    const text = row => row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const x = number(a), y = number(b), sign = up ? 1 : -1;
      if (x === null && y === null) return sign * text(a).localeCompare(text(b));
      if (x === null || y === null) return x === null ? 1 : -1;  // cells without a run stay last
      return sign * (x - y);
    });
    table.tBodies[0].append(...rows);
  }));
}
document.querySelector("input").addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const section of document.querySelectorAll("section")) {
    const head = section.querySelector("header").textContent.toLowerCase();
    let shown = 0;
    for (const row of section.querySelectorAll("tbody tr")) {
      const text = head + " " + row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
    section.hidden = shown === 0;
  }
});
"""
CLASSES = {1: ' class="first"', 2: ' class="second"'}


def to_html(sheets: Sequence[Sheet]) -> str:
    """Return the page, with one section per sheet."""
    sections = "\n".join(_section(sheet) for sheet in sheets)
    return document(
        "dp-bench tables",
        STYLE,
        '<h1>dp-bench tables</h1>\n<p class="quiet">Click a column heading to sort its table.</p>\n'
        '<label>Show only rows and tables with these words:\n<input type="search" '
        'placeholder="adap_pos t5_base"></label>\n'
        f"{sections}\n<script>{SCRIPT}</script>",
    )


def document(title: str, style: str, body: str) -> str:
    """Return a page that loads nothing; `title` and `body` are HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _section(sheet: Sheet) -> str:
    first, *more = (escape(line) for line in sheet.header.lines())
    head = f"<h2>{first}</h2>" + "".join(f'<p class="quiet">{line}</p>' for line in more)
    heads = "".join(
        f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in sheet.heads
    )
    rows = "\n".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in sheet.lines)
    notes = "".join(f"<li>{escape(note)}</li>" for note in sheet.notes)
    return (
        f'<section>\n<header>{head}</header>\n<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n<ul>{notes}</ul>\n</section>"
    )


def _cell(view: CellView) -> str:
    number = "" if view.number is None else f' data-n="{view.number:.6g}"'
    return f"<td{number}{CLASSES.get(view.rank or 0, '')}>{escape(view.text)}</td>"
