"""An exported run answers as the run did: through PEFT, in plain transformers, and opened again."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import FIXTURES
from helpers import hub as helper
from helpers.rows import read_examples
from helpers.tokenizers import byte_level_tokenizer

import dp_bench
from dp_bench import config, hub, records
from dp_bench.backbones.random_init import byte_tokenizer
from dp_bench.cli import main
from dp_bench.config import Experiment
from dp_bench.data.source import split_file
from dp_bench.run import run

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=3", "trainer.eval_every=3", "trainer.lr=0.3", "prompt.num_tokens=5")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
MODELS: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 700},
    "llama": {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 700},
    "bert": {**SIZES, "max_position_embeddings": 700},
    "roberta": {**SIZES, "max_position_embeddings": 700},
}
CUES = {"t5": None, "gpt2": " Answer:", "llama": " Answer:"}
BEFORE = "prompt.position.outcome=all"
IN_PEFT = (
    *("t5 fixed", f"t5 p_tuning {BEFORE}", "t5 lora", "t5 fixed protocol=authors task.max_length=300"),
    *("gpt2 fixed", "gpt2 prefix_tuning", "gpt2 lora", "llama fixed", "llama p_tuning_v2"),
    *("bert fixed", "bert lora", "roberta fixed"),
)
PLAIN = ("t5 fixed", "t5 postfix", "t5 p_tuning", "t5 adap_pos", "llama split", "bert split")
REFUSED = {
    "t5 dynamic": "position is learned",
    "t5 adap_pos": "position is learned",
    "t5 random_position": "at random",
    "t5 postfix": "5 of its vectors stand behind the text",
    "t5 split": "stand behind the text",
    "t5 prefix_tuning": "cache of a decoder",
    "bert p_tuning_v2": "cache of a decoder",
    "bert bitfit": "trains .* tensors of the backbone",
    "t5 bottleneck": "trains .* tensors of the backbone",
    "t5 fine_tuning keep_weights=true": "whole backbone",
    "t5 zero_shot": "nothing is trained",
    "t5 calibrated": "changes the scores of the answers",
    "t5 majority": "baseline without a model",
    "bert fixed backbone.head=classifier": "classifier head",
}


def backbone(kind: str, folder: Path) -> list[str]:
    """Save a tiny model whose texts have tokens around them; return the words that choose it."""
    import transformers as t

    tokenizer = byte_level_tokenizer("<s> $A") if kind == "llama" else byte_tokenizer(kind)
    auto = {"t5": t.AutoModelForSeq2SeqLM, "gpt2": t.AutoModelForCausalLM, "llama": t.AutoModelForCausalLM}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 0}
    made = t.AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **MODELS[kind])
    torch.manual_seed(0)
    model = auto.get(kind, t.AutoModelForMaskedLM).from_config(made)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # large enough that a token at a wrong place shows
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    cue = CUES.get(kind, " Answer: {mask}")
    words = ["backbone=local", f"backbone.name_or_path={folder}"]
    return [*words, "backbone.answer_prefix=''" if cue is None else f"backbone.answer_cue='{cue}'"]


@pytest.fixture
def trained(experiment: Build, tmp_path: Path) -> Callable[[str], Path]:
    """Train a run of "MODEL PROMPT KEY=VALUE…" and return its folder."""

    def train(words: str) -> Path:
        kind, prompt, *more = words.split()
        if "classifier" in words:
            more = [*more, "backbone.answer_cue=null"]
        chosen = [*backbone(kind, tmp_path / kind), f"prompt={prompt}", *QUICK]
        if prompt in ("lora", "bottleneck", "bitfit", "fine_tuning", "zero_shot", "majority", "calibrated"):
            chosen.remove(QUICK[-1])
        made = experiment(*chosen, *more)
        return Path(made.settings.results_dir) / "runs" / run(made).run_id

    return train


def export(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["export", *map(str, words)])
    return int(stop.value.code or 0)


def answers(folder: Path, words: list[str]) -> np.ndarray[Any, Any]:
    """Return the scores that load.py of a folder gives to the reported examples."""
    logits = runpy.run_path(str(folder / "load.py"))["logits"]
    task = config.experiment(["task=rte", "data.dir=."]).settings.task
    assert task is not None
    examples = read_examples(task, split_file(FIXTURES / "RTE" / "val.jsonl"), "val", None)
    found = [logits(dict(example.fields)) for example in examples]
    table = torch.tensor([[row[word] for word in words] for row in found], dtype=torch.float64)
    return torch.log_softmax(table, 1).numpy()


def same(folder: Path, out: Path) -> None:
    recorded = pd.read_parquet(folder / "predictions.parquet")
    columns = [name for name in recorded if name.startswith("score_")]
    found = answers(out, [name.removeprefix("score_") for name in columns])
    np.testing.assert_allclose(found, recorded[columns].to_numpy(float), atol=2e-5, rtol=0)
    assert recorded[columns].to_numpy(float).std() > 1e-3


@pytest.mark.parametrize("words", IN_PEFT)
def test_peft_gives_the_logits_of_the_run(words: str, trained: Any, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the peft extra is not installed")
    folder = trained(words)
    assert export(folder, "--to", "peft", "--out", tmp_path / "out") == 0
    same(folder, tmp_path / "out")
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text("utf-8"))
    assert adapter.get("num_transformer_submodules", 1) == 1
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.parametrize("words", REFUSED)
def test_what_peft_cannot_say_is_refused(
    words: str, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(words)
    assert export(folder, "--to", "peft", "--out", tmp_path / "out") == 2
    assert re.search(REFUSED[words], capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", PLAIN)
def test_the_loader_answers_as_the_run(words: str, trained: Any, tmp_path: Path) -> None:
    folder = trained(words)
    assert export(folder, "--to", "dir", "--out", tmp_path / "out") == 0
    same(folder, tmp_path / "out")


@pytest.mark.parametrize("shorter", ["task.max_length=60", "task.max_length=61"])
def test_the_loader_shortens_as_the_run(shorter: str, trained: Any, tmp_path: Path) -> None:
    folder = trained(f"llama split {shorter}")
    record = records.load(folder)
    assert record is not None and record.share_truncated["report"] > 0.2
    export(folder, "--to", "dir", "--out", tmp_path / "out")
    same(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "words", ["t5 dynamic", "t5 lora", "bert fixed backbone.head=classifier", "t5 majority"]
)
def test_a_copied_folder_is_opened_by_dp_bench(words: str, trained: Any, tmp_path: Path) -> None:
    folder = trained(words)
    export(folder, "--to", "dir", "--out", tmp_path / "out")
    expected = pd.read_parquet(folder / "predictions.parquet")["prediction"].tolist()
    shutil.rmtree(folder)
    copied = shutil.copytree(tmp_path / "out", tmp_path / "far" / "away")
    opened = dp_bench.open_run(copied)
    task = opened.experiment.tasks[0]
    examples = read_examples(task, split_file(FIXTURES / "RTE" / "val.jsonl"), "val", None)
    assert opened.predict("rte", examples).choices.tolist() == expected
    card = (copied / "README.md").read_text("utf-8")
    assert "open_run" in card and not (copied / "load.py").exists()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "dp-bench"
    assert f"{opened.record.score:.2f} | {len(expected)} |" in card
    record = (copied / "record.json").read_text("utf-8")
    assert opened.record.command == [] and str(FIXTURES) not in record and 'results_dir": "results"' in record


def test_options_and_folders_are_checked(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    folder = trained("t5 zero_shot")
    for words, message in (
        (("--to", "zip"), "choose one of"),
        (("--to", "dir"), "--out DIR"),
        (("--to", "hub"), "--repo USER/NAME"),
        (("--to", "dir", "--out", tmp_path / "used"), "not empty"),
        (("--to", "dir", "--out", tmp_path / "used" / "file"), "not a folder"),
        (("--to", "dir", "--out", tmp_path / "x", "--private"), "for --to hub"),
    ):
        assert export(folder, *words) == 2
        assert message in capsys.readouterr().err
    assert export(folder, "--to", "dir", "--out", tmp_path / "used" / "file" / "x") == 1
    assert "Not a" in capsys.readouterr().err
    (folder / "prompt.safetensors").unlink()
    assert export(folder, "--to", "dir", "--out", tmp_path / "x") == 2
    assert "no prompt.safetensors" in capsys.readouterr().err


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    with helper.running() as stand_in:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", stand_in.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
        monkeypatch.setattr("time.sleep", lambda _: None)
        hub.hub_reachable.cache_clear()
        yield stand_in
        hub.hub_reachable.cache_clear()


def test_the_folder_is_uploaded(
    served: helper.Hub, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained("t5 fixed")
    assert export(folder, "--to", "hub", "--repo", "ann/rte-fixed", "--out", tmp_path / "out") == 0
    assert f"uploaded: {served.url}/ann/rte-fixed" in capsys.readouterr().out
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert sorted(served.uploaded["ann/rte-fixed"]) == made and "load.py" in made
    for name in made:
        assert served.uploaded["ann/rte-fixed"][name] == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("where", "answer", "message", "code"),
    [
        ("repos/create", (401, {}), "token is not valid", 1),
        ("repos/create", (403, {}), "may not write", 1),
        ("commit/main", (403, {}), "may not write", 1),
        ("commit/main", (500, {}), "run the command again", 1),
    ],
)
def test_refusals_of_the_hub_are_one_paragraph(
    where: str, answer: Any, message: str, code: int, served: helper.Hub, trained: Any, capsys: Any
) -> None:
    folder = trained("t5 fixed")
    served.fails[where] = answer
    assert export(folder, "--to", "hub", "--repo", "ann/x") == code
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and "Traceback" not in error


def test_without_token_or_network_nothing_is_computed(
    served: helper.Hub, monkeypatch: pytest.MonkeyPatch, trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained("t5 fixed")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    hub.hub_reachable.cache_clear()
    assert export(folder, "--to", "hub", "--repo", "ann/x") == 2
    assert "does not answer" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    assert export(folder, "--to", "hub", "--repo", "ann/x") == 2
    assert "hf auth login" in capsys.readouterr().err
    for name in ("x", "a/b/c", "a b/c"):
        assert export(folder, "--to", "hub", "--repo", name) == 2
        assert "USER/NAME" in capsys.readouterr().err
