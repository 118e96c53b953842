"""Initial values of the vectors of a prompt.

Lester et al. (2021) sample them from the embeddings of frequent tokens. `first_vocab` is what the authors'
code calls "from vocabulary": rows 0, 1, 2 … of the table, that is `<pad>`, `</s>`, `<unk>` and the first
pieces (docs/protocol.md B11).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dp_bench import reading
from dp_bench.settings import Init
from dp_bench.types import Dims, UserError

Initialiser = Callable[[int], Tensor]  # number of vectors P -> [P,D], fp32

NUM_FREQUENT = 5000  # Lester et al. (2021), section 3.2; sentencepiece orders its pieces by frequency


def initialiser(
    kind: Init, dims: Dims, embedding_VD: Tensor | None, first_ids: Sequence[int] = ()
) -> Initialiser:
    """Return the function that draws initial vectors, from torch's global generator. `first_ids` are the
    tokens that `text` repeats and `label_words` begins with. Raises ValueError where the kind needs
    `embedding_VD` and it is None."""
    if kind in (Init.uniform, Init.saved):  # saved vectors are loaded once the prompt is built
        return lambda rows: torch.rand(rows, dims.width) - 0.5
    if embedding_VD is None:
        raise ValueError(
            f"prompt.init={kind.value} needs the backbone's embedding table; use prompt.init=uniform"
        )
    table_VD = embedding_VD[: dims.vocab_size].detach().float()
    frequent = torch.tensor([i for i in range(len(table_VD)) if i not in dims.special_ids])[:NUM_FREQUENT]
    first = torch.tensor(first_ids, dtype=torch.long)
    repeated = {Init.first_vocab: torch.arange(len(table_VD)), Init.frequent: frequent, Init.text: first}
    if kind in repeated:
        ids = repeated[kind]
        return lambda rows: table_VD[ids[torch.arange(rows) % len(ids)]].clone()

    def sample(rows: int) -> Tensor:
        # Without replacement as far as the vocabulary reaches: equal vectors would get equal gradients.
        order = torch.cat([torch.randperm(len(frequent)) for _ in range(-(-rows // len(frequent)))])
        return table_VD[frequent[order[:rows]].to(table_VD.device)].clone()

    if kind is Init.vocab:
        return sample

    def words_then_sample(rows: int) -> Tensor:
        words = table_VD[first[:rows]]
        return torch.cat([words, sample(rows)[len(words) :].to(words)])

    return words_then_sample


def load_saved(prompt: nn.Module, path: Path) -> None:
    """Load the prompt of a finished run; raises UserError for an unreadable file or other names or shapes."""
    saved = tensors_of_prompt(path, "Give another file as prompt.init_from.")
    if wrong := differences(saved, prompt.state_dict()):
        raise UserError(f"prompt.init_from: {path} holds another prompt than this one: {'; '.join(wrong)}.")
    prompt.load_state_dict(saved)


def tensors_of_prompt(path: Path, remedy: str) -> dict[str, Tensor]:
    """Return the prompt's tensors in the file of a finished run, without those of the backbone and heads."""
    others = ("backbone.", "verbalizers.")
    return {
        name: value for name, value in reading.tensors(path, remedy).items() if not name.startswith(others)
    }


def differences(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> list[str]:
    """Return a phrase for each tensor that is missing on either side or has another shape."""
    return [
        f"{name} is {_shape(there.get(name))} there and {_shape(here.get(name))} here"
        for name in sorted(there.keys() | here.keys())
        if _shape(there.get(name)) != _shape(here.get(name))
    ]


def _shape(value: Tensor | None) -> str:
    return "absent" if value is None else "x".join(map(str, value.shape))
