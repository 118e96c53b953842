"""What is measured, each behind one interface: dp-bench, peft, fine-tuning, and the authors' step.

The product trains as it does in a run: batches sorted by length, cached summaries, logits of the label words
alone. Peers train as their documentation shows: batches in random order, padded to the longest text, logits
of the whole vocabulary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .models import T5, Setup

NUM_TOKENS, PADDED = 20, 480
FIXED, MAIN = "dp-bench fixed", "dp-bench adap_ins_vec_pos"  # fixed, and instance-level vectors and position
AUTHORS, PROMPT_TUNING = "authors' step", "peft PromptTuning"
Texts = list[list[int]]


@dataclass(frozen=True)
class System:
    """Updates with, or answers to, the texts at given places."""

    train: Callable[[Any], None]
    evaluate: Callable[[Any], None]
    order: Callable[[Any], Any]  # the batches that it makes of a turn's
    vectors: int  # of its prompt, which pass through the model with each text
    weights: int  # that a token meets in matrices
    answers: Callable[[], Any] = lambda: None  # logits of all texts
    pass_once: Callable[[int], None] = lambda number: None  # so many texts forward and backward, at once


def build(system: str, texts: Texts, setup: Setup) -> System:
    """Build a system by its name: "dp-bench PROMPT" is the product."""
    if system.startswith("dp-bench "):
        return product([f"prompt={system.removeprefix('dp-bench ')}"], texts, setup)
    return authors(texts, setup) if system == AUTHORS else peer(system, texts, setup)


def product(
    overrides: list[str], texts: Texts, setup: Setup, *, model: Any = None, num_tasks: int = 1
) -> System:
    """dp-bench as it trains; `model` is the frozen one where that has been built before."""
    import datasets
    import numpy as np
    import torch

    from dp_bench import config
    from dp_bench.backbones.load import default_attention
    from dp_bench.data.encoded import EncodedSplit
    from dp_bench.evaluation import Split, predict
    from dp_bench.machine import make_accelerator
    from dp_bench.model import PromptedModel
    from dp_bench.optim import TrainPlan
    from dp_bench.progress import Reporter
    from dp_bench.prompts.prompt import build
    from dp_bench.summaries import cached_summaries
    from dp_bench.trainer import Trainer
    from dp_bench.verbalizer import make_verbalizer

    kind = setup.kind
    usual = [*kind.words, "data.dir=.", "trainer.micro_batch_size=null"]
    usual += [f"trainer.batch_size={kind.batch}", f"prompt.num_tokens={NUM_TOKENS}"]
    experiment = config.build(config.compose([*usual, *overrides]))
    (task,), settings = experiment.tasks, experiment.settings
    attention = default_attention(setup.device, setup.dtype)
    model = model or kind.make(setup, attention, for_peer=False)
    backbone = kind.backbone(model, settings).to(setup.device)
    before, behind = kind.around
    columns = {
        "input_ids": texts,
        "body_start": [before] * len(texts),
        "body_end": [len(ids) - behind for ids in texts],
        "label": [i % 2 for i in range(len(texts))],
        "skill": [-1] * len(texts),
    }
    dataset = datasets.Dataset.from_dict(columns)
    encoded = EncodedSplit(dataset, "texts", np.arange(len(texts)), kind.answer_offset)
    dims = replace(backbone.dims, num_tasks=num_tasks)
    order, seed, summary = settings.protocol.split_order, settings.seed_of("init"), settings.prompt.summary
    prompt = build(settings.prompt, order, seed, dims, backbone.embedding_VD)
    scratch = Path(tempfile.mkdtemp())
    cached = None
    if prompt.needs_summary:
        cached = cached_summaries(
            backbone, encoded, summary, pad_to=None, batch_size=32, cache_dir=scratch, weights="random"
        )
    splits = [Split("train", task, encoded, cached, number, number) for number in range(num_tasks)]
    head = settings.backbone.head
    verbalizers = [make_verbalizer(task, backbone, head, seed) for _ in range(num_tasks)]
    prompted = PromptedModel(backbone, prompt, verbalizers, order=order, summary=summary).to(setup.device)
    trainer = Trainer(
        prompted,
        train=splits,
        select=splits,
        plan=TrainPlan(settings, backbone.embedding_rms),
        directory=scratch,
        accelerator=make_accelerator(torch.device(setup.device)),
        reporter=Reporter(),
    )
    batch = settings.trainer.batch_size

    def train(places: Any) -> None:
        """Make an update; several tasks share the batch."""
        trainer._update(tuple(np.array_split(places, num_tasks)), 0)

    def evaluate(places: Any) -> None:
        predict(prompted, replace(splits[0], encoded=encoded.select(places)), batch_size=batch, seed=0)

    def answers() -> Any:
        return predict(prompted, splits[0], batch_size=batch, seed=0).logits_MC

    def pass_once(number: int) -> None:
        trainer.pass_once(splits[0], np.arange(number))

    vectors, weights = settings.prompt.num_tokens, kind.weights(model)
    return System(train, evaluate, lambda batches: batches, vectors, weights, answers, pass_once)


def peer(system: str, texts: Texts, setup: Setup) -> System:
    """A method of peft, or fine-tuning."""
    import torch

    kind = setup.kind
    model = kind.make(setup)
    weights = kind.weights(model)
    if system == "fine-tuning":
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5)
    else:
        model = _adapted(system, model, kind.task_type).to(setup.device)
        optimizer = _adafactor([p for p in model.parameters() if p.requires_grad])

    def train(places: Any) -> None:
        model.train()
        inputs = kind.inputs(*_padded(texts, places, None, setup.device), training=True)
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.inference_mode()
    def evaluate(places: Any) -> None:
        logits(places).argmax(-1).cpu()

    def logits(places: Any) -> Any:
        model.eval()
        ids, mask, label = _padded(texts, places, None, setup.device)
        return kind.answers(model(**kind.inputs(ids, mask, label, training=False)).logits, mask)

    @torch.inference_mode()
    def answers() -> Any:
        return logits(range(len(texts))).float().cpu().numpy()

    with_prompt = NUM_TOKENS if system in (PROMPT_TUNING, "peft P-tuning") else 0
    return System(train, evaluate, lambda all: _shuffled(all, kind.batch), with_prompt, weights, answers)


def _adapted(system: str, model: Any, task_type: str) -> Any:
    """Return a model with the prompt or the adapters of peft."""
    import peft

    prompt = {"task_type": task_type, "num_virtual_tokens": NUM_TOKENS}
    if system == PROMPT_TUNING:
        return peft.get_peft_model(model, peft.PromptTuningConfig(**prompt))
    if system == "peft P-tuning":
        return peft.get_peft_model(model, peft.PromptEncoderConfig(**prompt, encoder_hidden_size=128))
    if system == "peft LoRA":
        where = {"task_type": task_type, "target_modules": ["q", "v"]}  # of a T5
        return peft.get_peft_model(model, peft.LoraConfig(r=8, **where))
    assert system == "peft PrefixTuning", system
    heads = {"num_attention_heads": model.config.num_heads, "num_layers": model.config.num_layers}
    width = 64 * model.config.num_heads  # for which it would take d_model
    return peft.get_peft_model(model, peft.PrefixTuningConfig(**prompt, **heads, token_dim=width))


def authors(texts: Texts, setup: Setup) -> System:
    """The authors' step for instance-level vectors and positions, written from the description in
    docs/protocol.md: 480 padded positions, a second frozen pass with the decoder in every step, each of the
    l + 1 layouts built for each example in a loop, and the logits of the whole vocabulary."""
    import torch
    from torch import nn

    kind, device = setup.kind, setup.device
    model = kind.make(setup, "eager").requires_grad_(False)
    width, num_pool = model.config.d_model, 4
    pool = nn.Parameter(torch.rand(num_pool, NUM_TOKENS, width, device=device) - 0.5)
    mix = nn.Linear(width, num_pool).to(device)
    head = nn.Linear(width, NUM_TOKENS + 1).to(device)
    parameters = [pool, *mix.parameters(), *head.parameters()]
    optimizer = _adafactor(parameters)
    answer = torch.tensor([*T5.decoder_ids, 1], device=device)

    def logits(places: Any) -> tuple[Any, Any]:
        ids, mask, label = _padded(texts, places, PADDED, device)
        decoder_ids = answer.expand(len(ids), -1)
        with torch.no_grad():
            frozen = model(
                input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids, output_hidden_states=True
            )
        pooled = frozen.encoder_last_hidden_state.float().mean(dim=1)
        vectors = torch.einsum("bk,kld->bld", mix(pooled).softmax(-1), pool).to(setup.dtype)
        choice = nn.functional.gumbel_softmax(head(pooled).relu(), tau=1.0, hard=True)
        embeds = model.get_input_embeddings()(ids)
        rows, masks = [], []
        for row in range(len(ids)):
            end = int(mask[row].sum()) - 1
            ones = torch.ones(NUM_TOKENS, dtype=mask.dtype, device=device)
            row_sum: Any = 0
            mask_sum: Any = 0
            for j in range(NUM_TOKENS + 1):
                before, behind = vectors[row, j:], vectors[row, :j]
                layout = torch.cat([before, embeds[row, :end], behind, embeds[row, end:]])
                real = torch.cat([ones[j:], mask[row, :end], ones[:j], mask[row, end:]])
                row_sum = row_sum + choice[row, j].to(setup.dtype) * layout
                mask_sum = mask_sum + choice[row, j].detach() * real
            rows.append(row_sum)
            masks.append(mask_sum.long())
        output = model(
            inputs_embeds=torch.stack(rows), attention_mask=torch.stack(masks), decoder_input_ids=decoder_ids
        )
        return kind.answers(output.logits[:, 1:], mask).float(), label

    def train(places: Any) -> None:
        model.train()  # as theirs: dropout is on in the frozen model
        found, label = logits(places)
        nn.functional.cross_entropy(found, label).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def evaluate(places: Any) -> None:
        model.eval()
        logits(places)[0].detach().argmax(-1).cpu()  # with a graph, as theirs: no torch.no_grad there

    weights = kind.weights(model)
    return System(train, evaluate, lambda all: _shuffled(all, kind.batch)[:1], NUM_TOKENS, weights)


def _shuffled(batches: list[Any], size: int) -> Any:
    """Batch the same texts at random, as every peer does."""
    import numpy as np

    places = np.concatenate(batches)
    return np.random.default_rng(int(places[0])).permutation(places).reshape(-1, size)


def _adafactor(parameters: list[Any]) -> Any:
    from transformers.optimization import Adafactor

    return Adafactor(parameters, lr=0.3, relative_step=False, scale_parameter=False, warmup_init=False)


def _padded(texts: Texts, places: Any, width: int | None, device: str) -> tuple[Any, Any, Any]:
    """Return ids, mask and labels, padded to the longest or to `width`."""
    import torch

    chosen = [texts[int(place)] for place in places]
    width = width or max(map(len, chosen))
    ids = torch.zeros(len(chosen), width, dtype=torch.long)
    mask = torch.zeros(len(chosen), width, dtype=torch.long)
    for row, tokens in enumerate(chosen):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    label = torch.tensor([int(place) % 2 for place in places])
    return ids.to(device), mask.to(device), label.to(device)
