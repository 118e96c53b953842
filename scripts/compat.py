"""Run tests on the lowest versions that pyproject.toml allows, and on the newest that can be had here.

    python scripts/compat.py [lowest] [newest] [--all] [--folder DIR]

Each set of versions gets an environment below DIR (default: ~/.cache/dp-bench/compat), which is kept.
torch comes as the package index has it: on PyPI a CUDA build of several GB, which runs on a CPU as well.
Where a set
cannot be had, that is said and the other one is tried. Without --all: QUICK, a part of the tests.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUICK = tuple(
    f"tests/test_{name}.py"
    for name in (
        "identity",
        "records",
        "checkpoints",
        "run",
        "families",
        "families_prompt",
        "config",
        "stats",
    )
)
TOOLS = ("ruff", "mypy", "pandas-stubs", "types-")  # no test needs them
SHOWN = ("torch", "transformers", "huggingface-hub", "tokenizers", "datasets", "numpy", "pandas", "pyarrow")


def requirements() -> list[str]:
    """Return what dp-bench and its tests require, as pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return [requirement for requirement in wanted if not requirement.startswith(TOOLS)]


def untrue(wanted: list[str], resolved: list[str]) -> list[str]:
    """Return the requirements whose lower bound is below what the others allow: bounds that cannot be had."""
    versions = dict(line.split("==") for line in resolved if "==" in line)
    found = []
    for requirement in wanted:
        name, bound = re.match(r"([\w-]+)(?:>=([\d.]+))?", requirement).groups()  # type: ignore[union-attr]
        version = versions.get(name.lower())
        if bound and version and _numbers(version)[: len(_numbers(bound))] != _numbers(bound):
            found.append(f"{requirement} (the lowest that fits the others: {version})")
    return found


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.split("+", maxsplit=1)[0])]


def environment(kind: str, folder: Path) -> Path | None:
    """Return the Python of an environment, made now unless it is there; None where it cannot be had."""
    python = folder / kind / "bin" / "python"
    if (folder / f"{kind}.txt").is_file():
        return python
    folder.mkdir(parents=True, exist_ok=True)
    asked = folder / f"{kind}.in"
    asked.write_text("\n".join(requirements()) + "\n", encoding="utf-8")
    options = ["-r", str(asked)]
    if kind == "lowest":
        resolved = _lowest(asked)
        if resolved is None:
            return None
        for bound in untrue(requirements(), resolved):
            print(f"lowest: pyproject.toml promises {bound}")
        asked.write_text("\n".join(resolved) + "\n", encoding="utf-8")
        options = ["--no-deps", *options]
    for command in (
        [sys.executable, "-m", "venv", str(folder / kind)],
        [str(python), "-m", "pip", "install", "--quiet", *options],
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-e", str(ROOT)],
    ):
        if not _done(kind, command):
            return None
    listed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    (folder / f"{kind}.txt").write_text(listed.stdout, encoding="utf-8")
    return python


def _lowest(asked: Path) -> list[str] | None:
    """Return the lowest versions of what is asked for, and the newest of what these require, as uv finds."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    options = ["--resolution", "lowest-direct", "--python-version", python, str(asked)]
    found = subprocess.run([*uv, *options], capture_output=True, text=True, check=False)
    if found.returncode:
        print(f"lowest: not to be had here: {_end(found.stderr)}")
        return None
    return found.stdout.split()


def _done(kind: str, command: list[str]) -> bool:
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        print(f"{kind}: not to be had here: {_end(found.stderr)}")
    return found.returncode == 0


def _end(text: str) -> str:
    return " ".join(text.split())[-400:] or "no reason given"


def main() -> None:
    """Try each set of versions; end with 1 where tests failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="lowest|newest", help="which versions (default: both)")
    parser.add_argument("--all", action="store_true", help="all tests")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "dp-bench" / "compat")
    options = parser.parse_args()
    failed = []
    for kind in options.kinds or ("lowest", "newest"):
        python = environment(kind, options.folder)
        if python is None:
            continue
        versions = (options.folder / f"{kind}.txt").read_text(encoding="utf-8").splitlines()
        print(f"{kind}: {', '.join(v for v in versions if v.split('==')[0] in SHOWN)}", flush=True)
        tests = ["tests"] if options.all else [*QUICK]
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(kind)
    print(f"failed on: {', '.join(failed)}" if failed else "what could be had passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
