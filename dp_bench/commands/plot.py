"""`dp-bench plot`: draw figures of the finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dp_bench import extras, records
from dp_bench.commands.finished import check_words, finished_runs
from dp_bench.printing import csv_cell, say
from dp_bench.report.html import STYLE, document
from dp_bench.report.names import read_names
from dp_bench.report.plots import FIGURES, FinishedRun

INDEX = "index.html"
MORE = """
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; }
figure { break-inside: avoid; }
img { width: 100%; height: 14rem; object-fit: contain; background: #fff; }
"""


def plot(
    results_dir: Path,
    kinds: Sequence[str],
    experiment: str | None,
    out: Path | None,
    names: Path | None = None,
    extra_dir: Path | None = None,
) -> int:
    """Write each figure that the runs have data for as PNG, SVG and CSV, and a page of them."""
    check_words("plot", kinds, tuple(FIGURES))
    try:
        import matplotlib as mpl
    except ImportError:
        raise extras.absent("plots", "dp-bench plot") from None
    mpl.rcParams["svg.hashsalt"] = "dp-bench"  # equal runs give equal bytes
    selected = finished_runs(results_dir, experiment)
    given = read_names(names, extra_dir)
    runs = [FinishedRun(record, results_dir / "runs" / record.run_id, given) for record in selected]
    out = out or results_dir / "plots"
    drawn = []
    for kind in kinds or FIGURES:
        figure = FIGURES[kind](runs)
        if figure is None:
            say(f"{kind}: nothing to draw")
            continue
        for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            save = partial(figure.canvas.savefig, format=form, dpi=150, metadata=metadata)
            records.replace_file(out / f"{kind}.{form}", save)
        records.write_text(
            out / f"{kind}.csv", figure.points.map(csv_cell).to_csv(index=False, lineterminator="\n")
        )
        drawn.append(kind)
        say(f"{kind}: {out / kind}.png, .svg, .csv")
    if drawn:
        kept = [kind for kind in FIGURES if kind in drawn or (out / f"{kind}.png").is_file()]
        records.write_text(out / INDEX, _thumbnails(kept))
        say(f"all of them: {out / INDEX}")
    return 0


def _thumbnails(kinds: Sequence[str]) -> str:
    """Return a page with a small picture of each figure."""
    figures = "\n".join(
        f'<figure><a href="{kind}.svg"><img src="{kind}.png" alt="{kind}" loading="lazy"></a>'
        f'<figcaption>{kind} · <a href="{kind}.png">png</a> · <a href="{kind}.svg">svg</a> · '
        f'<a href="{kind}.csv">csv</a></figcaption></figure>'
        for kind in kinds
    )
    return document("dp-bench plots", STYLE + MORE, f"<h1>dp-bench plots</h1>\n<main>\n{figures}\n</main>")
