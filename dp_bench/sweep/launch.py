"""A job of a sweep that runs through a launcher of Hydra: joblib, or submitit on this machine or on Slurm.

A requeued job resumes from its checkpoint, because it is the same run.
"""

from __future__ import annotations

import signal
import time
import traceback
from typing import Any

from dp_bench.claims import BusyError
from dp_bench.config import jobs
from dp_bench.signals import Preempted
from dp_bench.types import UserError

POLL_SECONDS = 10.0


def job(cfg: Any) -> str | None:
    """Run one configuration in the process of a launcher; return why it was refused, or None.

    A signal that announces the end is raised again once the run has left its checkpoint, so that the launcher
    requeues the job. Where the launcher ignores it, the run goes on.

    Waits while another live process runs it. After a requeue that may be this job before it was requeued,
    whose claim is valid until it is stale.
    """
    from dp_bench.run import run

    while True:
        try:
            run(jobs.build_in_job(cfg))
        except BusyError:
            time.sleep(POLL_SECONDS)
            continue
        except Preempted as stop:
            signal.raise_signal(stop.number)
            continue
        except UserError as error:
            return str(error)
        except Exception:
            traceback.print_exc()  # status.json has it too
        return None
