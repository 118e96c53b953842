"""`dp-bench inspect RUN --gradients`: compare estimators of the position's gradient on a trained model."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Column, Table

from dp_bench import config, records
from dp_bench.commands.finished import find_run
from dp_bench.effective import method_of
from dp_bench.terminal import make_console
from dp_bench.types import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dp_bench.gradients import Landscape, Quality

HEADS = ("estimator", "forwards", "cosine of the mean", "cosine of one draw", "bias", "noise")


def gradients(
    run: str,
    results_dir: Path,
    *,
    examples: int = 48,
    draws: int = 200,
    fresh: bool = False,
    out: Path | None = None,
) -> int:
    """Print and write the table of estimators for a finished run, with its trained or an untrained prompt."""
    if examples < 2 or draws < 2:
        raise UserError("--examples and --draws must be at least 2.")
    directory = find_run(run, results_dir)
    record = records.load(directory)
    assert record is not None
    if not fresh:
        records.weights_of(directory)  # fail before reading the data
    landscape, qualities = measure(directory, record, examples, draws, fresh)
    kind = "fresh" if fresh else "trained"
    title = f"{record.run_id}, {kind} prompt, {len(landscape.loss_MJ)} examples, {draws} draws"
    rows = [
        (estimator, str(forwards), *(f"{value:.2f}" for value in values))
        for estimator, forwards, *values in map(astuple, qualities)  # in the order of HEADS
    ]
    first, *others = HEADS
    columns = (Column(head, justify="right") for head in others)
    table = Table(first, *columns, title=title, title_justify="left")
    for line in rows:
        table.add_row(*line)
    console = make_console(soft_wrap=True)
    console.print(table)
    notes = [
        "cosine, bias and noise against the exact gradient of the expected loss for the position selector's "
        "parameters; bias and noise in its length",
        f"the loss differs by {landscape.spread:.3f} (sd) between positions; what the slope at one position "
        f"predicts for the others correlates {landscape.correlation:.2f} with what happens",
    ]
    console.print("\n".join(f"- {note}" for note in notes))
    folder = out or directory / "gradients"
    _write(folder, title, rows, notes)
    _draw(folder, landscape, qualities)
    console.print(f"written: {folder}")
    return 0


def measure(
    directory: Path, record: records.RunRecord, examples: int, draws: int, fresh: bool
) -> tuple[Landscape, list[Quality]]:
    """Compare the estimators on training rows of a finished run, with its trained or `fresh` weights.

    Raises UserError for a run on several tasks, without a prompt, or whose checkpoint has changed.
    """
    from dp_bench.gradients import CHUNK, judge, survey
    from dp_bench.identity import Sources
    from dp_bench.methods.build import load_learned, make_model, make_prompt
    from dp_bench.methods.splits import cached_splits
    from dp_bench.methods.tune import fit_input
    from dp_bench.opening import open_run_context, refuse_other_weights
    from dp_bench.progress import Reporter
    from dp_bench.randomness import derive

    experiment = config.reopen(record.config, directory.parent.parent)
    if len(experiment.tasks) > 1:
        raise UserError(f"{record.run_id} is a run on several tasks: inspect --gradients needs a run on one.")
    if not method_of(experiment.settings).has_prompt:
        raise UserError(f"{record.run_id} has no prompt, hence no position to inspect.")
    with Reporter() as report:
        context = open_run_context(experiment, Sources.of(experiment), directory, report)
        if not fresh:
            refuse_other_weights(context, record)
        prompt = make_prompt(context)
        model = make_model(context, prompt)
        if not fresh:
            load_learned(model, directory)
        (split,) = cached_splits(context, prompt).train
        if fresh and prompt.input is not None:
            fit_input(prompt.input, [split])
        rng = np.random.default_rng(derive(experiment.settings.seed, "inspect"))
        rows = rng.choice(len(split), min(examples, len(split)), replace=False)
        report.begin("positions", total=prompt.position.num_outcomes * -(-len(rows) // CHUNK))
        landscape = survey(model, split, rows.tolist(), report.advance)
    return landscape, judge(landscape, draws=draws, seed=experiment.settings.seed)


def _write(folder: Path, title: str, lines: list[tuple[str, ...]], notes: list[str]) -> None:
    rows = [f"| {' | '.join(line)} |" for line in (HEADS, ("---", *["---:"] * (len(HEADS) - 1)), *lines)]
    text = "\n".join([f"**{title}**", "", *rows, "", *(f"- {note}" for note in notes), ""])
    records.write_text(folder / "gradients.md", text)
    csv = "\n".join(",".join(line) for line in (HEADS, *lines)) + "\n"
    records.write_text(folder / "gradients.csv", csv)


def _draw(folder: Path, landscape: Landscape, qualities: list[Quality]) -> None:
    """Draw the cosines, and predicted against true changes of the loss; skip without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    canvas = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    names, _, of_mean, of_one, *_ = zip(*map(astuple, qualities), strict=True)
    left.barh(names, of_mean, color="#0072B2", label="mean of the draws")
    left.plot(of_one, names, "o", color="#D55E00", label="one draw")
    left.axvline(0, color="#999999", lw=0.8)
    left.set(xlim=(-1.05, 1.05), xlabel="cosine with the exact gradient")
    left.invert_yaxis()
    left.legend(fontsize=8, frameon=False, loc="lower left")
    draw_line(right, landscape)
    save(canvas, folder)


def save(canvas: Figure, folder: Path) -> None:
    """Write gradients.png, with the same bytes for the same numbers."""
    for axes in canvas.axes:
        axes.spines[["top", "right"]].set_visible(False)
    records.replace_file(
        folder / "gradients.png",
        lambda temporary: canvas.savefig(temporary, format="png", dpi=150, metadata={"Software": None}),
    )


def draw_line(axes: Axes, landscape: Landscape) -> None:
    """Plot predicted against true changes of the loss for moves to every other position."""
    swap = ~np.eye(landscape.loss_MJ.shape[1], dtype=bool)
    predicted, true = (x.numpy()[:, swap].ravel() for x in (landscape.linear_MJJ, landscape.true_MJJ))
    axes.plot(predicted, true, ".", markersize=3, alpha=0.3, markeredgewidth=0)
    for values, set_limit in ((predicted, axes.set_xlim), (true, axes.set_ylim)):
        limit = 1.1 * (float(np.quantile(np.abs(values), 0.98)) or 1.0)  # outliers would hide the others
        set_limit(-limit, limit)
    axes.axline((0, 0), slope=1, color="#999999", lw=0.8)
    axes.set(xlabel="change of the loss that the slope predicts", ylabel="change of the loss")
    axes.set_title(f"another position: correlation {landscape.correlation:.2f}", fontsize=9)
