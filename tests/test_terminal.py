"""What commands print stands on a terminal as it is: brackets, colons and all."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dp_bench.commands.status import status
from dp_bench.progress import Reporter
from dp_bench.records import write_status
from dp_bench.sweep.estimate import Costs
from dp_bench.sweep.grid import grid
from dp_bench.sweep.plan import Plan, Run, State
from dp_bench.sweep.watch import Watch
from dp_bench.terminal import make_console

LABELS = {
    state.value: {"task": "rte", "prompt": "fixed", "seed": str(number), "regime.tasks": "[cb,rte]"}
    for number, state in enumerate(State)
}
LABELS["one"] = {"task": "rte", "prompt": "fixed", "seed": "9", "regime.tasks": "[red]"}


def shown(console: Console) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def screen(**options: object) -> Console:
    return Console(file=StringIO(), width=160, force_terminal=True, color_system="standard", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("markup", [True, False])
def test_a_grid_has_colours_and_no_tags_however_it_is_printed(markup: bool) -> None:
    console = screen()
    states = {name: State.done if name == "one" else State(name) for name in LABELS}
    console.print(grid(LABELS, states), markup=markup)
    text = shown(console)
    assert "[cyan]" not in text and "[/]" not in text and "\x1b[36m1r" in text, "cyan for what is running"
    assert "regime.tasks=[cb,rte]" in text and "regime.tasks=[red]" in text


def test_the_live_grid_of_a_sweep_has_no_tags() -> None:
    runs = tuple(Run(name, (), labels, {}, name) for name, labels in LABELS.items())
    plan = Plan("[all]", Path(), runs)
    console = screen()
    watch = Watch(plan, (), dict.fromkeys(LABELS, State.running), Costs([]), 1, console)
    with watch.live:
        watch.begun(runs[0])
        watch.progress(runs[0], "step [3/9] :warning:")
        watch._shown = -9.0
        watch.tick()
        console.print("a line [above] it :warning:", markup=False, emoji=False)
    text = shown(console)
    assert "[cyan]" not in text and "[cb,rte]" in text and "step [3/9]" in text and "[all]" in text


def test_lines_and_paths_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console(file=StringIO(), width=200)
    said = "results/[red]x[/red] :warning: [link=a]"
    with Reporter(console) as reporter:
        reporter.line(said)
    console.print(said)
    assert shown(console).count(said) == 2
    folder = tmp_path / "[bold]"
    write_status(folder / "runs" / "a", "failed", traceback="ValueError: [red] :warning:")
    assert status(folder, None) == 0
    assert "failed: a: ValueError: [red] :warning:" in capsys.readouterr().out


def test_a_closed_pipe_is_left_to_the_command_line() -> None:
    class Closed(StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        make_console(file=Closed()).print("x")
