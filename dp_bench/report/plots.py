"""Figures of finished runs: curves, costs, chosen positions. Each comes with its numbers, one row per point.

Each function in FIGURES takes finished runs and returns a `Figure`, or None if there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from dp_bench import reading
from dp_bench.progress import notice
from dp_bench.records import RunRecord, flatten
from dp_bench.report.controls import is_chosen, is_dynamic
from dp_bench.report.examples import REMEDY
from dp_bench.report.runs import data_title, evaluations, label_of
from dp_bench.report.transfer import transfer_tables
from dp_bench.report.variants import by_label
from dp_bench.tasks import in_order
from dp_bench.types import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

WIDE, HIGH = 3.6, 2.8  # inches per panel
MOST_COLUMNS = 3
MOST_TICKS = 6
TITLE_WIDTH = 34  # characters per line
LEGEND_WIDTH = 42
# Okabe and Ito's colours, which colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vP*X"
LINE = ["place", "task", "prompt"]  # columns that identify a line of a panel
PIECES = ("position", "length")


class FinishedRun(NamedTuple):
    """A finished run and its folder."""

    record: RunRecord
    folder: Path


@dataclass(frozen=True)
class Figure:
    """A figure and the numbers it shows."""

    canvas: Canvas
    points: pd.DataFrame  # one row per point


Styles = Mapping[Any, dict[str, Any]]  # by the label of a line
Draw = Callable[["Axes", pd.DataFrame, Styles], None]  # draws the points of one panel


def entropies(runs: Sequence[FinishedRun]) -> Figure | None:
    """Entropy of the chosen positions over the selection split against updates, of dynamic prompts."""
    dynamic = [run for run in runs if is_dynamic(run.record)]
    return _curves(dynamic, "position_entropy", "entropy of positions (nats)")


def choices_over_training(runs: Sequence[FinishedRun]) -> Figure | None:
    """Heat maps of the positions and lengths chosen for the selection split, against updates."""
    lines = [
        {**names, "piece": piece, "step": entry["step"], "value": value, "count": count}
        for record, names, entry in _evaluations(runs)
        for piece in PIECES
        if is_chosen(record, piece)
        for value, count in enumerate(entry.get(f"{piece}_counts", ()))
    ]
    keys = [*LINE, "piece", "step", "value"]
    points = _grouped(lines, keys, "count", count="sum")
    points["share"] = points["count"] / points.groupby(keys[:-1])["count"].transform("sum")

    def draw(axes: Axes, panel: pd.DataFrame, styles: Styles) -> None:
        grid = panel.pivot(index="value", columns="step", values="share")
        axes.imshow(grid, cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
        shown = range(0, len(grid.columns), -(-len(grid.columns) // MOST_TICKS))
        axes.set_xticks(list(shown), [grid.columns[index] for index in shown])
        axes.set(xlabel="updates", ylabel=f"chosen {panel['piece'].iloc[0]} (light: all)")

    return _figure(_with_panel(points), draw, "panel")


def _curves(runs: Sequence[FinishedRun], key: str, label: str) -> Figure | None:
    """Draw a value of each evaluation against updates: the mean over seeds, and their range as a band."""
    lines = [
        {**names, "step": entry["step"], key: entry[key]}
        for _, names, entry in _evaluations(runs)
        if key in entry
    ]
    points = _grouped(lines, [*LINE, "step"], key, mean="mean", min="min", max="max", count="count")

    def draw(axes: Axes, panel: pd.DataFrame, styles: Styles) -> None:
        band = 0.3 / max(2, len(styles))  # bands overlap
        for prompt, line in panel.groupby("prompt"):
            style = styles[prompt]
            axes.plot(line["step"], line["mean"], label=prompt, markersize=3, **style)
            axes.fill_between(line["step"], line["min"], line["max"], color=style["color"], alpha=band, lw=0)
        axes.set(xlabel="updates", ylabel=label)

    return _figure(points, draw)


def _against(runs: Sequence[FinishedRun], setting: str, label: str) -> Figure | None:
    """Draw the score against a setting, for prompts with several values of it."""
    name = setting.rsplit(".", 1)[-1]
    lines = [
        {**names, name: value, "score": run.record.score}
        for run, names in _labelled(runs, [setting])
        if run.record.num_updates and (value := flatten(run.record.config).get(setting)) is not None
    ]
    points = _grouped(lines, [*LINE, name], "score", mean="mean", std="std", count="count")
    points = points[points.groupby(LINE)[name].transform("size") > 1]

    def draw(axes: Axes, panel: pd.DataFrame, styles: Styles) -> None:
        for prompt, line in panel.groupby("prompt"):
            spreads = line["std"].fillna(0)
            axes.errorbar(line[name], line["mean"], spreads, label=prompt, capsize=2, **styles[prompt])
        axes.set(xlabel=label, ylabel="score")
        axes.locator_params(axis="x", integer=True)

    return _figure(points, draw)


def _pareto(runs: Sequence[FinishedRun], key: str, label: str) -> Figure | None:
    """Draw the mean score against a cost on a logarithmic axis, with the Pareto front."""
    lines = [
        {**names, key: max(getattr(run.record, key), 1e-3), "score": run.record.score}
        for run, names in _labelled(runs)
        if run.record.num_updates
    ]
    points = pd.DataFrame(lines, columns=[*LINE, key, "score"]).groupby(LINE).mean().reset_index()

    def draw(axes: Axes, panel: pd.DataFrame, styles: Styles) -> None:
        for prompt, point in panel.groupby("prompt"):
            axes.plot(point[key], point["score"], label=prompt, **{**styles[prompt], "linestyle": ""})
        order = panel.sort_values([key, "score"], ascending=[True, False])
        front = order[order["score"] > order["score"].cummax().shift(fill_value=-np.inf)]
        axes.step(front[key], front["score"], where="post", color="#999999", lw=0.8, zorder=0)
        axes.set(xscale="log", xlabel=label, ylabel="score")

    return _figure(points, draw)


def choices(runs: Sequence[FinishedRun]) -> Figure | None:
    """Histograms of the positions and lengths chosen for the reported examples, by label."""
    lines = []
    for (record, folder), names in _labelled(runs):
        path = folder / "predictions.parquet"
        if not is_dynamic(record) or not path.is_file():
            continue
        try:
            examples = reading.frame(path, ("id", "gold", "prediction"), REMEDY)
        except UserError as error:
            notice(str(error))
            continue
        if "task" not in examples:
            examples["task"] = record.task
        for piece in PIECES:
            if piece in examples and is_chosen(record, piece):
                counts = examples.groupby(["task", "gold", piece]).size().reset_index()
                for task, gold, value, count in counts.itertuples(index=False):
                    label = label_of(record, task, int(gold))
                    columns = {**names, "task": task, "piece": piece, "label": label}
                    lines.append({**columns, "value": int(value), "count": count})
    points = _grouped(lines, [*LINE, "piece", "label", "value"], "count", count="sum")

    def draw(axes: Axes, panel: pd.DataFrame, styles: Styles) -> None:
        bottom = np.zeros(int(panel["value"].max()) + 1)
        for label, part in panel.groupby("label"):
            heights = np.zeros_like(bottom)
            heights[part["value"]] = part["count"]
            axes.bar(range(len(bottom)), heights, bottom=bottom, label=label, color=styles[label]["color"])
            bottom += heights
        axes.set(xlabel=f"chosen {panel['piece'].iloc[0]}", ylabel="examples, all seeds")

    return _figure(_with_panel(points), draw, "panel", "label")


def transfer(runs: Sequence[FinishedRun]) -> Figure | None:
    """Heat maps of runs with regime.transfer, trained on × evaluated on, one per prompt."""
    lines = [
        {
            "place": f"{table.header.data}, {table.header.backbone}",
            "task": table.header.split.rsplit("=", 1)[-1],
            "trained_on": row.label,
            "evaluated_on": table.titles[task],
            "score": cell.mean,
        }
        for table in transfer_tables([run.record for run in runs])
        for row in table.rows
        for task, cell in row.cells.items()
    ]

    def draw(axes: Axes, panel: pd.DataFrame, styles: Styles) -> None:
        grid = panel.pivot(index="trained_on", columns="evaluated_on", values="score")
        axes.imshow(grid, cmap="viridis", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(grid.to_numpy(dtype=float)):
            if np.isfinite(value):
                ink = "black" if value > 60 else "white"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=8)
        axes.set_xticks(range(len(grid.columns)), grid.columns, rotation=30)
        axes.set_yticks(range(len(grid.index)), grid.index)
        axes.set(xlabel="evaluated on", ylabel="trained on")

    return _figure(pd.DataFrame(lines), draw)


FIGURES: dict[str, Callable[[Sequence[FinishedRun]], Figure | None]] = {
    "curves": partial(_curves, key="select_score", label="selection score"),
    "length": partial(_against, setting="prompt.num_tokens", label="prompt vectors"),
    "members": partial(_against, setting="prompt.vectors.num_prompts", label="members"),
    "shots": partial(_against, setting="regime.shots", label="examples a class"),
    "parameters": partial(_pareto, key="trainable_parameters", label="trainable parameters"),
    "seconds": partial(_pareto, key="total_seconds", label="seconds a run"),
    "choices": choices,
    "training": choices_over_training,
    "entropy": entropies,
    "transfer": transfer,
}


def _labelled(
    runs: Sequence[FinishedRun], leave_out: Collection[str] = ()
) -> Iterator[tuple[FinishedRun, dict[str, str]]]:
    """Yield runs with their panel (`place`, `task`) and line (`prompt`). As in tables, runs that differ in a
    setting outside `leave_out` get different lines."""
    rows, _ = by_label([run.record for run in runs], lambda r: f"{_context(r)}, {r.task}", leave_out)
    labels = {record.run_id: label for label, row in rows.items() for record in row}
    for run in runs:
        record = run.record
        yield run, {"place": _context(record), "task": record.task, "prompt": labels[record.run_id]}


def _evaluations(
    runs: Sequence[FinishedRun],
) -> Iterator[tuple[RunRecord, dict[str, str], dict[str, Any]]]:
    """Yield each line of metrics.jsonl, one per evaluation, with its run, panel and line."""
    for run, names in _labelled(runs):
        try:
            lines = evaluations(run.folder)
        except UserError as error:
            notice(str(error))
            continue
        for line in lines:
            yield run.record, names, line


def _grouped(lines: list[dict[str, Any]], keys: list[str], value: str, **statistics: str) -> pd.DataFrame:
    """Return statistics of `value` over the lines with the same keys, one row per keys."""
    groups: Any = pd.DataFrame(lines, columns=[*keys, value]).groupby(keys)[value]
    grouped: pd.DataFrame = groups.agg(**statistics).reset_index()
    return grouped


def _with_panel(points: pd.DataFrame) -> pd.DataFrame:
    """Return points with a column `panel`: the task, the prompt and the piece of it that is chosen."""
    return points.assign(panel=points["task"] + ", " + points["prompt"] + ", " + points["piece"])


def _context(record: RunRecord) -> str:
    """Return data, backbone, regime and protocol of a run."""
    return f"{data_title(record)}, {record.backbone}, {record.regime}, {record.protocol}"


def _styles(labels: Iterable[str]) -> Styles:
    """Return a style for each label, the same in every panel; colours repeat dashed after eight."""
    styles = {}
    for index, label in enumerate(sorted(set(labels))):
        turn, colour = divmod(index, len(COLOURS))
        line = "--" if turn % 2 else "-"
        styles[label] = {"color": COLOURS[colour], "marker": MARKERS[(colour + turn) % 8], "linestyle": line}
    return styles


def _figure(points: pd.DataFrame, draw: Draw, column: str = "task", line: str = "prompt") -> Figure | None:
    """Draw one panel per `place` and `column`, with a legend to the right; None without points. The labels in
    the column `line`, if there is one, have the same style in every panel."""
    from matplotlib.figure import Figure as Canvas

    if points.empty:
        return None
    styles = _styles(points.get(line, ()))
    ordered = points.assign(**{column: pd.Categorical(points[column], in_order(points[column]))})
    panels = list(ordered.groupby(["place", column], observed=True))
    columns = min(MOST_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    canvas = Canvas(figsize=(WIDE * columns + 1.6, HIGH * rows), layout="constrained")
    several = points["place"].nunique() > 1
    handles: dict[str, Any] = {}
    for number, ((context, name), panel) in enumerate(panels, 1):
        axes = canvas.add_subplot(rows, columns, number)
        draw(axes, panel, styles)
        title = f"{name}\n{fill(str(context), TITLE_WIDTH)}" if several else str(name)
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        drawn, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, drawn, strict=True))
    if not several:
        canvas.suptitle(points["place"].iloc[0], fontsize=9)
    if handles:
        names = [fill(label, LEGEND_WIDTH) for label in handles]
        canvas.legend(handles.values(), names, loc="outside right upper", fontsize=8, frameon=False)
    return Figure(canvas, points)
