"""What is wrong with overrides."""

from __future__ import annotations

from typing import Any

import pytest

from dp_bench import config
from dp_bench.types import UserError


def problems(*overrides: str, **options: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        config.check(overrides, **options)
    lines = str(caught.value).splitlines()
    return [line.removeprefix("  - ") for line in lines]
