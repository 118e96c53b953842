"""Write tables as LaTeX (booktabs). The best row is bold and the second underlined if a test supports it."""

from __future__ import annotations

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
    "…": "\\dots{}",
    '"': "''",
}
PREAMBLE = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}\n"


def escape(text: str) -> str:
    """Return text with LaTeX's special characters escaped."""
    return "".join(ESCAPES.get(character, character) for character in text)


def to_latex(sheets: Sequence[Sheet]) -> str:
    """Return one `table` environment per sheet, to be `\\input` into a paper."""
    return PREAMBLE + "\n".join(_table(sheet, number) for number, sheet in enumerate(sheets, 1))


def _table(sheet: Sheet, number: int) -> str:
    columns = "l" + "r" * (len(sheet.heads) - 1)
    lines = [
        "\\begin{table}[t]",
        "\\centering",
        f"\\caption{{{' '.join(f'{escape(line)}.' for line in sheet.header.lines())}}}",
        f"\\label{{tab:dp-bench-{number}}}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        f"{' & '.join(map(escape, sheet.heads))} \\\\",
        "\\midrule",
        *(f"{' & '.join(map(_cell, line))} \\\\" for line in sheet.lines),
        "\\bottomrule",
        "\\end{tabular}}",
        *(f"\\par\\footnotesize {escape(note)}." for note in sheet.notes),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _cell(view: CellView) -> str:
    text = escape(view.text)
    if view.rank == 1:
        return f"\\textbf{{{text}}}"
    return f"\\underline{{{text}}}" if view.rank == 2 else text
