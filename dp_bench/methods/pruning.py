"""Remove the least important parts of a trained prompt, measured on the training rows (XPrompt).

It is done before the first update of a run, so that its checkpoints have the state that every run has. The
order of rows and what is drawn do not depend on anything but the seed: a resumed run removes the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dp_bench import lockstep
from dp_bench.data.batches import evaluation_batches
from dp_bench.evaluation import Asked, Split
from dp_bench.model import PromptedModel
from dp_bench.objective import losses_of
from dp_bench.prompts.pruned import Pruned


def prune(model: PromptedModel, train: Sequence[Split], batch_size: int, seed: int) -> None:
    """Remove vectors, measure the rest anew, remove pieces, and rewind."""
    vectors = model.prompt.vectors
    assert isinstance(vectors, Pruned)
    with lockstep.alone():  # gradients are taken without the trainer
        tokens_P, _ = importance(model, train, batch_size, seed)
        vectors.remove(tokens_P.repeat_interleave(vectors.pieces), vectors.num_kept * vectors.pieces)
        _, pieces_Q = importance(model, train, batch_size, seed)
    vectors.remove(pieces_Q, len(vectors.pieces_NX))
    vectors.rewind()


def importance(
    model: PromptedModel, train: Sequence[Split], batch_size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the mean size, over training rows, of the derivative of the loss by the gate of each vector [P]
    and of each piece [Q], in fp64. All tasks' rows count alike."""
    vectors = model.prompt.vectors
    assert isinstance(vectors, Pruned)
    device, pad_id = model.backbone.device, int(model.backbone.tokenizer.pad_token_id)
    size = vectors.num_tokens * vectors.pieces
    tokens_P = torch.zeros(vectors.num_tokens, dtype=torch.float64)
    pieces_Q = torch.zeros(size, dtype=torch.float64)
    model.eval()
    for split in train:
        noise = Asked(model, split, seed).noise()
        for rows in evaluation_batches(split.encoded.lengths, batch_size):
            vectors.gates.clear()
            batch = split.batch(rows, pad_id, noise).to(device)
            loss = losses_of(model(batch).logits_BC, batch).sum()
            (gates_BQ,) = vectors.gates
            (grad_BQ,) = torch.autograd.grad(loss, gates_BQ)  # of each row by its gates alone
            grad_BQ = grad_BQ.double().cpu()
            tokens_P += grad_BQ.view(len(grad_BQ), vectors.num_tokens, -1).sum(2).abs().sum(0)
            pieces_Q += grad_BQ.abs().sum(0)
    number = sum(map(len, train))
    return tokens_P / number, pieces_Q / number
