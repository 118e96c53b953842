"""The card of a pretrained backbone: what it is, how it was made, what it scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dp_bench.micro.initial import Settings
from dp_bench.micro.lexicon import CUES, FRAMES, NAMES, SENSES
from dp_bench.micro.scenes import EVERYTHING
from dp_bench.micro.told_how import told_how

AIMS = {"boolq": 95, "rte": 95, "wic": 95, "cb": 90, "copa": 90, "multirc": 90}  # told how, at least
MARGIN = 15  # points from chance that zero-shot may lie


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_card(directory: Path, others: Sequence[Path] = ()) -> Path:
    """Write CARD.md beside a backbone from its files and log; `others` are other seeds' directories."""
    log = read_log(directory)
    head, last = log[0], log[-1]
    settings = Settings(**head["settings"])
    model = directory / "model.safetensors"
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    lines = [
        "# t5_micro",
        "",
        "A tiny T5 that was really pretrained, on the generated world of `dp_bench/micro`, so that prompt",
        "tuning shows a real learning curve without a network or a GPU. It knows no English but that",
        "world's; no result with it says anything about SuperGLUE.",
        "",
        f"- model.safetensors: {model.stat().st_size:,} bytes, sha256 `{sha256(model)}`",
        f"- {head['parameters']:,} parameters: d_model {config['d_model']}, d_ff {config['d_ff']}, "
        f"{config['num_heads']} heads of {config['d_kv']}, {config['num_layers']} encoder and "
        f"{config['num_decoder_layers']} decoder layers, {config['vocab_size']} words",
        f"- pretraining: seed {settings.seed}, {settings.steps} updates of {settings.batch_size} texts, "
        f"{last['seconds'] / 60:.1f} minutes of one CPU thread; torch {head['torch']}, "
        f"transformers {head['transformers']}",
        f"- data: drawn anew for every update; {len(SENSES)} words of two senses, {len(CUES)} values of "
        f"{len(EVERYTHING.attributes)} attributes with {EVERYTHING.num_cues} cues each, {len(NAMES)} names, "
        f"{len(FRAMES)} sentence frames. Four in five combinations of content words; the tasks use the fifth",
        f"- command: `python scripts/pretrain_micro.py --seed {settings.seed} --steps {settings.steps}`",
        "",
        "## Accuracy on the tasks' validation rows",
        "",
        "Arg-max over the label words at the first decoder step. *Told how*: the instruction stands before",
        "the text. Its label words never occurred with that operation in pretraining, nor did the content.",
        f"Checked by tests: told how at least {', '.join(f'{task} {aim}' for task, aim in AIMS.items())};",
        f"zero-shot within {MARGIN} points of chance on every task.",
        "",
        "| task | chance | zero-shot | told how | told after the text | told how, hard | instruction |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {task} | {s['chance']} | {s['zero_shot']} | {s['told_how']} | {s['told_after']} "
            f"| {s['told_how_hard']} | `{told_how(task)}` |"
            for task, s in last["tasks"].items()
        ),
        "",
        not_learned(last["tasks"]),
        "",
        "## Pretraining seeds (zero-shot / told how)",
        "",
        *seeds_table([log, *(read_log(other) for other in others)]),
        "",
        "## Loss and accuracy of the operations on fresh examples",
        "",
        *curve(log[1:]),
        "",
    ]
    path = directory / "CARD.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def not_learned(tasks: dict[str, dict[str, float]]) -> str:
    """Name the tasks that the backbone cannot do even when told how."""
    names = [task for task, found in tasks.items() if found["told_how"] < found["chance"] + MARGIN]
    return f"Not learned in pretraining, told how or not: {', '.join(names) or 'none'}."


def read_log(directory: Path) -> list[dict[str, Any]]:
    text = (directory / "pretraining.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def seeds_table(logs: Sequence[list[dict[str, Any]]]) -> list[str]:
    seeds = [f"seed {log[0]['settings']['seed']}" for log in logs]
    rows = [f"| task | {' | '.join(seeds)} |", "|---" * (len(seeds) + 1) + "|"]
    for task in logs[0][-1]["tasks"]:
        found = [log[-1]["tasks"][task] for log in logs]
        cells = [f"{scored['zero_shot']} / {scored['told_how']}" for scored in found]
        rows.append(f"| {task} | {' | '.join(cells)} |")
    cells = ["yes" if meets_aims(log[-1]["tasks"]) else "no" for log in logs]
    return [*rows, f"| meets every aim | {' | '.join(cells)} |"]


def meets_aims(tasks: dict[str, dict[str, float]]) -> bool:
    guesses = all(abs(found["zero_shot"] - found["chance"]) <= MARGIN for found in tasks.values())
    return guesses and all(tasks[task]["told_how"] >= aim for task, aim in AIMS.items())


def curve(log: Sequence[dict[str, Any]]) -> list[str]:
    names = list(log[0]["accuracy"])
    rows = [f"| step | loss | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for line in [*log[:: max(1, len(log) // 12)], log[-1]]:
        found = " | ".join(f"{line['accuracy'][name]:.0f}" for name in names)
        rows.append(f"| {line['step']} | {line['loss']:.3f} | {found} |")
    return rows
