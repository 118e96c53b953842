"""The work of a run: examples, tokens and FLOPs of training and evaluation.

The rows of every update are a function of seed and step (data/batches.py), so that the work is counted after
training, of a resumed run as of another, and the loop that trains does nothing for it. FLOPs are those of
the matrix products and the attention of one micro-batch of each task, with texts of mean length, scaled by
the numbers of tokens that all batches had, padding and prompt included. Cached summaries are not in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch.utils import flop_counter

from dp_bench import lockstep, ranks
from dp_bench.costs import EVALUATION, TRAINING
from dp_bench.data.batches import Rows, evaluation_batches, micro_batches
from dp_bench.evaluation import Asked, Split
from dp_bench.progress import notice
from dp_bench.randomness import fork
from dp_bench.trainer import Trainer

Shape = tuple[int, ...]


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(flop_counter.sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    count = flop_counter.sdpa_backward_flop_count
    return int(count(grad, query, key, value))  # type: ignore[no-untyped-call]


CPU_ATTENTION = {  # torch has formulas for the kernels of GPUs alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
Work = dict[str, dict[str, float]]  # RunRecord.work


@dataclass
class Seen:
    """What batches had: examples, tokens of their texts, and by task also padding and prompt."""

    num_tokens: int  # of the prompt
    examples: int = 0
    tokens: int = 0
    positions: Counter[int] = field(default_factory=Counter)

    def add(self, task: int, length_B: Rows, times: int = 1) -> None:
        """Count a batch with texts of these lengths."""
        self.examples += times * len(length_B)
        self.tokens += times * int(length_B.sum())
        self.positions[task] += times * _positions(length_B, self.num_tokens)


def _positions(length_B: Rows, num_tokens: int) -> int:
    return len(length_B) * (int(length_B.max()) + num_tokens)


def work_of(trainer: Trainer, reported: Sequence[Split], num_controls: int) -> Work:
    """Return the work of a run whose training has ended; {} on ranks that need not count it.

    `reported` was evaluated once and once for each control. Trained tensors are afterwards as before.
    """
    if not ranks.leads() and not trainer.bare_model.backbone.is_sharded:
        return {}
    trained, evaluated = _trained(trainer), _evaluated(trainer, reported, num_controls)
    work = {TRAINING: _counts(trained), EVALUATION: _counts(evaluated)}
    trainer_settings, compiled = trainer.plan.trainer, bool(trainer.plan.trainer.compile)
    splits = {split.number: split for split in (*reported, *trainer.select_splits)}
    micro = trainer.micro_batch_size(trainer_settings.batch_size)
    try:
        with lockstep.alone(), fork(trainer.plan.noise_seed, "flops"):
            train = _flops(trained, dict(enumerate(trainer.train_splits)), micro, trainer.pass_once, compiled)
            eval_size = trainer_settings.eval_batch_size
            evaluate = _flops(evaluated, splits, eval_size, partial(_evaluate, trainer), compiled)
    except Exception as error:  # an operation that torch cannot count is no reason to lose a trained run
        notice(f"the FLOPs of this run cannot be counted ({type(error).__name__}: {error})")
    else:
        work[TRAINING]["flops"], work[EVALUATION]["flops"] = train, evaluate
    for parameter in trainer.parameters:
        parameter.grad = None
    trainer.bare_model.load_trained(trainer.best)
    return {phase: counts for phase, counts in work.items() if counts["examples"]}


def _counts(seen: Seen) -> dict[str, float]:
    return {"examples": seen.examples, "tokens": seen.tokens}


def _trained(trainer: Trainer) -> Seen:
    """Return what the updates of a run had seen."""
    seen = Seen(trainer.prompt.vectors.num_tokens)
    lengths = [split.encoded.lengths for split in trainer.train_splits]
    for update in islice(trainer.rows_of_updates(0), trainer.progress.step) if trainer.progress.step else ():
        for task, _, rows in micro_batches(update, trainer.micro_batch_size(sum(map(len, update)))):
            seen.add(task, lengths[task][rows])
    return seen


def _evaluated(trainer: Trainer, reported: Sequence[Split], num_controls: int) -> Seen:
    """Return what the evaluations of a run had seen."""
    seen = Seen(trainer.prompt.vectors.num_tokens)
    passes = [(split, len(trainer.progress.history)) for split in trainer.select_splits]
    for split, times in (*passes, *((split, 1 + num_controls) for split in reported)):
        for rows in evaluation_batches(split.encoded.lengths, trainer.plan.trainer.eval_batch_size):
            seen.add(split.number, split.encoded.lengths[rows], times)
    return seen


def _flops(
    seen: Seen, splits: Mapping[int, Split], size: int, run: Callable[[Split, Rows], object], compiled: bool
) -> float:
    """Return the FLOPs of all batches seen, by `run` with one batch of `size` rows of each task."""
    total = 0.0
    for task, positions in sorted(seen.positions.items()):
        length_M = splits[task].encoded.lengths
        rows = _typical(length_M, size)
        with _counting(compiled) as counter:
            run(splits[task], rows)
        total += counter.get_total_flops() * positions / _positions(length_M[rows], seen.num_tokens)
    return total


def _typical(length_M: Rows, size: int) -> Rows:
    """Return `size` rows, or all, whose lengths are next to the mean."""
    order = np.argsort(length_M, kind="stable")
    centre = int(np.searchsorted(length_M[order], length_M.mean()))
    first = min(max(0, centre - size // 2), max(0, len(order) - size))
    return order[first : first + size]


@contextmanager
def _counting(compiled: bool) -> Iterator[flop_counter.FlopCounterMode]:
    """Count the FLOPs of a block, in which nothing is compiled."""
    with ExitStack() as stack:
        if compiled:  # torch cannot see into compiled code
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        counter = flop_counter.FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
        # torch's tracker of modules breaks where a trained tensor is the input of one; totals need none.
        counter.mod_tracker = _NoModules()  # type: ignore[assignment]
        yield stack.enter_context(counter)


class _NoModules(nullcontext[None]):
    parents = frozenset({"Global"})  # where totals are


@torch.inference_mode()
def _evaluate(trainer: Trainer, split: Split, rows: Rows) -> None:
    model, plan = trainer.bare_model, trainer.plan
    model.eval()
    noise = Asked(model, split, plan.noise_seed, plan.sample_at_eval).noise()
    model(split.batch(rows, model.backbone.tokenizer.pad_token_id, noise).to(model.backbone.device))
