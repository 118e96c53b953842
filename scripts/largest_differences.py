"""A pytest plugin that measures what docs/verification.md says: how far numbers are from those of an oracle.

    PYTHONPATH=scripts DIFFERENCES=found.json python -m pytest -p largest_differences tests/test_oracles.py

Measures what torch.testing.assert_close, numpy.testing.assert_allclose and pytest.approx compare. The file
has, for each test, the largest absolute difference, and that over the largest expected value.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

found: dict[str, dict[str, float]] = {}
running = [""]


def note(actual: Any, expected: Any) -> None:
    """Measure a pair of numbers or arrays, or what a list or mapping of them holds."""
    if isinstance(expected, dict):
        for key in expected:
            note(actual[key], expected[key])
        return
    if isinstance(expected, list | tuple):
        for one, other in zip(actual, expected, strict=False):
            note(one, other)
        return
    one, other = (_array(value) for value in (actual, expected))
    if one is None or other is None or one.shape != other.shape or not one.size:
        return
    finite = np.isfinite(one) & np.isfinite(other)
    if not finite.any():
        return
    largest = float(np.abs(one - other)[finite].max())
    size = float(np.abs(other)[finite].max()) or 1.0
    own = found.setdefault(running[0], {"absolute": 0.0, "relative": 0.0, "comparisons": 0})
    own["absolute"] = max(own["absolute"], largest)
    own["relative"] = max(own["relative"], largest / size)
    own["comparisons"] += 1


def _array(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return None


def measured(compare: Callable[..., Any]) -> Callable[..., Any]:
    def call(actual: Any, expected: Any, *others: Any, **options: Any) -> Any:
        note(actual, expected)
        return compare(actual, expected, *others, **options)

    return call


def measured_equality(compare: Callable[..., Any]) -> Callable[..., Any]:
    def equal(self: Any, actual: Any) -> Any:
        is_equal = compare(self, actual)
        if is_equal:
            note(actual, self.expected)
        return is_equal

    return equal


torch.testing.assert_close = measured(torch.testing.assert_close)
np.testing.assert_allclose = measured(np.testing.assert_allclose)
for _example in (1.0, [1.0], {"a": 1.0}, np.ones(1)):
    _kind: Any = type(pytest.approx(_example))
    _kind.__eq__ = measured_equality(_kind.__eq__)


def pytest_runtest_setup(item: pytest.Item) -> None:
    running[0] = item.nodeid


def pytest_sessionfinish() -> None:
    Path(os.environ["DIFFERENCES"]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
