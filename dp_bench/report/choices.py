"""What a prompt chose: how often each position, length and member, by task, gold label and update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from dp_bench.methods import table
from dp_bench.prompts import catalogue
from dp_bench.records import RunRecord
from dp_bench.report.controls import is_chosen
from dp_bench.report.page import Bars, Facts, Grid, Section
from dp_bench.report.runs import label_of

if TYPE_CHECKING:
    import pandas as pd

# What an outcome of each part is.
MEANINGS = {"position": "vectors before the text", "length": "vectors used", "route": "member of the pool"}
INSIDE = "the place in the text, from its start"  # of a position with prompt.boundaries
MOST_LABELS = 4  # golds that are shown apart, where they are numbers of choices


@dataclass(frozen=True)
class Spread:
    """How many examples of a group got each outcome, 0 to len(counts) - 1."""

    group: str
    counts: tuple[float, ...]

    @property
    def num(self) -> float:
        return sum(self.counts)

    @property
    def entropy(self) -> float:
        """The entropy of the shares, in nats."""
        shares = [count / self.num for count in self.counts if count > 0]
        return sum(-share * log(share) for share in shares) + 0.0

    @property
    def mean(self) -> float:
        return sum(outcome * count for outcome, count in enumerate(self.counts)) / self.num

    @property
    def most(self) -> tuple[int, float]:
        """The most frequent outcome, and its share."""
        outcome = int(np.argmax(self.counts))
        return outcome, self.counts[outcome] / self.num


@dataclass(frozen=True)
class Choice:
    """The outcomes of a part of the prompt on a task: of all reported examples, by gold label, and of those
    of each evaluation in training."""

    part: str
    task: str
    whole: Spread | None  # None without predictions
    by_label: tuple[Spread, ...]
    by_update: tuple[Spread, ...]

    @property
    def spreads(self) -> list[Spread]:
        whole = [] if self.whole is None else [self.whole]
        return [*whole, *self.by_label, *self.by_update]

    @property
    def only(self) -> int | None:
        """The outcome of all examples at all times; None where there are several."""
        outcomes = {i for spread in self.spreads for i, count in enumerate(spread.counts) if count}
        return outcomes.pop() if len(outcomes) == 1 else None


def choices(
    record: RunRecord, predictions: pd.DataFrame | None, evaluations: Sequence[Mapping[str, Any]]
) -> list[Choice]:
    """Return what the prompt of a run chose, by part and task; nothing of a method without a prompt."""
    prompt = record.config["prompt"]
    if not table.of(prompt["method"]).has_prompt:
        return []
    parts = [part for part in MEANINGS if part != "position" or not in_layers_alone(prompt)]
    tasks = [*(record.by_task or [record.task]), *record.transfer]
    found = (_choice(record, part, task, predictions, evaluations) for part in parts for task in tasks)
    return [choice for choice in found if choice.spreads]


def in_layers_alone(prompt: Mapping[str, Any]) -> bool:
    """Say whether a prompt adds nothing to the input, only to the layers."""
    vectors = catalogue.of(prompt["vectors"])
    return vectors is not None and vectors.is_empty


def _choice(
    record: RunRecord,
    part: str,
    task: str,
    predictions: pd.DataFrame | None,
    evaluations: Sequence[Mapping[str, Any]],
) -> Choice:
    key = f"{task}/{part}_counts" if record.by_task else f"{part}_counts"
    of_task = task == record.task or task in record.by_task
    updates = [(line["step"], line[key]) for line in evaluations if of_task and sum(line.get(key, ()))]
    rows = None if predictions is None else of(predictions, task)
    width = 0 if part == "route" else record.config["prompt"]["num_tokens"] + 1
    width = max([width, *(len(counts) for _, counts in updates)])
    whole: Spread | None = None
    by_label: tuple[Spread, ...] = ()
    if rows is None and part == "route" and not (record.by_task or record.transfer):  # of a packed run
        routes = [int(route) for route in record.routes.split() if route.isdecimal()]
        whole = Spread("all", _counts(routes, width)) if routes else None
    if rows is not None and part in rows:
        rows = rows[rows[part].notna()].astype({part: int})  # of several tasks one may have no route
    if rows is not None and part in rows and len(rows):
        width = max(width, int(rows[part].max()) + 1)
        whole = Spread("all", _counts(rows[part], width))
        by_label = tuple(_by_label(record, task, rows, part, width))
    return Choice(
        part, task, whole, by_label, tuple(Spread(f"update {s}", _padded(c, width)) for s, c in updates)
    )


def of(predictions: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return the rows of a task, whose column `task` there is where a run has several."""
    return predictions[predictions["task"] == task] if "task" in predictions else predictions


def _by_label(record: RunRecord, task: str, rows: pd.DataFrame, part: str, width: int) -> Iterator[Spread]:
    golds = sorted(rows["gold"].unique())
    if label_of(record, task, int(golds[-1])) == "any" and len(golds) > MOST_LABELS:
        return
    for gold in golds if len(golds) > 1 else ():
        yield Spread(
            f"gold {name_of(record, task, int(gold))}", _counts(rows[part][rows["gold"] == gold], width)
        )


def name_of(record: RunRecord, task: str, answer: int) -> str:
    """Return the label with this number, or the number of a choice."""
    label = label_of(record, task, answer)
    return label if label != "any" else f"choice {answer + 1}"


def _counts(values: Any, width: int) -> tuple[float, ...]:
    return tuple(np.bincount(values, minlength=width).tolist())


def _padded(counts: Sequence[float], width: int) -> tuple[float, ...]:
    return (*counts, *[0] * (width - len(counts)))


# ------------------------------------------------------------------------------------------ the section


def _meaning(record: RunRecord, part: str) -> str:
    is_inside = part == "position" and record.config["prompt"].get("boundaries") is not None
    return INSIDE if is_inside else MEANINGS[part]


def section(record: RunRecord, found: Sequence[Choice]) -> Section:
    """Return the section on the choices of a run; where a part always has one outcome, a sentence."""
    blocks: list[Facts | Grid | str] = []
    num_tasks = len({choice.task for choice in found})
    always: dict[str, list[str]] = {}
    for choice in found:
        if choice.only is None:
            blocks.append(_grid(choice, _meaning(record, choice.part), several=num_tasks > 1))
        else:
            learned = is_chosen(record, "vectors" if choice.part == "route" else choice.part)
            why = "learned, and the same for every text" if learned else "fixed, not learned"
            line = f"{choice.part}: {choice.only} ({_meaning(record, choice.part)}) for all examples: {why}."
            always.setdefault(line, []).append(choice.task)
    for line, tasks in always.items():
        blocks.append(line if len(tasks) == num_tasks else f"{', '.join(tasks)}, {line}")
    shown = tuple(MEANINGS) if any(choice.whole is not None for choice in found) else ()
    measured = [
        (name.replace("_", " "), f"{value + 0.0:.3f}")
        for name, value in record.diagnostics.items()
        # What the counts say better.
        if not (name.rpartition("/")[2].startswith(shown) and name.endswith(("_mean", "_entropy")))
    ]
    notes = []
    if any(choice.only is None for choice in found):
        notes.append(
            "counts of the reported examples; by update, of those that the best update was selected on. "
            "Entropy is in nats: 0 where all texts get one outcome"
        )
    if measured:
        blocks += ["Measured after training:", Facts(measured)]
    if any(name.endswith("_score") for name in record.diagnostics):
        notes.append(
            "a shuffled or random score is that with the choice for another text, or a random one; the run's "
            f"score is {record.score:.2f}"
        )
    if any("route_lambda" in name for name in record.diagnostics):
        notes.append(
            "route lambda: the share of the errors in guessing the label, prediction, sub-skill or task that "
            "knowing the member saves; purity: the share of texts with the most frequent one of their member"
        )
    return Section("What the prompt chose", blocks, notes)


def _grid(choice: Choice, meaning: str, *, several: bool) -> Grid:
    title = f"{choice.task}, {choice.part}" if several else choice.part
    rows = []
    for spread in choice.spreads:
        outcome, share = spread.most
        rows.append(
            (
                spread.group,
                f"{spread.num:g}",
                f"{spread.mean:.2f}" if choice.part != "route" else "",
                f"{spread.entropy:.2f}",
                f"{outcome} ({100 * share:.0f} %)",
                Bars(spread.counts),
            )
        )
    last = len(choice.spreads[0].counts) - 1
    heads = ("", "examples", "mean", "entropy", "most", f"0 … {last}")
    kept = [i for i, head in enumerate(heads) if head != "mean" or choice.part != "route"]
    return Grid(
        tuple(heads[i] for i in kept),
        [tuple(row[i] for i in kept) for row in rows],
        f"{title}: {meaning}",
        (heads[-1],),
    )
