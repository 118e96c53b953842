"""Run many runs through a launcher of Hydra: joblib, or submitit on this machine or on Slurm.

Hydra's own sweeper is left out: what is to be run is planned already. A job that is requeued goes on from
its checkpoint, because it is the same run.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from dp_bench import config
from dp_bench.claims import BusyError
from dp_bench.sweep.plan import Run
from dp_bench.types import UserError

POLL_SECONDS = 10.0


def launch(
    runs: Sequence[Run], hydra_words: Sequence[str], results_dir: Path, extra_dir: Path | None
) -> list[str]:
    """Hand the runs to the launcher that `hydra_words` choose, wait for all of them, and return what was said
    of those that could not be run; what became of the others is on the disk."""
    config.register_schema()
    GlobalHydra.instance().clear()
    folder = str(config.config_dir())
    try:
        hydra = Hydra.create_main_hydra2("dp-bench", create_config_search_path(folder))
        search = [f"hydra.searchpath=[file://{extra_dir.resolve()}]"] if extra_dir else []
        master = hydra.compose_config(
            "train",
            [*search, *hydra_words, f"hydra.sweep.dir={results_dir}/multirun"],
            run_mode=RunMode.MULTIRUN,
            with_log_configuration=False,
        )
        HydraConfig.instance().set_config(master)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(master))
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=job, config=master
        )
        returned = launcher.launch([list(run.words) for run in runs], initial_job_idx=0)
    except config.COMPOSE_ERRORS as error:
        raise UserError(config.explain(error)) from None
    finally:
        GlobalHydra.instance().clear()
    return [str(found.return_value) for found in returned if found.return_value]


def job(cfg: DictConfig) -> str | None:
    """Run one configuration wherever the launcher has brought it; return what is wrong with it, if it is.

    A run that another live process is at is waited for. After a requeue that may be the job's own former
    self, whose claim counts until its heartbeat is missed.
    """
    from dp_bench.run import run

    config.register_schema()
    while True:
        try:
            run(config.build(cfg))
        except BusyError:
            time.sleep(POLL_SECONDS)
            continue
        except UserError as error:
            return str(error)
        except Exception:
            traceback.print_exc()  # status.json has it too
        return None
