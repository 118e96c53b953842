"""What tells the rows of a table apart, and what they are called: a prompt, with the settings that differ."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from dp_bench.effective import is_trained, unread
from dp_bench.records import RunRecord, flatten, is_volatile
from dp_bench.report.runs import draw_of, search_of

# Said by the header, the row's name or the cell already, or without influence on a result.
NOT_A_VARIANT = (
    *("seed", "data.name", "data.limit", "prompt.name", "trainer.name", "regime.name", "regime.split_seed"),
    "regime.transfer",
    "trainer.precision",  # the record says what `auto` came to
)
SEARCH = "hpo"  # the settings of a search below it count among runs of one search
TARGET = "_target_"  # the class of a piece
DIGEST = re.compile(r"[0-9a-f]{40,}")  # such as prompt.init_sha256

Group = Callable[[RunRecord], str]  # where runs are compared: in a table, the task


def row_labels(records: Sequence[RunRecord], group: Group, leave_out: Collection[str] = ()) -> dict[str, str]:
    """Return by run id what the row of each run is called, in all groups alike; a setting is named where it
    differs within a group, unless it is one to leave out."""
    grouped, _ = by_label(records, group, leave_out)
    return {record.run_id: label for label, own in grouped.items() for record in own}


def by_label(
    records: Sequence[RunRecord],
    group: Group = lambda record: record.task,
    leave_out: Collection[str] = (),
) -> tuple[dict[str, list[RunRecord]], set[str]]:
    """Part records into rows, which differ in their prompts; where they differ in anything else, each of them
    says so. Return also the settings that all prompts' rows name."""
    variants = _Variants(group, leave_out)
    common = {
        (at, key) for at, key in variants.differing(records) if not key.startswith(("prompt.", "regime."))
    }
    grouped: dict[str, list[RunRecord]] = defaultdict(list)
    for prompt in sorted({record.prompt for record in records}):
        own = [record for record in records if record.prompt == prompt]
        differing = common | variants.differing(own)
        keys = sorted({key for _, key in differing})
        for record in own:
            # A task's own settings are other ones than another task's anyway.
            named = [key for key in keys if not key.startswith("task.") or (group(record), key) in differing]
            grouped[_named(record.prompt, variants.settings(record), named)].append(record)
    # What is left out tells runs apart that are expected in one group.
    parted = grouped if leave_out else _by_what_was_found(grouped, group)
    return parted, {key for _, key in common}


def _by_what_was_found(grouped: Mapping[str, list[RunRecord]], group: Group) -> dict[str, list[RunRecord]]:
    """Part a row in which two searches found other settings for one seed and draw: by what they found."""
    parted: dict[str, list[RunRecord]] = defaultdict(list)
    for label, own in grouped.items():
        found = {
            (key, (group(record), draw_of(record)), repr(flatten(record.config).get(key)))
            for record in own
            for key in search_of(record).get("searched") or ()
        }
        values = Counter((key, cell) for key, cell, _ in found)
        keys = sorted({key for (key, _), number in values.items() if number > 1})
        for record in own:
            parted[_named(label, flatten(record.config), keys) if keys else label].append(record)
    return parted


def _settings(record: RunRecord) -> dict[str, Any]:
    """Return what may tell rows apart; on which other tasks a prompt is tried changes nothing of its own."""
    flat = {**flatten(record.config), **record.facts, "precision": record.precision}
    left_out = {*NOT_A_VARIANT, *_unread(record)}
    search = search_of(record) if is_trained(record.config) else {}
    if search:
        # What was searched for differs from task to task: the search is what rows share.
        left_out |= set(search["searched"])
    flat = {k: v for k, v in flat.items() if k not in left_out and not is_volatile(k)}
    if search:
        flat |= {SEARCH: search["name"], **{f"{SEARCH}.{key}": search.get(key) for key in ("trials", "seed")}}
    return {k: v for k, v in flat.items() if not k.startswith(("transfer.", "regime.task_settings."))}


def _unread(record: RunRecord) -> set[str]:
    """Return the settings that a run does not read; of its precision the record says what it came to."""
    found = unread(record.config)
    return found | {"precision"} if "trainer.precision" in found else found


class _Variants:
    """What may tell rows of a table apart, worked out once for runs that differ in their seed only."""

    def __init__(self, group: Group, leave_out: Collection[str]) -> None:
        self._group, self._leave_out = group, leave_out
        self._known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def settings(self, record: RunRecord) -> dict[str, Any]:
        key = self._key(record)
        if key not in self._known:
            self._known[key] = {k: v for k, v in _settings(record).items() if k not in self._leave_out}
        return self._known[key]

    def differing(self, records: Sequence[RunRecord]) -> set[tuple[str, str]]:
        """Return group and setting where records of a group differ.

        Where a piece is exchanged, its name is all there is to say: settings count among pieces of one class.
        """
        kinds = {self._key(record): record for record in records}
        flats = [(record, self.settings(record)) for record in kinds.values()]
        keys = {key for _, flat in flats for key in flat}
        pieces = {key: _piece_of(key) for key in keys}
        values: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        for record, flat in flats:
            group = self._group(record)
            # Settings that this run does not read are ignored.
            for key in keys - _unread(record) if is_trained(record.config) else flat:
                values[group, key, str(flat.get(pieces[key]))].add(repr(flat.get(key)))
        return {(group, key) for (group, key, _), seen in values.items() if len(seen) > 1}

    @staticmethod
    def _key(record: RunRecord) -> tuple[Any, ...]:
        search = tuple(search_of(record).get(key) for key in ("name", "trials", "seed"))
        return record.cell_id, record.task, record.prompt, record.precision, search


def _piece_of(key: str) -> str:
    """Return the key that says what a setting is one of: the class of its piece, or its search."""
    if key.startswith(f"{SEARCH}."):
        return SEARCH
    return "" if key.endswith(TARGET) else f"{key.rpartition('.')[0]}.{TARGET}"


def _named(label: str, flat: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return a prompt's name with these settings, behind those that it names already."""
    parts = ", ".join(f"{_short(key)}={_plain(flat[key])}" for key in keys if key in flat)
    if not parts:
        return label
    return f"{label.removesuffix(']')}, {parts}]" if label.endswith("]") else f"{label} [{parts}]"


def _short(key: str) -> str:
    own = key.removeprefix("prompt.").removeprefix("trainer.").removeprefix("regime.")
    return own.removesuffix(f".{TARGET}")


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    text = str(value)
    return text.rsplit(".", 1)[-1] if text.startswith("dp_bench.") else DIGEST.sub(_start, text)


def _start(digest: re.Match[str]) -> str:
    return digest[0][:8]
