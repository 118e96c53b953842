"""Show the progress of a sweep: a live grid on a terminal, one plain line a run elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dp_bench import records
from dp_bench.sweep.estimate import Costs, total
from dp_bench.sweep.grid import counts, grid
from dp_bench.sweep.plan import Outcome, Plan, Run, State

REFRESH_SECONDS = 1.0


def duration(seconds: float) -> str:
    """Return "40 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def duration_of(runs: Sequence[Run], costs: Costs, jobs: int = 1) -> tuple[float | None, int]:
    """Return the seconds that runs will take, estimated from finished ones, and how many have no estimate."""
    seconds, unknown = total([costs.seconds(run) for run in runs])
    return None if seconds is None else seconds / jobs, unknown


class Watch:
    """Print the progress of the runs `todo` of a plan: lines, and below them `live` on a terminal."""

    def __init__(
        self,
        plan: Plan,
        todo: Sequence[Run],
        states: Mapping[str, State],
        costs: Costs,
        jobs: int,
        console: Console,
    ) -> None:
        self.plan, self.costs, self.jobs, self.console = plan, costs, jobs, console
        self.states = dict(states)
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self._running: dict[str, tuple[str, float]] = {}  # progress and start, by id
        self._left = {run.run_id: run for run in todo}
        self._total, self._waits = len(todo), False
        self._shown = 0.0

    def begun(self, run: Run) -> None:
        self.states[run.run_id] = State.running
        self._running[run.run_id] = ("starting", time.monotonic())

    def in_queue(self, run: Run, state: State, text: str) -> None:
        """Take notice of a run in Slurm's queue, which may begin, be requeued and begin again."""
        if state is not State.running:
            self.states[run.run_id] = state
            self._running.pop(run.run_id, None)
            return
        if run.run_id not in self._running:
            self.begun(run)
        self.progress(run, text)

    def progress(self, run: Run, text: str) -> None:
        self._running[run.run_id] = (text, self._running[run.run_id][1])

    def ended(self, outcome: Outcome) -> None:
        run_id = outcome.run_id
        self._running.pop(run_id, None)
        self._left.pop(run_id, None)
        done = outcome.kind in ("done", "elsewhere")
        self.states[run_id] = State.done if done else State.failed
        text, warnings = outcome.message, list[str]()
        if done and (record := records.load(self.plan.results_dir / "runs" / run_id)):
            self.costs.add(record)
            warnings = record.warnings  # the worker's log of them is removed by now
            elsewhere = "in another sweep, " if outcome.kind == "elsewhere" else ""
            text = f"score {record.score:.2f}, {elsewhere}{duration(record.total_seconds)}"
        number = self._total - len(self._left)
        self.console.print(
            f"[{number:>{len(str(self._total))}}/{self._total}] {'' if done else 'FAILED '}{run_id}: "
            f"{text.splitlines()[0]}{self._eta()}",
            markup=False,
        )
        for warning in warnings:
            self.console.print(f"  warning: {warning}", markup=False)

    def waiting(self, runs: Sequence[Run]) -> None:
        if not self._waits:
            self._waits = True
            self.console.print(f"waiting for {len(runs)} runs of another sweep", markup=False)

    def tick(self) -> None:
        if self.console.is_terminal and time.monotonic() - self._shown > REFRESH_SECONDS:
            self._shown = time.monotonic()
            self.live.update(self._picture(), refresh=True)

    def _eta(self) -> str:
        """Return "; about 12 min left", less what the current runs have taken, or "" without an estimate."""
        seconds, _ = duration_of(list(self._left.values()), self.costs)
        if not self._left or seconds is None:
            return ""
        elapsed = sum(time.monotonic() - began for _, began in self._running.values())
        return f"; about {duration(max(1.0, (seconds - elapsed) / self.jobs))} left"

    def _picture(self) -> Group:
        labels = {run.run_id: run.labels for run in self.plan.runs}
        states = [self.states[run_id] for run_id in labels]
        lines = [Text(f"  {run_id}  {text}", style="cyan") for run_id, (text, _) in self._running.items()]
        title = Text(f"{self.plan.name}: {counts(states)}{self._eta()}")
        return Group(title, grid(labels, self.states), *lines)
