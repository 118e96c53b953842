"""Figures of finished runs: curves, costs, chosen positions. Each comes with its numbers, one row per point.

Each function in FIGURES takes finished runs and returns a `Figure`, or None if there is nothing to draw. What
all panels share is said once, above them. Lines have the names and the order of the rows of tables; what
trains nothing, and chance, are level lines.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import combinations
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from dp_bench import reading
from dp_bench.progress import notice
from dp_bench.records import RunRecord, flatten
from dp_bench.report.columns import span_text
from dp_bench.report.controls import is_chosen, is_dynamic
from dp_bench.report.examples import REMEDY
from dp_bench.report.names import NO_NAMES, Names, display_names
from dp_bench.report.runs import data_title, evaluations, label_of, title_of
from dp_bench.report.transfer import transfer_tables
from dp_bench.report.variants import by_label
from dp_bench.tasks import in_order
from dp_bench.types import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

WIDE, HIGH = 2.9, 2.3  # inches per panel
MOST_COLUMNS = 3
MOST_TICKS = 6
TITLE_WIDTH = 34  # characters per line
LEGEND_LINE = 0.158  # inches
LEGEND_WIDTH = 34
SHARED_WIDTH = 48  # of what all panels share, per column
SEPARATOR = " · "  # of the parts of a place
LEVELS = (":", "--", "-.", (0, (5, 1)), (0, (1, 1)))  # line styles of what trains nothing
PARENTHESES = re.compile(r" ?\([^)]*\)")
SMALL = {"axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "lines.linewidth": 1.2}
# Okabe and Ito's colours, which colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
MARKERS = "osD^vP*X"
LINE = ["place", "task", "prompt"]  # columns that identify a line of a panel
CHANCE = "chance"
MEAN_SD = "mean ± sd over seeds"
PIECES = ("position", "length")


@dataclass(frozen=True, eq=False)  # compared by identity: a key of `_names`
class FinishedRun:
    """A finished run, its folder, and the display names that all runs of a figure share."""

    record: RunRecord
    folder: Path
    names: Names = NO_NAMES


@dataclass(frozen=True)
class Figure:
    """A figure and the numbers it shows."""

    canvas: Canvas
    points: pd.DataFrame  # one row per point


@dataclass(frozen=True)
class Look:
    """How a figure looks: names of lines in their order, level lines, and what panels share."""

    order: Sequence[str] = ()
    levels: pd.DataFrame | None = None  # place, task, prompt, mean, count: what trains nothing
    statistic: str = ""  # what points and bars are
    share: bool = True  # all panels have one scale
    titles: Mapping[str, str] = field(default_factory=dict)  # of tasks


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
        image = axes.imshow(grid, cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
        image.axes.figure.colorbar(image, ax=axes, shrink=0.8)
        shown = range(0, len(grid.columns), -(-len(grid.columns) // MOST_TICKS))
        axes.set_xticks(list(shown), [grid.columns[index] for index in shown])
        axes.set(xlabel="updates", ylabel=f"chosen {panel['piece'].iloc[0]}")

    look = _look(runs, None, "share of the selection examples, all seeds")
    return _figure(_with_panel(points), draw, replace(look, share=False), "panel")


def _curves(runs: Sequence[FinishedRun], key: str, label: str) -> Figure | None:
    """Draw a value of each evaluation against updates: the mean over seeds, and their range as a band."""
    levels = _levels(runs, lambda record: record.select_score) if key == "select_score" else None
    lines = [
        {**names, "step": entry["step"], key: entry[key]}
        for record, names, entry in _evaluations(runs)
        if key in entry and (levels is None or not _is_level(record))
    ]
    points = _grouped(lines, [*LINE, "step"], key, mean="mean", min="min", max="max", count="count")

    def draw(axes: Axes, panel: pd.DataFrame, styles: Styles) -> None:
        band = 0.3 / max(2, len(styles))  # bands overlap
        for prompt, line in panel.groupby("prompt"):
            style = styles[prompt]
            axes.plot(line["step"], line["mean"], label=prompt, **{**style, "markersize": 2.5})
            axes.fill_between(line["step"], line["min"], line["max"], color=style["color"], alpha=band, lw=0)
        axes.set(xlabel="updates", ylabel=label)

    return _figure(points, draw, _look(runs, levels, _statistic(points, "mean and range over seeds")))


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
        _log_axis(axes, points[name], 2, sorted(points[name].unique()))

    levels = _levels(runs, lambda record: record.score)
    return _figure(points, draw, _look(runs, levels, _statistic(points, MEAN_SD), [setting]))


def _pareto(runs: Sequence[FinishedRun], key: str, label: str) -> Figure | None:
    """Draw the mean score against a cost on a logarithmic axis, with the Pareto front."""
    lines = [
        {**names, key: max(getattr(run.record, key), 1e-3), "score": run.record.score}
        for run, names in _labelled(runs)
        if not _is_level(run.record)
    ]
    points = _grouped(lines, LINE, "score", mean="mean", std="std", count="count")
    if not points.empty:
        costs = pd.DataFrame(lines).groupby(LINE)[key].mean()
        points[key] = costs.reindex(pd.MultiIndex.from_frame(points[LINE])).to_numpy()

    def draw(axes: Axes, panel: pd.DataFrame, styles: Styles) -> None:
        for prompt, point in panel.groupby("prompt"):
            style = {**styles[prompt], "linestyle": "", "fillstyle": "none"}  # points may lie on each other
            axes.errorbar(point[key], point["mean"], point["std"].fillna(0), label=prompt, capsize=2, **style)
        order = panel.sort_values([key, "mean"], ascending=[True, False])
        front = order[order["mean"] > order["mean"].cummax().shift(fill_value=-np.inf)]
        axes.step(front[key], front["mean"], where="post", color="#999999", lw=0.8, zorder=0)
        axes.set(xlabel=label, ylabel="score")
        _log_axis(axes, points[key], 10)

    levels = _levels(runs, lambda record: record.score)
    return _figure(points, draw, _look(runs, levels, _statistic(points, MEAN_SD)))


def choices(runs: Sequence[FinishedRun]) -> Figure | None:
    """Histograms of the positions and lengths chosen for the reported examples, by label."""
    lines = []
    for run, names in _labelled(runs):
        record, folder = run.record, run.folder
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

    return _figure(
        _with_panel(points), draw, replace(_look(runs, None), order=(), share=False), "panel", "label"
    )


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
        for table in transfer_tables([run.record for run in runs], names=_given(runs))
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

    return _figure(pd.DataFrame(lines), draw, Look(share=False, statistic="mean over seeds"))


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


def _given(runs: Sequence[FinishedRun]) -> Names:
    return runs[0].names if runs else NO_NAMES


def _names(
    runs: Sequence[FinishedRun], leave_out: Collection[str] = ()
) -> tuple[Mapping[str, str], Sequence[str]]:
    """Return the name of each run's line, by run id, and the names in the order of tables."""
    return _names_once(tuple(runs), tuple(leave_out))


@lru_cache(maxsize=2)  # all figures of a command ask for the same ones
def _names_once(
    runs: tuple[FinishedRun, ...], leave_out: tuple[str, ...]
) -> tuple[Mapping[str, str], Sequence[str]]:
    by_place: dict[str, list[RunRecord]] = defaultdict(list)  # as tables have them
    for run in runs:
        by_place[_context(run)].append(run.record)
    names: dict[str, str] = {}
    sizes: dict[str, tuple[int, str]] = {}
    for place in sorted(by_place):
        labelled = by_label(by_place[place], leave_out=leave_out)
        shown, _ = display_names(labelled, _given(runs))
        for label, row in labelled.rows.items():
            name, size = shown[label], (min(r.trainable_parameters for r in row), label)
            names |= {record.run_id: name for record in row}
            sizes[name] = min(size, sizes.get(name, size))
    return names, sorted(sizes, key=lambda name: sizes[name])


def _labelled(
    runs: Sequence[FinishedRun], leave_out: Collection[str] = ()
) -> Iterator[tuple[FinishedRun, dict[str, str]]]:
    """Yield runs with their panel (`place`, `task`) and line (`prompt`). As in tables, runs that differ in a
    setting outside `leave_out` get different lines."""
    labels, _ = _names(runs, leave_out)
    for run in runs:
        record = run.record
        yield run, {"place": _context(run), "task": record.task, "prompt": labels[record.run_id]}


def _look(
    runs: Sequence[FinishedRun],
    levels: pd.DataFrame | None,
    statistic: str = "",
    leave_out: Collection[str] = (),
) -> Look:
    titles = {run.record.task: run.names.of(run.record.task, title_of(run.record)) for run in runs}
    return Look(_names(runs, leave_out)[1], levels, statistic, titles=titles)


def _is_level(record: RunRecord) -> bool:
    """Return whether a run trained nothing, so that it is a line and no point."""
    return record.trainable_parameters == 0 and record.num_updates == 0


def _levels(runs: Sequence[FinishedRun], score: Callable[[RunRecord], float]) -> pd.DataFrame:
    """Return the scores of what trains nothing, and of chance where the score is accuracy alone."""
    lines = []
    for run, names in _labelled(runs):
        record = run.record
        if _is_level(record):
            lines.append({**names, "mean": score(record)})
        labels = record.config["task"].get("labels")
        if labels and set(record.metrics) == {"accuracy"}:
            lines.append({**names, "prompt": CHANCE, "mean": 100 / len(labels)})
    return _grouped(lines, LINE, "mean", mean="mean", count="count")


def _statistic(points: pd.DataFrame, what: str) -> str:
    """Return what points are, with the number of runs behind one."""
    return f"{what}, n = {span_text(points['count'].tolist())}" if len(points) else what


def _log_axis(axes: Axes, values: pd.Series, base: int, ticks: Sequence[float] = ()) -> None:
    """Scale the x axis logarithmically, with few ticks that do not overlap, also below a decade."""
    from matplotlib import ticker

    low, high = float(values.min()), float(values.max())
    axes.set_xscale("log", base=base)
    margin = (high / low) ** 0.08 * 1.05
    axes.set_xlim(low / margin, high * margin)
    if not ticks:
        steps = (1, 2, 5) if high / low < 50 else (1,)
        powers = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
        ticks = [s * 10.0**power for power in powers for s in steps]
        ticks = [tick for tick in ticks if low / margin <= tick <= high * margin]
        if len(ticks) < 2:  # a short axis: its ends
            ticks = sorted({low, high})
    ticks = ticks[:: -(-len(ticks) // MOST_TICKS)]
    axes.xaxis.set_major_locator(ticker.FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: short_number(value)))
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def short_number(value: float) -> str:
    """Return a number as an axis has it: 20, 1.3k, 61k, 2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.{0 if value >= 10 * size else 1}f}".removesuffix(".0") + unit
    return f"{value:.3g}"


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
    several = points["piece"].nunique() > 1
    piece = ", " + points["piece"] if several else ""
    return points.assign(panel=points["task"] + ", " + points["prompt"].astype(str) + piece)


def _context(run: FinishedRun) -> str:
    """Return data, backbone, regime and protocol of a run."""
    record = run.record
    backbone = run.names.of(record.backbone)
    return SEPARATOR.join([data_title(record), backbone, record.regime, record.protocol])


def _places(panels: Sequence[tuple[str, str]]) -> tuple[str, dict[str, str]]:
    """Return what the panels, of a place and a column, have in common, and by place the words that tell it
    from others: as few parts of it as will do."""
    split = {place: place.split(SEPARATOR) for place, _ in panels}
    columns = [sorted(set(column)) for column in zip(*split.values(), strict=True)]
    differing = [number for number, column in enumerate(columns) if len(column) > 1]
    chosen = next(
        parts
        for size in range(len(differing) + 1)
        for parts in combinations(differing, size)
        if len({(name, *(split[place][part] for part in parts)) for place, name in panels}) == len(panels)
    )
    common = [" and ".join(column) for n, column in enumerate(columns) if n not in chosen and len(column) < 4]
    unlike = {
        place: ", ".join(_unlike(parts[number], columns[number]) for number in chosen)
        for place, parts in split.items()
    }
    return SEPARATOR.join(common), unlike


def _unlike(text: str, texts: Collection[str]) -> str:
    """Return a text without the words that begin and end all texts."""
    split = [other.split() for other in texts]
    words, shortest = text.split(), min(map(len, split))
    start = next((i for i in range(shortest) if len({w[i] for w in split}) > 1), shortest)
    left = shortest - start
    end = next((i for i in range(left) if len({w[-1 - i] for w in split}) > 1), left)
    return PARENTHESES.sub("", " ".join(words[start : len(words) - end])) or PARENTHESES.sub("", text)


def _styles(labels: Iterable[str]) -> Styles:
    """Return a style for each label, the same in every panel; colours repeat dashed after eight."""
    styles = {}
    for index, label in enumerate(labels):
        turn, colour = divmod(index, len(COLOURS))
        line = "--" if turn % 2 else "-"
        marker = MARKERS[(colour + turn) % 8]
        styles[label] = {"color": COLOURS[colour], "marker": marker, "linestyle": line, "markersize": 4}
    return styles


def _figure(
    points: pd.DataFrame, draw: Draw, look: Look, column: str = "task", line: str = "prompt"
) -> Figure | None:
    """Draw one panel per `place` and `column`, with a legend to the right; None without points. The labels in
    the column `line`, if there is one, have the same style in every panel."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    if points.empty:
        return None
    present = set(points.get(line, ()))
    drawn = [name for name in look.order if name in present] or sorted(present)
    styles = _styles(drawn)
    ordered = points.assign(**{column: pd.Categorical(points[column], in_order(points[column]))})
    if line in points:
        ordered[line] = pd.Categorical(points[line], drawn, ordered=True)
    panels = list(ordered.groupby(["place", column], observed=True))
    levels = _shown_levels(look.levels, panels)
    level_styles = {name: LEVELS[i % len(LEVELS)] for i, name in enumerate(dict.fromkeys(levels["prompt"]))}
    columns = 2 if len(panels) == 4 else min(MOST_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    common, unlike = _places([(str(place), str(name)) for (place, name), _ in panels])
    with mpl.rc_context(cast(Any, SMALL)):
        canvas = Canvas(figsize=(WIDE * columns + 1.8, HIGH * rows + 0.3), layout="constrained")
        grid = canvas.subplots(rows, columns, squeeze=False, sharex=look.share, sharey=look.share).flatten()
        handles: dict[str, Any] = {}
        for axes, ((place, name), panel) in zip(grid, panels, strict=False):
            draw(axes, panel, styles)
            for level in levels[(levels["place"] == place) & (levels["task"] == name)].itertuples():
                look_of = {"color": "#555555", "ls": level_styles[level.prompt], "lw": 1.0}
                if level.prompt == CHANCE:
                    look_of = {"color": "#C8C8C8", "ls": "-", "lw": 2.0}
                axes.axhline(level.mean, label=level.prompt, zorder=-1, **look_of)
            title = ", ".join(filter(None, [look.titles.get(str(name), str(name)), unlike[str(place)]]))
            axes.set_title(fill(title, TITLE_WIDTH), fontsize=8)
            axes.spines[["top", "right"]].set_visible(False)
            xlabel = axes.get_xlabel()
            if look.share:
                axes.label_outer()
            found, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        for axes in grid[len(panels) :]:
            axes.remove()
            above = grid[list(grid).index(axes) - columns]
            above.xaxis.set_tick_params(labelbottom=True)
            above.set_xlabel(xlabel)
        shared = "; ".join(filter(None, [common, look.statistic]))
        canvas.suptitle(fill(shared, SHARED_WIDTH * columns), fontsize=7, x=0.01, ha="left")
        if handles:
            names = [name for name in (*drawn, *level_styles) if name in handles]
            texts = [fill(str(name), LEGEND_WIDTH) for name in names]
            canvas.legend(
                [handles[n] for n in names], texts, loc="outside right upper", fontsize=7, frameon=False
            )
            lines = sum(text.count("\n") + 1 for text in texts)
            canvas.set_figheight(max(canvas.get_figheight(), LEGEND_LINE * (lines + 1)))
    return Figure(canvas, pd.concat([points, levels], ignore_index=True) if len(levels) else points)


def _shown_levels(levels: pd.DataFrame | None, panels: Sequence[Any]) -> pd.DataFrame:
    """Return the level lines of the panels that are drawn, chance last."""
    if levels is None:
        return pd.DataFrame(columns=[*LINE, "mean", "count"])
    keys = {(place, str(name)) for (place, name), _ in panels}
    is_drawn = [(p, t) in keys for p, t in zip(levels["place"], levels["task"], strict=True)]
    kept = levels[np.array(is_drawn, dtype=bool)]
    return (
        kept.assign(_last=kept["prompt"] == CHANCE)
        .sort_values(["_last", "prompt", *LINE[:2]])
        .drop(columns="_last")
    )
