"""Evaluate trained prompts at every split around the text: what there is to win by their position.

    python scripts/landscape.py results/micro/runs/RUN… --out landscape.csv --plot landscape.png

Each finished run is opened, and its reported examples are answered P + 1 times, with 0 to P vectors before
the text. A line of the CSV is a run and a split: accuracy and mean loss (negative log-probability of the
right choice). Three more lines a run: `run`, the splits that the run itself chose; `uniform`, the mean over
all splits, what a random position comes to; `oracle`, for each example the split of least loss, which knows
the label.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dp_bench.config import option_settings
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import locate
from dp_bench.evaluation import Predictions
from dp_bench.prompts.selectors import Fixed
from dp_bench.report.controls import CONTROLS
from dp_bench.report.plots import COLOURS
from dp_bench.trained import TrainedRun, open_run
from dp_bench.types import Example


def landscape(folder: Path) -> pd.DataFrame:
    """Return the lines of one run."""
    run = open_run(folder)
    if run.model is None:
        raise SystemExit(f"{folder} has no prompt")
    settings, (task,) = run.experiment.settings, run.experiment.tasks
    source = locate(task, settings.data, settings.cache)
    examples = list(ExampleFile(task, source.validation, settings.data.limit))
    gold = np.array([example.label for example in examples])

    def line(split: object, answers: Predictions) -> dict[str, object]:
        accuracy = 100 * (answers.choices == gold).mean()
        return {"split": split, "accuracy": accuracy, "loss": answers.losses(gold).mean()}

    chosen = run.predict(task.name, examples)
    at_S = [
        _at(run, outcome, task.name, examples) for outcome in range(run.model.prompt.position.num_outcomes)
    ]
    lines = [line(outcome, answers) for outcome, answers in enumerate(at_S)]
    loss_SM = np.stack([answers.losses(gold) for answers in at_S])
    uniform = {key: np.mean([entry[key] for entry in lines]) for key in ("accuracy", "loss")}
    at_SMC = np.stack([answers.logits_MC for answers in at_S])
    oracle = replace(chosen, logits_MC=at_SMC[loss_SM.argmin(0), np.arange(len(gold))])
    lines += [line("run", chosen), {"split": "uniform", **uniform}, line("oracle", oracle)]
    record = run.record
    names = {"task": record.task, "backbone": record.backbone, "prompt": record.prompt, "seed": record.seed}
    return pd.DataFrame([{**names, **entry} for entry in lines])


def _at(run: TrainedRun, outcome: int, task: str, examples: list[Example]) -> Predictions:
    """Return the predictions with `outcome` vectors before every text."""
    prompt = run.model.prompt
    learned = prompt.position
    prompt.position = Fixed(learned.num_outcomes, None, outcome=outcome)
    try:
        return run.predict(task, examples)
    finally:
        prompt.position = learned


def draw(lines: pd.DataFrame, path: Path) -> None:
    """Draw score and loss by split, one column a task, one colour a prompt; means over seeds."""
    from matplotlib import pyplot as plt

    tasks = list(lines["task"].unique())
    size = (2.6 * len(tasks), 4.2)
    figure, grid = plt.subplots(2, len(tasks), figsize=size, squeeze=False, sharex=True, sharey="row")
    prompts = sorted(set(lines["prompt"]), key=lambda name: (name not in CONTROLS, name != "fixed", name))
    for column, task in enumerate(tasks):
        for row, key in enumerate(("accuracy", "loss")):
            axes = grid[row][column]
            of_task = lines[lines["task"] == task]
            for prompt, colour in zip(prompts, COLOURS, strict=False):
                mean = of_task[of_task["prompt"] == prompt].groupby("split", sort=False)[key].mean()
                splits = mean[[name for name in mean.index if str(name).isdigit()]]
                axes.plot([int(name) for name in splits.index], splits, color=colour, label=prompt)
                axes.axhline(mean["run"], color=colour, ls=":", lw=1)
                axes.axhline(mean["oracle"], color=colour, ls="--", lw=1)
            axes.set(
                ylabel=key if column == 0 else "",
                title=option_settings("task", task)["title"] if row == 0 else "",
            )
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlabel("vectors before the text" if row else "")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.suptitle(
        "mean over seeds; dotted: the run's choice, dashed: the best split of each example by its label",
        fontsize=8,
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=150)


def main() -> None:
    """Evaluate the runs, and write the CSV and the figure."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the CSV; only drawn where no run is given")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    found: list[pd.DataFrame] = []
    for folder in arguments.runs:  # on a language model one takes minutes: what is done is kept
        found.append(landscape(folder))
        pd.concat(found).to_csv(arguments.out, index=False)
        print(f"{folder.name}: {len(found)} of {len(arguments.runs)}", flush=True)
    if arguments.plot:
        draw(pd.read_csv(arguments.out, dtype={"split": str}), arguments.plot)


if __name__ == "__main__":
    main()
