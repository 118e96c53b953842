"""Check that every tensor that a run reads is in the checkpoint. transformers initialises missing ones at
random, so that each run would have another model under the same name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from dp_bench.settings import Head
from dp_bench.types import UserError

NAMED = 4  # tensors named in a message


def refuse_mismatched(model: Any, loaded: Mapping[str, Any], where: str, head: Head) -> None:
    """Raise UserError where a checkpoint lacks tensors that a run reads, has them in another shape, or has
    more layers than its configuration. `loaded` is the loading report of transformers."""
    unread = _unread(model, head)
    shapes = sorted(entry for entry in loaded["mismatched_keys"] if entry[0] not in unread)
    if shapes:
        shown = [
            f"{name} is {_by(saved)} there and {_by(built)} by config.json" for name, saved, built in shapes
        ]
        raise UserError(
            f"The weights of {where} do not fit its configuration ({_counted(shapes)}): "
            f"{_some(shown, '; ')}. Use the config.json that belongs to the weights."
        )
    missing = sorted(set(loaded["missing_keys"]) - unread)
    unexpected = set(loaded["unexpected_keys"])
    if missing:
        prefix = _wrapped_in(model, missing, unexpected)
        raise UserError(
            f"{where} lacks weights that this run reads ({_counted(missing)}): {_some(missing)}. "
            + (
                f"The names in the file begin with '{prefix}', which a wrapper around the model added: save "
                f"it again without: {{name.removeprefix('{prefix}'): tensor for name, tensor in …}}."
                if prefix
                else "They would be random. Use a checkpoint that has them, or the config.json that belongs "
                "to the weights."
            )
        )
    further = _further_layers(model, unexpected)
    if further:
        raise UserError(
            f"{where} has weights of layers that its config.json leaves out ({_counted(further)}): "
            f"{_some(further)}. Use the config.json that belongs to the weights."
        )
    # Unread missing tensors are random too: zeros give every process the same fingerprint.
    with torch.no_grad():
        for name in unread.intersection(loaded["missing_keys"]):
            model.get_parameter(name).zero_()


def _unread(model: Any, head: Head) -> set[str]:
    """Return the tensors that no forward pass reads: those of a pooler and, with a classifier head, of the
    language-model head, unless tied to the embedding."""
    modules = [getattr(model, "pooler", None)]
    if head is Head.classifier:
        modules.append(model.get_output_embeddings())
    unread = {id(p) for module in modules if module is not None for p in module.parameters()}
    unread.discard(id(model.get_input_embeddings().weight))
    return {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in unread}


def _wrapped_in(model: Any, missing: Sequence[str], unexpected: set[str]) -> str:
    """Return the prefix of most missing tensors in the file, or "". Tied tensors may be absent from a file,
    and the prefix of the base model from its names."""
    base = f"{model.base_model_prefix}."
    votes = Counter(
        saved.removesuffix(end)
        for name in missing
        for end in {name, name.removeprefix(base)}
        for saved in unexpected
        if saved.endswith(f".{end}")
    )
    prefix, number = min(votes.items(), key=lambda vote: (-vote[1], len(vote[0])), default=("", 0))
    return prefix if 2 * number > len(missing) else ""


def _further_layers(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Return the tensors of a file that differ from those of the model only in the number of a layer."""
    base = f"{model.base_model_prefix}."

    def kind(name: str) -> str:
        return re.sub(r"\d+", "#", name.removeprefix(base))

    known = {kind(name) for name in model.state_dict()}
    return sorted(name for name in unexpected if "#" in kind(name) and kind(name) in known)


def _counted(items: Sequence[object]) -> str:
    return f"{len(items)} tensor{'s' if len(items) > 1 else ''}"


def _some(names: Sequence[str], separator: str = ", ") -> str:
    return separator.join([*names[:NAMED], *(["…"] if len(names) > NAMED else [])])


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
