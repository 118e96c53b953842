"""Weights in llama.cpp's GGUF: de-quantised once, by transformers, into a folder of the cache."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from dp_bench import faults
from dp_bench.backbones.checkpoint import gguf_path
from dp_bench.data.cache import cached_folder
from dp_bench.digests import file_sha256
from dp_bench.progress import line
from dp_bench.settings import BackboneSettings
from dp_bench.types import UserError

CODE_VERSION = 1  # raise it when the same file is written differently


def dequantised(settings: BackboneSettings, cache: Path) -> BackboneSettings:
    """Return settings that name a folder of safetensors in fp32 where they named a GGUF file.

    The folder is named by the sha256 of the file and verified at each use. Raises UserError where the file is
    missing or damaged, or where the package `gguf` is not installed.
    """
    path = gguf_path(settings)
    if path is None:
        return settings
    if not path.is_file():
        raise UserError(f"backbone.gguf_file={settings.gguf_file}: there is no file {path}.")
    digest = file_sha256(path, cache / "digests")
    folder = cached_folder(cache / "gguf" / f"{digest[:32]}-{CODE_VERSION}", lambda new: _convert(path, new))
    return replace(settings, name_or_path=str(folder), gguf_file=None)


def _convert(path: Path, folder: Path) -> None:
    """Write the weights and the tokenizer of a GGUF file as transformers saves them."""
    if find_spec("gguf") is None:
        raise UserError(
            "Files in GGUF are read with the package gguf, which is not installed: pip install gguf."
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    line(f"De-quantising {path.name} into the cache; this takes a minute, once.")
    try:
        with _bars_on_a_terminal():
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
    except Exception as error:  # a damaged file may raise anything
        if faults.of_machine(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"{path} cannot be read as a GGUF model: {reason}.") from error
    model.hf_quantizer = None  # its weights are no longer quantised, and may be saved
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _bars_on_a_terminal() -> AbstractContextManager[object]:
    """Drop what is written to stderr unless that is a terminal: the progress bars do not ask."""
    return nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO())
