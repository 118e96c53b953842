"""The prompts of the paper against its formulas, written down here a second time with loops and in float64.

`authors`: what the published code computes (openprompt/prompts/soft_*.py), layout by layout. `clean`: what
the paper says. Neither shares a line with the package but the stock T5 below both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_batch
from helpers.prompts import build_prompt
from helpers.trainers import make_trainer
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from dp_bench.backbones.backbone import Backbone
from dp_bench.config import Experiment
from dp_bench.data.fewshot import sampled
from dp_bench.evaluation import predict
from dp_bench.model import PromptedModel
from dp_bench.prompts.estimators import gumbel
from dp_bench.run import run
from dp_bench.settings import Head
from dp_bench.types import Batch, Example
from dp_bench.verbalizer import make_verbalizer

Build = Callable[..., Experiment]

P, K = 4, 3
LENGTHS = [9, 5, 12, 7]
TAU = 0.7
PAPER = (
    "fixed",
    "adap_pos",
    "adap_ins_pos",
    "adap_ins_vec",
    "adap_ins_vec_pos",
    "adap_pos_ins_vec",
    "adap_ins_len",
)
CONTROLS = ("postfix", "split")


def our_model(experiment: Experiment, backbone: Backbone) -> PromptedModel:
    settings = experiment.settings
    prompt = build_prompt(experiment, backbone.dims, backbone.embedding_VD)
    model = PromptedModel(
        backbone,
        prompt.double(),
        [make_verbalizer(settings.task, backbone, Head.verbalizer, 0)],
        order=settings.protocol.split_order,
        summary=settings.prompt.summary,
        summary_pad_to=settings.protocol.summary_pad_to,
    )
    return model.train()


def stock_t5(backbone: Backbone) -> Any:
    import transformers

    ours: Any = backbone.model
    settings = ours.config.to_dict() | {"dropout_rate": 0.0}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**settings)).double().eval()
    model.load_state_dict(ours.state_dict())
    return model.requires_grad_(False)


def straight_through(logits_J: Tensor, noise_J: Tensor) -> Tensor:
    """torch.nn.functional.gumbel_softmax(logits, tau, hard=True), with the noise that ours is given."""
    soft = torch.softmax((logits_J + noise_J) / TAU, dim=-1)
    hard = one_hot(soft.argmax(-1), len(soft)).double()
    return hard - soft.detach() + soft


def theirs(
    protocol: str,
    name: str,
    own: dict[str, Tensor],
    plm: Any,
    batch: Batch,
    noise: dict[str, Tensor],
    words: Tensor,
) -> Tensor:
    """Return the logits of the label words as the formulas of the paper, or of its code, give them: [B,C]."""
    authors = protocol == "authors"
    pad_to = 480 if authors else batch.ids_BT.shape[1]
    ids = torch.nn.functional.pad(batch.ids_BT, (0, pad_to - batch.ids_BT.shape[1]))
    mask = torch.nn.functional.pad(batch.mask_BT, (0, pad_to - batch.mask_BT.shape[1])).double()
    text = plm.shared(ids)
    with torch.no_grad():
        states = plm.encoder(inputs_embeds=text, attention_mask=mask).last_hidden_state
    rows = []
    for b in range(len(ids)):
        eos = int(mask[b].nonzero()[-1])
        real = states[b] if authors else states[b][mask[b] > 0]
        pooled = real.mean(0)
        if "vectors.prompts_KPD" in own:
            scores = pooled @ own["vectors.linear.weight"].T + own["vectors.linear.bias"]
            if authors and name == "adap_ins_vec":
                scores = scores.tanh()
            beta = torch.softmax(scores, 0)
            soft = sum(beta[k] * own["vectors.prompts_KPD"][k] for k in range(K))
        else:
            soft = own["vectors.prompt_PD"]
        kept = torch.ones(P, dtype=torch.double)
        if "length.linear.weight" in own:
            scores = pooled @ own["length.linear.weight"].T + own["length.linear.bias"]
            y = straight_through(scores.relu() if authors else scores, noise["length"][b])
            layouts = [torch.cat([soft[:n], torch.zeros(P - n, soft.shape[1])]) for n in range(P + 1)]
            soft = sum(y[n] * layouts[n] for n in range(P + 1))
            # Theirs leaves dropped vectors attended, at -1e20: not reproduced, docs/protocol.md.
            kept = (torch.arange(P) < int(y.argmax())).double()
        if "position.logits_NJ" in own:
            first = 0 if authors else b  # one draw for their whole batch
            y = straight_through(own["position.logits_NJ"][0], noise["position"][first])
        elif "position.linear.weight" in own:
            scores = pooled @ own["position.linear.weight"].T + own["position.linear.bias"]
            y = straight_through(scores.relu() if authors else scores, noise["position"][b])
        else:
            before = {"postfix": 0, "split": P // 2}.get(name, P)
            y = one_hot(torch.tensor(P - before if authors else before), P + 1).double()

        def layout(j: int, vectors: Tensor, around: Tensor, eos: int = eos) -> Tensor:
            front, behind = (vectors[j:], vectors[:j]) if authors else (vectors[:j], vectors[j:])
            return torch.cat([front, around[:eos], behind, around[eos:]])

        embeds = sum(y[j] * layout(j, soft, text[b]) for j in range(P + 1))
        attended = sum(y[j].detach() * layout(j, kept, mask[b]) for j in range(P + 1))
        start = torch.tensor([[plm.config.decoder_start_token_id, *EXTRA_ID_0, 1]])
        out = plm(inputs_embeds=embeds[None], attention_mask=attended[None], decoder_input_ids=start)
        rows.append(out.logits[0, len(EXTRA_ID_0)][words])
    return torch.stack(rows)


EXTRA_ID_0: list[int] = []  # set from the tokenizer below


@pytest.mark.parametrize("name", [*PAPER, *CONTROLS])
@pytest.mark.parametrize("protocol", ["authors", "clean"])
def test_logits_and_gradients_are_those_of_the_formulas(
    make_backbone: Callable[..., Backbone], experiment: Build, protocol: str, name: str
) -> None:
    backbone = make_backbone(torch.float64)
    EXTRA_ID_0[:] = backbone.tokenizer("<extra_id_0>", add_special_tokens=False).input_ids
    size = [f"prompt.vectors.num_prompts={K}"] if "vec" in name else []
    exp = experiment(f"prompt={name}", f"protocol={protocol}", f"prompt.num_tokens={P}", *size)
    model = our_model(exp, backbone)
    prompt = model.prompt
    with torch.no_grad():  # larger than they start, so that outcomes differ
        for selector in prompt.selectors.values():
            for parameter in selector.parameters():
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(4))
    batch = make_batch(LENGTHS)
    generator = torch.Generator().manual_seed(2)
    noise = {
        key: gumbel((len(batch), P + 1), generator, torch.float64)
        for key in prompt.noisy_selectors(training=True, sample_at_eval=False)
    }
    ours = model(replace(batch, noise=noise), TAU).logits_BC
    cross_entropy(ours, batch.label_B).backward()
    own = {key: value.detach().clone().requires_grad_() for key, value in prompt.named_parameters()}
    words = model.verbalizers[0].get_buffer("word_ids_C")
    expected = theirs(protocol, exp.settings.prompt.name, own, stock_t5(backbone), batch, noise, words)
    cross_entropy(expected, batch.label_B).backward()
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)
    for key, value in prompt.named_parameters():
        assert value.grad is not None and float(value.grad.abs().max()) > 0, key
        torch.testing.assert_close(value.grad, own[key].grad, atol=1e-10, rtol=0, msg=key)


@pytest.mark.parametrize("protocol", ["authors", "clean"])
@pytest.mark.parametrize(
    ("name", "before"), [("fixed", 20), ("postfix", 0), ("split", 10), ("adap_ins_vec", 20)]
)
def test_fixed_positions_are_said_as_in_the_paper(
    experiment: Build, protocol: str, name: str, before: int
) -> None:
    record = run(experiment(f"prompt={name}", f"protocol={protocol}", "trainer.max_steps=1"))
    assert record.diagnostics["position_mean"] == before


@pytest.mark.parametrize("name", ["adap_pos", "adap_ins_pos", "dynamic", "random_position", "adap_ins_len"])
@pytest.mark.parametrize("protocol", ["authors", "clean"])
def test_what_selects_on_the_reported_rows_is_reported(experiment: Build, protocol: str, name: str) -> None:
    words = ["trainer.selection=validation", "trainer.max_steps=3", "trainer.eval_every=1", "trainer.lr=0.3"]
    words += ["task.max_length=300", f"protocol.summary_pad_to={300 if protocol == 'authors' else 'null'}"]
    record = run(experiment(f"prompt={name}", f"protocol={protocol}", *words))
    assert record.score == record.select_score
    assert record.metrics == record.select_metrics


def test_a_task_level_selector_draws_once_for_every_four_rows(experiment: Build, tmp_path: Any) -> None:
    trainer = make_trainer(experiment("prompt=adap_pos", "protocol=authors"), tmp_path)
    model = trainer.accelerator.unwrap_model(trainer.model)
    split = trainer.train_splits[0]
    drawn = [
        predict(model, split, batch_size=size, seed=seed, sample=True, step=5).position_M
        for size, seed in ((7, 0), (3, 0), (3, 1))
    ]
    assert np.array_equal(drawn[0], drawn[1]), "whatever the size of our batches"
    assert not np.array_equal(drawn[0], drawn[2])
    fours = [drawn[2][first : first + 4] for first in range(0, len(split), 4)]
    assert all(len(set(four.tolist())) == 1 for four in fours)
    assert len({int(four[0]) for four in fours}) > 1


@pytest.mark.parametrize(
    ("name", "steps"), [("fixed", 4), ("dynamic", 4), ("adap_pos", 1), ("adap_ins_pos", 1)]
)
def test_warm_up_counts_the_steps_of_their_optimizer(
    experiment: Build, tmp_path: Any, name: str, steps: int
) -> None:
    """transformers' get_constant_schedule_with_warmup, stepped behind every step of the optimizer."""
    words = ["trainer.batch_size=8", "trainer.micro_batch_size=2", "trainer.warmup_steps=6", "trainer.lr=0.3"]
    trainer = make_trainer(experiment(f"prompt={name}", "protocol=authors", *words), tmp_path)
    rates: list[float] = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: (rates.append(trainer.optimizer.param_groups[0]["lr"]), step())  # type: ignore
    for update in range(3):
        trainer._update((np.arange(8),), update)
    assert len(rates) == 3 * steps
    assert rates == pytest.approx([0.3 * min(1, done / 6) for done in range(3 * steps)])


def test_their_micro_batches_add_up_their_losses(experiment: Build, tmp_path: Any) -> None:
    """Four mean losses of 8, undivided, then clipped to 1: four times the gradient of the mean."""
    sums = {}
    for protocol in ("authors", "clean"):
        words = [f"protocol={protocol}", "trainer.batch_size=8", "trainer.micro_batch_size=2"]
        words += ["trainer.selection=validation"]
        switches = ["protocol.frozen_dropout=false", "trainer.max_grad_norm=1e9", "prompt.init=uniform"]
        switches += ["+prompt.position.relu=false"]
        exp = experiment("prompt=adap_ins_pos", *words, *switches, "trainer.temperature.schedule=constant")
        clean = replace(exp.settings.protocol, split_order="paper", summary_pad_to=None)
        exp = replace(exp, settings=replace(exp.settings, protocol=clean))
        trainer = make_trainer(exp, tmp_path / protocol)
        kept: list[Tensor] = []
        trainer._step_optimizer = lambda *at, kept=kept, t=trainer: kept.append(  # type: ignore[method-assign]
            torch.cat([p.grad.flatten() for p in t.parameters])
        )
        trainer._update((np.arange(8),), 0)
        (sums[protocol],) = kept
    torch.testing.assert_close(sums["authors"], 4 * sums["clean"], atol=1e-5, rtol=1e-4)


def test_a_class_with_too_few_rows_gives_all_of_them() -> None:
    def example(number: int, label: int) -> Example:
        name = f"cb/train/{number}"
        return Example(name, {"premise": name}, ("a", "b", "c"), label, name, name)

    rows = [example(n, min(n // 60, 2)) for n in range(136)]  # 60, 60 and 16 of the last
    theirs_, halved = (sampled(rows, 32, 0, whole_classes=whole) for whole in (True, False))
    counts = [[sum(e.label == c for e in part.train) for c in range(3)] for part in (theirs_, halved)]
    assert counts == [[32, 32, 16], [30, 30, 8]]
