"""Figures of finished runs: curves, costs, chosen positions. Each comes with its numbers, one row per point.

Each function in FIGURES takes finished runs and returns a `Figure`, or None if there is nothing to draw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dp_bench.records import RunRecord, flatten
from dp_bench.report.controls import is_chosen, is_dynamic
from dp_bench.report.runs import data_title
from dp_bench.report.transfer import transfer_tables
from dp_bench.report.variants import row_labels
from dp_bench.tasks import in_order

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


@dataclass(frozen=True)
class FinishedRun:
    """A finished run and its folder."""

    record: RunRecord
    folder: Path

    def history(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, one per evaluation."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def predictions(self) -> pd.DataFrame | None:
        """Return predictions.parquet, or None if it is missing."""
        path = self.folder / "predictions.parquet"
        return pd.read_parquet(path) if path.is_file() else None


@dataclass(frozen=True)
class Figure:
    """A figure and the numbers it shows."""

    canvas: Canvas
    points: pd.DataFrame  # one row per point


Panel = Callable[["Axes", pd.DataFrame], None]


def entropies(runs: Sequence[FinishedRun]) -> Figure | None:
    """Entropy of the chosen positions over the selection split against updates, of dynamic prompts."""
    dynamic = [run for run in runs if is_dynamic(run.record)]
    return _curves(dynamic, "position_entropy", "entropy of positions (nats)")


def choices_over_training(runs: Sequence[FinishedRun]) -> Figure | None:
    """Heat maps of the positions and lengths chosen for the selection split, against updates."""
    lines = [
        {**names, "piece": piece, "step": entry["step"], "value": value, "count": count}
        for run, names in _labelled(runs)
        for entry in run.history()
        for piece in ("position", "length")
        if is_chosen(run.record, piece)
        for value, count in enumerate(entry.get(f"{piece}_counts", ()))
    ]
    if not lines:
        return None
    points = pd.DataFrame(lines)
    keys = [*LINE, "piece", "step", "value"]
    points = points.groupby(keys)["count"].sum().reset_index()
    points["share"] = points["count"] / points.groupby(keys[:-1])["count"].transform("sum")
    points["panel"] = points["task"] + ", " + points["prompt"] + ", " + points["piece"]

    def draw(axes: Axes, panel: pd.DataFrame) -> None:
        grid = panel.pivot(index="value", columns="step", values="share")
        axes.imshow(grid, cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
        shown = range(0, len(grid.columns), -(-len(grid.columns) // MOST_TICKS))
        axes.set_xticks(list(shown), [grid.columns[index] for index in shown])
        axes.set(xlabel="updates", ylabel=f"chosen {panel['piece'].iloc[0]} (light: all)")

    return Figure(_panels(points, draw, "panel"), points)


def _curves(runs: Sequence[FinishedRun], key: str, label: str) -> Figure | None:
    """Draw a value of each evaluation against updates: the mean over seeds, and their range as a band."""
    lines = [
        {**names, "seed": run.record.seed, "step": entry["step"], key: entry[key]}
        for run, names in _labelled(runs)
        for entry in run.history()
        if key in entry
    ]
    if not lines:
        return None
    points = pd.DataFrame(lines)
    spread = points.groupby([*LINE, "step"])[key].agg(["mean", "min", "max", "count"]).reset_index()
    styles = _styles(spread["prompt"])
    band = 0.3 / max(2, len(styles))  # bands overlap

    def draw(axes: Axes, panel: pd.DataFrame) -> None:
        for prompt, line in panel.groupby("prompt"):
            style = styles[prompt]
            axes.plot(line["step"], line["mean"], label=prompt, markersize=3, **style)
            axes.fill_between(line["step"], line["min"], line["max"], color=style["color"], alpha=band, lw=0)
        axes.set(xlabel="updates", ylabel=label)

    return Figure(_panels(spread, draw), spread)


def _against(runs: Sequence[FinishedRun], setting: str, label: str) -> Figure | None:
    """Draw the score against a setting, for prompts with several values of it."""
    name = setting.rsplit(".", 1)[-1]
    lines = [
        {**names, name: value, "seed": run.record.seed, "score": run.record.score}
        for run, names in _labelled(runs, [setting])
        if run.record.num_updates and (value := flatten(run.record.config).get(setting)) is not None
    ]
    if not lines:
        return None
    points = pd.DataFrame(lines)
    points = points[points.groupby(LINE)[name].transform("nunique") > 1]
    if points.empty:
        return None
    spread = points.groupby([*LINE, name])["score"].agg(["mean", "std", "count"]).reset_index()
    styles = _styles(spread["prompt"])

    def draw(axes: Axes, panel: pd.DataFrame) -> None:
        for prompt, line in panel.groupby("prompt"):
            spreads = line["std"].fillna(0)
            axes.errorbar(line[name], line["mean"], spreads, label=prompt, capsize=2, **styles[prompt])
        axes.set(xlabel=label, ylabel="score")
        axes.locator_params(axis="x", integer=True)

    return Figure(_panels(spread, draw), spread)


def _pareto(runs: Sequence[FinishedRun], key: str, label: str) -> Figure | None:
    """Draw the mean score against a cost on a logarithmic axis, with the Pareto front."""
    lines = [
        {**names, key: max(getattr(run.record, key), 1e-3), "score": run.record.score}
        for run, names in _labelled(runs)
        if run.record.num_updates
    ]
    if not lines:
        return None
    points = pd.DataFrame(lines)
    spread = points.groupby(LINE)[[key, "score"]].mean().reset_index()
    styles = _styles(spread["prompt"])

    def draw(axes: Axes, panel: pd.DataFrame) -> None:
        for prompt, point in panel.groupby("prompt"):
            axes.plot(point[key], point["score"], label=prompt, **{**styles[prompt], "linestyle": ""})
        order = panel.sort_values([key, "score"], ascending=[True, False])
        front = order[order["score"] > order["score"].cummax().shift(fill_value=-np.inf)]
        axes.step(front[key], front["score"], where="post", color="#999999", lw=0.8, zorder=0)
        axes.set(xscale="log", xlabel=label, ylabel="score")

    return Figure(_panels(spread, draw), spread)


def choices(runs: Sequence[FinishedRun]) -> Figure | None:
    """Histograms of the positions and lengths chosen for the reported examples, by label."""
    lines = []
    for run, names in _labelled(runs):
        predictions = run.predictions() if is_dynamic(run.record) else None
        if predictions is None:
            continue
        several = "task" in predictions
        for task, examples in predictions.groupby("task") if several else [(run.record.task, predictions)]:
            labels = _labels(run.record, str(task))
            for piece in ("position", "length"):
                if piece not in examples or examples[piece].isna().all() or not is_chosen(run.record, piece):
                    continue
                counts = examples.groupby(["gold", piece]).size()
                for gold, value, count in counts.reset_index().itertuples(index=False):
                    label = labels[int(gold)] if 0 <= int(gold) < len(labels) else "any"
                    columns = {**names, "task": str(task), "piece": piece, "label": label}
                    lines.append({**columns, "value": int(value), "count": int(count)})
    if not lines:
        return None
    keys = [*LINE, "piece", "label", "value"]
    points = pd.DataFrame(lines).groupby(keys)["count"].sum().reset_index()
    points["panel"] = points["task"] + ", " + points["prompt"] + ", " + points["piece"]
    styles = _styles(points["label"])

    def draw(axes: Axes, panel: pd.DataFrame) -> None:
        bottom = np.zeros(int(panel["value"].max()) + 1)
        for label, part in panel.groupby("label"):
            heights = np.zeros_like(bottom)
            heights[part["value"]] = part["count"]
            axes.bar(range(len(bottom)), heights, bottom=bottom, label=label, color=styles[label]["color"])
            bottom += heights
        axes.set(xlabel=f"chosen {panel['piece'].iloc[0]}", ylabel="examples, all seeds")

    return Figure(_panels(points, draw, "panel"), points)


def transfer(runs: Sequence[FinishedRun]) -> Figure | None:
    """Heat maps of runs with regime.transfer, trained on × evaluated on, one per prompt."""
    tables = transfer_tables([run.record for run in runs])
    lines = [
        {
            "place": f"{table.header.data}, {table.header.backbone}",
            "task": table.header.split.rsplit("=", 1)[-1],
            "trained_on": row.label,
            "evaluated_on": table.titles[task],
            "score": cell.mean,
        }
        for table in tables
        for row in table.rows
        for task, cell in row.cells.items()
    ]
    if not lines:
        return None
    points = pd.DataFrame(lines)

    def draw(axes: Axes, panel: pd.DataFrame) -> None:
        grid = panel.pivot(index="trained_on", columns="evaluated_on", values="score")
        axes.imshow(grid, cmap="viridis", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(grid.to_numpy(dtype=float)):
            if np.isfinite(value):
                ink = "black" if value > 60 else "white"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=8)
        axes.set_xticks(range(len(grid.columns)), grid.columns, rotation=30)
        axes.set_yticks(range(len(grid.index)), grid.index)
        axes.set(xlabel="evaluated on", ylabel="trained on")

    return Figure(_panels(points, draw), points)


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
) -> list[tuple[FinishedRun, dict[str, str]]]:
    """Return runs with their panel (`place`, `task`) and line (`prompt`). As in tables, runs that differ in a
    setting outside `leave_out` get different lines."""
    labels = row_labels([run.record for run in runs], lambda r: f"{_context(r)}, {r.task}", leave_out)
    return [
        (
            run,
            dict(zip(LINE, (_context(run.record), run.record.task, labels[run.record.run_id]), strict=True)),
        )
        for run in runs
    ]


def _context(record: RunRecord) -> str:
    """Return data, backbone, regime and protocol of a run."""
    return f"{data_title(record)}, {record.backbone}, {record.regime}, {record.protocol}"


def _labels(record: RunRecord, task: str) -> list[str]:
    config = record.config["task"]
    task_settings = config.get("tasks", {}).get(task, config)
    return [str(label) for label in task_settings.get("labels") or []]


def _styles(labels: Iterable[str]) -> dict[Any, dict[str, Any]]:
    """Return a style for each label, the same in every panel; colours repeat dashed after eight."""
    styles = {}
    for index, label in enumerate(sorted(set(labels))):
        turn, colour = divmod(index, len(COLOURS))
        line = "--" if turn % 2 else "-"
        styles[label] = {"color": COLOURS[colour], "marker": MARKERS[(colour + turn) % 8], "linestyle": line}
    return styles


def _panels(points: pd.DataFrame, draw: Panel, column: str = "task") -> Canvas:
    """Draw one panel per `place` and `column`, with a legend to the right."""
    from matplotlib.figure import Figure as Canvas

    order = in_order(set(points[column]))
    keys = sorted(
        points[["place", column]].drop_duplicates().itertuples(index=False),
        key=lambda key: (key[0], order.index(key[1])),
    )
    columns = min(MOST_COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    canvas = Canvas(figsize=(WIDE * columns + 1.6, HIGH * rows), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    several = len({key[0] for key in keys}) > 1
    for axes, (context, name) in zip(grid.flat, keys, strict=False):
        draw(axes, points[(points["place"] == context) & (points[column] == name)])
        axes.set_title(f"{name}\n{fill(context, TITLE_WIDTH)}" if several else name, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(grid.flat)[len(keys) :]:
        axes.set_visible(False)
    if not several:
        canvas.suptitle(keys[0][0], fontsize=9)
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        names = [fill(label, LEGEND_WIDTH) for label in handles]
        canvas.legend(handles.values(), names, loc="outside right upper", fontsize=8, frameon=False)
    return canvas
