"""Write tables as LaTeX (booktabs). The best row is bold and the second underlined if a test supports it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dp_bench.report.columns import CellView
from dp_bench.report.sheet import Sheet

ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": "$\\pm$",
    "×": "$\\times$",
    "·": "$\\cdot$",
    "Δ": "$\\Delta$",
    "†": "$^\\dagger$",
    "‡": "$^\\ddagger$",
    "§": "$^{\\S}$",
    "…": "\\dots{}",
    '"': "''",
}
PREAMBLE = "% needs \\usepackage{booktabs} and \\usepackage{threeparttable}\n"
SCORE = re.compile(r"(-?\d+\.\d+) ± (\d+\.\d+)")  # the spread is set as an index, which saves width
MARKED = re.compile(r"([†‡§]) (.*)", re.DOTALL)  # a note on a mark
SIZES = {7: "scriptsize", 5: "footnotesize"}  # by the number of columns above which a table is set in it
WIDE = 5  # columns above which a table spans both columns of a page


def escape(text: str) -> str:
    """Return text with LaTeX's special characters escaped."""
    return "".join(ESCAPES.get(character, character) for character in text).replace("--", "-{}-")


def to_latex(sheets: Sequence[Sheet], caption: str | None = None, label: str | None = None) -> str:
    """Return one `table` environment per sheet, to be `\\input` into a paper.

    `caption` replaces the header of the only table and precedes that of several, which are numbered after
    their `label`.
    """
    several = len(sheets) > 1
    texts = []
    for number, sheet in enumerate(sheets, 1):
        header = [] if caption is not None and not several else sheet.header.lines()
        lines = [line.rstrip(".") for line in (*([caption] if caption is not None else []), *header)]
        name = f"{label or 'tab:dp-bench'}{f'-{number}' if several or label is None else ''}"
        texts.append(_table(sheet.compact(), " ".join(f"{escape(line)}." for line in lines), name))
    return PREAMBLE + "\n".join(texts)


def _table(sheet: Sheet, caption: str, label: str) -> str:
    num_columns = len(sheet.heads)
    size = next((size for most, size in SIZES.items() if num_columns > most), None)
    environment = "table*" if num_columns > WIDE else "table"
    lines = []
    for number, line in enumerate(sheet.lines):
        if number in sheet.blocks:
            rule = ["\\midrule"] if number else []
            lines += [
                *rule,
                f"\\multicolumn{{{num_columns}}}{{l}}{{\\textit{{{escape(sheet.blocks[number])}}}}} \\\\",
            ]
        lines.append(f"{' & '.join(map(_cell, line))} \\\\")
    return "\n".join(
        [
            f"\\begin{{{environment}}}[t]",
            "\\centering",
            *([f"\\{size}", "\\setlength{\\tabcolsep}{3pt}"] if size else []),
            "\\begin{threeparttable}",
            f"\\caption{{{caption}}}",
            f"\\label{{{label}}}",
            f"\\begin{{tabular}}{{@{{}}l{'r' * (num_columns - 1)}@{{}}}}",
            "\\toprule",
            f"{' & '.join(map(escape, sheet.heads))} \\\\",
            "\\midrule",
            *lines,
            "\\bottomrule",
            "\\end{tabular}",
            *_notes(sheet.notes),
            "\\end{threeparttable}",
            f"\\end{{{environment}}}",
            "",
        ]
    )


def _notes(notes: Sequence[str]) -> list[str]:
    """Return the block of notes below a table; those on a mark of cells begin with it."""
    items = []
    number = 0
    for note in notes:
        if marked := MARKED.fullmatch(note):
            items.append(f"\\item[{escape(marked[1])}] {escape(marked[2])}.")
        else:
            number += 1
            items.append(f"\\item[{number}] {escape(note)}.")
    return ["\\begin{tablenotes}[flushleft]\\footnotesize", *items, "\\end{tablenotes}"] if items else []


def _cell(view: CellView) -> str:
    text = escape(view.text)
    if score := SCORE.match(view.text):
        text = f"{score[1]}$_{{\\pm {score[2]}}}${escape(view.text[score.end() :])}"
    if view.rank == 1:
        return f"\\textbf{{{text}}}"
    return f"\\underline{{{text}}}" if view.rank == 2 else text
