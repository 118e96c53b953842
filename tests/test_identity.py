"""A run whose rows are parted otherwise than before has another id; one whose rows are not keeps its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import FIXTURES, SHARED, task_settings
from helpers.rows import read_examples

from dp_bench import config, digests, records
from dp_bench.backbones import checkpoint
from dp_bench.data.grouping import grouping
from dp_bench.data.source import split_file
from dp_bench.data.split import held_out
from dp_bench.hub import hub_reachable
from dp_bench.identity import Sources, identify
from dp_bench.records import RunRecord
from dp_bench.report import index
from dp_bench.run import run

RESULTS = Path(__file__).parents[1] / "results"


def write_rte(folder: Path, hypotheses: list[str]) -> Path:
    (folder / "RTE").mkdir(parents=True)
    rows = [
        {"premise": f"Premise {i} says so.", "hypothesis": text, "label": "entailment", "idx": i}
        for i, text in enumerate(hypotheses)
    ]
    for name in ("train", "val"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "RTE" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def run_id(folder: Path, *overrides: str) -> str:
    words = ["task=rte", "prompt=fixed", "backbone=t5_micro", f"data.dir={folder}", *overrides]
    experiment = config.build(config.compose(words))
    sources = Sources.of(experiment)
    return identify(experiment, sources).run_id


def test_all_committed_records_keep_their_ids() -> None:
    folders = sorted(RESULTS.iterdir())
    found = [record for folder in folders for record in records.load_all(folder)]
    assert len(found) > 1000
    read = [record for folder in folders for record in index.load_all(folder)]
    assert {record.run_id for record in read} == {record.run_id for record in found}, "tables leave some out"
    ids = [records.identify(r.config, r.data_sha256, r.facts)[0] for r in found]
    assert ids == [record.run_id for record in found]


def test_the_id_says_how_rows_are_parted_where_that_has_changed(tmp_path: Path) -> None:
    alone = write_rte(tmp_path / "alone", [f"It is number {i}." for i in range(40)])
    shared = write_rte(tmp_path / "shared", [f"It is number {i // 2}." for i in range(40)])
    one_field = "task.together=[premise]"
    assert run_id(alone) == run_id(alone, one_field)
    assert run_id(shared) != run_id(shared, one_field)
    for nothing_held_out in ("trainer.selection=validation", "regime=fewshot regime.split=fewglue"):
        words = nothing_held_out.split()
        assert run_id(shared, *words) == run_id(shared, one_field, *words)


def test_generated_rows_share_their_few_sentences() -> None:
    micro = ["backbone=t5_micro", "data=micro", "trainer=micro", "prompt=fixed"]
    for task in ("boolq", "cb", "rte", "wic"):
        assert config.build(config.compose([f"task={task}", *micro])).settings.task.together is None


@pytest.mark.parametrize("name", ["cb", "rte", "wic", "boolq", "copa"])
def test_no_sentence_of_the_official_rows_is_on_both_sides(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the official SuperGLUE files are not beside the checkout")
    task = task_settings(name)
    assert task.together is not None
    file = split_file(SHARED / "superglue" / task.title / "train.jsonl")
    examples = read_examples(task, file, "train", None)
    labels = [example.label or 0 for example in examples]
    train, held = held_out([example.source for example in examples], labels, round(0.1 * len(labels)), 0)
    sides = [{examples[row].fields[key] for row in rows for key in task.together} for rows in (train, held)]
    assert not sides[0] & sides[1]
    assert len(held) >= min(500, round(0.1 * len(examples)))
    assert (grouping(task, file, None) is None) == (name == "copa")
    assert grouping(replace(task, together=[task.shorten]), file, None) is None


def save_gpt2(folder: Path, seed: int) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from dp_bench.backbones.random_init import byte_tokenizer

    torch.manual_seed(seed)
    tokenizer = byte_tokenizer("gpt2")
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=len(tokenizer), n_positions=600)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def local_run(folder: Path, results: Path) -> RunRecord:
    words = [
        "task=rte",
        "prompt=fixed",
        "trainer=smoke",
        "trainer.max_steps=2",
        "device=cpu",
        "backbone=local",
    ]
    where = [f"backbone.name_or_path={folder}", "backbone.answer_cue=' Answer:'", f"data.dir={FIXTURES}"]
    return run(config.build(config.compose([*words, *where, f"results_dir={results}"])))


def test_a_run_is_named_by_its_weights_and_not_by_where_they_lie(tmp_path: Path) -> None:
    one, other, copy = (tmp_path / name for name in ("one", "other", "copy"))
    save_gpt2(one, 0)
    save_gpt2(other, 1)
    shutil.copytree(one, copy)
    results = tmp_path / "results"
    first = local_run(one, results)
    assert first.checkpoint["sha256"] and first.checkpoint["commit"] is None
    assert local_run(copy, results).run_id == first.run_id, "the same weights elsewhere"
    shutil.copyfile(other / "model.safetensors", one / "model.safetensors")
    second = local_run(one, results)
    assert second.run_id != first.run_id, "other weights at the same place"
    assert second.checkpoint["fingerprint"] != first.checkpoint["fingerprint"]
    assert local_run(other, results).run_id == second.run_id
    for record in (first, second):
        assert records.identify(record.config, record.data_sha256, record.facts)[0] == record.run_id


def test_the_configuration_of_a_model_counts_as_its_weights_do(tmp_path: Path) -> None:
    save_gpt2(tmp_path / "model", 0)
    before = checkpoint.folder_sha256(str(tmp_path / "model"), tmp_path)
    (tmp_path / "model" / "README.md").write_text("nothing that a model is read from")
    assert checkpoint.folder_sha256(str(tmp_path / "model"), tmp_path) == before
    path = tmp_path / "model" / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "layer_norm_epsilon": 0.1}))
    assert checkpoint.folder_sha256(str(tmp_path / "model"), tmp_path) != before


def test_a_hub_model_is_named_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub_reachable.cache_clear()
    settings = config.build(config.compose(["backbone=t5_base", "data.dir=."])).settings.backbone
    assert checkpoint.facts(settings, tmp_path) == {}  # not here, and no hub to ask
    refs = tmp_path / "models--google--t5-base-lm-adapt" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("a" * 40)
    assert checkpoint.facts(settings, tmp_path) == {"backbone.revision": "a" * 40}
    assert checkpoint.commit_of(replace(settings, revision="b" * 40)) == "b" * 40


@pytest.mark.parametrize("name", ["t5_micro", "minilm"])
def test_weights_in_a_package_are_those_that_its_name_stands_for(name: str, tmp_path: Path) -> None:
    settings = config.build(config.compose([f"backbone={name}", "data.dir=."])).settings.backbone
    found = checkpoint.folder_sha256(settings.name_or_path, tmp_path)
    if found is None:
        pytest.skip("the package is not installed")
    assert found == settings.sha256
    assert checkpoint.facts(settings, tmp_path) == {}
    other = checkpoint.facts(replace(settings, sha256="0" * 64), tmp_path)
    assert other == {"backbone.name_or_path": f"sha256:{found}"}


def test_a_large_file_is_read_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "LARGE", 1)
    path, read = tmp_path / "weights", []
    computed = digests.computed_sha256
    monkeypatch.setattr(digests, "computed_sha256", lambda path: read.append(path) or computed(path))

    def settled(content: bytes) -> str:
        path.write_bytes(content)
        monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)
        digests._cached.cache_clear()
        return digests.file_sha256(path, tmp_path / "memory")

    first = settled(b"one")
    digests._cached.cache_clear()  # another process
    assert digests.file_sha256(path, tmp_path / "memory") == first == sha256(b"one").hexdigest()
    assert len(read) == 1
    assert settled(b"two") == sha256(b"two").hexdigest()
    (entry,) = (tmp_path / "memory").iterdir()
    entry.write_text('{"state": [')
    digests._cached.cache_clear()
    assert digests.file_sha256(path, tmp_path / "memory") == sha256(b"two").hexdigest()
