"""How far a sweep is, as a grid: a row a method, a column a task, in each cell what its seeds are doing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from dp_bench.sweep.plan import State
from dp_bench.tasks import in_order

STYLES = {State.done: "green", State.running: "cyan", State.failed: "red", State.interrupted: "yellow"}


def counts(states: Sequence[State]) -> str:
    """Return "12 done, 2 running, 3 missing": each state that occurs."""
    found = Counter(states)
    return ", ".join(f"{found[state]} {state.value}" for state in State if found[state]) or "no runs"


def grid(labels: Mapping[str, Mapping[str, str]], states: Mapping[str, State]) -> Table:
    """Arrange runs, given by id, in a table; `labels` are those of a plan."""
    shown = _shown(labels)
    cells: dict[str, dict[str, list[State]]] = defaultdict(lambda: defaultdict(list))
    for run_id, own in labels.items():
        row = "  ".join(own.get(key, "-") if key in GROUPS else f"{key}={own.get(key, '-')}" for key in shown)
        cells[row][own["task"]].append(states[run_id])
    columns = in_order({own["task"] for own in labels.values()})
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(" ".join(key for key in shown if key in GROUPS), no_wrap=True)
    for task in columns:
        table.add_column(Text(task), no_wrap=True)
    for row, by_task in cells.items():
        table.add_row(Text(row), *(_cell(by_task[task]) for task in columns))
    return table


GROUPS = ("data", "backbone", "regime", "protocol", "prompt")


def _shown(labels: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return what tells rows apart: the prompt, and whatever else differs beside task and seed."""
    values: dict[str, set[str | None]] = defaultdict(set)
    keys = dict.fromkeys(key for own in labels.values() for key in own if key not in ("task", "seed"))
    for own in labels.values():
        for key in keys:
            values[key].add(own.get(key))
    differing = [key for key in keys if key == "prompt" or len(values[key]) > 1]
    return sorted(differing, key=lambda key: GROUPS.index(key) if key in GROUPS else len(GROUPS))


def _cell(own: Sequence[State]) -> Text:
    """Return "3/5" done, and after it how many are not: r running, f failed, i interrupted."""
    if not own:
        return Text("-")
    found = Counter(own)
    text = Text(f"{found[State.done]}/{len(own)}")
    for state in (State.running, State.failed, State.interrupted):
        if found[state]:
            text.append(" ").append(f"{found[state]}{state.value[0]}", style=STYLES[state])
    if found[State.done] == len(own):
        text.stylize(STYLES[State.done])
    return text


LEGEND = "done/planned of each task; r running, f failed, i interrupted"
