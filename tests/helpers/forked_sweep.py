"""`python -m helpers.forked_sweep WORDS`: a sweep whose workers are forked, with torch imported."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

from dp_bench import cli
from dp_bench.sweep import workers
from helpers.processes import Forked


def main() -> None:
    """Run the sweep; its workers are processes of their own, as in any sweep."""
    workers.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": Forked})  # type: ignore[attr-defined]
    cli.main(["sweep", *sys.argv[1:]])


if __name__ == "__main__":
    main()
