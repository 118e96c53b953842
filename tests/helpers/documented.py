"""The commands that the documentation shows, and how each is run in a test: shortened where it would be long.

A command is a line of a block of `sh`, or a line of another block that begins with `$ `. A block that begins
with `# NAME.py` is a file that the page tells the reader to save.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from conftest import FIXTURES

from dp_bench import config

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MICRO = ["backbone=t5_micro", "data=micro", "trainer=micro"]
DATA = ("data=micro", "data.dir=", "--from")
SHORT = ["trainer.max_steps=4", "trainer.eval_every=4", "trainer.batch_size=4"]
BUILT_IN = str(ROOT / "dp_bench" / "micro" / "backbone")
# What is typed beside dp-bench, and needs a cluster, a network, another process or a person.
SHELL = {"echo", "printf", "head"}  # run as they are
OTHERS = {"git", "cd", ".", "pip", "hf", "sbatch", "torchrun", "source", "eval", "pre-commit"}
OPERATORS = {"&&", "||", "|", ";", "&"}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the language and the text of each block of code."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def files(page: Path) -> dict[str, str]:
    """Return the files that a page tells the reader to save, by name."""
    found = (re.match(r"# (\S+\.py)\n", text) for _, text in blocks(page))
    return {match[1]: match.string for match in found if match}


def lines(page: Path) -> Iterator[str]:
    """Yield what a page tells the reader to type, a line each."""
    for language, text in blocks(page):
        joined = text.replace("\\\n", " ")
        if language == "sh" and not text.startswith("#!"):  # tests/test_slurm.py tests the script
            yield from joined.splitlines()
        elif language in ("", "console", "text"):
            yield from re.findall(r"^\$ (.+)$", joined, flags=re.MULTILINE)


def commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line, without comments and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="<>|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in OPERATORS:
            if words:
                yield words
            words = []
        elif words and words[-1] in "<>":
            words.pop()
        else:
            words.append(word)


def shortened(words: list[str]) -> list[str]:
    """Return the words after `dp-bench` as a test types them; raise KeyError for a command without a rule."""
    return RULES[words[0]](words)


def _as_it_is(words: list[str]) -> list[str]:
    return words


def _with_runs(*more: str, runs: tuple[str, ...] = ("dynamic", "fixed")) -> Callable[[list[str]], list[str]]:
    """Return a rule that puts finished runs in place of RUN or of A and B, and adds words."""

    def rule(words: list[str]) -> list[str]:
        names = {"RUN": runs[0], "A": runs[0], "B": runs[-1]}
        return [*(names.get(word, word) for word in words), *more]

    return rule


def _settings(words: list[str]) -> list[str]:
    """Put folders that exist in place of DIR, and the tests' rows in place of the hub's."""
    words = [
        word.replace("name_or_path=DIR", f"name_or_path={BUILT_IN}").replace("=DIR", f"={FIXTURES}")
        for word in words
    ]
    has_data = any(word.startswith((*DATA, "experiment=micro/")) for word in words)
    return words if has_data else [*words, f"data.dir={FIXTURES}"]


def _train(words: list[str]) -> list[str]:
    """Train on the micro benchmark, a few updates; of everything else check the configuration."""
    if {"-m", "--multirun"} & {*words}:
        return _sweep(["sweep", *(word for word in words[1:] if word not in ("-m", "--multirun"))])
    if "--help" in words or "--cfg" in words:
        return words
    words = _settings(words)
    if "backbone=t5_micro" in words:
        limit = ["data.limit=40"] if "data=micro" in words else []
        limit += ["regime.reptile_updates=2"] if "regime=reptile" in words else []
        return [*(word for word in words if not word.startswith("trainer.max_steps=")), *SHORT, *limit]
    return [*words, *SHORT] if "--from" in words else [*words, "--cfg", "job"]


def _sweep(words: list[str]) -> list[str]:
    """Run a seed of a sweep of the reader's rows; of every other print the plan, for a part of it."""
    words = [word for word in _settings(words) if word not in ("--detach", "--dry-run")]
    typed = {word.split("=")[0] for word in words}
    is_real = "--config-dir" in words
    axes = {"seed": "0", "task": "rte", "prompt": "dynamic"}
    for index, word in enumerate(words):
        key, _, values = word.partition("=")
        if key in axes and not (is_real and key == "prompt"):
            assert key == "seed" or is_real or {*values.split(",")} <= {*config.options(key)}, word
            words[index] = word.split(",")[0]
    for name in [word.partition("=")[2] for word in words if word.startswith("experiment=")]:
        swept = {param.split("=")[0] for param in config.Composer().sweep_params(name)} - typed
        words += [f"{key}={value}" for key, value in axes.items() if key in swept]
    if not is_real:
        return [*words, "--dry-run"]
    return [*(word for word in words if not word.startswith("trainer.max_steps=")), *SHORT]


def _records(words: list[str]) -> list[str]:
    """Put the finished runs and their experiment in place of others, which exist."""
    after = dict(pairwise(words))
    name, folder = after.get("--experiment"), after.get("--results-dir", "results")
    assert name is None or name in config.options("experiment"), name
    assert folder == "results" or (ROOT / folder / "records.parquet").is_file(), folder
    return [{name: "micro/position", folder: "results"}.get(word, word) for word in words]


def _inspect(words: list[str]) -> list[str]:
    more = ("--draws", "2", "--examples", "4") if "--gradients" in words else ()
    return _with_runs(*more)(words)


def _export(words: list[str]) -> list[str]:
    is_peft = "peft" in words  # which has no learned position
    renamed = _with_runs(runs=("fixed",) if is_peft else ("dynamic",))(words)
    return [word.replace("DIR", "exported") for word in renamed]


def _check(words: list[str]) -> list[str]:
    return [*words[:2], "--dir", str(FIXTURES)] if words[1:2] == ["check"] else words


RULES: dict[str, Callable[[list[str]], list[str]]] = {
    "train": _train,
    "sweep": _sweep,
    "status": lambda words: _records(words)[:1],  # of an experiment: the ids of all its runs
    "tables": _records,
    "plot": _records,
    "compare": _with_runs(),
    "nearest": _with_runs(runs=("fixed",)),
    "reproduce": _with_runs(),
    "predict": _with_runs(),
    "inspect": _inspect,
    "export": _export,
    "pack": _as_it_is,
    "list": _as_it_is,
    "data": _check,
    "new": _as_it_is,
    "doctor": _as_it_is,
    "completion": _as_it_is,
}
