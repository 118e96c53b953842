"""The progress of a sweep as a grid: a row a method, a column a task, in each cell the states of its runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from dp_bench.sweep.plan import State
from dp_bench.tasks import in_order

STYLES = {
    State.done: "green",
    State.running: "cyan",
    State.queued: "blue",
    State.failed: "red",
    State.interrupted: "yellow",
}


def counts(states: Sequence[State]) -> str:
    """Return "12 done, 2 running, 3 missing": each state that occurs."""
    counter = Counter(states)
    return ", ".join(f"{counter[state]} {state.value}" for state in State if counter[state]) or "no runs"


def grid(labels: Mapping[str, Mapping[str, str]], states: Mapping[str, State]) -> Table:
    """Arrange the states of runs, by id, in a table; `labels` are those of the plan, by id."""
    shown = _shown(labels)
    cells: dict[str, dict[str, list[State]]] = defaultdict(lambda: defaultdict(list))
    for run_id, values in labels.items():
        row = "  ".join(
            values.get(key, "-") if key in GROUPS else f"{key}={values.get(key, '-')}" for key in shown
        )
        cells[row][values["task"]].append(states[run_id])
    columns = in_order({values["task"] for values in labels.values()})
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(" ".join(key for key in shown if key in GROUPS), no_wrap=True)
    for task in columns:
        table.add_column(Text(task), no_wrap=True)
    for row, by_task in cells.items():
        table.add_row(Text(row), *(_cell(by_task[task]) for task in columns))
    return table


GROUPS = ("data", "backbone", "regime", "protocol", "prompt")


def _shown(labels: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the labels that distinguish rows: the prompt, and whatever else differs except task and seed."""
    rows = labels.values()
    keys = dict.fromkeys(key for row in rows for key in row if key not in ("task", "seed"))
    differing = [key for key in keys if key == "prompt" or len({row.get(key) for row in rows}) > 1]
    return sorted(differing, key=lambda key: GROUPS.index(key) if key in GROUPS else len(GROUPS))


def _cell(states: Sequence[State]) -> Text:
    """Return "3/5" done, then the counts of other states by their first letter."""
    if not states:
        return Text("-")
    counter = Counter(states)
    text = Text(f"{counter[State.done]}/{len(states)}")
    for state in (State.running, State.queued, State.failed, State.interrupted):
        if counter[state]:
            text.append(" ").append(f"{counter[state]}{state.value[0]}", style=STYLES[state])
    if counter[State.done] == len(states):
        text.stylize(STYLES[State.done])
    return text


LEGEND = "done/planned of each task; r running, q queued, f failed, i interrupted"
