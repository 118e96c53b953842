"""Labels of table rows: the prompt and the settings in which its rows differ."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from dp_bench.effective import is_trained, unread
from dp_bench.records import RunRecord, flatten, is_volatile
from dp_bench.report.runs import search_of, seed_and_draw_of

# Shown by the header, the row's name or the cell already, or without influence on results.
NOT_A_VARIANT = (
    *("seed", "data.name", "data.limit", "prompt.name", "trainer.name", "regime.name", "regime.split_seed"),
    "regime.transfer",
    "trainer.precision",  # RunRecord.precision has the value that `auto` resolved to
)
SEARCH = "hpo"  # name of the search in row labels; its settings are compared within one search
TARGET = "_target_"  # key of a piece's class
# Earlier runs that a run starts from: one for each seed, or several for all seeds, which then are rows.
FROM_RUNS = ("prompt.init_sha256", "prompt.sources_sha256")
DIGEST = re.compile(r"([0-9a-f]{8})[0-9a-f]{32,}")  # such as prompt.init_sha256

Group = Callable[[RunRecord], str]  # runs are compared within a group; in a table, the task


class Labelled(NamedTuple):
    """Runs by row label, the settings that each label names, and those outside the prompt among them."""

    rows: dict[str, list[RunRecord]]
    settings: dict[str, dict[str, Any]]
    common: set[str]


def by_label(
    records: Sequence[RunRecord],
    group: Group = lambda record: record.task,
    leave_out: Collection[str] = (),
) -> Labelled:
    """Group records into rows by label: the prompt, and the settings in which runs differ."""
    # Computed once for runs that differ only in their seed.
    settings = {key: _settings(r, leave_out) for key, r in {_key(r): r for r in records}.items()}
    common = {
        (at, key)
        for at, key in _differing(records, settings, group)
        if not key.startswith(("prompt.", "regime."))
    }
    grouped: dict[str, list[RunRecord]] = defaultdict(list)
    named: dict[str, dict[str, Any]] = {}
    for prompt in sorted({record.prompt for record in records}):
        same_prompt = [record for record in records if record.prompt == prompt]
        differing = common | _differing(same_prompt, settings, group)
        keys = sorted({key for _, key in differing})
        for record in same_prompt:
            # Task settings are compared within the task.
            of_task = [
                key for key in keys if not key.startswith("task.") or (group(record), key) in differing
            ]
            flat = settings[_key(record)]
            label = _named(record.prompt, flat, of_task)
            named[label] = {key: flat[key] for key in of_task if key in flat}
            grouped[label].append(record)
    # With settings left out, several runs per seed are expected.
    rows = grouped if leave_out else _by_values_of_a_seed(grouped, group, named)
    return Labelled(rows, {label: named[label] for label in rows}, {key for _, key in common})


def _by_values_of_a_seed(
    grouped: Mapping[str, list[RunRecord]], group: Group, named: dict[str, dict[str, Any]]
) -> dict[str, list[RunRecord]]:
    """Split rows in which one seed and draw has several values of what searches found, or of earlier runs
    that runs start from, by these settings, and add them to `named`."""
    split: dict[str, list[RunRecord]] = defaultdict(list)
    for label, row in grouped.items():
        flattened = [(record, flatten(record.config)) for record in row]
        values = {
            (key, (group(record), seed_and_draw_of(record)), repr(flat.get(key)))
            for record, flat in flattened
            for key in _of_seeds(record)
        }
        counts = Counter((key, cell) for key, cell, _ in values)
        keys = sorted({key for (key, _), number in counts.items() if number > 1})
        for record, flat in flattened:
            longer = _named(label, flat, keys)
            named[longer] = {**named[label], **{key: flat[key] for key in keys if key in flat}}
            split[longer].append(record)
    return split


def _settings(record: RunRecord, leave_out: Collection[str]) -> dict[str, Any]:
    """Return the settings that may distinguish rows; tasks that are only evaluated on are not among them."""
    flat = {**flatten(record.config), **record.facts, "precision": record.precision}
    search = _search(record)
    # Settings that were searched for differ between tasks; the search is the same.
    left_out = {*NOT_A_VARIANT, *_unread(record), *leave_out, *_of_seeds(record)}
    elsewhere = ("transfer.", "regime.task_settings.")
    flat = {k: v for k, v in flat.items() if not (k in left_out or is_volatile(k) or k.startswith(elsewhere))}
    if search:
        flat |= {SEARCH: search["name"], **{f"{SEARCH}.{key}": search.get(key) for key in ("trials", "seed")}}
    return flat


def _of_seeds(record: RunRecord) -> tuple[str, ...]:
    """Return the settings that may have a value for each seed and task: those searched for, and earlier runs
    that a run starts from."""
    return (*_search(record).get("searched", ()), *FROM_RUNS)


def _search(record: RunRecord) -> Mapping[str, Any]:
    """Return the search that chose settings which a run reads; empty for one without."""
    return search_of(record) if is_trained(record.config) else {}


def _unread(record: RunRecord) -> set[str]:
    """Return the settings that a run does not read, and `precision` (resolved) if it does not read that."""
    keys = unread(record.config)
    return keys | {"precision"} if "trainer.precision" in keys else keys


def _key(record: RunRecord) -> tuple[Any, ...]:
    """Return what runs share that have the same `_settings`."""
    search = tuple(search_of(record).get(key) for key in ("name", "trials", "seed"))
    return record.cell_id, record.task, record.prompt, record.precision, search


def _differing(
    records: Sequence[RunRecord], settings: Mapping[tuple[Any, ...], Mapping[str, Any]], group: Group
) -> set[tuple[str, str]]:
    """Return (group, setting) where records of a group differ.

    Settings of a piece are compared among pieces of one class only.
    """
    distinct = {_key(record): record for record in records}
    pieces = {name: _piece_of(name) for key in distinct for name in settings[key]}
    values: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for key, record in distinct.items():
        flat, at = settings[key], group(record)
        # Settings that this run does not read are ignored.
        for name in pieces.keys() - _unread(record) if is_trained(record.config) else flat:
            values[at, name, str(flat.get(pieces[name]))].add(repr(flat.get(name)))
    return {(at, name) for (at, name, _), seen in values.items() if len(seen) > 1}


def _piece_of(key: str) -> str:
    """Return the key whose value a setting belongs to: the class of its piece, or its search."""
    if key.startswith(f"{SEARCH}."):
        return SEARCH
    return "" if key.endswith(TARGET) else f"{key.rpartition('.')[0]}.{TARGET}"


def _named(label: str, flat: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return a label with these settings appended to those that it names already."""
    parts = ", ".join(f"{short(key)}={plain(flat[key])}" for key in keys if key in flat)
    if not parts:
        return label
    return f"{label.removesuffix(']')}, {parts}]" if label.endswith("]") else f"{label} [{parts}]"


def short(key: str) -> str:
    """Return a setting's name without the group that a label need not say."""
    name = key.removeprefix("prompt.").removeprefix("trainer.").removeprefix("regime.")
    return name.removesuffix(f".{TARGET}")


def plain(value: Any) -> str:
    """Return a setting's value as labels have it."""
    if value is None:
        return "null"
    text = str(value)
    return text.rsplit(".", 1)[-1] if text.startswith("dp_bench.") else DIGEST.sub(r"\1", text)
