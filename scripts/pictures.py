"""Make the pictures of the README and of docs/results.md, in docs/images.

    python scripts/pictures.py             # smollm2.svg, minilm.svg: the committed tables
    python scripts/pictures.py terminal    # terminal.svg: what a run prints, and its seconds

Rows of the tables are those of whole training sets; a task is drawn where most of them are there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
import pandas as pd
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
TASKS = {"cb": "CB", "copa": "COPA", "rte": "RTE", "wic": "WiC", "wsc": "WSC"}
TABLES = ("smollm2", "minilm")  # folders of results/
LEVELS = {"majority": ":", "zero_shot": "--"}  # rows that are lines
# Rows from the top: no prompt, prompts that choose nothing, prompts that choose. Colours are Okabe and Ito's.
ROWS = {
    "#777777": {"linear_probe": "linear probe", "lora": "LoRA"},
    "#0072B2": {
        "fixed": "fixed",
        "postfix": "postfix",
        "split": "split",
        "random_position": "random position",
    },
    "#D55E00": {"adap_pos": "adap_pos", "adap_ins_pos": "adap_ins_pos", "dynamic": "dynamic"},
}
SHOT = "train task=boolq prompt=dynamic backbone=t5_micro data=micro trainer=micro"
COLUMNS = 106


def draw_scores(name: str, path: Path) -> None:
    """Draw mean and standard deviation of each row of a table on each task that has most rows."""
    from matplotlib import pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "dp-bench", "svg.fonttype": "none", "font.family": "sans-serif"}
    table = pd.read_csv(ROOT / "results" / name / "tables" / "tables.csv")
    cells = table[table["regime"] == "full"].set_index(["task", "prompt"])
    every = [(prompt, label, colour) for colour, group in ROWS.items() for prompt, label in group.items()]
    tasks = [task for task in TASKS if sum((task, row[0]) in cells.index for row in every) > len(every) / 2]
    names = [row for row in every if any((task, row[0]) in cells.index for task in tasks)]
    seeds = int(cells["n"].max())
    width = 1.9 * len(tasks) + 1.4
    figure, grid = plt.subplots(1, len(tasks), figsize=(width, 0.26 * len(names) + 0.9), sharey=True)
    for axes, task in zip(grid, tasks, strict=True):
        for height, (prompt, _, colour) in enumerate(names):
            if (task, prompt) in cells.index:
                cell = cells.loc[task, prompt]
                axes.errorbar(cell["mean"], -height, xerr=cell["sd"], fmt="o", ms=5, color=colour, capsize=2)
        for prompt, line in LEVELS.items():
            if (task, prompt) in cells.index:
                axes.axvline(cells.loc[task, prompt]["mean"], color="#777777", ls=line, lw=1.2)
        axes.set_title(TASKS[task], fontsize=11)
        axes.set_yticks([-height for height in range(len(names))], [label for _, label, _ in names])
        axes.grid(axis="x", color="#dddddd", lw=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    has_zero_shot = any(prompt == "zero_shot" for _, prompt in cells.index)
    lines = "dotted: the most frequent answer" + ("; dashed: no prompt" if has_zero_shot else "")
    said = fill(f"score, mean ± sd of {seeds} seeds; {lines}", int(12 * width))
    figure.supxlabel(said, fontsize=10, color="#333333")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


def shoot_terminal(path: Path) -> None:
    """Run a command as on a terminal of COLUMNS columns, and write what it prints as an SVG."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "dp_bench", *SHOT.split()],
            env={**os.environ, "COLUMNS": str(COLUMNS), "PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(
            Text.assemble(("$ ", "green"), (f"dp-bench {SHOT}", "bold"), f"\n{done.stdout.strip()}")
        )
    # Without the fonts that rich would load from the network.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    path.write_text(console.export_svg(title="dp-bench", code_format=form, unique_id="dp-bench"), "utf-8")


def main() -> None:
    """Make the pictures."""
    if sys.argv[1:] == ["terminal"]:
        shoot_terminal(IMAGES / "terminal.svg")
        return
    for name in TABLES:
        draw_scores(name, IMAGES / f"{name}.svg")


if __name__ == "__main__":
    main()
