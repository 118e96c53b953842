"""Which examples a run got right, and the source of each, from predictions.parquet."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp_bench.data.grouping import components
from dp_bench.records import RunRecord
from dp_bench.report.stats import source_in

if TYPE_CHECKING:
    import pandas as pd


class ExampleResults:
    """Results by example id of the runs in a folder."""

    def __init__(self, results_dir: Path) -> None:
        self.results_dir = results_dir
        self._read = lru_cache(maxsize=64)(self._frames)

    def correct(self, record: RunRecord, task: str) -> Mapping[str, bool] | None:
        """Return whether each example of the task is right; None without predictions."""
        return self._column(record, task, "correct")

    def sources(self, record: RunRecord, task: str) -> Mapping[str, str] | None:
        """Return an id of each example's source, merged over groups; None without predictions."""
        return self._column(record, task, "source")

    def _column(self, record: RunRecord, task: str, column: str) -> Mapping[str, Any] | None:
        frames = self._read(record.run_id)
        frame = frames.get(task, frames.get(""))
        return None if frame is None else dict(zip(frame["id"], frame[column], strict=True))

    def _frames(self, run_id: str) -> dict[str, pd.DataFrame]:
        """Return id, correct and source of each example, by task ("" for a run on one task)."""
        import pandas as pd

        path = self.results_dir / "runs" / run_id / "predictions.parquet"
        if not path.is_file():
            return {}
        frame = pd.read_parquet(path)
        frame["correct"] = frame["gold"] == frame["prediction"]
        if "golds" in frame:  # several choices are right; null for tasks without such choices
            several = frame[frame["golds"].notna()]
            pairs = zip(several["prediction"], several["golds"], strict=True)
            frame.loc[several.index, "correct"] = [prediction in golds for prediction, golds in pairs]
        columns = ["id", "correct", "source"]
        by_task = frame.groupby("task") if "task" in frame else [("", frame)]
        return {str(task): part.assign(source=_merged_sources(part))[columns] for task, part in by_task}


def _merged_sources(frame: pd.DataFrame) -> list[str]:
    """Return an id per example, equal for examples that a source or group connects."""
    names = [source_in(name) for name in frame["group" if "group" in frame else "id"]]
    if "source" in frame:
        names = [f"{name} {source}" for name, source in zip(names, frame["source"], strict=True)]
    return [str(component) for component in components(names)]
