"""The texts that a causal language model reads: `formats` of a task, and which of them a run uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.rows import read_examples

from dp_bench import config
from dp_bench.backbones.random_init import byte_tokenizer
from dp_bench.config import Experiment
from dp_bench.data.encode import encode
from dp_bench.data.source import split_file
from dp_bench.data.template import Template
from dp_bench.opening import open_model
from dp_bench.progress import Reporter
from dp_bench.settings import Scoring, TaskSettings
from dp_bench.types import UserError

Build = Callable[..., Experiment]

# A record of each task, the text that the LM Evaluation Harness makes of it, and the choices behind it.
RTE = {"premise": "Ann left.", "hypothesis": "Ann is away.", "label": 0}
PAIRS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "boolq": (
        {"passage": "Ice melts at zero.", "question": "does ice melt", "label": True},
        "Ice melts at zero.\nQuestion: does ice melt?\nAnswer:",
        ["no", "yes"],
    ),
    "cb": (
        {"premise": "I think so.", "hypothesis": "it is so", "label": "neutral"},
        "I think so.\nQuestion: it is so. True, False, or Neither?\nAnswer:",
        ["True", "False", "Neither"],
    ),
    "copa": (
        {
            "premise": "The lamp fell.",
            "choice1": "It broke.",
            "choice2": "I slept.",
            "question": "effect",
            "label": 0,
        },
        "The lamp fell therefore",
        [" it broke.", " i slept."],
    ),
    "multirc": (
        {
            "passage": {
                "text": "Bo has a cat.",
                "questions": [
                    {"question": "Who?", "idx": 0, "answers": [{"text": "Bo", "idx": 0, "label": 1}]}
                ],
            }
        },
        "Bo has a cat.\nQuestion: Who?\nAnswer: Bo\nIs the answer correct?",
        ["no", "yes"],
    ),
    "rte": (RTE, "Ann left.\nQuestion: Ann is away. True or False?\nAnswer:", ["True", "False"]),
    "wic": (
        {
            **{"word": "run", "sentence1": "She runs home.", "sentence2": "A long run.", "label": False},
            **{"start1": 4, "end1": 8, "start2": 7, "end2": 10},
        },
        "Sentence 1: She runs home.\nSentence 2: A long run.\nQuestion: Is the word 'runs' used in the same "
        "way in the two sentences above?\nAnswer:",
        ["no", "yes"],
    ),
    "wsc": (
        {
            "text": 'Bo did n\'t see Al ( the " boss " ) , so he left .',
            "target": {"span1_text": "Al", "span1_index": 4, "span2_text": "he", "span2_index": 12},
            "label": False,
        },
        'Passage: Bo didn\'t see Al (the"boss"), so *he* left.\nQuestion: In the passage above, does the '
        'pronoun "*he*" refer to "*Al*"?\nAnswer:',
        ["no", "yes"],
    ),
    "record": (
        {
            "passage": {
                "text": "Ann met Bo.\n@highlight\nA meeting\n@highlight\nIn Rome",
                "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 9}],
            },
            "qas": [{"idx": 0, "query": "@placeholder smiled.", "answers": [{"text": "Bo"}]}],
        },
        "Ann met Bo.\n\n  - A meeting.\n  - In Rome.\n",
        ["  - Ann smiled.", "  - Bo smiled."],
    ),
    "axb": (
        {"sentence1": "Ann left.", "sentence2": "Ann is away.", "label": "entailment"},
        "Ann left.\nQuestion: Ann is away. True or False?\nAnswer:",
        ["True", "False"],
    ),
    "axg": (RTE, "Ann left.\nQuestion: Ann is away. True or False?\nAnswer:", ["True", "False"]),
}


def in_format(name: str, task: str) -> TaskSettings:
    return config.experiment([f"task={task}", f"task.format={name}", "data.dir=."]).tasks[0]


@pytest.mark.parametrize("name", PAIRS)
def test_a_task_is_written_as_the_harness_writes_it(name: str, tmp_path: Path) -> None:
    record, text, choices = PAIRS[name]
    task = in_format("lm", name)
    path = tmp_path / "val.jsonl"
    path.write_text(json.dumps({"idx": 0, **record}) + "\n")
    (example,) = read_examples(task, split_file(path), "val", None)
    assert Template.of(task).render(example.fields).text + task.cue == text
    assert [*(example.written or example.choices)] == choices


@pytest.mark.parametrize("name", config.options("task"))
def test_every_task_has_a_format_for_language_models(name: str) -> None:
    paper, lm = (
        config.experiment([f"task={name}", "data.dir=.", f"task.format={f}"]).tasks[0]
        for f in ("paper", "lm")
    )
    assert paper.format is None and lm.format == "lm"
    assert lm.template != paper.template and paper.cue is None and lm.cue is not None
    # The rows, their labels and their division stay those of the task.
    kept = ("name", "labels", "together", "metrics", "max_length", "hub_config", "only_file", "revision")
    assert [getattr(paper, key) for key in kept] == [getattr(lm, key) for key in kept]
    if lm.train_task is not None:
        assert lm.train_task.format == "lm"


def test_the_backbone_chooses_the_format_and_the_user_overrules_it() -> None:
    def task(*words: str) -> TaskSettings:
        return config.experiment(["task=cb", "data.dir=.", *words]).tasks[0]

    assert task("backbone=gpt2").words == ["True", "False", "Neither"]
    assert task("backbone=t5_base").words == ["yes", "no", "maybe"]
    assert task("backbone=gpt2", "task.format=paper") == task("backbone=t5_base")
    typed = task("backbone=gpt2", "task.template='{premise}\\n{hypothesis}'", "task.words=[A,B,C]")
    assert typed.template == "{premise}\n{hypothesis}" and typed.words == ["A", "B", "C"]
    assert typed.cue == "\nAnswer:"  # the rest is the format's
    with pytest.raises(UserError, match="the formats paper, lm"):
        task("task.format=chat")


def test_all_tasks_of_a_run_are_in_the_format_of_its_backbone() -> None:
    several = [
        "regime=multitask",
        "regime.tasks=[rte,cb]",
        "regime.transfer=[axg]",
        "data.dir=.",
        "backbone=gpt2",
    ]
    experiment = config.experiment([*several, "regime.task_settings={cb: {words: [A, B, C]}}"])
    assert [task.format for task in (*experiment.tasks, *experiment.transfer)] == ["lm"] * 3
    assert experiment.tasks[1].words == ["A", "B", "C"]


def test_a_format_is_part_of_what_identifies_a_run_and_the_list_of_formats_is_not() -> None:
    paper, lm = (
        config.experiment(["data.dir=.", f"task.format={name}"]).resolved["task"] for name in ("paper", "lm")
    )
    assert "formats" not in paper and "formats" not in lm
    assert paper["format"] is None and paper["cue"] is None  # null: the ids of earlier runs stay
    assert paper["template"] != lm["template"]


def test_without_a_cue_the_last_token_of_a_text_is_its_cue(tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    path.write_text(json.dumps({"idx": 0, **PAIRS["copa"][0]}) + "\n")
    task, tokenizer = in_format("lm", "copa"), byte_tokenizer("gpt2")
    examples = read_examples(task, split_file(path), "val", None)
    encoded = encode(
        *(examples, Template.of(task), tokenizer),
        max_length=100,
        cache_dir=tmp_path,
        key_parts={},
        scoring=task.scoring,
        cue=task.cue,
    )
    batch = encoded.collate([0], pad_id=0)
    ids = tokenizer("The lamp fell therefore").input_ids
    assert batch.ids_BT[0].tolist() == ids
    assert batch.answer_B is not None and batch.answer_B.tolist() == batch.body_end_B.tolist() == [
        len(ids) - 1
    ]


def test_encoders_refuse_a_text_without_a_mask(experiment: Build, tmp_path: Path) -> None:
    wrong = experiment("backbone=bert_tiny_random", "task.format=lm")
    with pytest.raises(UserError, match=r"has no \{mask\}"):
        open_model(wrong, tmp_path, Reporter(quiet=True))


def test_choices_are_scored_by_the_mean_or_the_sum(experiment: Build, tmp_path: Path) -> None:
    words = ("task=copa", "backbone=gpt2_tiny_random", "task.format=lm")
    scorings = ("choices", "choices_sum")
    runs = [experiment(*words, f"task.formats.lm.scoring={scoring}") for scoring in scorings]
    mean, total = (open_model(run, tmp_path, Reporter(quiet=True)).verbalizers[0] for run in runs)
    lengths_BC = torch.tensor([[2, 5], [3, 0]])
    mask_BCA = torch.arange(5) < lengths_BC[..., None]

    class Constant:
        def token_logprobs(self, prompted: object, ids_BCA: torch.Tensor) -> torch.Tensor:
            return torch.full(ids_BCA.shape, -1.0)

    batch = SimpleNamespace(choice_ids_BCA=torch.zeros(2, 2, 5, dtype=torch.long), choice_mask_BCA=mask_BCA)
    assert mean(Constant(), None, batch)[0].tolist() == [-1.0, -1.0]
    assert total(Constant(), None, batch)[0].tolist() == [-2.0, -5.0]
    assert total(Constant(), None, batch)[1, 1] == -torch.inf
    assert Scoring.choices_sum.is_whole and not Scoring.words.is_whole
