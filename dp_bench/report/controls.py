"""Controls of dynamic prompts: which they are, and how the best one compares with the best dynamic prompt."""

from __future__ import annotations

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
    notes = [f"controls missing from this table: {', '.join(missing)}"] if missing else []
    verdicts = [text for task in table.columns if (text := _verdict(table, task, dynamic, controls))]
    if verdicts:
        notes.append(f"best control / best dynamic prompt: {'; '.join(verdicts)}")
    return notes


def _prompt_of(row: Row) -> str:
    return row.records[0].prompt.removesuffix(MULTITASK)


def _verdict(table: Table, task: str, dynamic: list[Row], controls: list[Row]) -> str:
    """Return how the best dynamic prompt compares with the best control; "" if one of them was not run."""
    scored = [
        [(cell.mean, row) for row in rows if (cell := row.cell(task, table.tasks))]
        for rows in (dynamic, controls)
    ]
    if not all(scored):
        return ""
    (score, best), (control_score, control) = (max(rows, key=lambda pair: pair[0]) for rows in scored)
    if score <= control_score:
        verdict = "the control is at least as good"
    elif not (tests := [c for c in compare(table, [(best, control)]) if c.task == task and c.n > 1]):
        verdict = "one seed in common: no test"
    else:
        differs = tests[0].p < ALPHA
        verdict = "significantly better than every control" if differs else "no significant difference"
        verdict += f": p = {tests[0].p:.2g} over {tests[0].n} {tests[0].over}"
    return f"{table.title(task)} {control.label} {control_score:.2f} / {best.label} {score:.2f} ({verdict})"
