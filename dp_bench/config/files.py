"""Find and read the YAML files below `configs/`, without Hydra."""

from __future__ import annotations

import os
import re
from fnmatch import filter as matching
from functools import cache
from pathlib import Path
from typing import Any

from dp_bench import reading
from dp_bench.progress import notice
from dp_bench.types import UserError

GROUPS = (
    *("task", "backbone", "prompt", "prompt/position", "prompt/length", "prompt/vectors", "prompt/layers"),
    *("prompt/route", "prompt/text", "prompt/adapters"),
    *("regime", "data", "trainer", "protocol", "hpo", "experiment"),
)
RENAMED = {"earn": "routing"}  # folders of experiments: the former name, the present one


def config_dir() -> Path:
    """Return the folder of the YAML files: $DP_BENCH_CONFIGS, the copy in the wheel, or the checkout's
    `configs/`. Raises UserError where none has a train.yaml."""
    package = Path(__file__).resolve().parent.parent
    chosen = _chosen()
    candidates = [Path(chosen).resolve()] if chosen else [package / "configs", package.parent / "configs"]
    for candidate in candidates:
        if (candidate / "train.yaml").is_file():
            return candidate
    raise UserError(
        f"No train.yaml in {' or '.join(map(str, candidates))}. Reinstall dp-bench, or set DP_BENCH_CONFIGS."
    )


def _chosen() -> str | None:
    return os.environ.get("DP_BENCH_CONFIGS")


def has_other_files(extra_dir: Path | None) -> bool:
    """Return whether configurations may come from other files than the shipped ones."""
    return extra_dir is not None or bool(_chosen())


@cache
def _options(group: str, folder: Path) -> tuple[str, ...]:
    root = folder / group
    inner = [folder / other for other in GROUPS if other.startswith(f"{group}/")]
    names = (
        path.relative_to(root).with_suffix("")
        for path in root.rglob("*.yaml")
        if not any(d in path.parents for d in inner)
    )
    return tuple(sorted(name.as_posix() for name in names if not name.name.startswith("_")))


def options(group: str, extra_dir: Path | None = None) -> tuple[str, ...]:
    """Return the names that `group=` accepts, from the shipped folder and the user's `--config-dir`."""
    folders = [config_dir(), *([extra_dir] if extra_dir else [])]
    return tuple(dict.fromkeys(name for folder in folders for name in _options(group, folder)))


def with_present_names(text: str, extra_dir: Path | None = None, *, typed: bool = False) -> str:
    """Return a text with the present names of the experiments in it; a user's file keeps a former one.

    Gives notice where what was `typed` is renamed.
    """

    def present(found: re.Match[str]) -> str:
        former, new = found[0], f"{RENAMED[found[1]]}/{found[2]}"
        known = options("experiment", extra_dir)
        return new if matching(known, new) and not matching(known, former) else former

    renamed = re.sub(rf"(?<![\w/.-])({'|'.join(RENAMED)})/([\w*?]+)", present, text)
    if typed and renamed != text:
        notice(f"experiment={text} is now {renamed}")
    return renamed


def describe(group: str, option: str, extra_dir: Path | None = None) -> str:
    """Return the sentence that opens the YAML file of an option, or "" without one."""
    lines = reading.text(option_path(group, option, extra_dir)).splitlines()
    sentences = (line for line in lines if line.startswith("#") and "@package" not in line)
    return next(sentences, "").lstrip("# ").strip()


def option_settings(group: str, option: str, extra_dir: Path | None = None) -> dict[str, Any]:
    """Return the settings of an option from its files: what Hydra would compose, but fast enough for lists.

    Reads defaults lists with `_self_`, `base`, `base@key` and `part: option`.
    """
    content = dict(option_file(group, option, extra_dir))
    defaults = content.pop("defaults", None) or []
    with reading.guarded(option_path(group, option, extra_dir), "Correct its defaults."):
        return _composed(group, defaults, content, extra_dir)


def _composed(
    group: str, defaults: list[Any], content: dict[str, Any], extra_dir: Path | None
) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for default in [*defaults, *([] if "_self_" in defaults else ["_self_"])]:
        if default == "_self_":
            settings = _merged(settings, content)
        elif isinstance(default, str):
            base, _, key = default.partition("@")
            found = option_settings(group, base, extra_dir)
            settings = _merged(settings, found if key in ("", "_here_") else {key: found})
        else:
            ((part, name),) = default.items()
            settings[part] = None if name is None else option_settings(f"{group}/{part}", name, extra_dir)
    return settings


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return two trees of settings as one; the second wins."""
    merged = dict(first)
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


@cache
def option_file(group: str, option: str, extra_dir: Path | None) -> dict[str, Any]:
    """Read the file of an option."""
    return reading.yaml_mapping(option_path(group, option, extra_dir))


def refuse_damaged(extra_dir: Path | None) -> None:
    """Raise UserError for the first file of a user that is no mapping in YAML."""
    if extra_dir is not None:
        for group in GROUPS:
            for name in _options(group, extra_dir):
                reading.yaml_mapping(extra_dir / group / f"{name}.yaml")


def option_path(group: str, option: str, extra_dir: Path | None) -> Path:
    """Return the path of an option; a user's file precedes a shipped one."""
    folders = [*([extra_dir] if extra_dir else []), config_dir()]
    paths = [folder / group / f"{option}.yaml" for folder in folders]
    return next((path for path in paths if path.is_file()), paths[-1])
