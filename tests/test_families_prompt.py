"""Prompt families as users get them: layers with lengths and mixtures, LoRA and BitFit in a run, counts on
real T5s."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_batch
from helpers.backbones import batch_of
from helpers.configs import problems
from helpers.oracles import build, logits_of, make
from helpers.trainers import KilledError
from safetensors.torch import load_file
from torch import Tensor

from dp_bench import config, run
from dp_bench.backbones.probe import find_sites
from dp_bench.config import Experiment
from dp_bench.methods import counts
from dp_bench.methods import peft as peft_methods
from dp_bench.prompts.layers import Mlp, Table
from dp_bench.prompts.layout import insert
from dp_bench.settings import SplitOrder
from dp_bench.trainer import Trainer
from dp_bench.types import UserError

Build = Callable[..., Experiment]
LENGTHS = [9, 5, 7]
QUICK = ("trainer.max_steps=3", "trainer.eval_every=3", "trainer.batch_size=4", "prompt.num_tokens=4")

# ---------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_an_mlp_folds_into_the_table_that_it_amounts_to(kind: str) -> None:
    """What prefix tuning keeps after training: 2 P S W numbers, the same logits to the bit."""
    backbone = make(kind)
    batch = make_batch(LENGTHS) if kind == "t5" else batch_of(LENGTHS)
    prefix = build(backbone, "prompt=prefix_tuning", "prompt.layers.hidden=24")
    table = build(backbone, "prompt=p_tuning_v2")
    assert isinstance(prefix.layers, Mlp) and isinstance(table.layers, Table)
    with torch.no_grad():
        for own, made in zip(table.layers.tables_2PHE, prefix.layers.tables(), strict=True):
            own.copy_(made)
    assert torch.equal(logits_of(backbone, prefix, batch), logits_of(backbone, table, batch))
    width = sum(2 * site.num_heads * site.head_width for site in find_sites(backbone))
    assert sum(p.numel() for p in table.parameters()) == prefix.num_tokens * width


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_a_length_drops_keys_and_values_everywhere_and_learns(kind: str) -> None:
    """Equal to a table with as many rows, and the gate's gradient reaches the selector."""
    backbone = make(kind)
    batch = make_batch(LENGTHS) if kind == "t5" else batch_of(LENGTHS)
    dynamic = build(backbone, "prompt=p_tuning_v2", "prompt/length=task")
    short = build(backbone, "prompt=p_tuning_v2", "prompt.num_tokens=2")
    with torch.no_grad():
        for own, whole in zip(short.layers.parameters(), dynamic.layers.parameters(), strict=True):  # type: ignore[union-attr]
            own.copy_(whole[:, :2])
        dynamic.length.logits_NJ.copy_(torch.tensor([[0.0, 0.0, 5.0, 0.0, 0.0]]))  # type: ignore[operator]
    found = logits_of(backbone, dynamic, batch)
    torch.testing.assert_close(found, logits_of(backbone, short, batch), atol=1e-5, rtol=1e-4)
    noise = {"length": torch.zeros(len(batch), 5)}
    output = dynamic(None, batch.task_B, noise, 1.0)
    prompted = insert(backbone.embed(batch.ids_BT), batch, output, SplitOrder.paper)
    backbone.word_logits(backbone(prompted), torch.arange(200)).pow(2).sum().backward()
    grad_NJ = dynamic.length.logits_NJ.grad
    assert isinstance(grad_NJ, Tensor) and grad_NJ.isfinite().all() and float(grad_NJ.abs().max()) > 0


def test_only_the_sites_that_are_named_get_keys_and_values() -> None:
    backbone, batch = make("t5"), make_batch(LENGTHS)
    whole = build(backbone, "prompt=p_tuning_v2")
    for kind in ("encoder", "decoder", "cross"):
        prompt = build(backbone, "prompt=p_tuning_v2", f"prompt.layers.sites=[{kind}]")
        made = prompt(None, batch.task_B, {}, 1.0).layers
        given = [
            site.kind for site, key in zip(find_sites(backbone), made.keys, strict=True) if key is not None
        ]
        assert given == [kind] * 2
        assert sum(p.numel() for p in prompt.parameters()) * 3 == sum(p.numel() for p in whole.parameters())


def test_vectors_in_the_input_and_keys_in_the_layers_go_together() -> None:
    """Both parts change the answer, and both learn."""
    backbone, batch = make("t5"), make_batch(LENGTHS)
    inside = build(backbone, "prompt=split")
    mixed = build(backbone, "prompt=split", "prompt/layers=table")
    layers = build(backbone, "prompt=p_tuning_v2")
    with torch.no_grad():
        mixed.vectors.prompt_PD.copy_(inside.vectors.prompt_PD)  # type: ignore[operator, arg-type]
    layers.layers = mixed.layers
    found = logits_of(backbone, mixed, batch)
    for alone in (inside, layers):
        assert float((found - logits_of(backbone, alone, batch)).detach().abs().max()) > 1e-3
    found.pow(2).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in mixed.parameters())


# ---------------------------------------------------------------------------------------------- runs


def kept(experiment: Experiment, run_id: str) -> dict[str, Tensor]:
    return load_file(Path(experiment.settings.results_dir) / "runs" / run_id / "prompt.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("prompt", "backbone"),
    [
        ("lora", "t5_tiny_random"),
        ("lora", "gpt2_tiny_random"),
        ("bottleneck", "gpt2_tiny_random"),
        ("bitfit", "bert_tiny_random"),
    ],
)
def test_a_baseline_keeps_the_weights_that_it_trained_in_fp32_and_nothing_else(
    experiment: Build, prompt: str, backbone: str, precision: str
) -> None:
    composed = experiment(
        f"prompt={prompt}", f"backbone={backbone}", f"trainer.precision={precision}", *QUICK[:3]
    )
    record = run.run(composed)
    tensors = kept(composed, record.run_id)
    named = {"lora": "lora_", "bottleneck": ".adapter.", "bitfit": "bias"}[prompt]
    assert tensors and all(named in name for name in tensors if not name.startswith("vectors."))
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert record.trainable_parameters == sum(value.numel() for value in tensors.values())
    # The second factor or matrix starts at 0 and biases near it: training has moved them.
    ends = {"lora": "lora_B.default.weight", "bottleneck": "up.weight", "bitfit": "bias"}[prompt]
    moved = [value for name, value in tensors.items() if name.endswith(ends)]
    assert moved and any(float(value.abs().max()) > 0 for value in moved)


@pytest.mark.parametrize("prompt", ["lora", "bottleneck", "bitfit", "p_tuning"])
def test_a_stopped_run_goes_on_to_the_same_weights(experiment: Build, tmp_path: Path, prompt: str) -> None:
    """What the backbone has learned is in the checkpoint, too."""
    backbone = "bert_tiny_random" if prompt == "bitfit" else "t5_tiny_random"
    base = [f"prompt={prompt}", f"backbone={backbone}", "trainer.batch_size=4", "trainer.eval_every=2"]
    whole, parts = (
        experiment(*base, "trainer.max_steps=4", f"results_dir={tmp_path / name}")
        for name in ("whole", "parts")
    )
    expected = kept(whole, run.run(whole).run_id)
    update = Trainer._update

    def die_in_update_4(self: Trainer, places: Any, step: int) -> float:
        if step == 3:
            raise KilledError
        return update(self, places, step)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Trainer, "_update", die_in_update_4)
        run.run(parts)
    again = kept(parts, run.run(parts).run_id)
    assert expected.keys() == again.keys()
    assert all(torch.equal(expected[name], again[name]) for name in expected)


@pytest.mark.parametrize("prompt", ["prefix_tuning", "p_tuning_v2", "lora"])
def test_a_family_learns_with_the_settings_that_it_comes_with(tmp_path: Path, prompt: str) -> None:
    """On a T5 that was pretrained; keys and values hardly learn with what vectors are trained with."""
    micro = ["task=rte", "backbone=t5_micro", "data=micro", "trainer=micro", "device=cpu"]
    words = [*micro, f"prompt={prompt}", "trainer.max_steps=100", f"results_dir={tmp_path}"]
    record = run.run(config.build(config.compose(words)))
    assert record.score >= 90 and not record.warnings


def test_a_thawed_backbone_is_trained_beside_the_prompt(experiment: Build) -> None:
    frozen = run.run(experiment("prompt=p_tuning", *QUICK))
    thawed = run.run(experiment("prompt=p_tuning", "prompt.freeze_backbone=false", *QUICK))
    assert thawed.frozen_parameters == 0
    assert thawed.trainable_parameters == frozen.trainable_parameters + frozen.frozen_parameters
    assert thawed.cell_id != frozen.cell_id


# ---------------------------------------------------------------------------------------------- counts

HEADS = {"small": 6, "base": 12, "large": 16, "xl": 32}


@pytest.mark.parametrize("size", list(counts.T5))
def test_the_attentions_and_loras_numbers_are_those_of_a_t5(size: str) -> None:
    """The architecture of transformers, built without memory, against the widths that the formulas read."""
    pytest.importorskip("peft", reason="the peft extra is not installed")
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = counts.T5[size]
    settings = T5Config(
        d_model=sizes.width,
        d_kv=64,
        num_heads=HEADS[size],
        num_layers=sizes.sites["encoder"],
        num_decoder_layers=sizes.sites["decoder"],
        d_ff=8,
        vocab_size=16,
    )
    with torch.device("meta"):
        model: Any = T5ForConditionalGeneration(settings)
    attentions = [
        m for name, m in model.named_modules() if name.endswith(("SelfAttention", "EncDecAttention"))
    ]
    assert len(attentions) == sum(sizes.sites.values())
    assert {m.k.out_features for m in attentions} == {sizes.inner}
    lora = config.build(config.compose(["data.dir=.", "prompt=lora"])).settings
    backbone = dataclasses.make_dataclass("Held", ["model"])(model)
    backbone.device, backbone.to = "meta", lambda device: None
    model.requires_grad_(False)
    peft_methods.add_lora(backbone, lora)
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == counts.trained(config.option_settings("prompt", "lora"), sizes, 1)


def test_a_classifier_learns_whose_choices_the_text_shows(experiment: Build) -> None:
    """COPA scores whole choices; its text names both, so that a head can learn which of them is right."""
    words = ("task=copa", "backbone=bert_tiny_random", "backbone.head=classifier", "backbone.answer_cue=null")
    record = run.run(experiment(*words, "prompt=adap_pos", *QUICK))
    assert record.metrics.keys() == {"accuracy"} and 0 <= record.score <= 100
    assert record.trainable_parameters == 4 * 64 + 5 + 2 * 64 + 2
    with pytest.raises(UserError, match="has different choices for each example"):
        experiment(*words, "task=record")


def test_a_probe_has_the_weights_of_its_formula(experiment: Build) -> None:
    record = run.run(experiment("prompt=linear_probe"))  # RTE: two labels, width 64
    assert record.trainable_parameters == counts.trained(
        config.option_settings("prompt", "linear_probe"), counts.Sizes(0, 64), 1
    )


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["prompt=l2p_pool", "prompt.vectors.num_chosen=0"],
            "prompt.vectors.num_chosen=0 must be at least 1",
        ),
        (
            ["prompt=l2p_pool", "prompt.vectors.num_chosen=a"],
            "prompt.vectors.num_chosen=a must be at least 1",
        ),
        (["prompt=l2p_pool", "prompt.vectors.num_chosen=3"], "must divide prompt.num_tokens=20"),
        (["prompt=l2p_pool", "prompt.vectors.num_prompts=4"], "not exceed num_prompts=4"),
        (["prompt=l2p_pool", "prompt.vectors.key_weight=-1"], "prompt.vectors.key_weight=-1"),
        (["prompt=p_tuning", "prompt.vectors.num_layers=0"], "prompt.vectors.num_layers=0"),
        (
            ["prompt=p_tuning", "prompt.vectors.hidden=0"],
            "prompt.vectors.hidden=0 must be at least 1, or null",
        ),
        (["prompt=prefix_tuning", "prompt.layers.hidden=-3"], "prompt.layers.hidden=-3"),
        (["prompt=prefix_tuning", "prompt.layers.sites=[]"], "prompt.layers.sites=[] must be a list"),
        (
            ["prompt=prefix_tuning", "prompt.layers.sites=encoder"],
            "prompt.layers.sites=encoder must be a list",
        ),
        (["prompt=prefix_tuning", "prompt.layers.sites=[foo]"], "prompt.layers.sites=['foo']"),
        (["prompt=p_tuning_v2", "prompt/position=instance"], "prompt/position has no meaning"),
        (["prompt=p_tuning_v2", "prompt.position.outcome=half"], "prompt.position.outcome has no meaning"),
        (["prompt=p_tuning_v2", "prompt.init=label_words"], "prompt.init=label_words initializes vectors"),
        (["prompt=fixed", "prompt/vectors=none"], "prompt/vectors=none leaves nothing to train"),
        (["prompt=pool", "prompt.init=text", "prompt.init_text=a"], "the same vectors"),
        (["prompt=fixed", "prompt.init=text"], "prompt.init=text needs prompt.init_text"),
        (["prompt=fixed", "prompt.init_text=a"], "prompt.init_text is read by prompt.init=text only"),
        (["prompt=fixed", "prompt.rank=8"], "prompt.rank is read by prompt=lora only"),
        (["prompt=bottleneck", "prompt.size=0"], "prompt.size=0 must be at least 1"),
        (["prompt=fixed", "prompt.size=8"], "prompt.size is read by prompt=bottleneck only"),
        (["prompt=lora", "prompt.rank=0"], "prompt.rank=0 must be positive"),
        (["prompt=lora", "prompt.alpha=null"], "prompt.alpha=null must be positive"),
        (["prompt=lora", "prompt.init=label_words"], "prompt=lora has none"),
        (["prompt=lora", "prompt.freeze_backbone=false"], "prompt.freeze_backbone has no meaning"),
        (["prompt=zero_shot", "prompt.freeze_backbone=false"], "prompt.freeze_backbone has no meaning"),
        (["prompt=bitfit", "prompt.lr=0"], "prompt.lr=0.0 must be positive"),
        (["prompt=bitfit", "prompt.weight_decay=-1"], "prompt.weight_decay=-1.0"),
    ],
)
def test_what_a_family_cannot_do_is_refused_with_the_reason(overrides: list[str], told: str) -> None:
    (found,) = problems("data.dir=.", *overrides)
    assert told in found and found.endswith((".", "=…"))


def test_sites_that_a_backbone_does_not_have_are_refused_by_name() -> None:
    with pytest.raises(
        UserError, match=r"\['cross'\] names no attention of this backbone, which has decoder"
    ):
        build(make("gpt2"), "prompt=p_tuning_v2", "prompt.layers.sites=[cross]")
