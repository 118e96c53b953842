"""Is a position learned? Every estimator against the exact gradient, over tasks, trainings and seeds.

    python scripts/routing_gradients.py --out results/routing/gradients      # some minutes on one core

Trains prompts with a position for each text on the micro benchmark for 0, 60 and 160 updates and runs what
`dp-bench inspect RUN --gradients` runs on each. Writes the mean and the range of every cosine over these
settings, a line a setting, and the figure of one of them.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from dp_bench import config, records, run
from dp_bench.commands import inspect
from dp_bench.gradients import Landscape

SETTINGS = {
    "BoolQ": ("task=boolq", "data=micro"),
    "WiC": ("task=wic", "data=micro"),
    "mix2": ("task=boolq", "data=micro_mix2"),
}
UPDATES = (0, 60, 160)
EXAMPLE = ("BoolQ", 60, 0)  # what the figure's right panel shows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/routing/gradients"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--draws", type=int, default=200)
    given = parser.parse_args()
    lines = []
    for name, words in SETTINGS.items():
        for updates in UPDATES:
            for seed in range(given.seeds):
                record = run.run(_experiment(given.out, words, max(updates, UPDATES[1]), seed))
                directory = given.out / "runs" / record.run_id
                landscape, found = inspect.measure(
                    directory, record, given.examples, given.draws, fresh=not updates
                )
                where = {"task": name, "updates": updates, "seed": seed}
                lines += [{**where, **asdict(quality), "line": landscape.correlation} for quality in found]
                if (name, updates, seed) == EXAMPLE:
                    shown = landscape
    table = pd.DataFrame(lines)
    _draw(given.out, table, shown)
    records.write_text(given.out / "gradients.csv", table.to_csv(index=False, float_format="%.4f"))
    text = _summary(table, given.examples, given.draws)
    records.write_text(given.out / "gradients.md", text)
    print(text)


def _experiment(out: Path, words: tuple[str, ...], updates: int, seed: int) -> config.Experiment:
    budget = (f"trainer.max_steps={updates}", f"trainer.eval_every={updates}", "prompt.num_tokens=8")
    # A selector that has collapsed has no gradient, right or wrong: this one hardly leaves its start.
    slow = ("prompt=adap_ins_pos", "prompt.selector_lr=0.001")
    where = ("backbone=t5_micro", "trainer=micro", f"results_dir={out}")
    return config.build(config.compose([*words, *slow, *where, *budget, f"seed={seed}"]))


def _draw(out: Path, table: pd.DataFrame, shown: Landscape) -> None:
    """Draw the cosines of all settings, and what slopes predict in one of them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    canvas, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for place, (_, own) in enumerate(table.groupby("estimator", sort=False)):
        left.plot(own["cosine_of_mean"], [place] * len(own), "o", color="#0072B2", alpha=0.5, markersize=5)
        left.plot([own["cosine_of_mean"].mean()] * 2, [place - 0.35, place + 0.35], color="#D55E00", lw=2)
    left.set_yticks(range(table["estimator"].nunique()), list(dict.fromkeys(table["estimator"])))
    left.invert_yaxis()
    left.axvline(0, color="#999999", lw=0.8)
    left.set_xlim(-1.05, 1.05)
    left.set_xlabel("cosine of an estimator's mean with the exact gradient")
    left.set_title(f"a dot a setting, a bar their mean ({len(own)} settings)", fontsize=9)
    inspect.draw_line(right, shown)
    inspect.save(canvas, out)


def _summary(table: pd.DataFrame, examples: int, draws: int) -> str:
    rows = [
        "| estimator | forwards | cosine of its mean (least, most) | cosine of one draw | bias | noise |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, own in table.groupby("estimator", sort=False):
        cosine = own["cosine_of_mean"]
        rows.append(
            f"| {name} | {own['forwards'].iloc[0]} | {cosine.mean():.2f} ({cosine.min():.2f}, "
            f"{cosine.max():.2f}) | {own['cosine_of_one'].mean():.2f} | {own['bias'].mean():.1f} | "
            f"{own['noise'].mean():.1f} |"
        )
    lines = table.groupby(["task", "updates", "seed"])["line"].first()
    found = f"{lines.mean():.2f} ({lines.min():.2f} to {lines.max():.2f})"
    rows += [
        "",
        f"{len(lines)} settings ({', '.join(SETTINGS)}; {', '.join(map(str, UPDATES))} updates; "
        f"{table['seed'].nunique()} seeds), {examples} texts, {draws} draws, 9 positions. Bias and noise in "
        "lengths of the exact gradient, Monte-Carlo error included. What the slope at one position predicts "
        f"for the others correlates {found} with what happens.",
        "",
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
