"""No claim about a dynamic prompt without its controls: who they are, and how close the best of them
comes."""

from __future__ import annotations

from dp_bench.prompts import catalogue
from dp_bench.records import RunRecord
from dp_bench.report.expand import MULTITASK
from dp_bench.report.frame import Row, Table
from dp_bench.report.stats import ALPHA, compare

CONTROLS = ("zero_shot", "majority", "linear_probe", "fixed", "postfix", "split", "random_position")
# Of pools and of routed vectors. Not oracle_route: it is told what others have to find.
MORE_CONTROLS = ("fixed_kp", "uniform_pool", "random_route", "shuffled_route")


def is_dynamic(record: RunRecord) -> bool:
    """Say whether something about a run's prompt was chosen by a learned selector."""
    prompt = record.config["prompt"]
    if prompt["method"] != "prompt" or prompt.get("shuffle_input"):
        return False
    return any(is_chosen(record, name) for name in ("position", "length", "route", "vectors"))


def is_chosen(record: RunRecord, piece: str) -> bool:
    """Say whether a learned selector chooses a piece of a run's prompt."""
    known = catalogue.of(record.config["prompt"].get(piece))
    return known is not None and (known.is_learned or known.has_members)


def is_control(record: RunRecord) -> bool:
    return record.prompt.removesuffix(MULTITASK) in (*CONTROLS, *MORE_CONTROLS)


def control_notes(table: Table) -> list[str]:
    """Say in words how the best control of each task compares with the best dynamic prompt, and which
    controls are not in the table. Nothing where there is no dynamic prompt."""
    rows = [row for row in table.rows if row.restarts == 1]  # more are another budget
    dynamic = [row for row in rows if is_dynamic(row.records[0])]
    if not dynamic:
        return []
    controls = [row for row in rows if is_control(row.records[0])]
    notes = [_missing(table, controls)]
    said = [text for task in table.columns if (text := _verdict(table, task, dynamic, controls))]
    if said:
        notes.append(f"best control / best dynamic prompt: {'; '.join(said)}")
    return [note for note in notes if note]


def _missing(table: Table, controls: list[Row]) -> str:
    there = {row.records[0].prompt.removesuffix(MULTITASK) for row in controls}
    impossible = (
        {"zero_shot"}
        if any(row.records[0].config["backbone"]["head"] == "classifier" for row in table.rows)
        else set()
    )
    missing = [name for name in CONTROLS if name not in there | impossible]
    if not missing:
        return ""
    return f"controls that are not beside the dynamic prompts: {', '.join(missing)}"


def _verdict(table: Table, task: str, dynamic: list[Row], controls: list[Row]) -> str:
    def score(row: Row) -> float | None:
        cell = row.cell(task, table.tasks)
        return None if cell is None else cell.mean

    def best_of(rows: list[Row]) -> Row | None:
        return max((row for row in rows if score(row) is not None), key=lambda r: score(r) or 0, default=None)

    ours, best = best_of(dynamic), best_of(controls)
    if ours is None or best is None:
        return ""
    gap = (score(ours) or 0) - (score(best) or 0)
    said = f"{table.title(task)} {best.label} {score(best):.2f} / {ours.label} {score(ours):.2f}"
    if gap <= 0:
        return f"{said} (the control is not behind)"
    found = [c for c in compare(table, [(ours, best)]) if c.task == task and c.n > 1]
    if not found:
        return f"{said} (one seed in common: no test)"
    p, pairs = found[0].p, f"{found[0].n} {found[0].over}"
    if p >= ALPHA:
        return f"{said} (the control is within the test's reach: p = {p:.2g} over {pairs})"
    return f"{said} (ahead of every control: p = {p:.2g} over {pairs})"
