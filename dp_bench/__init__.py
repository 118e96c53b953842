"""dp-bench: compare prompt-tuning methods on SuperGLUE, from one command, and believe the answer."""

from __future__ import annotations

__version__ = "0.1.0"
