"""Packages of others, as pip would leave them."""

from __future__ import annotations

from pathlib import Path

OTHER_PACKAGE = Path(__file__).parents[1] / "fixtures" / "other_package"


def install(site: Path, module: str, code: str, entry_points: str) -> None:
    """Put a package of one module below `site`, with entry points as in its entry_points.txt."""
    describe(site, module, entry_points)
    (site / f"{module}.py").write_text(code, "utf-8")


def describe(site: Path, module: str, entry_points: str) -> None:
    """Write what pip records of a package whose module is below `site`."""
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(entry_points, "utf-8")
