"""The card of a pretrained backbone: its weights, its pretraining, its scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dp_bench.digests import file_sha256
from dp_bench.micro.evaluation import instruction_for
from dp_bench.micro.lexicon import CUES, FRAMES, NAMES, SENSES
from dp_bench.micro.scenes import EVERYTHING

AIMS = {"boolq": 95, "rte": 95, "wic": 95, "cb": 90, "copa": 90, "multirc": 90}  # least, with instruction
MARGIN = 15  # points by which zero-shot may differ from chance


def write_card(directory: Path, others: Sequence[Path] = ()) -> Path:
    """Write CARD.md beside a backbone from its files and log; `others` are the folders of other seeds."""
    head, *log = read_log(directory)
    seed, steps, tasks = head["settings"]["seed"], head["settings"]["steps"], log[-1]["tasks"]
    scores = table(  # the columns in the order of evaluation.scores
        ["task", "chance", "zero-shot", "instructed", "after the text", "hard, instructed", "instruction"],
        *([task, *scored.values(), f"`{instruction_for(task)}`"] for task, scored in tasks.items()),
    )
    unsolved = [task for task, scored in tasks.items() if scored["instructed"] < scored["chance"] + MARGIN]
    model = directory / "model.safetensors"
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    lines = [
        "# t5_micro",
        "",
        "A tiny T5 pretrained on the generated world of `dp_bench/micro`, so that prompt tuning shows",
        "a real learning curve without a network or a GPU. It knows only the English of that world;",
        "results with it say nothing about SuperGLUE.",
        "",
        f"- model.safetensors: {model.stat().st_size:,} bytes, sha256 `{file_sha256(model)}`",
        f"- {head['parameters']:,} parameters: d_model {config['d_model']}, d_ff {config['d_ff']}, "
        f"{config['num_heads']} heads of {config['d_kv']}, {config['num_layers']} encoder and "
        f"{config['num_decoder_layers']} decoder layers, {config['vocab_size']} words",
        f"- pretraining: seed {seed}, {steps} updates of {head['settings']['batch_size']} texts, "
        f"{log[-1]['seconds'] / 60:.1f} minutes of one CPU thread; torch {head['torch']}, "
        f"transformers {head['transformers']}",
        f"- data: new examples for every update; {len(SENSES)} words of two senses, {len(CUES)} values of "
        f"{len(EVERYTHING.attributes)} attributes with {EVERYTHING.num_cues} cues each, {len(NAMES)} names, "
        f"{len(FRAMES)} sentence frames. Four in five combinations of content words; the tasks use the rest",
        f"- command: `python scripts/pretrain_micro.py --seed {seed} --steps {steps}`",
        "",
        "## Accuracy on the tasks' validation rows",
        "",
        "Arg-max over the label words at the first decoder step. *Instructed*: the instruction is before the",
        "text. Its label words and the content never occurred with that operation in pretraining.",
        f"Checked by tests: instructed at least {', '.join(f'{task} {aim}' for task, aim in AIMS.items())};",
        f"zero-shot within {MARGIN} points of chance on every task.",
        "",
        *scores,
        "",
        f"Not learned in pretraining, instructed or not: {', '.join(unsolved) or 'none'}.",
        "",
        "## Pretraining seeds (zero-shot / instructed)",
        "",
        *seeds_table([read_log(folder) for folder in (directory, *others)]),
        "",
        "## Loss and accuracy of the operations on fresh examples",
        "",
        *curve(log),
        "",
    ]
    path = directory / "CARD.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def read_log(directory: Path) -> list[dict[str, Any]]:
    """Return the lines of a pretraining's log: first its settings, then its measurements."""
    text = (directory / "pretraining.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def table(head: list[str], *rows: list[Any]) -> list[str]:
    """Return the lines of a Markdown table."""
    first, *others = [f"| {' | '.join(map(str, row))} |" for row in (head, *rows)]
    return [first, "|---" * len(head) + "|", *others]


def seeds_table(logs: Sequence[list[dict[str, Any]]]) -> list[str]:
    """Return a table of each task's scores, one column a pretraining."""
    scores = [log[-1]["tasks"] for log in logs]
    return table(
        ["task", *(f"seed {log[0]['settings']['seed']}" for log in logs)],
        *([task, *("{zero_shot} / {instructed}".format(**s[task]) for s in scores)] for task in scores[0]),
        ["meets every aim", *("yes" if meets_aims(tasks) else "no" for tasks in scores)],
    )


def meets_aims(tasks: dict[str, dict[str, float]]) -> bool:
    """Return whether zero-shot scores are near chance, and instructed ones at least AIMS."""
    guesses = all(abs(scored["zero_shot"] - scored["chance"]) <= MARGIN for scored in tasks.values())
    return guesses and all(tasks[task]["instructed"] >= aim for task, aim in AIMS.items())


def curve(log: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of loss and accuracies over the updates, some twelve of them."""
    return table(
        ["step", "loss", *log[0]["accuracy"]],
        *(
            [line["step"], f"{line['loss']:.3f}", *(f"{a:.0f}" for a in line["accuracy"].values())]
            for line in [*log[:: max(1, len(log) // 12)], log[-1]]
        ),
    )
