"""The files of a checkpoint: which are read, and which are empty, truncated, or Git LFS pointers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dp_bench import reading
from dp_bench.types import UserError

POINTER = b"version https://git-lfs"
READ = (".safetensors", ".bin", ".json", ".model", ".txt")  # files that transformers may read
TEXTS = ("*.json", "*.txt", "*.model", "*.codes", "tokenizer*", "vocab*")  # all but weights, on the hub
WEIGHTS = {  # on the hub, the first format that there is; each also in several files with an index
    "model.safetensors": ("model.safetensors", "model-*-of-*.safetensors"),
    "pytorch_model.bin": ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
}


def has_vocabulary(folder: Path) -> bool:
    """Return whether a folder has files of a tokenizer."""
    return any(any(folder.glob(pattern)) for pattern in ("tokenizer*", "vocab*", "*.model"))


def has_weights(folder: Path) -> bool:
    """Return whether a folder has the configuration of a model and all files of its weights."""
    names = (_parts(folder / name) for name in WEIGHTS)
    return (folder / "config.json").is_file() and any(
        parts and all((folder / part).is_file() for part in parts) for parts in names
    )


def _parts(weights: Path) -> set[str]:
    """Return the names of the files that hold some weights: those in an index, if there is one."""
    index = weights.with_name(f"{weights.name}.index.json")
    if weights.is_file() or not index.is_file():
        return {weights.name}
    remedy = "Fetch it again."
    content = reading.json_object(index, remedy)
    with reading.guarded(index, remedy):
        return {str(name) for name in content["weight_map"].values()}


def damage(folder: Path) -> str:
    """Return what is wrong with files in a folder, as a sentence without its full stop, or ""."""
    return "; ".join(
        f"{path.name} {wrong}"
        for path in sorted(folder.iterdir())
        if path.suffix in READ and path.is_file() and (wrong := _wrong_with(path))
    )


def quantisation(folder: Path) -> str:
    """Return the method by which the weights in a folder are quantised, as its config.json says, or ""."""
    try:
        found = reading.json_object(folder / "config.json").get("quantization_config")
    except UserError:
        return ""
    method = found.get("quant_method") if isinstance(found, dict) else None
    return "" if found is None else str(method or "by an unknown method")[:40]


def refuse_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Raise UserError unless a folder has the vocabulary of a tokenizer: a tokenizer.json, or all of the
    older files. Without them transformers uses an empty vocabulary. ByT5 needs none."""
    if not tokenizer.vocab_files_names:
        return
    older = [name for name in tokenizer.vocab_files_names.values() if name != "tokenizer.json"]
    whole = folder / "tokenizer.json"
    read = [whole] if whole.is_file() else [folder / name for name in older]
    absent = [path.name for path in read if not path.is_file()]
    if absent or not read:
        raise UserError(
            f"{folder} holds no tokenizer: a tokenizer.json{' or ' if older else ''}"
            f"{' with '.join(older)} is expected there. Copy it there, or set "
            "backbone.tokenizer to a folder that has it."
        )
    for path in read:
        if wrong := _wrong_with(path):
            raise UserError(f"{folder} holds no tokenizer that can be read: {path.name} {wrong}.")


def _wrong_with(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(len(POINTER))
        if not head:
            return "is empty"
        if head == POINTER:
            return "is a Git LFS pointer and not the file itself: run `git lfs pull` in that folder"
        if path.suffix != ".safetensors":
            return ""
        header = int.from_bytes(head[:8], "little")
        file.seek(8)
        if 8 + header > size:
            return f"is cut short, or no safetensors file: it has {size} bytes"
        try:
            entries = json.loads(file.read(header))
            ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
            whole = 8 + header + max(ends, default=0)
        except reading.DAMAGE:
            return "is no safetensors file: its header cannot be read"
    return "" if size == whole else f"is cut short: it has {size} of {whole} bytes"
