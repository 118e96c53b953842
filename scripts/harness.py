"""Compare zero-shot answers of a causal LM with those of EleutherAI's LM Evaluation Harness on the same rows.

    pip install lm_eval==0.4.13
    python scripts/harness.py DATA_DIR [--backbone smollm2] [--tasks cb,copa,…] [--limit N]

Both read the first N validation rows in fp32. The harness reads them with its task definitions; only the
path of the data is replaced. Compared are the differences of the choices' log-probabilities, and the answers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dp_bench import config
from dp_bench.backbones.gguf import dequantised
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import locate
from dp_bench.types import Example

TASKS = ("boolq", "cb", "copa", "multirc", "rte", "wic", "wsc")
HARNESS = {"rte": "glue/rte/default.yaml"}  # the SuperGLUE tasks are in super_glue/TASK/default.yaml
TEXTS = {"rte": {"sentence1": "premise", "sentence2": "hypothesis"}}  # its names of our fields
MARGIN = 1e-3  # a difference of log-probabilities that no rounding explains


def compare(overrides: list[str], name: str, limit: int, folder: Path) -> dict[str, Any]:
    """Return the scores of both programs, and how far their log-probabilities are from each other."""
    experiment = config.experiment([f"task={name}", "prompt=zero_shot", "trainer.precision=fp32", *overrides])
    settings, task = experiment.settings, experiment.tasks[0]
    source = locate(task, settings.data, settings.cache)
    rows = list(ExampleFile(task, source.validation, limit))
    backbone = dequantised(settings.backbone, settings.cache)
    theirs = _harness(name, _as_on_the_hub(name, rows, source.validation.path), backbone.name_or_path, folder)
    ours = _ours([f"task={name}", *overrides], len(rows), folder)
    if (
        name == "multirc"
    ):  # the harness counts "yes" as the choice of label 0, which says that an answer is wrong
        theirs = theirs[:, ::-1]
    gap = abs((theirs[:, 1:] - theirs[:, :1]) - (ours[:, 1:] - ours[:, :1])).max(axis=1)
    gold = [row.label for row in rows]
    return {
        "task": name,
        "rows": len(rows),
        "harness": 100 * float((theirs.argmax(1) == gold).mean()),
        "dp-bench": 100 * float((ours.argmax(1) == gold).mean()),
        "same answer": int((theirs.argmax(1) == ours.argmax(1)).sum()),
        "same text": int((gap < MARGIN).sum()),
        "largest gap there": float(gap[gap < MARGIN].max(initial=0.0)),
    }


def _ours(overrides: list[str], num_rows: int, folder: Path) -> Any:
    """Return the log-probabilities of the choices by a zero-shot run: [N,C]."""
    words = ["train", *overrides, "prompt=zero_shot", "trainer.precision=fp32", f"results_dir={folder}"]
    words += ["task.max_length=4096", "trainer.selection=validation"]  # nothing is cut or held out
    words += [f"data.limit={num_rows}", "rerun=true"]
    subprocess.run([sys.executable, "-m", "dp_bench", *words], check=True)
    newest = max((folder / "runs").glob("*/predictions.parquet"), key=lambda path: path.stat().st_mtime)
    return pd.read_parquet(newest).filter(like="score_").to_numpy()


def _harness(name: str, rows: Iterable[Mapping[str, Any]], model: str | None, folder: Path) -> Any:
    """Return the log-probabilities of the choices by the harness: [N,C]."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    original = Path(lm_eval.__file__).parent / "tasks" / HARNESS.get(name, f"super_glue/{name}/default.yaml")
    definition = folder / f"{name}.yaml"
    definition.write_text(
        f"include: {original}\ntask: local_{name}\ntag: []\ndataset_path: json\ndataset_name: null\n"
        f"training_split: null\nvalidation_split: validation\nmetric_list: [{{metric: acc}}]\n"
        f"dataset_kwargs: {{data_files: {{validation: {data}}}}}\n"
    )
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, dtype="float32", batch_size=8, device="cpu"),
        tasks=[f"local_{name}"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"][f"local_{name}"], key=lambda sample: sample["doc_id"])
    return np.array([[response[0] for response in sample["filtered_resps"]] for sample in samples])


def _as_on_the_hub(name: str, rows: list[Example], path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a release as the hub has them: flat, with the number of the label."""
    if name == "multirc":
        for row in rows:
            yield {**row.fields, "label": row.label}
        return
    with path.open(encoding="utf-8") as lines:
        for row, line in zip(rows, lines, strict=False):
            raw = json.loads(line)
            raw.update(raw.pop("target", {}))
            raw.update({theirs: raw[ours] for theirs, ours in TEXTS.get(name, {}).items()})
            yield {**raw, "label": row.label}


def main() -> None:
    """Print one line a task, and write them as a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir")
    parser.add_argument("--backbone", default="smollm2")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="write the table as CSV, too")
    arguments = parser.parse_args()
    overrides = [f"backbone={arguments.backbone}", f"data.dir={arguments.data_dir}"]
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            compare(overrides, name, arguments.limit, Path(folder)) for name in arguments.tasks.split(",")
        ]
    table = pd.DataFrame(lines)
    print(table.to_string(index=False))
    if arguments.out:
        table.to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
