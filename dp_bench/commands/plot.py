"""`dp-bench plot`: draw figures of the finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dp_bench import extras, records
from dp_bench.commands.finished import check_words, finished_runs
from dp_bench.printing import csv_cell, say
from dp_bench.report.plots import FIGURES, FinishedRun


def plot(results_dir: Path, kinds: Sequence[str], experiment: str | None, out: Path | None) -> int:
    """Write each figure that the runs have data for as PNG, SVG and CSV. Raises UserError."""
    check_words("plot", kinds, tuple(FIGURES))
    try:
        import matplotlib as mpl
    except ImportError:
        raise extras.absent("plots", "dp-bench plot") from None
    mpl.rcParams["svg.hashsalt"] = "dp-bench"  # equal runs give equal bytes
    selected = finished_runs(results_dir, experiment)
    runs = [FinishedRun(record, results_dir / "runs" / record.run_id) for record in selected]
    out = out or results_dir / "plots"
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
        say(f"{kind}: {out / kind}.png, .svg, .csv")
    return 0
