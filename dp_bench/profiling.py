"""Where the time of an update goes (trainer.profile=true): a trace for a viewer, and a line per stage.

Functions marked `@stage("…")` are one stage each; the mark costs some microseconds without a profiler.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dp_bench.records import replace_file, write_text

STAGES = ("data", "summary", "prompt", "assembly", "backbone forward", "backward", "optimizer", "evaluation")
NUM_UPDATES = 10


stage = torch.profiler.record_function  # as a decorator it marks a function as a stage of STAGES


def profile(
    folder: Path, update: Callable[[], object], evaluate: Callable[[], object], tell: Callable[[str], None]
) -> None:
    """Record NUM_UPDATES updates and one evaluation; write a trace and a summary, and `tell` the summary.

    One update comes before recording begins: it allocates what the others reuse.
    """
    update()
    with torch.profiler.profile(acc_events=True) as recorded:  # without it torch 2.11 warns
        for _ in range(NUM_UPDATES):
            update()
        evaluate()
    text = summary(recorded.events())
    replace_file(folder / "trace.json", lambda path: recorded.export_chrome_trace(str(path)))
    write_text(folder / "summary.txt", text + "\n")
    tell(text)
    tell(f"written: {folder / 'trace.json'} (for a trace viewer such as Perfetto)")


def summary(events: Any) -> str:
    """Return milliseconds per update and shares of each stage of training, and seconds of the evaluation.

    On a GPU the larger of host and device time counts; stages inside the evaluation count as evaluation.
    """
    spent = dict.fromkeys(STAGES, 0.0)
    for event in events:
        if event.name in spent and not _is_inside_a_stage(event):
            spent[event.name] += max(event.cpu_time_total, event.device_time_total)
    evaluation = spent.pop("evaluation")
    total = sum(spent.values()) or 1.0
    lines = [f"{NUM_UPDATES} updates and one evaluation, recorded (recording itself takes time)"]
    lines += [
        f"{name:<17}{time / NUM_UPDATES / 1e3:>10.2f} ms an update {100 * time / total:>6.1f} %"
        for name, time in spent.items()
    ]
    return "\n".join([*lines, f"{'evaluation':<17}{evaluation / 1e6:>10.2f} s once"])


def _is_inside_a_stage(event: Any) -> bool:
    parent = event.cpu_parent
    return parent is not None and (parent.name in STAGES or _is_inside_a_stage(parent))
