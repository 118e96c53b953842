"""The metrics of `dp_bench.data.metrics` as a module of the `evaluate` library; `DIRECTORY` is what it loads.

evaluate.load(DIRECTORY, "multirc") needs no network. That call alone imports the `evaluate` library, which
takes seconds.
"""

from pathlib import Path

DIRECTORY = str(Path(__file__).parent)
