"""Finished runs that somebody has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def tampered(directory: Path, **values: Any) -> None:
    path = directory / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")
