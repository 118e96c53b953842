"""`dp-bench nearest RUN`: the finished runs of other tasks whose prompts are most like the one of a run.

SPoT (Vu et al., ACL 2022) takes a task's prompt after a few updates as the embedding of the task, and starts
the task from the most similar prompt of another one.
"""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from dp_bench import reading, records
from dp_bench.commands.compare import show
from dp_bench.commands.finished import find_run, finished_runs
from dp_bench.printing import say
from dp_bench.progress import notice
from dp_bench.records import RunRecord
from dp_bench.report.pair import Section
from dp_bench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

Ranked = tuple[str, str, int, float, float, float]  # run, task, seed, both similarities, score
COLUMNS = ("run", "task", "seed", "mean vectors", "pairs of vectors", "score")


def nearest(run: str, results_dir: Path) -> int:
    """Print the runs of other tasks from the most similar prompt down, and how to start from the first.

    Raises UserError where RUN has no single prompt, or where no run can be compared with it.
    """
    folder = find_run(run, results_dir)
    target = records.load(folder)
    assert target is not None, "find_run finds finished runs"
    rows, left_out = rank(folder, target, results_dir)
    if not rows:
        raise UserError(
            f"No prompt below {results_dir / 'runs'} can be compared with that of {target.run_id}: "
            f"{_listed(left_out) or 'it is the only run'}. Train the same prompt on other tasks: dp-bench "
            f"train --from {shlex.quote(str(folder))} task=rte; or name another folder: --results-dir DIR."
        )
    notes = [f"Left out: {_listed(left_out)}."] if left_out else []
    show([Section(f"Prompts most like that of {target.run_id}", COLUMNS, list(rows), notes)], "")
    start = shlex.join([f"prompt.init_from={results_dir / 'runs' / rows[0][0]}"])
    say(f"Next: dp-bench train --from {shlex.quote(str(folder))} prompt.init=saved {start}")
    return 0


def rank(folder: Path, target: RunRecord, results_dir: Path) -> tuple[list[Ranked], Counter[str]]:
    """Return the comparable runs from the most similar down, and how many runs are left out for which reason.

    A run is comparable where `prompt.init=saved` can start the target from it: the same backbone and tensors
    of the same shapes. Runs that the target's task is part of are left out.
    """
    from dp_bench.prompts.init import differences
    from dp_bench.prompts.sources import PROMPT

    prompt = _tensors(folder)
    if [name for name in prompt if name.startswith("vectors.")] != [PROMPT] or prompt[PROMPT].ndim != 2:
        raise UserError(
            f"{target.run_id} has no vectors of one prompt for all texts, which is what is compared: name a "
            "run of prompt=fixed, or of another prompt with prompt/vectors=single."
        )
    rows: list[Ranked] = []
    left_out: Counter[str] = Counter()
    for other in finished_runs(results_dir):
        if other.run_id == target.run_id:
            continue
        path = results_dir / "runs" / other.run_id
        if {target.task, *target.by_task} & {other.task, *other.by_task}:
            left_out["of the same task"] += 1
        elif other.checkpoint["fingerprint"] != target.checkpoint["fingerprint"]:
            left_out["with another backbone"] += 1
        elif not (path / records.PROMPT_FILE).is_file():
            left_out["without a saved prompt"] += 1
        else:
            try:
                found = _tensors(path)
            except UserError as error:
                notice(f"a run is left out: {error}")
                left_out["that cannot be read"] += 1
                continue
            if differences(found, prompt):
                left_out["with another kind or size of prompt"] += 1
                continue
            alike = similarities(prompt[PROMPT], found[PROMPT])
            rows.append((other.run_id, other.task, other.seed, *alike, other.score))
    return sorted(rows, key=lambda row: (-row[3], row[0])), left_out


def similarities(a_PD: Tensor, b_QD: Tensor) -> tuple[float, float]:
    """Return SPoT's two similarities of prompts, in -1..1: the cosine of the means over their vectors, and
    the mean cosine over all pairs of their vectors (section 3.3)."""
    from torch.nn.functional import cosine_similarity

    a_PD, b_QD = a_PD.double(), b_QD.double()
    of_means = cosine_similarity(a_PD.mean(0), b_QD.mean(0), dim=0)
    return float(of_means), float(cosine_similarity(a_PD[:, None], b_QD[None], dim=-1).mean())


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Return the saved tensors of a run's prompt; raise UserError where they cannot be used."""
    from dp_bench.prompts.init import tensors_of_prompt

    path = records.weights_of(folder)
    prompt = tensors_of_prompt(path, "Train the run again with rerun=true.")
    if wrong := [name for name, value in prompt.items() if not value.isfinite().all()]:
        raise reading.unreadable(path, f"{wrong[0]} has a value that is not finite")
    return prompt


def _listed(left_out: Counter[str]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in sorted(left_out.items()))
