"""Logits and gradients of prompt tuning, P-tuning, prefix tuning and LoRA against the peft package."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from conftest import make_batch
from helpers.backbones import batch_of
from helpers.oracles import P, build, logits_of, make
from helpers.prompts import build_prompt
from torch import Tensor

from dp_bench import config
from dp_bench.types import Batch

peft = pytest.importorskip("peft", reason="the peft extra is not installed")

LENGTHS = [9, 5, 7]


def t5_logits(model: Any, batch: Batch) -> Tensor:
    start = torch.zeros(len(batch), 1, dtype=torch.long)
    mask = batch.mask_BT.long()
    found: Tensor = model(input_ids=batch.ids_BT, attention_mask=mask, decoder_input_ids=start).logits[
        :, 0, :200
    ]
    return found


def close(one: Tensor | None, other: Tensor | None) -> None:
    assert one is not None and other is not None and float(one.detach().abs().max()) > 0
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_prompt_tuning_equals_peft() -> None:
    backbone, batch = make("t5"), make_batch(LENGTHS)
    prompt = build(backbone, "prompt=fixed")
    theirs = peft.get_peft_model(
        backbone.model,
        peft.PromptTuningConfig(
            task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P, token_dim=32, num_transformer_submodules=1
        ),
    ).eval()
    rows = theirs.prompt_encoder["default"].embedding.weight
    rows.data.copy_(prompt.vectors.prompt_PD)
    ours = logits_of(backbone, prompt, batch)
    close(ours, expected := t5_logits(theirs, batch))
    ours.pow(2).sum().backward()
    expected.pow(2).sum().backward()
    close(prompt.vectors.prompt_PD.grad, rows.grad)  # type: ignore[arg-type]


def test_p_tuning_equals_peft() -> None:
    backbone, batch = make("t5"), make_batch(LENGTHS)
    prompt = build(backbone, "prompt=p_tuning", "prompt.position.outcome=all")
    theirs = peft.get_peft_model(
        backbone.model,
        peft.PromptEncoderConfig(
            task_type="SEQ_2_SEQ_LM",
            num_virtual_tokens=P,
            token_dim=32,
            num_transformer_submodules=1,
            encoder_reparameterization_type="LSTM",
            encoder_hidden_size=16,
            encoder_num_layers=2,
            encoder_dropout=0.0,
        ),
    ).eval()
    encoder = theirs.prompt_encoder["default"]
    own: Any = prompt.vectors
    pairs = [
        (own.prompt_PD, encoder.embedding.weight),
        *zip(own.lstm.parameters(), encoder.lstm_head.parameters(), strict=True),
        *zip(own.mlp.parameters(), encoder.mlp_head.parameters(), strict=True),
    ]
    with torch.no_grad():
        for ours, other in pairs:
            other.copy_(ours)
    # peft gives its LSTM the rows once for each example of the batch, which changes nothing.
    ours = logits_of(backbone, prompt, batch)
    close(ours, expected := t5_logits(theirs, batch))
    ours.pow(2).sum().backward()
    expected.pow(2).sum().backward()
    for mine, other in pairs:
        close(mine.grad, other.grad)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("projection", [False, True])
def test_prefix_tuning_and_p_tuning_v2_equal_peft(kind: str, projection: bool) -> None:
    backbone, batch = make(kind), batch_of([8, 8, 8])
    name = ["prompt=prefix_tuning", "prompt.layers.hidden=24"] if projection else ["prompt=p_tuning_v2"]
    prompt = build(backbone, *name)
    heads, width = (2, 8) if kind == "llama" else (4, 8)
    theirs = peft.get_peft_model(
        backbone.model,
        peft.PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=P,
            prefix_projection=projection,
            encoder_hidden_size=24,
            token_dim=32 if projection else heads * width,
            num_attention_heads=heads,
            num_layers=2,
        ),
    ).eval()
    encoder = theirs.prompt_encoder["default"]
    layers: Any = prompt.layers
    if projection and kind == "llama":
        pytest.skip("peft projects to as many heads as the model has queries, and fits no grouped keys")
    with torch.no_grad():
        if projection:
            encoder.embedding.weight.copy_(layers.rows_PD["decoder"])
            for mine, other in zip(
                layers.mlps["decoder"].parameters(), encoder.transform.parameters(), strict=True
            ):
                other.copy_(mine)
        else:
            tables = [table.transpose(0, 1).flatten(1) for table in layers.tables()]  # (P, 2 H E) a layer
            encoder.embedding.weight.copy_(torch.cat(tables, dim=1))
    ours = logits_of(backbone, prompt, batch)
    out = theirs(input_ids=batch.ids_BT, attention_mask=batch.mask_BT.long())
    close(ours, expected := out.logits[:, 6, :200])
    ours.pow(2).sum().backward()
    expected.pow(2).sum().backward()
    if projection:
        close(layers.rows_PD["decoder"].grad, encoder.embedding.weight.grad)
    else:
        grads = torch.cat([table.grad.transpose(0, 1).flatten(1) for table in layers.tables_2PHE], dim=1)
        close(grads, encoder.embedding.weight.grad)


@pytest.mark.parametrize("kind", ["t5", "bert", "gpt2", "llama"])
def test_lora_adds_the_published_formula_to_queries_and_values(kind: str) -> None:
    """W x + (alpha / r) B A x, written out, on every adapted matrix."""
    from dp_bench.methods import peft as peft_methods

    own = config.build(
        config.compose(["data.dir=.", "prompt=lora", "prompt.rank=3", "prompt.alpha=6"])
    ).settings
    backbone, plain = make(kind), make(kind)
    peft_methods.add_lora(backbone, own)
    trained = {n: p for n, p in backbone.model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    modules = dict(backbone.model.named_modules())
    adapted = sorted({name.split(".lora_")[0] for name in trained})
    for name in adapted:
        module: Any = modules[name]
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        with torch.no_grad():
            up.normal_()
        x = torch.randn(5, down.shape[1])
        before = dict(plain.model.named_modules())[name](x)
        torch.testing.assert_close(module(x), before + 2.0 * x @ down.T @ up.T, atol=1e-5, rtol=1e-4)
    expected = sum(
        3 * (m.lora_A["default"].weight.shape[1] + m.lora_B["default"].weight.shape[0])
        for m in (modules[name] for name in adapted)
    )  # type: ignore[union-attr, operator]
    assert sum(p.numel() for p in trained.values()) == expected


def unlisted(kind: str, **sizes: Any) -> Any:
    """Return a tiny causal model of any type, as a backbone of a type that dp-bench does not list."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from dp_bench.backbones.decoder_only import DecoderOnly
    from dp_bench.backbones.random_init import byte_tokenizer

    torch.manual_seed(0)
    tokenizer = byte_tokenizer("gpt2")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=300, **sizes))
    return DecoderOnly(model, tokenizer)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
UNLISTED: dict[str, dict[str, Any]] = {
    "gpt_neox": SMALL,
    "gemma": {**SMALL, "num_key_value_heads": 2, "head_dim": 8},
    "phi": SMALL,
    "falcon": {**SMALL, "alibi": False},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
}


def lora_settings(*words: str) -> Any:
    return config.build(config.compose(["data.dir=.", "prompt=lora", *words])).settings


@pytest.mark.parametrize("kind", list(UNLISTED))
def test_lora_finds_query_and_value_of_model_types_that_nobody_listed(kind: str) -> None:
    """By structure, and where peft knows the type, the same matrices as peft; each gets a gradient."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    from dp_bench.methods import peft as peft_methods

    backbone = unlisted(kind, **UNLISTED[kind])
    peft_methods.add_lora(backbone, lora_settings())
    trained = {n: p for n, p in backbone.model.named_parameters() if p.requires_grad}
    adapted = {name.split(".lora_")[0] for name in trained}
    assert {name.rsplit(".", 1)[-1] for name in adapted} == set(KNOWN[kind]) - {"fc1", "fc2"}
    assert len(adapted) == 2 * len(set(KNOWN[kind]) - {"fc1", "fc2"}), "of both layers"
    backbone.model(torch.arange(3, 12)[None]).logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in trained.values())
    assert all(float(p.grad.abs().max()) > 0 for n, p in trained.items() if "lora_B" in n)


@pytest.mark.parametrize("kind", ["t5", "bert", "albert", "roberta", "gpt2", "llama", "opt", "qwen3"])
def test_lora_adapts_the_same_matrices_as_peft_with_the_same_first_values(kind: str) -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    from dp_bench.methods import peft as peft_methods
    from dp_bench.randomness import fork

    names = ["query", "value"] if kind == "albert" else KNOWN[kind]  # which peft does not list
    ours, theirs = make(kind), make(kind)
    own = lora_settings("prompt.rank=3")
    peft_methods.add_lora(ours, own)
    with fork(own.seed_of("init"), "lora"):
        peft.inject_adapter_in_model(
            peft.LoraConfig(r=3, lora_alpha=16, target_modules=names, fan_in_fan_out=kind == "gpt2"),
            theirs.model,
        )
    found, known = dict(ours.model.named_parameters()), dict(theirs.model.named_parameters())
    assert found.keys() == known.keys() and any("lora_A" in name for name in found)
    assert all(torch.equal(value, known[name]) for name, value in found.items())


def test_lora_adapts_what_is_named_and_says_what_there_is_to_name() -> None:
    from dp_bench.methods import peft as peft_methods
    from dp_bench.types import UserError

    mamba = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    with pytest.raises(UserError, match=r"no matrix of this 'mamba' model .* dt_proj, in_proj, out_proj"):
        peft_methods.add_lora(unlisted("mamba", **mamba), lora_settings())
    with pytest.raises(UserError, match=r"names q_projj, and this 'gemma' model has no such matrix. It has"):
        backbone = unlisted("gemma", **UNLISTED["gemma"])
        peft_methods.add_lora(backbone, lora_settings("prompt.target_modules=[q_projj,v_proj]"))
    with pytest.raises(UserError, match="names lm_head"):  # whose rows are read without calling it
        backbone = unlisted("gemma", **UNLISTED["gemma"])
        peft_methods.add_lora(backbone, lora_settings("prompt.target_modules=[lm_head]"))
    backbone = make("bert")
    peft_methods.add_lora(backbone, lora_settings("prompt.target_modules=[attention.output.dense,key]"))
    trained = {n for n, p in backbone.model.named_parameters() if p.requires_grad}
    assert {name.split(".lora_")[0].split("layer.")[1][2:] for name in trained} == {
        "attention.output.dense",
        "attention.self.key",
    }


def test_lora_target_modules_are_part_of_a_run_only_where_they_are_set() -> None:
    from dp_bench import records

    plain, null, own = (
        config.build(config.compose(["data.dir=.", "prompt=lora", *words])).resolved
        for words in ((), ("prompt.target_modules=null",), ("prompt.target_modules=[k]",))
    )
    unknown = {**plain, "prompt": {k: v for k, v in plain["prompt"].items() if k != "target_modules"}}
    ids = [records.identify(resolved, "") for resolved in (plain, null, unknown, own)]
    assert ids[0] == ids[1] == ids[2] != ids[3]


@pytest.mark.parametrize("kind", ["gpt_neox", "falcon", "bloom"])
def test_bitfit_trains_the_biases_of_model_types_that_nobody_listed(kind: str) -> None:
    from dp_bench.methods import peft as peft_methods
    from dp_bench.types import UserError

    backbone = unlisted(kind, **UNLISTED[kind])
    own = config.build(config.compose(["data.dir=.", "prompt=bitfit"])).settings
    peft_methods.thaw_biases(backbone, own)
    trained = {n: p for n, p in backbone.model.named_parameters() if p.requires_grad}
    assert trained and all(name.endswith(".bias") for name in trained)
    with pytest.raises(UserError, match="has none"):
        peft_methods.thaw_biases(unlisted("gemma", **UNLISTED["gemma"]), own)


def test_bitfit_trains_biases_alone_and_refuses_models_without() -> None:
    from dp_bench.methods import peft as peft_methods
    from dp_bench.types import UserError

    own = config.build(config.compose(["data.dir=.", "prompt=bitfit"])).settings
    backbone = make("bert")
    peft_methods.thaw_biases(backbone, own)
    trained = {n for n, p in backbone.model.named_parameters() if p.requires_grad}
    assert trained and all(name.endswith("bias") for name in trained)
    with pytest.raises(UserError, match="built without"):
        peft_methods.thaw_biases(make("t5"), own)


# ---------------------------------------------------------------------------------------------- formulas


def pieces(name: str, *overrides: str, num_tasks: int = 1) -> Any:
    experiment = config.build(
        config.compose(["data.dir=.", f"prompt={name}", "prompt.init=uniform", *overrides])
    )
    backbone = make("t5")
    dims = dataclasses.replace(backbone.dims, num_tasks=num_tasks)
    return build_prompt(experiment, dims, None).double()


@pytest.fixture
def texts() -> Tensor:
    return torch.randn(6, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_similarity_pool_is_its_formula(texts: Tensor) -> None:
    own = pieces("pool", "prompt/vectors=similarity_pool", "prompt.num_tokens=1").vectors
    found = own(texts, torch.zeros(6, dtype=torch.long))
    for row in range(6):
        e = torch.tanh(own.linear.weight @ texts[row] + own.linear.bias)
        scores = torch.stack([e @ p[0] for p in own.prompts_KPD])
        alpha = scores.exp() / scores.exp().sum()
        expected = sum(a * p for a, p in zip(alpha, own.prompts_KPD, strict=True))
        torch.testing.assert_close(found.vectors_BPD[row], expected, atol=1e-12, rtol=1e-12)


def test_l2p_takes_the_nearest_keys_and_draws_them_nearer(texts: Tensor) -> None:
    own = pieces(
        "l2p_pool", "prompt.num_tokens=6", "prompt.vectors.num_chosen=3", "prompt.vectors.num_prompts=7"
    ).vectors
    found = own(texts, torch.zeros(6, dtype=torch.long))
    distances = []
    for row in range(6):
        cosine = [float(torch.cosine_similarity(texts[row], key, dim=0)) for key in own.keys_KD.detach()]
        chosen = sorted(range(7), key=lambda k: -cosine[k])[:3]
        expected = torch.cat([own.prompts_KPD[k] for k in chosen])
        torch.testing.assert_close(found.vectors_BPD[row], expected)
        assert set(found.weights_BK[row].nonzero()[:, 0].tolist()) == set(chosen)
        distances.append(sum(1 - cosine[k] for k in chosen))
    torch.testing.assert_close(found.loss, torch.tensor(0.5 * sum(distances) / 6, dtype=torch.float64))
    found.loss.backward()
    nearer = own.keys_KD - 0.1 * own.keys_KD.grad
    used = found.weights_BK.sum(0) > 0
    assert float(own.keys_KD.grad[~used].abs().sum()) == 0 < float(own.keys_KD.grad[used].abs().min())
    keys = (own.keys_KD.detach(), nearer.detach())
    before, after = (torch.cosine_similarity(texts[:, None], k[None], dim=-1) for k in keys)
    chosen_BK = found.weights_BK > 0
    assert float(after[chosen_BK].mean()) > float(before[chosen_BK].mean())


def test_a_task_pool_mixes_by_the_tasks_own_selector(texts: Tensor) -> None:
    own = pieces("multitask", num_tasks=3).vectors
    task_B = torch.tensor([0, 1, 2, 0, 1, 2])
    found = own(texts, task_B)
    for row, task in enumerate(task_B.tolist()):
        weights = torch.softmax(own.weight_NKD[task] @ texts[row] + own.bias_NK[task], 0)
        expected = torch.einsum("k,kpd->pd", weights, own.prompts_KPD)
        torch.testing.assert_close(found.vectors_BPD[row], expected, atol=1e-12, rtol=1e-12)


def test_mpt_starts_shared_and_multiplies_by_the_tasks_rank_one_factor() -> None:
    own = pieces("mpt", num_tasks=2).vectors
    task_B = torch.tensor([0, 1])
    assert torch.equal(own(None, task_B).vectors_BPD[0], own(None, task_B).vectors_BPD[1])
    with torch.no_grad():
        own.u_NP.normal_()
        own.v_ND.normal_()
    found = own(None, task_B).vectors_BPD
    for task in (0, 1):
        expected = own.prompt_PD * torch.outer(own.u_NP[task], own.v_ND[task])
        torch.testing.assert_close(found[task], expected, atol=1e-12, rtol=1e-12)


def test_a_uniform_pool_is_the_mean_of_its_members() -> None:
    own = pieces("uniform_pool").vectors
    found = own(None, torch.zeros(2, dtype=torch.long)).vectors_BPD
    torch.testing.assert_close(found[1], own.prompts_KPD.mean(0))
