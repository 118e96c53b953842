"""Suggestions ('Did you mean …') for mistyped words."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

_UPDATES = "trainer.max_steps=N, counted in updates of trainer.batch_size examples"
# Names of our settings in other tools and papers.
SYNONYMS = {
    "soft_token_num": "prompt.num_tokens",  # OpenPrompt and the authors' code
    "num_virtual_tokens": "prompt.num_tokens",  # peft
    "prompt_length": "prompt.num_tokens",  # google-research/prompt-tuning
    "pre_seq_len": "prompt.num_tokens",  # P-tuning v2
    "prefix_length": "prompt.num_tokens",
    "learning_rate": "trainer.lr",
    "prompt_lr": "trainer.lr",
    "steps": "trainer.max_steps",
    "max_train_steps": "trainer.max_steps",
    "epoch": _UPDATES,
    "epochs": _UPDATES,
    "num_epochs": _UPDATES,
    "max_epochs": _UPDATES,
    "num_train_epochs": _UPDATES,
    "seeds": "seed=0,1,2",
    "lr": "trainer.lr",
    "batch_size": "trainer.batch_size",
    "wandb": "logger=wandb",
    "tensorboard": "logger=tensorboard",
    "mlflow": "logger=mlflow",
    "trackio": "logger=trackio",
    "gradient_accumulation_steps": "trainer.micro_batch_size",
    "warmup": "trainer.warmup_steps",
    "shot": "regime",
    "model": "backbone",
    "plm": "backbone",
    "model_name_or_path": "backbone.name_or_path",
    "dataset": "task",
    "data_dir": "data.dir",
    "method": "prompt",
    "tau": "trainer.temperature.start",
    "aneal": "trainer.temperature.anneal",
    "output_dir": "results_dir",
}


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return "Did you mean …? " with the nearest known words, or "" if none is near."""
    near = get_close_matches(word, known, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(near)}? " if near else ""


def suggest_key(key: str, known: Sequence[str]) -> str:
    """Return a sentence with the setting that `key` was probably meant to be."""
    last = key.rsplit(".", 1)[-1]
    if last in SYNONYMS:
        return f"Did you mean {SYNONYMS[last]}?"
    names = {setting.rsplit(".", 1)[-1]: setting for setting in reversed(known)}
    meant = (
        [setting for setting in known if setting.rsplit(".", 1)[-1] == last][:3]
        or get_close_matches(key, known, n=2, cutoff=0.7)
        or [names[near] for near in get_close_matches(last, names, n=2, cutoff=0.7)]
    )
    if meant:
        return f"Did you mean {' or '.join(meant)}?"
    return "`dp-bench train --cfg job` prints every setting."
