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


def is_control(record: RunRecord) -> bool:
    """Return whether a run's prompt is a control."""
    return record.prompt.removesuffix(MULTITASK) in (*CONTROLS, *MORE_CONTROLS)


def control_notes(table: Table) -> list[str]:
    """Return notes on missing controls and on how the best control of each task compares with the best
    dynamic prompt; none for a table without dynamic prompts."""
    rows = [row for row in table.rows if row.restarts == 1]  # restarts have a larger budget
    dynamic = [row for row in rows if is_dynamic(row.records[0])]
    if not dynamic:
        return []
    controls = [row for row in rows if is_control(row.records[0])]
    notes = [_missing(table, controls)]
    verdicts = [text for task in table.columns if (text := _verdict(table, task, dynamic, controls))]
    if verdicts:
        notes.append(f"best control / best dynamic prompt: {'; '.join(verdicts)}")
    return [note for note in notes if note]


def _missing(table: Table, controls: list[Row]) -> str:
    present = {row.records[0].prompt.removesuffix(MULTITASK) for row in controls}
    if any(row.records[0].config["backbone"]["head"] == "classifier" for row in table.rows):
        present.add("zero_shot")  # not possible with this head
    missing = [name for name in CONTROLS if name not in present]
    return f"controls missing from this table: {', '.join(missing)}" if missing else ""


def _verdict(table: Table, task: str, dynamic: list[Row], controls: list[Row]) -> str:
    def best_of(rows: list[Row]) -> tuple[float, Row] | None:
        scored = [(cell.mean, row) for row in rows if (cell := row.cell(task, table.tasks))]
        return max(scored, key=lambda pair: pair[0], default=None)

    best_dynamic, best_control = best_of(dynamic), best_of(controls)
    if best_dynamic is None or best_control is None:
        return ""
    (score, dynamic_row), (control_score, control_row) = best_dynamic, best_control
    scores = f"{table.title(task)} {control_row.label} {control_score:.2f} / {dynamic_row.label} {score:.2f}"
    if score <= control_score:
        return f"{scores} (the control is at least as good)"
    tests = [c for c in compare(table, [(dynamic_row, control_row)]) if c.task == task and c.n > 1]
    if not tests:
        return f"{scores} (one seed in common: no test)"
    p, pairs = tests[0].p, f"{tests[0].n} {tests[0].over}"
    if p >= ALPHA:
        return f"{scores} (no significant difference: p = {p:.2g} over {pairs})"
    return f"{scores} (significantly better than every control: p = {p:.2g} over {pairs})"
