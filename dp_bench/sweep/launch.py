"""Run many runs through a launcher of Hydra: joblib, or submitit on this machine or on Slurm.

A job that is requeued goes on from its checkpoint, because it is the same run.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dp_bench.claims import BusyError
from dp_bench.config import jobs
from dp_bench.sweep.plan import Run
from dp_bench.types import UserError

POLL_SECONDS = 10.0


def launch(
    runs: Sequence[Run], hydra_words: Sequence[str], results_dir: Path, extra_dir: Path | None
) -> list[str]:
    """Hand the runs to the launcher that `hydra_words` choose, wait for all of them, and return what was said
    of those that could not be run; what became of the others is on the disk."""
    return jobs.launch([run.words for run in runs], job, hydra_words, results_dir, extra_dir)


def job(cfg: Any) -> str | None:
    """Run one configuration wherever the launcher has brought it; return what is wrong with it, if it is.

    A run that another live process is at is waited for. After a requeue that may be the job's own former
    self, whose claim counts until its heartbeat is missed.
    """
    from dp_bench.run import run

    while True:
        try:
            run(jobs.build_in_job(cfg))
        except BusyError:
            time.sleep(POLL_SECONDS)
            continue
        except UserError as error:
            return str(error)
        except Exception:
            traceback.print_exc()  # status.json has it too
        return None
