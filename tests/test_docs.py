"""The documentation: generated pages are current, and every command that it shows runs."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import documented
from helpers.documented import ROOT
from helpers.processes import Forked

from dp_bench import cli
from dp_bench.sweep import workers

GENERATOR = runpy.run_path(str(ROOT / "scripts" / "docs.py"))
WITH_COMMANDS = [page for page in documented.PAGES if any(documented.lines(page))]
# What the commands of a page leave; the others are checked by their exit code alone.
LEFT = {
    "after-training.md": (
        *("compare.md", "run.html", "adapter/adapter_model.safetensors", "folder/README.md"),
        "results/reproduced/runs",
    ),
    "tutorial.md": ("mine/task/mood.yaml",),
}
done: set[tuple[str, ...]] = set()  # commands that need no second run: their page makes no files


@pytest.mark.parametrize("name", GENERATOR["PAGES"])
def test_generated_pages_are_current(name: str) -> None:
    written, current = (ROOT / "docs" / name).read_text("utf-8"), GENERATOR["PAGES"][name]()
    assert written.split() == current.split(), (
        f"docs/{name}: run python scripts/docs.py"
    )  # as any width has it


def test_every_setting_has_a_meaning() -> None:
    rows = re.findall(r"^\| `(.+?)` \|.*\| (.*?) \|$", GENERATOR["settings_page"](), flags=re.MULTILINE)
    assert len(rows) > 120
    assert [key for key, meaning in rows if not meaning] == []


@pytest.mark.parametrize(
    ("kind", "pages"), [("prompts", ("prompts.md", "later-methods.md")), ("tasks", ("tasks.md",))]
)
def test_every_option_is_described_with_its_count(
    kind: str, pages: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "".join((ROOT / "docs" / page).read_text("utf-8") for page in pages)
    assert run("list", kind) == 0
    listed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(listed) > 8
    assert [name for name, _ in listed if f"`{name}`" not in text] == []
    counts = [count for _, about in listed for count in re.findall(r"([\d,]+) on T5-base", about)]
    assert [count for count in counts if count not in text] == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with finished runs, a record for `predict`, and rows of a reader."""
    folder = tmp_path_factory.mktemp("documented")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DP_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "dp-bench-cache"))
        words = ["experiment=micro/position", "task=boolq", "prompt=fixed,dynamic", "seed=0", "data.limit=40"]
        assert run("train", "-m", *words, *documented.SHORT) == 0
        words = ["task=rte", "prompt=postfix", "regime.transfer=[boolq]", *documented.MICRO, "data.limit=40"]
        assert run("train", *words, *documented.SHORT) == 0
    (folder / "records.jsonl").write_text('{"question": "is it big", "passage": "hugo saw the tower ."}\n')
    for name in ("train", "val"):
        (folder / "mood").mkdir(exist_ok=True)
        (folder / "mood" / f"{name}.csv").write_text("text,label\na gift,happy\na tear,sad\n")
    yield folder


def run(*words: str) -> int:
    """Run a command of dp-bench in this process, and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    return int(stop.value.code or 0)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_runs(
    page: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished, tmp_path / "here")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["dp-bench"])
    monkeypatch.setattr(workers, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Forked}))
    for name, text in documented.files(page).items():
        Path(name).write_text(text, "utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    with Path("records.jsonl").open() as records:  # where `--input -` reads
        monkeypatch.setattr(sys, "stdin", records)
        for line in documented.lines(page):
            for program, *words in documented.commands(line):
                if program == "dp-bench":
                    check(page, words)
                elif program in documented.SHELL:
                    subprocess.run(line, shell=True, check=True, capture_output=True)
                elif program == "make":
                    assert {word for word in words if "=" not in word} <= targets, line
                elif program == "python" and Path(words[0]).is_file():
                    subprocess.run([sys.executable, *words], check=True)
                elif program == "python":
                    assert (ROOT / words[0]).is_file(), line
                else:
                    assert program in documented.OTHERS, f"{page.name}: no test runs `{line}`"
    assert [name for name in LEFT.get(page.name, ()) if not Path(name).exists()] == []


def check(page: Path, words: list[str]) -> None:
    """Run one command, shortened, where it has not been run for another page."""
    assert words[0] in documented.RULES, (
        f"{page.name}: tests/helpers/documented.py has no rule for {words[0]}"
    )
    typed = documented.shortened(words)
    assert not re.search(r"\b(DIR|RUN|FILE|NAME|KEY)\b", " ".join(typed)), (
        f"{page.name}: what is meant by {typed}?"
    )
    if tuple(typed) not in done:
        assert run(*typed) == 0, f"{page.name}: dp-bench {' '.join(words)}\nas dp-bench {' '.join(typed)}"
        if page.name not in LEFT:
            done.add(tuple(typed))


def test_a_command_without_a_rule_is_found() -> None:
    lines = ["dp-bench train task=rte \\\n  seed=0 # why", "dp-bench frob && dp-bench list tasks > out.txt"]
    commands = [words for line in lines for words in documented.commands(line.replace("\\\n", " "))]
    assert [words[1] for words in commands] == ["train", "frob", "list"]
    assert commands[0][-1] == "seed=0"
    assert commands[2][-1] == "tasks"
    with pytest.raises(KeyError):
        documented.shortened(commands[1][1:])
