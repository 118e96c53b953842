"""Controls of dynamic prompts: which they are, and how the best one compares with the best dynamic prompt."""

from __future__ import annotations

from collections import defaultdict

from dp_bench.prompts import catalogue
from dp_bench.records import RunRecord
from dp_bench.report.expand import MULTITASK
from dp_bench.report.frame import Row, Table
from dp_bench.report.stats import ALPHA, compare

CONTROLS = ("zero_shot", "majority", "linear_probe", "fixed", "postfix", "split", "random_position")
# Controls of pools and of routed vectors. Not oracle_route: it is given the correct route.
MORE_CONTROLS = ("fixed_kp", "uniform_pool", "random_route", "shuffled_route")


def is_dynamic(record: RunRecord) -> bool:
    """Return whether a learned selector chose any part of a run's prompt."""
    prompt = record.config["prompt"]
    if prompt["method"] != "prompt" or prompt.get("shuffle_input"):
        return False
    return any(is_chosen(record, name) for name in ("position", "length", "route", "vectors"))


def is_chosen(record: RunRecord, piece: str) -> bool:
    """Return whether a learned selector chooses this piece of a run's prompt."""
    entry = catalogue.of(record.config["prompt"].get(piece))
    return entry is not None and (entry.is_learned or entry.has_members)


def control_notes(table: Table) -> list[str]:
    """Return notes on missing controls and on how the best control of each task compares with the best
    dynamic prompt; none for a table without dynamic prompts."""
    rows = [row for row in table.rows if row.restarts == 1]  # restarts have a larger budget
    dynamic = [row for row in rows if is_dynamic(row.records[0])]
    if not dynamic:
        return []
    controls = [row for row in rows if _prompt_of(row) in (*CONTROLS, *MORE_CONTROLS)]
    present = {_prompt_of(row) for row in controls}
    if any(row.records[0].config["backbone"]["head"] == "classifier" for row in table.rows):
        present.add("zero_shot")  # not possible with this head
    missing = [name for name in CONTROLS if name not in present]
    notes = [f"controls that are missing here: {', '.join(missing)}"] if missing else []
    verdicts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for task in table.columns:
        if verdict := _verdict(table, task, dynamic, controls):
            verdicts[verdict].append(table.title(task))
    if verdicts:
        texts = (f"{how} on {', '.join(titles)}{p}" for (how, p), titles in verdicts.items())
        notes.append(f"the best dynamic prompt and the best control: {'; '.join(texts)}")
    return notes


def _prompt_of(row: Row) -> str:
    return row.records[0].prompt.removesuffix(MULTITASK)


def _verdict(table: Table, task: str, dynamic: list[Row], controls: list[Row]) -> tuple[str, str] | None:
    """Return how the best dynamic prompt compares with the best control, and the p of a test; None if one of
    them was not run."""
    scored = [
        [(cell.mean, row) for row in rows if (cell := row.cell(task, table.tasks))]
        for rows in (dynamic, controls)
    ]
    if not all(scored):
        return None
    (score, best), (control_score, control) = (max(rows, key=lambda pair: pair[0]) for rows in scored)
    if score <= control_score:
        return f"{best.name} is no better than {control.name}", ""
    tests = [c for c in compare(table, [(best, control)]) if c.task == task and c.n > 1]
    if not tests:
        return f"{best.name} has a higher score than {control.name}", " (one seed in common: no test)"
    how = "is not significantly better than"
    if tests[0].p < ALPHA:
        how = "is significantly better than every control, the best of them"
    return f"{best.name} {how} {control.name}", f" (p = {tests[0].p:.2g} over {tests[0].n} {tests[0].over})"
