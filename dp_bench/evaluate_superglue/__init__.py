"""The metrics of `dp_bench.data.metrics` as a module of the `evaluate` library, in the folder DIRECTORY.

`evaluate.load(DIRECTORY, "multirc")` needs no network; `evaluate` itself takes seconds to import.
"""

from pathlib import Path

DIRECTORY = str(Path(__file__).parent)
