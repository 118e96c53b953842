"""What is typed may be a flag or a setting, and what another tool would take gets the answer that helps."""

from __future__ import annotations

import pytest

from dp_bench.cli import main
from dp_bench.config import Composer, check
from dp_bench.grammar import as_flags, as_settings
from dp_bench.types import UserError


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("--seed 3", "seed=3"),
        ("--seed=3 task=rte", "seed=3 task=rte"),
        ("--results-dir out -m", "results_dir=out -m"),
        ("--prompt.num-tokens -1", "prompt.num_tokens=-1"),
        ("--cfg job --seed 3", "--cfg job seed=3"),  # a known flag keeps its value
        ("--multi", "--multi"),  # the beginning of a flag
        ("--seed --cfg job", "--seed --cfg job"),  # no value: the parser refuses it
        ("--seed task=rte", "--seed task=rte"),
    ],
)
def test_a_setting_may_be_typed_as_a_flag(typed: str, read: str) -> None:
    assert as_settings(typed.split(), ("--cfg", "--multirun", "-m")) == read.split()


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("results_dir=out RUN", "--results-dir=out RUN"),
        ("results_dir=a=b", "--results-dir=a=b"),
        ("seed=3", "seed=3"),
        ("--results-dir out", "--results-dir out"),
    ],
)
def test_a_flag_may_be_typed_as_a_setting(typed: str, read: str) -> None:
    assert as_flags(typed.split(), ("--results-dir",)) == read.split()


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("sweep micro/position", "experiment=micro/position"),
        ("train rte dynamic", "prompt=dynamic"),
        ("train task=rte epochs=3", "trainer.max_steps"),
        ("train task=rte wandb=true", "logger=wandb"),
        ("train task=rte backbone=google/t5-base-lm-adapt", "backbone=t5_base?"),
        ("train task=rte backbone=models/x", "backbone=local backbone.name_or_path=models/x"),
        ("sweep task=rte seed=0..4", "seed=0,1,2,3,4."),
        ("sweep task=rte seed=0-19", "seed=range(0,20)."),
        ("train task=rte seeds=3", "seed=0,1,2"),
        ("train task=rte --foo 3", "no setting 'foo'"),
        ("train task=rte prompt.length=10", "The number of vectors is prompt.num_tokens."),
        ("train task=mood", "--config-dir DIR"),
        ("train experiment=paper/table1", "dp-bench sweep experiment=paper/table1"),
        ("status results_dir=nowhere", "nothing below nowhere"),
        ("tables --results-dir nowhere", "below nowhere/runs"),
        ("data check nowhere", "nowhere is not a folder"),
        ("data check dir=nowhere", "nowhere is not a folder"),
        ("data check --data.dir nowhere", "nowhere is not a folder"),
    ],
)
def test_what_may_be_typed_elsewhere_is_answered(
    typed: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(typed.split())
    assert exit.value.code == 2
    assert answer in capsys.readouterr().err


def test_flags_and_settings_give_one_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for typed in ("task=rte seed=7 results_dir=out", "--task rte --seed=7 --results-dir out"):
        with pytest.raises(SystemExit):
            main(["train", *typed.split(), "--cfg", "job"])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "\nseed: 7\n" in printed[0]


def test_a_text_with_braces_is_to_be_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "task=rte", "task.template=text: {premise}"])
    assert "\"task.template='text: {premise}'\"" in capsys.readouterr().err


def test_several_runs_are_refused_before_each_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    composer, asked = Composer(), list[object]()
    of_choices = composer.of_choices
    monkeypatch.setattr(composer, "of_choices", lambda choice: asked.append(choice) or of_choices(choice))
    with pytest.raises(UserError, match=r"prompt=glob\(\*\) describes several runs: add -m"):
        check(["task=rte", "prompt=glob(*)"], composer, sweep=False)
    assert len(asked) == 1
