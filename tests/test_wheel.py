"""The wheel brings its configurations along: it works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dp_bench import config

REPOSITORY = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    subprocess.run([*PIP, "wheel", "--no-deps", *isolation, "-w", folder, REPOSITORY], check=True)
    (wheel,) = folder.glob("dp_bench-*.whl")
    subprocess.run([*PIP, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def installed(site: Path, code: str) -> list[str]:
    """Run Python with the wheel before the checkout, in another folder; return the lines it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=site.parent,
        env={"PYTHONPATH": str(site), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_wheel_lists_every_prompt_from_its_own_files(site: Path) -> None:
    lines = installed(site, "from dp_bench.cli import main; main(['list', 'prompts'])")
    assert [line.split("\t")[0] for line in lines] == list(config.options("prompt"))
    assert installed(site, "from dp_bench import config; print(config.config_dir())") == [
        str(site / "dp_bench" / "configs")
    ]


@pytest.mark.slow
def test_the_wheel_holds_every_configuration_of_the_checkout(site: Path) -> None:
    def names(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")}

    assert names(site / "dp_bench" / "configs") == names(REPOSITORY / "configs")


@pytest.mark.slow
def test_the_wheel_knows_no_commit(site: Path) -> None:
    assert installed(site, "from dp_bench import records; print(records.git_state())") == ["None"]


@pytest.mark.slow
def test_the_wheel_composes_and_checks(site: Path) -> None:
    code = "from dp_bench import config; config.check(['task=rte', 'prompt=adap_pos', 'protocol=authors'])"
    assert installed(site, code) == []


@pytest.mark.slow
def test_the_wheel_brings_its_evaluate_module_along(site: Path) -> None:
    """`evaluate.load` takes a folder with a script of its name; test_metrics.py loads it."""
    (folder,) = installed(site, "from dp_bench.evaluate_superglue import DIRECTORY; print(DIRECTORY)")
    assert folder == str(site / "dp_bench" / "evaluate_superglue")
    assert (Path(folder) / f"{Path(folder).name}.py").is_file()
