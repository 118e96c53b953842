"""Single texts of a run, the most surprising first, with the prompt drawn where it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dp_bench.methods import table
from dp_bench.records import RunRecord
from dp_bench.report.choices import in_layers_alone, name_of, of
from dp_bench.report.examples import is_correct
from dp_bench.report.page import Drawn, Part
from dp_bench.report.runs import task_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Pieces:
    """A text as the model read it: what stands before its body, the body, and what stands behind it."""

    before: str
    body: str
    behind: str
    choices: tuple[str, ...] = ()  # of the example, where it has its own
    num_cut: int = 0  # tokens that were left out


def surprising(record: RunRecord, predictions: pd.DataFrame, task: str, number: int) -> pd.DataFrame:
    """Return `number` rows of a task's predictions with `right` and `confidence`, the probability of the
    prediction: the most confident errors first, then the right answers that were the least certain."""
    rows = of(predictions, task).reset_index(drop=True)
    words = task_of(record, task).get("words") or []
    names = [f"score_{word}" for word in words] or [
        name for name in map(str, rows) if name.startswith("score_")
    ]
    scores = rows[names].to_numpy(dtype=float)
    confidence = np.exp(scores[np.arange(len(rows)), rows["prediction"]])
    right = is_correct(rows)
    ordered = rows.assign(
        right=right, confidence=confidence, order=np.where(right, 1 - confidence, confidence)
    )
    return ordered.sort_values(["right", "order"], ascending=[True, False], kind="stable").head(number)


def draw(record: RunRecord, task: str, rows: pd.DataFrame, texts: Mapping[str, Pieces]) -> list[Drawn]:
    """Draw rows of `surprising` with the texts that are known, by id."""
    return [_draw(record, task, row, texts.get(str(row["id"]))) for _, row in rows.iterrows()]


def _draw(record: RunRecord, task: str, row: pd.Series, text: Pieces | None) -> Drawn:
    def answer(number: int) -> str:
        name = name_of(record, task, number)
        known = text.choices[number] if text and number < len(text.choices) else ""
        return f"{name}, {known}" if known and known != name else name

    prediction, gold = int(row["prediction"]), int(row["gold"])
    verdict = f"says {answer(prediction)} ({row['confidence']:.3f})"
    verdict += (
        "; right" if row["right"] else f"; gold is {answer(gold) if gold >= 0 else 'none of the choices'}"
    )
    num_tokens = record.config["prompt"]["num_tokens"]
    length, position = int(row.get("length", 0)), int(row.get("position", 0))
    if table.of(record.config["prompt"]["method"]).has_prompt and length < num_tokens:
        verdict += f"; {length} of {num_tokens} vectors"
    if "route" in row and row["route"] == row["route"]:  # not missing
        verdict += f"; member {int(row['route'])}"
    if text is not None and text.num_cut:
        verdict += f"; {text.num_cut} tokens cut"
    if (places := record.config["prompt"].get("boundaries")) is not None:
        verdict += f"; at place {position} of 0 to {places - 1} in the text"
    parts = () if text is None else _parts(text, *vectors_around(record, position, length))
    return Drawn(str(row["id"]), verdict, bool(row["right"]), parts)


def vectors_around(record: RunRecord, position: int, length: int) -> tuple[list[Part], list[Part]]:
    """Return the vectors before the body of a text and those behind it, in the order of the input.

    In the order of the paper the first `position` vectors are before it; in that of the authors' code the
    last ones are (prompts/layout.py).
    """
    prompt, num = record.config["prompt"], record.config["prompt"]["num_tokens"]
    if prompt.get("boundaries") is not None:  # inside the text, which is drawn whole
        return [], []
    if not table.of(prompt["method"]).has_prompt or in_layers_alone(prompt):
        return [], []
    parts = [Part("vector" if i < length else "dropped", f"P{i}") for i in range(num)]
    if record.config["protocol"]["split_order"] == "code":
        return parts[num - position :], parts[: num - position]
    return parts[:position], parts[position:]


def _parts(text: Pieces, before: Sequence[Part], behind: Sequence[Part]) -> tuple[Part, ...]:
    parts = [
        Part("around", text.before),
        *before,
        Part("text", text.body),
        *behind,
        Part("around", text.behind),
    ]
    return tuple(part for part in parts if part.text)
