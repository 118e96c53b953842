"""Write tables as one self-contained HTML page: click a heading to sort, type to filter, click a score for
its runs. The filter and the sorting are part of the address, so that a link shows what was seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from urllib.parse import quote

from dp_bench.config.files import describe, options
from dp_bench.report.columns import CellView
from dp_bench.report.expand import MULTITASK
from dp_bench.report.frame import Row
from dp_bench.report.sheet import Sheet, split_notes
from dp_bench.report.variants import plain

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
td a { color: inherit; text-decoration: none; }
td a:hover, td a:focus-visible { text-decoration: underline; text-decoration-style: dotted; }
td[title] { cursor: help; }
.block td { font-weight: 600; background: var(--soft); }
details { font-size: .9em; }
summary { cursor: pointer; }
.runs td { text-align: left; }
.runs tr:target td, .runs tr.asked td { background: #f59e0b33; }
ul, ol { padding-left: 1.6rem; font-size: .9em; }
[hidden] { display: none; }
@media (max-width: 40rem) { th, td { padding: .3rem .45rem; } body { padding: .6rem; } }
@media print {
  :root { color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  label, .screen, details { display: none; }
  section { break-inside: avoid; }
  .wide { overflow: visible; border: 0; }
  th:first-child, td:first-child { position: static; }
  th[aria-sort] button::after { content: none; }
}
"""
SCRIPT = """
const input = document.querySelector("input");
const tables = [...document.querySelectorAll("table.scores")];
const keys = tables.map(table => [...table.tBodies[0].rows]);  // the order of the page
function sorted(table, column, up) {
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = row => row.cells[column]?.dataset.n;
  const number = row => value(row) === undefined ? null : Number(value(row));
  const text = row => row.cells[column]?.textContent ?? "";
  const compared = (a, b) => {
    const x = number(a), y = number(b), sign = up ? 1 : -1;
    if (x === null && y === null) return sign * text(a).localeCompare(text(b));
    if (x === null || y === null) return x === null ? 1 : -1;  // cells without a run stay last
    return sign * (x - y);
  };
  const blocks = [[]];  // a block keeps its title, and its rows
  for (const row of keys[tables.indexOf(table)]) {
    if (row.className === "block") blocks.push([row], []); else blocks.at(-1).push(row);
  }
  table.tBodies[0].append(...blocks.flatMap(rows => rows.sort(compared)));
}
function filtered() {
  const words = input.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const section of document.querySelectorAll("section")) {
    const head = section.querySelector("header").textContent.toLowerCase();
    let shown = 0, title = null, beneath = 0;
    for (const row of section.querySelectorAll("table.scores tbody tr")) {
      if (row.className === "block") { title = row; title.hidden = true; continue; }
      const text = [head, title?.textContent ?? "", row.textContent].join(" ").toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      if (!row.hidden) { shown += 1; if (title) title.hidden = false; }
    }
    section.hidden = shown === 0;
  }
}
function remember() {
  const state = new URLSearchParams();
  if (input.value) state.set("q", input.value);
  tables.forEach((table, number) => {
    const cells = [...table.tHead.rows[0].cells];
    const column = cells.findIndex(cell => cell.hasAttribute("aria-sort"));
    if (column < 0) return;
    const up = cells[column].getAttribute("aria-sort") === "ascending";
    state.set("s" + number, column + (up ? "up" : "down"));
  });
  history.replaceState(null, "", "#" + state);
}
function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  input.value = state.get("q") ?? "";
  tables.forEach((table, number) => {
    const found = /^(\\d+)(up|down)$/.exec(state.get("s" + number) ?? "");
    if (found && Number(found[1]) < table.tHead.rows[0].cells.length) {
      sorted(table, Number(found[1]), found[2] === "up");
    }
  });
  filtered();
}
for (const table of tables) {
  table.querySelectorAll("th button").forEach((button, column) => button.addEventListener("click", () => {
    sorted(table, column, button.parentElement.getAttribute("aria-sort") === "descending");
    remember();
  }));
}
input.addEventListener("input", () => { filtered(); remember(); });
addEventListener("hashchange", recall);
document.addEventListener("click", event => {
  const link = event.target.closest("td a[href^='#runs-']");
  if (!link) return;
  event.preventDefault();  // the address keeps the filter
  const name = link.getAttribute("href").slice(1);
  for (const row of document.querySelectorAll("tr.asked")) row.classList.remove("asked");
  const rows = [...document.querySelectorAll(`tr[data-cell="${name}"]`)];
  for (const row of rows) { row.classList.add("asked"); row.closest("details").open = true; }
  rows[0]?.scrollIntoView({ block: "center" });
});
recall();
"""
PlaceOf = Callable[[str], str | None]
CLASSES = {1: ' class="first"', 2: ' class="second"'}


def to_html(sheets: Sequence[Sheet], place_of: PlaceOf = lambda run_id: None) -> str:
    """Return the page, with one section per sheet. `place_of` returns where a run's folder is as seen from
    the page, or None."""
    shared, others = split_notes(sheets)
    sections = "\n".join(
        _section(sheet, number, notes, len(shared) + 1, place_of)
        for number, (sheet, notes) in enumerate(zip(sheets, others, strict=True))
    )
    common = f"<h2>Notes on every table</h2>\n{_notes(shared)}\n" if shared else ""
    return document(
        "dp-bench tables",
        STYLE,
        '<h1>dp-bench tables</h1>\n<p class="quiet screen">Click a heading to sort, a score for its runs; '
        "point at a name for what it means. The address keeps what you chose.</p>\n"
        '<label>Show only rows and tables with these words:\n<input type="search" '
        'placeholder="adap_pos t5_base"></label>\n'
        f"{common}{sections}\n<script>{{{SCRIPT}}}</script>",
    )


def document(title: str, style: str, body: str) -> str:
    """Return a page that loads nothing; `title` and `body` are HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _section(sheet: Sheet, number: int, notes: Sequence[str], first: int, place_of: PlaceOf) -> str:
    first_line, *more = (escape(line) for line in sheet.header.lines())
    head = f"<h2>{first_line}</h2>" + "".join(f'<p class="quiet">{line}</p>' for line in more)
    heads = "".join(
        f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in sheet.heads
    )
    rows, listed = [], []
    for place, (row, line) in enumerate(zip(sheet.rows, sheet.lines, strict=True)):
        if place in sheet.blocks:
            title = f'<td colspan="{len(sheet.heads)}">{escape(sheet.blocks[place])}</td>'
            rows.append(f'<tr class="block">{title}</tr>')
        cells = [f'<td title="{escape(_meaning(row))}">{escape(line[0].text)}</td>']
        for column, view in enumerate(line[1:], 1):
            name = f"runs-{number}-{place}-{column}"
            found = _runs(name, row, sheet.heads[column], view, place_of)
            listed += found
            cells.append(_cell(view, name if found else None))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    lists = (
        '<details><summary>Runs</summary><div class="wide"><table class="runs">\n<thead><tr>'
        "<th>row</th><th>task</th><th>seed</th><th>score</th><th>run</th></tr></thead>\n<tbody>\n"
        + "\n".join(listed)
        + "\n</tbody>\n</table></div></details>\n"
        if listed
        else ""
    )
    return (
        f'<section>\n<header>{head}</header>\n<div class="wide" tabindex="0"><table class="scores">\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n"
        f"{_notes(notes, first)}\n{lists}</section>"
    )


def _notes(notes: Sequence[str], first: int = 1) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ol start="{first}">{items}</ol>' if notes else ""


def _meaning(row: Row) -> str:
    """Return what a row is: its prompt, the sentence of the prompt's file, and the settings of the row."""
    prompt = row.records[0].prompt
    option = prompt.removesuffix(MULTITASK)
    about = describe("prompt", option) if option in options("prompt") else ""
    settings = [f"{key}={plain(value)}" for key, value in row.named.items()]
    return "\n".join(filter(None, [f"{prompt}: {about}" if about else prompt, *settings]))


def _runs(name: str, row: Row, head: str, view: CellView, place_of: PlaceOf) -> list[str]:
    """Return a line per run behind a cell, with a link to its folder where there is one."""
    lines: list[str] = []
    for (seed, draw), record in view.cell.runs.items() if view.cell else ():
        assert view.cell is not None
        run = escape(record.run_id)
        if folder := place_of(record.run_id):
            run = f'<a href="{escape(quote(folder))}">{run}</a>'
        place = f"{seed}, draw {draw}" if draw else str(seed)
        texts = (row.name, head, place, f"{view.cell.values[seed, draw]:.2f}")
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
        anchor = "" if lines else f' id="{name}"'
        lines.append(f'<tr{anchor} data-cell="{name}">{cells}<td>{run}</td></tr>')
    return lines


def _cell(view: CellView, runs: str | None) -> str:
    number = "" if view.number is None else f' data-n="{view.number:.6g}"'
    text = escape(view.text) if runs is None else f'<a href="#{runs}">{escape(view.text)}</a>'
    return f"<td{number}{CLASSES.get(view.rank or 0, '')}>{text}</td>"
