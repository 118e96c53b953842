"""Tab completion, as a function and in a real bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dp_bench import cli
from dp_bench.commands.completion import SCRIPTS, complete


def possible(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    complete(words, cli.COMMANDS)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("words", "among"),
    [
        (["st"], "status"),
        (["train", "ta"], "task="),
        (["train", "task=b"], "task=boolq"),
        (["sweep", "task=rte,c"], "task=rte,copa"),
        (["train", "prompt/position=r"], "prompt/position=ridge"),
        (["train", "trainer.temp"], "trainer.temperature.start="),
        (["train", "prompt=dynamic", "prompt.vectors."], "prompt.vectors.num_prompts="),
        (["sweep", "experiment=micro/p"], "experiment=micro/position"),
        (["tables", "--form"], "--format"),
        (["tables", "--experiment", "micro/p"], "micro/position"),
        (["list", "pro"], "prompts"),
        (["new", "ta"], "task"),
    ],
)
def test_a_word_is_completed(capsys: pytest.CaptureFixture[str], words: list[str], among: str) -> None:
    found = possible(capsys, *words)
    assert among in found
    assert all(word.startswith(words[-1]) for word in found)


@pytest.mark.parametrize("words", [["train", "nonsense=x"], ["nonsense", ""], ["train", "task=zz"], []])
def test_what_cannot_be_completed_is_no_error(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    found = possible(capsys, *words)
    assert found == [] or words == []


def test_options_of_a_folder_and_runs_are_completed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mood.yaml").write_text("name: mood\n")
    assert possible(capsys, "train", "--config-dir", str(tmp_path), "task=mo") == ["task=mood"]
    run = tmp_path / "runs" / "boolq-of-mine"
    run.mkdir(parents=True)
    (run / "record.json").write_text("{}")
    assert possible(capsys, "inspect", "--results-dir", str(tmp_path), "bo") == ["boolq-of-mine"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("dp-bench train task=bo", "boolq"),
        ("dp-bench sta", "status"),
        ("dp-bench train task=rte,bo", "rte,boolq"),
    ],
)
def test_bash_replaces_what_stands_behind_the_last_sign(line: str, reply: str) -> None:
    script = (
        f'{SCRIPTS["bash"]}\ndp-bench() {{ {sys.executable} -m dp_bench "$@"; }}\n'
        f'COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; _dp_bench; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [reply]


@pytest.mark.parametrize("shell", [shell for shell in SCRIPTS if shutil.which(shell)])
def test_shells_accept_their_script(shell: str) -> None:
    checked = subprocess.run([shell, "-n"], input=SCRIPTS[shell], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
