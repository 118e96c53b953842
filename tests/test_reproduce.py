"""The words that give a recorded configuration; a run repeated beside the recorded one; train --from RUN."""

from __future__ import annotations

import copy
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from conftest import FIXTURES
from helpers.records import make_record
from helpers.runs import tampered

from dp_bench import cli, config, records
from dp_bench.config import Composer, Experiment
from dp_bench.config.words import value_text
from dp_bench.run import run

RESULTS = Path(__file__).parents[1] / "results"
TINY = ["backbone=t5_tiny_random", "prompt=adap_pos", "trainer=smoke"]
TYPED = (
    ["task=cb", "backbone=t5_micro", "prompt=postfix", "data=micro", "trainer=micro"],
    ["task=rte", *TINY, "trainer.max_steps=7", "trainer.lr=1e-05", "seeds.init=3", "seed=2"],
    ["task=wic", *TINY, "protocol=authors", "prompt.num_tokens=4"],
    ["task=rte", "backbone=smollm2", "prompt=fixed", "trainer.lr=0.05"],  # the rate of the backbone's file
    ["task=rte", "backbone=smollm2", "prompt=fixed", "task.format=paper", "regime=fewshot"],
    ["task=boolq", "backbone=t5_micro", "prompt=dynamic", "prompt/vectors=single", "prompt/length=instance"],
    ["task=rte", "backbone=t5_micro", "prompt=fixed", "prompt.name=mine"],
    [*TINY, "regime=multitask", "regime.tasks=[cb,rte]", "regime.task_settings={rte:{max_length:99}}"],
    ["task=rte", *TINY, "backbone.name=small", "backbone.random_init.num_layers=1", "device=cpu"],
)


def said(words: list[str]) -> config.Said:
    return config.words_of(config.experiment(words).resolved, Composer())


@pytest.mark.parametrize("words", TYPED, ids=lambda words: words[-1])
def test_the_words_for_a_configuration_are_those_that_were_needed_for_it(words: list[str]) -> None:
    found = said(words)
    assert found.is_exact
    assert {*found.words} == {*words}
    config.check(found.words, Composer(), sweep=False)


def test_texts_that_need_quotes_come_back() -> None:
    texts = ("a, b", "it's [x]", 'say "no"', "null", "3", "{premise} so: {mask}?", "a=b", " Answer:")
    for text in texts:
        built = config.experiment([f"backbone.answer_cue={value_text(text)}"])
        assert built.settings.backbone.answer_cue == text
    template = "task.template='{premise}\\nso, {hypothesis}'"
    assert template in said(["task=rte", *TINY, template]).words


def test_committed_records_can_be_typed() -> None:
    composer = Composer()
    for folder in ("families", "micro", "minilm", "routing"):
        for record in records.load_all(RESULTS / folder)[::2000]:
            found = config.words_of(record.config, composer)
            assert found.is_exact, found.problem
            assert found.experiment is not None
            again = records.identify(found.experiment.resolved, record.data_sha256, record.facts)
            assert again == (record.run_id, record.cell_id)


def test_what_this_version_cannot_say_is_named_and_code_is_not_claimed_to_be_older() -> None:
    resolved = copy.deepcopy(config.experiment(["task=rte", *TINY]).resolved)
    resolved["task"]["revision"] = 7
    resolved["trainer"]["momentum"] = 0.9
    found = config.words_of(resolved, Composer())
    assert found.differing.keys() == {"task.revision", "trainer.momentum"}
    assert not any("revision" in word for word in found.words)
    resolved["prompt"]["position"]["_target_"] = "elsewhere.Position"
    assert not config.words_of(resolved, Composer()).is_exact


def test_typed_words_win_and_an_option_replaces_the_settings_of_its_group() -> None:
    words = [
        "task=rte",
        "prompt=dynamic",
        "prompt/length=instance",
        "prompt.lr=0.1",
        "trainer.lr=0.2",
        "seed=1",
    ]
    assert config.merged(words, ["prompt=fixed", "seed=2"]) == [
        "task=rte",
        "trainer.lr=0.2",
        *("prompt=fixed", "seed=2"),
    ]
    assert config.merged(words, ["prompt.lr=0.3"])[-3:] == ["trainer.lr=0.2", "seed=1", "prompt.lr=0.3"]
    assert "task=rte" not in config.merged(words, ["regime=multitask"])
    assert "task=rte" in config.merged(words, ["regime=fewshot"])


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def finished(experiment: Callable[..., Experiment]) -> Path:
    made = experiment("prompt=adap_pos", "trainer.max_steps=2", "prompt.num_tokens=3")
    return Path(made.settings.results_dir) / "runs" / run(made).run_id


def test_a_run_is_reproduced_beside_and_what_differs_is_said(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, before = finished.parents[1], contents(finished)
    arguments = ("reproduce", finished.name[-6:], "--results-dir", results)
    assert call(*arguments, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "prompt.num_tokens=3" in printed and printed.count("(found)") == 2
    assert not (results / "reproduced").exists()

    assert call(*arguments) == 0
    assert "Reproduced" in capsys.readouterr().out
    assert contents(finished) == before
    again = results / "reproduced" / "runs" / finished.name
    assert records.load(again) is not None

    frame = pd.read_parquet(again / "predictions.parquet")
    frame.loc[0, "prediction"] = 1 - frame.loc[0, "prediction"]
    frame.to_parquet(again / "predictions.parquet", index=False)
    assert call(*arguments) == 1
    printed = capsys.readouterr().out
    assert "Answers that differ" in printed and "Not reproduced" in printed
    (again / "predictions.parquet").write_bytes((finished / "predictions.parquet").read_bytes())
    tampered(again, score=12.5)
    assert call(*arguments) == 1
    assert "12.5" in capsys.readouterr().out


def test_reproduce_refuses_to_touch_the_run_or_to_make_another_one(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tmp_path)
    assert call("reproduce", finished, "--out", finished.parents[1]) == 2
    assert call("reproduce", finished, "--out", tmp_path / "out", "prompt.num_tokens=4") == 2
    assert "--from" in capsys.readouterr().err
    assert call("reproduce", finished, "--out", tmp_path / "out", f"data.dir={tmp_path}") == 2
    assert "not found" in capsys.readouterr().out
    tampered(finished, config={"task": {"name": "rte"}})
    assert call("reproduce", finished, "--dry-run") == 2
    before.pop(str(finished / "record.json"))
    after = contents(tmp_path)
    after.pop(str(finished / "record.json"))
    assert after == before


def test_other_data_are_said_before_anything_runs(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (FIXTURES / "RTE" / "train.jsonl").read_text("utf-8")
    folder = tmp_path / "data" / "RTE"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(rows.replace("The ", "A ", 1), "utf-8")
    (folder / "val.jsonl").write_bytes((FIXTURES / "RTE" / "val.jsonl").read_bytes())
    assert call("reproduce", finished, "--dry-run", f"data.dir={folder.parent}") == 0
    printed = capsys.readouterr().out
    assert printed.count("(found)") == 1 and "another file here" in printed and "its id is" in printed


def test_train_from_a_run_is_the_run_that_its_words_give(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, other = finished.parents[1], tmp_path / "other"
    assert call("train", "seed=1", "--from", finished.name[-6:], f"results_dir={results}") == 0
    (made,) = {*records.finished(results)} - {finished.name}
    assert (records.load(results / "runs" / made) or make_record()).config["prompt"]["num_tokens"] == 3
    assert call("train", f"--from={finished}", f"results_dir={other}", "trainer.max_steps=1") == 0
    (made,) = records.finished(other)
    record = records.load(other / "runs" / made)
    assert record is not None and "--from" not in record.command
    assert (record.config["trainer"]["max_steps"], record.config["prompt"]["num_tokens"]) == (1, 3)
    capsys.readouterr()
    assert call("sweep", "--from", finished, "seed=0,1", f"results_dir={results}", "--dry-run") == 0
    assert "2 runs: 2 done" in capsys.readouterr().out


def test_from_is_refused_where_it_cannot_be_followed(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--from"], ["--from", finished, f"--from={finished}"], ["--from", "no-such-run"]):
        assert call("train", *words) == 2
    assert call("sweep", "--from", finished, "experiment=micro/position") == 2
    capsys.readouterr()
    changed = copy.deepcopy((records.load(finished) or make_record()).config)
    changed["trainer"]["momentum"] = 0.9
    tampered(finished, config=changed)
    assert call("train", "--from", finished, "seed=1") == 2
    assert "trainer.momentum" in capsys.readouterr().err
