"""Write tables as LaTeX: booktabs, escaped, the best bold and the second underlined where a test supports
it."""

from __future__ import annotations

from collections.abc import Sequence

from dp_bench.report.columns import Shown
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
    """Return text as LaTeX shows it: every character that means something to it, escaped."""
    return "".join(ESCAPES.get(character, character) for character in text)


def to_latex(sheets: Sequence[Sheet]) -> str:
    """Return a `table` environment a sheet, to be `\\input` into a paper."""
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


def _cell(shown: Shown) -> str:
    text = escape(shown.text)
    if shown.rank == 1:
        return f"\\textbf{{{text}}}"
    return f"\\underline{{{text}}}" if shown.rank == 2 else text
