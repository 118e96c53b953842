"""Compose, check and build configurations: the only package that imports Hydra and OmegaConf.

Hydra picks the files and fills the values; all code after `build` gets typed settings. Nothing here imports
torch.
"""

from dp_bench.config.build import Experiment, build, experiment, plain, reopen, reseeded, with_transfer
from dp_bench.config.check import check
from dp_bench.config.composer import Combinations, Composer, compose
from dp_bench.config.files import (
    GROUPS,
    config_dir,
    describe,
    option_path,
    option_settings,
    options,
    with_present_names,
)
from dp_bench.config.overrides import is_of_hydra, renew
from dp_bench.config.words import Said, merged, words_of

__all__ = [
    "GROUPS",
    "Combinations",
    "Composer",
    "Experiment",
    "Said",
    "build",
    "check",
    "compose",
    "config_dir",
    "describe",
    "experiment",
    "is_of_hydra",
    "merged",
    "option_path",
    "option_settings",
    "options",
    "plain",
    "renew",
    "reopen",
    "reseeded",
    "with_present_names",
    "with_transfer",
    "words_of",
]
