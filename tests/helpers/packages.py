"""Packages of others, as pip would leave them."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, module: str, code: str, group: str, entry: str) -> None:
    """Put a package of one module below `site`, with an entry point of that group that names `entry`."""
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(code, "utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[{group}]\nadded = {module}:{entry}\n", "utf-8")
