"""Pretrain the tiny T5 on the generated world: `pretrain(settings, out)`, by `scripts/pretrain_micro.py`.

Muon for the weight matrices, AdamW for embeddings and norms, a higher learning rate for the position bias,
and a curriculum. Everything is drawn from the seed and the step, so that a resumed run computes the same as
an uninterrupted one.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5ForConditionalGeneration

from dp_bench.micro.evaluation import scores
from dp_bench.micro.examples import Pair, denoising, instructed, uninstructed
from dp_bench.micro.initial import Settings, build_model, build_tokenizer
from dp_bench.micro.muon import Muon
from dp_bench.micro.operations import LAST, OPERATIONS, Stage
from dp_bench.micro.scenes import Reach

CHUNK = 10  # batches drawn together, so that texts of similar length share a batch


def build_optimizers(model: T5ForConditionalGeneration, settings: Settings) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices and AdamW for all else, with a `factor` of the learning rate a group."""
    named = dict(model.named_parameters())
    bias = [p for name, p in named.items() if "relative_attention_bias" in name]
    rest = [p for p in named.values() if p.ndim != 2]
    others = {model.shared.weight, *bias, *rest}
    muon = Muon([p for p in named.values() if p not in others], lr=settings.lr)
    groups = [
        {"params": rest, "factor": 1.0},
        {"params": [model.shared.weight], "factor": settings.embedding_lr / settings.lr},
        {"params": bias, "factor": settings.bias_lr / settings.lr},
    ]
    return [muon, torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]


def learning_rate(settings: Settings, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, constant, linear decay."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    done = step / settings.steps
    fall = 1.0 if done < settings.decay_from else (1 - done) / (1 - settings.decay_from)
    return settings.lr * warm * max(settings.final_lr, fall)


CURRICULUM = (  # in a small world: last step, weights of operations, share without answer words
    (300, "say 1", 1.0),
    (800, "report 4 find 8 about 3 say 2 check 4 compare 4", 1.0),
    (1150, "pick 9 find 3", 1.0),
    (1450, "report 2 find 2 about 2 say 1 check 2 judge 6 pick 4 compare 1", 1.0),
    (2050, "report 1 find 1 say 1 check 1 judge 1 pick 2 compare 1 who 11", 1.0),
    (2350, "report 1 find 1 check 1 pick 2 compare 1 who 4 refer 9", 1.0),
    (2550, "report 5 find 4 about 3 say 3 check 5 judge 5 compare 4 pick 5 who 3 refer 3", 0.8),
    (3300, "report 5 find 4 about 3 say 3 check 5 judge 5 compare 4 pick 5 who 3 refer 3", 0.5),
)


def stage_at(step: int, settings: Settings) -> Stage:
    """Return the stage of a step: one operation after the other in a small world, which then grows.

    Answer words are learned first, then cues, then questions with bare outcomes, then all with answer words.
    Drawn together from the start, none is learned within the budget, and the harder operations (pick, who,
    refer) are learned only if most examples are theirs.
    """
    for until, mixture, bare in CURRICULUM:
        if step < until:
            reach = Reach(num_attributes=4, num_cues=3)
            return Stage(reach, (2, 5, 3, 0, 0), fillers=0.0, bare=bare, noise=0.0, mixture=mixture)
    grown = (step - CURRICULUM[-1][0]) / settings.growing_steps
    if grown >= 1:
        return LAST
    reach = Reach(num_attributes=4 + int(2.5 * grown), num_cues=3 + int(3.5 * grown))
    lengths = (2, 5, 3, 0, 0) if grown < 0.5 else (1, 3, 5, 0, 0)
    return Stage(reach, lengths, fillers=0.0, bare=0.3, noise=grown)


def draw_chunk(settings: Settings, index: int) -> list[list[Pair]]:
    """Draw the CHUNK batches that begin at step CHUNK * index."""
    rng = random.Random(f"pretraining/{settings.seed}/{index}")
    size = settings.batch_size
    stage = stage_at(CHUNK * index, settings)
    spans = [denoising(rng, stage) for _ in range(size * settings.denoising)]
    num_answers = size * CHUNK - len(spans)
    answers: list[Pair] = []
    while len(answers) < num_answers * settings.uninstructed_share * stage.noise:
        answers += uninstructed(rng, stage)
    answers += [instructed(rng, stage=stage) for _ in range(num_answers - len(answers))]
    batches = []
    for pairs in (spans, answers):
        pairs.sort(key=lambda pair: pair.source.count(" "))
        batches += [pairs[i : i + size] for i in range(0, len(pairs), size)]
    rng.shuffle(batches)
    return batches


def encode(tokenizer: PreTrainedTokenizerFast, pairs: list[Pair]) -> dict[str, Tensor]:
    """Tokenise a batch; an answer is one word, a denoising target ends with `</s>`."""
    source = tokenizer([pair.source for pair in pairs], padding=True, return_tensors="pt")
    target = tokenizer([pair.target for pair in pairs], padding=True, return_tensors="pt").input_ids
    if " " not in pairs[0].target:
        target = target[:, :1]
    return {
        "input_ids": source.input_ids,
        "attention_mask": source.attention_mask,
        "labels": target.masked_fill(target == 0, -100),
    }


class Pretraining:
    """A pretraining in progress: `step()` until all are done; `state()` and `load()` save and restore it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tokenizer = build_tokenizer()
        self.model = build_model(settings, len(self.tokenizer))
        self.optimizers = build_optimizers(self.model, settings)
        self.done_steps = 0
        self.losses: list[float] = []  # since the last line of the log
        self.log: list[dict[str, Any]] = []
        self.seconds = 0.0  # of processor time
        self.batches: list[dict[str, Tensor]] = []
        rng = random.Random("pretraining/held-out")  # independent of the training, the same for every seed
        number = settings.held_out
        self.held_out = {name: [instructed(rng, name) for _ in range(number)] for name in OPERATIONS}

    def step(self) -> float:
        """Make one update and return its loss."""
        began = time.process_time()
        chunk, index = divmod(self.done_steps, CHUNK)
        if index == 0 or not self.batches:
            self.batches = [encode(self.tokenizer, pairs) for pairs in draw_chunk(self.settings, chunk)]
        rate = learning_rate(self.settings, self.done_steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
            optimizer.zero_grad()
        loss_tensor = self.model(**self.batches[index]).loss
        loss_tensor.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.done_steps += 1
        loss: float = loss_tensor.item()
        self.losses.append(loss)
        self.seconds += time.process_time() - began
        if self.done_steps % self.settings.log_every == 0 or self.done_steps == self.settings.steps:
            self.write_log()
        return loss

    @torch.inference_mode()
    def write_log(self) -> None:
        """Append a line to the log: loss, and accuracies in 0..100 by arg-max over the vocabulary."""
        accuracy = {}
        for name, pairs in self.held_out.items():
            batch = encode(self.tokenizer, pairs)
            guess = self.model(**batch).logits[:, 0].argmax(-1)
            accuracy[name] = round(100 * (guess == batch["labels"][:, 0]).float().mean().item(), 1)
        loss = round(sum(self.losses) / len(self.losses), 4)
        seconds = round(self.seconds, 1)
        self.log.append({"step": self.done_steps, "seconds": seconds, "loss": loss, "accuracy": accuracy})
        self.losses.clear()

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint must hold."""
        return {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "done_steps": self.done_steps,
            "losses": self.losses,
            "log": self.log,
            "seconds": self.seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore a `state()`; raise ValueError if it has other settings."""
        if state["settings"] != asdict(self.settings):
            raise ValueError(
                f"the checkpoint is of another pretraining: {state['settings']}; delete it to start again"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.done_steps, self.losses, self.log = state["done_steps"], state["losses"], state["log"]
        self.seconds, self.batches = state["seconds"], []


def pretrain(
    settings: Settings, out: Path, *, on_step: Callable[[int, float], None] = lambda done, loss: None
) -> Pretraining:
    """Pretrain, or resume from `out`/checkpoint.pt, and write model, tokenizer and log to `out`.

    `on_step` gets the number of steps done and the loss of the last.
    """
    torch.set_flush_denormal(True)  # sharp attention gives denormal numbers, which are slow
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    pretraining = Pretraining(settings)
    if checkpoint.exists():
        pretraining.load(torch.load(checkpoint, weights_only=True))
    while pretraining.done_steps < settings.steps:
        loss = pretraining.step()
        on_step(pretraining.done_steps, loss)
        if pretraining.done_steps % settings.log_every == 0:
            partial = checkpoint.with_suffix(".partial")
            torch.save(pretraining.state(), partial)
            partial.replace(checkpoint)
    pretraining.model.save_pretrained(out)
    pretraining.tokenizer.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    head = {
        "settings": asdict(settings),
        "parameters": pretraining.model.num_parameters(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    pretraining.log[-1]["tasks"] = scores(out)
    lines = [json.dumps(line) + "\n" for line in (head, *pretraining.log)]
    (out / "pretraining.jsonl").write_text("".join(lines), encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    return pretraining
