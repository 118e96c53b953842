"""prompt=in_context and prompt=best_template: texts that are written in another way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FIXTURES, task_settings

import dp_bench
from dp_bench import cli, run
from dp_bench.config import Experiment
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import locate
from dp_bench.data.template import Template
from dp_bench.identity import Sources, identify
from dp_bench.methods.writing import _behind, as_tensors, from_tensors
from dp_bench.records import RunRecord
from dp_bench.trained import TrainedRun
from dp_bench.types import UserError

Build = Callable[..., Experiment]
SHOTS = ("prompt=in_context", "prompt.shots=3", "backbone=gpt2_tiny_random")
LONG = "backbone.random_init.n_positions=4000"  # its tokens are bytes


def finished(experiment: Experiment) -> tuple[RunRecord, pd.DataFrame, TrainedRun]:
    record = run.run(experiment)
    folder = Path(experiment.settings.results_dir) / "runs" / record.run_id
    return record, pd.read_parquet(folder / "predictions.parquet"), dp_bench.open_run(folder)


def rte(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FIXTURES / "RTE" / f"{name}.jsonl").read_text("utf-8").splitlines()]


def asked(row: dict[str, str]) -> str:
    """A row of RTE as the LM Evaluation Harness writes it."""
    return f"{row['premise']}\nQuestion: {row['hypothesis']} True or False?\nAnswer:"


def answered(row: dict[str, str]) -> str:
    return f"{asked(row)} {'True' if row['label'] == 'entailment' else 'False'}"


@torch.no_grad()
def test_examples_stand_before_each_text_as_the_harness_writes_them(experiment: Build) -> None:
    record, predictions, opened = finished(experiment(*SHOTS, LONG))
    before, found, _ = opened.tasks["rte"].template.partition("{premise}\nQuestion: {hypothesis}")
    shown = before.replace("{{", "{").replace("}}", "}")
    *rows, end = shown.split("\n\n")
    assert found and end == "" and len(set(rows)) == 3
    assert set(rows) <= {answered(row) for row in rte("train")}
    assert not set(rows) & {answered(row) for row in rte("val")}
    assert (record.num_updates, record.trainable_parameters) == (0, 0)

    tokenizer, model = opened.context.backbone.tokenizer, opened.context.backbone.lm
    words = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("True", "False")]
    expected = []
    for row in rte("val"):
        ids = tokenizer(shown + asked(row), add_special_tokens=False, return_tensors="pt").input_ids
        expected.append(model(input_ids=ids).logits[0, -1, words].double().log_softmax(0).numpy())
    recorded = predictions[["score_True", "score_False"]].to_numpy()
    np.testing.assert_allclose(recorded, np.array(expected), atol=1e-4)

    settings, task = opened.experiment.settings, opened.experiment.tasks[0]
    examples = list(ExampleFile(task, locate(task, settings.data, settings.cache).validation))
    logits = torch.from_numpy(opened.predict("rte", examples).logits_MC)
    assert np.array_equal(logits.double().log_softmax(1).numpy(), recorded), "an opened run predicts the same"


def test_held_out_rows_are_never_in_context_and_the_seed_draws(experiment: Build) -> None:
    words = (*SHOTS, LONG, "seeds.heldout=0", "trainer.heldout_fraction=0.5", "prompt.shots=2")
    seen = {finished(experiment(*words, f"seed={seed}"))[2].tasks["rte"].template for seed in range(4)}
    assert len(seen) > 1, "each seed draws other rows"
    held = run.run(experiment(*words, "seed=0")).num_examples["select"]
    blocks = {block for template in seen for block in template.split("\n\n")[:-1]}
    assert len(blocks) <= len(rte("train")) - held


def test_a_text_is_cut_as_without_examples(experiment: Build) -> None:
    short = ("task.max_length=120", "backbone=gpt2_tiny_random", LONG)
    record, _, opened = finished(experiment(*SHOTS, *short))
    bare, _, zero = finished(experiment("prompt=zero_shot", *short))
    assert record.share_truncated == bare.share_truncated
    assert bare.share_truncated["report"] > 0, "some of the texts are too long"
    settings, task = zero.experiment.settings, zero.experiment.tasks[0]
    examples = list(ExampleFile(task, locate(task, settings.data, settings.cache).validation))
    alone, behind = (each.encoder("rte").in_memory(examples) for each in (zero, opened))
    for one, other in zip(alone.dataset["input_ids"], behind.dataset["input_ids"], strict=True):
        assert other[-len(one) :] == one


def test_whole_choices_follow_examples_with_their_right_choice(experiment: Build) -> None:
    _, _, opened = finished(experiment("task=copa", *SHOTS, LONG))
    rows = [json.loads(line) for line in (FIXTURES / "COPA" / "train.jsonl").read_text("utf-8").splitlines()]
    sentences = set()
    for row in rows:
        choice, link = row[f"choice{row['label'] + 1}"], {"cause": "because", "effect": "therefore"}
        ending = choice[0].lower() + choice[1:]
        # The harness writes two spaces before a choice.
        sentences.add(f"{row['premise'].strip().rstrip('.')} {link[row['question']]}  {ending}")
    *shown, _ = opened.tasks["copa"].template.split("\n\n")
    assert len(shown) == 3 and set(shown) <= sentences


def test_inspect_shows_texts_as_they_were_asked(
    experiment: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    composed = experiment(*SHOTS, LONG)
    record = run.run(composed)
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", record.run_id, "--results-dir", composed.settings.results_dir])
    shown = capsys.readouterr().out
    assert not stop.value.code and "Nothing was trained" in shown and "Left out" not in shown
    _, *texts = shown.partition("Texts, the most surprising first")[2].split("  says ")
    (first,) = {text.splitlines()[1].strip()[:40] for text in texts}
    assert len(texts) > 1 and any(row["premise"].startswith(first) for row in rte("train"))


def test_braces_in_an_example_are_no_fields() -> None:
    task = task_settings("rte")
    behind = _behind(task, "a {premise} and {{} b\n\n", 9)
    fields = {"premise": "{p}", "hypothesis": "h"}
    rendered, alone = (Template.of(each).render(fields) for each in (behind, task))
    assert rendered.text == "a {premise} and {{} b\n\n" + alone.text
    cut = slice(rendered.shorten_start, rendered.shorten_end)
    assert rendered.text[cut] == "{p}", "what is shortened is the text"
    assert behind.max_length == task.max_length + 9


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    task = task_settings("rte")
    changed = _behind(task, "naïve – {x}\n\n", 7)
    save_file(as_tensors([changed]), tmp_path / "prompt.safetensors")
    (read,) = from_tensors([task], tmp_path / "prompt.safetensors")
    assert read == replace(task, template=changed.template, max_length=changed.max_length)


def test_the_best_template_is_that_of_the_best_zero_shot_run(experiment: Build) -> None:
    words = ("data=micro", "backbone=t5_micro", "data.limit=120", "trainer.heldout_fraction=0.5")
    record, predictions, opened = finished(experiment("prompt=best_template", *words))
    task = task_settings("rte")
    templates = [task.template, *task.templates]
    alone = [
        finished(experiment("prompt=zero_shot", *words, f"task.template='{template}'"))
        for template in templates
    ]
    scores = [each.select_score for each, *_ in alone]
    found = [record.diagnostics[f"template_{number}_select"] for number in range(len(templates))]
    assert found == scores and len(set(scores)) > 1
    best = int(record.diagnostics["template"])
    assert best == scores.index(max(scores))
    assert opened.tasks["rte"].template == templates[best]
    assert (record.score, record.select_score) == (alone[best][0].score, max(scores))
    pd.testing.assert_frame_equal(predictions, alone[best][1])


def test_templates_are_in_the_id_of_what_reads_them_alone(experiment: Build) -> None:
    def run_id(*words: str) -> str:
        composed = experiment(*words)
        return identify(composed, Sources.of(composed)).run_id

    fewer = "task.templates=['{premise} {hypothesis}']"
    assert run_id("prompt=zero_shot", fewer) == run_id("prompt=zero_shot")
    assert run_id("prompt=best_template", fewer) != run_id("prompt=best_template")
    assert "templates" not in experiment("prompt=fixed").resolved["task"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["prompt=in_context"], "a causal language model goes on with.*t5_tiny_random"),
        (["prompt=in_context", "backbone=bert_tiny_random"], "causal language model.*bert_tiny_random"),
        ([*SHOTS, "prompt.shots=0"], "prompt.shots=0 must be"),
        (["prompt=zero_shot", "prompt.shots=2"], "prompt.shots is read by prompt=in_context only"),
        ([*SHOTS, "backbone.head=classifier"], "not trained with prompt=in_context"),
        (["prompt=best_template", "task=multirc"], "task=multirc has a single template"),
        (["prompt=best_template", "task=copa", "backbone=gpt2_tiny_random"], "single template in its format"),
        (["prompt=best_template", "task=axb"], "task=axb has a single template"),
        (["prompt=best_template", "regime=multitask", "regime.tasks=[rte,cb]"], "the template of one task"),
        (["prompt=best_template", "task.templates=['{premise} {word}']"], "names {word}"),
        (["prompt=best_template", "task.templates=['{premise}','{premise}']"], "repeats a template"),
    ],
)
def test_bad_combinations_are_refused(experiment: Build, words: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        experiment(*words)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["prompt.shots=1000", LONG], "prompt.shots=1000: task=rte has [0-9]+ training rows"),
        (["prompt.shots=8"], "take [0-9]+ positions, and GPT2LMHeadModel has 640: lower prompt.shots"),
    ],
)
def test_what_only_the_data_shows_is_refused(experiment: Build, words: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        run.run(experiment(*SHOTS, *words))
