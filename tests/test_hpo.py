"""The search for settings: the same number of trials for each method, on held-out rows, and it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.sweeps import TINY, Sweep, sweep

from dp_bench import config, records
from dp_bench.commands.tables import TableOptions, tables

assert sweep  # the fixture
WORDS = (*TINY, "hpo=lr", "hpo.trials=2", "prompt=fixed,postfix,majority", "seed=0,1")


def test_each_method_gets_the_same_trials_and_its_best_one_is_reported(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    code, said = sweep(*WORDS, "--dry-run")
    assert code == 0 and "2 trials for each of 2 cells" in said and not (tmp_path / "results").exists()
    code, said = sweep(*WORDS, "--jobs", "2")
    assert code == 0 and "5 done" in said
    folder = tmp_path / "results" / "hpo" / "lr"
    trials = records.load_all(folder)
    assert sorted(record.prompt for record in trials) == ["fixed", "fixed", "postfix", "postfix"]
    assert {record.seed for record in trials} == {1000}, "no reported seed"
    best: dict[str, Any] = json.loads((folder / "best.json").read_text("utf-8"))
    reported = {record.run_id: record for record in records.load_all(tmp_path / "results")}
    for name, found in best.items():
        own = [record for record in trials if record.prompt == name.split()[2]]
        assert found["select_score"] == max(record.select_score for record in own)
        for run_id in found["run_ids"]:
            assert f"trainer.lr={reported[run_id].config['trainer']['lr']}" in found["settings"]
            assert reported[run_id].config["hpo"]["trials"] == 2
    assert tables(tmp_path / "results", TableOptions(budget=True)) == 0
    shown = capsys.readouterr().out
    assert "hpo=lr, 2 trials a method and task of trainer.lr, best on held-out examples" in shown
    assert "| fixed |" in shown and "lr=" not in shown.split("| prompt |")[1].split("\n\n")[0], shown


def test_an_interrupted_search_goes_on_to_the_same_end(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    words = (*TINY, "hpo=lr", "prompt=fixed", "seed=0")
    assert sweep(*words, "hpo.trials=4", "results_dir=whole")[0] == 0
    assert sweep(*words, "hpo.trials=2", "results_dir=parts")[0] == 0
    assert sweep(*words, "hpo.trials=4", "results_dir=parts")[0] == 0
    ids = [
        {record.run_id for record in records.load_all(tmp_path / name / "hpo" / "lr")}
        for name in ("whole", "parts")
    ]
    assert ids[0] == ids[1] and len(ids[0]) == 4


def test_a_search_never_looks_at_the_reported_rows(sweep: Sweep, tmp_path: Path) -> None:
    """Runs that select on the reported split are tuned on held-out rows all the same."""
    pytest.importorskip("optuna")
    words = (*TINY, "hpo=lr", "hpo.trials=1", "prompt=fixed", "seed=0")
    for word, told in (("protocol=clean", False), ("trainer.selection=validation", True)):
        assert ("trials select on held-out rows" in sweep(*words, word, "--dry-run")[1]) is told
    code, said = sweep(*words, "protocol=authors")
    assert code == 0 and "trials select on held-out rows" in said, said
    folder = tmp_path / "results" / "hpo" / "lr"
    trials = records.load_all(folder)
    assert [record.selection for record in trials] == ["heldout"]
    (reported,) = records.load_all(tmp_path / "results")
    assert reported.selection == "validation" and reported.protocol == trials[0].protocol
    (found,) = json.loads((folder / "best.json").read_text("utf-8")).values()
    assert found["select_score"] == max(record.select_score for record in trials)
    assert trials[0].num_examples["select"] != reported.num_examples["select"]
    assert f"trainer.lr={reported.config['trainer']['lr']}" in found["settings"]
    assert not any(setting.startswith("trainer.selection") for setting in found["settings"])


def test_a_search_of_a_method_leaves_settings_of_others_alone() -> None:
    names = ("fixed", "lora", "majority")
    found = [config.build(config.compose(["hpo=lr", f"prompt={name}"])).resolved["hpo"] for name in names]
    assert [hpo["searched"] for hpo in found] == [["trainer.lr"], ["prompt.lr"], []]
    assert config.build(config.compose([])).resolved["hpo"]["searched"] == []


def test_choices_are_tried_each_once_in_turn(sweep: Sweep, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    words = (*TINY, "hpo=rates", "prompt=fixed", "seed=0", "+hpo.space={trainer.lr: {choices: [0.3, 0.1]}}")
    for number in (2, 4):  # the last two trials are runs that are there
        assert sweep(*words, f"hpo.trials={number}")[0] == 0
        trials = records.load_all(tmp_path / "results" / "hpo" / "rates")
        assert sorted(record.config["trainer"]["lr"] for record in trials) == [0.1, 0.3]


def test_experiments_that_differ_in_their_settings_alone_have_searches_each(
    sweep: Sweep, tmp_path: Path
) -> None:
    """What an experiment sets is no word that is typed."""
    pytest.importorskip("optuna")
    folder = tmp_path / "configs" / "experiment"
    folder.mkdir(parents=True)
    for number in (2, 3):
        lines = ["# @package _global_", f"experiment: steps{number}", "trainer:", f"  warmup_steps: {number}"]
        (folder / f"steps{number}.yaml").write_text("\n".join(lines), "utf-8")
    for number in (2, 3):
        words = (*TINY, "hpo=lr", "hpo.trials=1", "prompt=fixed", "seed=0", f"experiment=steps{number}")
        code, said = sweep(*words, "--config-dir", str(tmp_path / "configs"))
        assert code == 0, said
    trials = records.load_all(tmp_path / "results" / "hpo" / "lr")
    assert sorted(record.config["trainer"]["warmup_steps"] for record in trials) == [2, 3]


def test_an_entry_of_a_search_may_be_for_some_prompts() -> None:
    names = ("fixed", "idpg", "lora", "mpt", "majority")
    found = [config.build(config.compose(["hpo=rates", f"prompt={name}"])).resolved["hpo"] for name in names]
    assert [hpo["searched"] for hpo in found] == [
        ["trainer.lr"],
        ["prompt.network_lr"],
        ["prompt.lr"],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("++hpo.trials=0",), "hpo.trials=0 must be at least 1"),
        (("hpo.seed=null",), "hpo= needs hpo.trials (at least 1), hpo.seed"),
        (("hpo.space.trainer.lr={low: 2, high: 1}",), "hpo.space"),
        (("+hpo.space={trainer.selection: {choices: [heldout, validation]}}",), "select on held-out rows"),
        (("hydra/launcher=joblib",), "chooses each trial from earlier results"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(sweep: Sweep, words: tuple[str, ...], answer: str) -> None:
    code, said = sweep(*TINY, "hpo=lr", "prompt=fixed", *words)
    assert code == 2 and answer in said
