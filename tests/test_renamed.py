"""Experiments under a former name: taken with a notice wherever it is typed, and found in older files."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.records import make_record
from helpers.sweeps import Sweep, sweep

from dp_bench import config, records
from dp_bench.commands.finished import finished_runs
from dp_bench.config.files import RENAMED
from dp_bench.sweep.plan import make_plan, saved_plans

assert sweep  # the fixture
FORMER, PRESENT = "earn/position", "routing/position"
NOTICE = f"warning: experiment={FORMER} is now {PRESENT}\n"


def test_every_experiment_of_a_renamed_folder_is_found_under_its_former_name() -> None:
    known = config.options("experiment")
    for folder, present in RENAMED.items():
        names = [name for name in known if name.startswith(f"{present}/")]
        former = [f"{folder}/{name.removeprefix(f'{present}/')}" for name in names]
        assert names and not {*former} & {*known}
        assert [config.with_present_names(name) for name in former] == names
        assert config.with_present_names(",".join(former)) == ",".join(names)
    assert config.renew([f"+experiment={FORMER}"]) == [f"+experiment={PRESENT}"]


@pytest.mark.parametrize(
    "word", [f"experiment={FORMER}s", f"experiment=my/{FORMER}", f"results_dir={FORMER}", f"seed={FORMER}"]
)
def test_what_is_no_former_name_stays(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert config.renew([word]) == [word]
    assert capsys.readouterr().err == ""


def test_a_users_file_keeps_a_former_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "experiment" / f"{FORMER}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\n# Mine: 1 runs.\n")
    assert config.renew([f"experiment={FORMER}"], tmp_path) == [f"experiment={FORMER}"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "words"),
    [("train", ("--cfg", "job")), ("sweep", ("--dry-run", "seed=0", "data=micro_mix2"))],
)
def test_a_command_takes_both_names_for_one(sweep: Sweep, command: str, words: tuple[str, ...]) -> None:
    code, said = sweep(f"experiment={PRESENT}", *words, command=command)
    assert (code, "is now" in said) == (0, False)
    assert sweep(f"experiment={FORMER}", *words, command=command) == (0, f"{said}{NOTICE}")


def test_a_glob_of_former_names_sweeps_the_present_ones(sweep: Sweep) -> None:
    words = ("--dry-run", "seed=0")
    code, said = sweep("experiment=glob(earn/s*)", *words)
    assert code == 0 and said.count("is now") == 1
    assert said.startswith(sweep("experiment=glob(routing/s*)", *words)[1])


def test_records_of_both_names_are_one_experiment(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = []
    for seed, name in enumerate((FORMER, PRESENT, "routing/size")):
        record = make_record(f"seed={seed}", experiment=name)
        records.save(record, tmp_path / "runs" / record.run_id)
        ids.append(record.run_id)
    for name in (FORMER, PRESENT):
        assert {record.run_id for record in finished_runs(tmp_path, name)} == {*ids[:2]}
        assert capsys.readouterr().err == (NOTICE if name == FORMER else "")
    where = ("--results-dir", str(tmp_path), "--experiment", FORMER)
    code, said = sweep(*where, command="tables")
    assert code == 0 and said.count("is now") == 1


def test_a_plan_under_a_former_name_is_the_experiments_and_gives_way_to_a_later_one(
    sweep: Sweep, tmp_path: Path
) -> None:
    words = ("seed=0", "data=micro_mix2", f"results_dir={tmp_path}")
    plan = make_plan([f"experiment={PRESENT}", *words])
    plan.save()
    (file,) = (tmp_path / "sweeps").iterdir()
    older = file.with_name(file.name.replace(PRESENT.replace("/", "."), FORMER.replace("/", ".")))
    older.write_text(file.read_text("utf-8").replace(PRESENT, FORMER), "utf-8")
    number = f"{plan.name}: {len(plan.runs)} missing"
    for name in (PRESENT, FORMER):
        code, said = sweep("--results-dir", str(tmp_path), "--experiment", name, command="status")
        assert code == 0 and said.count(number) == 1 and FORMER not in said.replace(NOTICE, "")
    file.unlink()
    assert [saved["experiments"] for saved in saved_plans(tmp_path)] == [[PRESENT]]
