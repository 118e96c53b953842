"""Which examples a run got right, and the source of each, from predictions.parquet."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp_bench import reading
from dp_bench.data.grouping import components
from dp_bench.progress import notice
from dp_bench.records import RunRecord
from dp_bench.types import UserError

if TYPE_CHECKING:
    import pandas as pd


REMEDY = "The run's predictions are left out: train it again with rerun=true."


class ExampleResults:
    """The `stats.Results` of the runs in a folder."""

    def __init__(self, results_dir: Path) -> None:
        self.results_dir = results_dir
        self._read = lru_cache(maxsize=64)(self._frames)

    def __call__(self, record: RunRecord, task: str) -> pd.DataFrame | None:
        """Return by id, in order, whether each example of a task is right (`correct`) and an id of its
        source, merged over groups (`source`); None without predictions."""
        frames = self._read(record.run_id)
        return frames.get(task, frames.get(""))

    def _frames(self, run_id: str) -> dict[str, pd.DataFrame]:
        """Return the results by task ("" for a run on one task)."""
        path = self.results_dir / "runs" / run_id / "predictions.parquet"
        if not path.is_file():
            return {}
        try:
            with reading.guarded(path, REMEDY):
                return results_by_task(reading.frame(path, ("id", "gold", "prediction")))
        except UserError as error:
            notice(str(error))
            return {}


def results_by_task(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the results of a table of predictions by task ("" without the column `task`)."""
    frame = frame.assign(correct=is_correct(frame))
    by_task = frame.groupby("task") if "task" in frame else [("", frame)]
    return {
        str(task): part.assign(source=_merged_sources(part))
        .set_index("id")[["correct", "source"]]
        .sort_index()
        for task, part in by_task
    }


def is_correct(frame: pd.DataFrame) -> pd.Series[bool]:
    """Return for each row of predictions whether it is right."""
    correct: Any = frame["gold"] == frame["prediction"]
    if "golds" in frame:  # several choices are right; null for tasks without such choices
        several = frame[frame["golds"].notna()]
        pairs = zip(several["prediction"], several["golds"], strict=True)
        correct[several.index] = [prediction in golds for prediction, golds in pairs]
    right: pd.Series[bool] = correct
    return right


def _merged_sources(frame: pd.DataFrame) -> list[str]:
    """Return an id per example, equal for examples that a source or group connects."""
    names = [source_in(name) for name in frame["group" if "group" in frame else "id"]]
    if "source" in frame:
        names = [f"{name} {source}" for name, source in zip(names, frame["source"], strict=True)]
    return [str(component) for component in components(names)]


def source_in(name: str) -> str:
    """Return the text of an example from its id: `multirc/val/5/2/1` is about passage 5."""
    return "/".join(name.split("/")[:3])
