"""A row is called by its prompt, or by a given name, and by what tells it from others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.records import make_record

from dp_bench.config import compose, experiment, options
from dp_bench.records import RunRecord, flatten
from dp_bench.report.build import build_tables
from dp_bench.report.frame import Table
from dp_bench.report.names import Names, experiment_names, read_names
from dp_bench.types import UserError


def table(made: list[RunRecord]) -> Table:
    (only,) = build_tables(made)
    return only


def shown(made: list[RunRecord]) -> list[str]:
    return sorted(row.name for row in table(made).rows)


def test_a_name_says_what_most_rows_do_not_have_and_a_note_the_rest() -> None:
    made = [
        make_record("task=rte", "prompt=routed", f"prompt.vectors.num_prompts={members}", *more)
        for members in (1, 2, 4)
        for more in ((), ("trainer.max_steps=20", "trainer.eval_every=10"))
        if members == 2 or not more
    ]
    assert shown(made) == ["routed", "routed [1 member]", "routed [20 steps]", "routed [4 members]"]
    notes = table(made).notes
    assert "where a name does not say: 60 steps; routed: 2 members" in notes
    assert any(note.endswith("routed [20 steps]: eval_every 10") for note in notes), "it goes with the steps"


def test_two_rows_never_have_one_name() -> None:
    names = {"fixed": "one", "split": "one"}
    made = [make_record("task=rte", f"prompt={prompt}") for prompt in names]
    (only,) = build_tables(made, names=Names(names))
    assert sorted(row.name for row in only.rows) == ["fixed", "split"]


def test_a_given_name_is_that_of_its_prompt_and_settings() -> None:
    made = [make_record("task=rte", "prompt=fixed", f"prompt.num_tokens={number}") for number in (4, 20)]
    names = {"fixed": "Prompt tuning", "fixed prompt.num_tokens=4": "Short prompts", "rte": "RTE (acc.)"}
    (only,) = build_tables(made, names=Names(names))
    assert sorted(row.name for row in only.rows) == ["Prompt tuning", "Short prompts"]
    assert only.title("rte") == "RTE (acc.)"


def test_an_experiment_names_rows_without_changing_runs() -> None:
    assert "labels" not in experiment(["experiment=routing/plain", "task=boolq", "prompt=fixed"]).resolved
    made = [
        make_record("task=rte", "prompt=routed", *words, experiment="earn/learners")  # its former name
        for words in ((), ("prompt/route=instance", "prompt.estimator=reinforce"))
    ]
    assert "routed, REINFORCE" in shown(made)


@pytest.mark.parametrize("name", options("experiment"))
def test_names_of_experiments_are_of_prompts_and_settings_that_exist(name: str) -> None:
    for text in experiment_names(name):
        prompt, *settings = text.split()
        assert prompt in options("prompt")
        parts = ["prompt/adapters=lora"] if "prompt.adapters." in text else []  # null in the prompt's file
        known = flatten_of(prompt, *parts) if settings else {}
        assert all(setting.partition("=")[0] in known for setting in settings), text


def flatten_of(prompt: str, *parts: str) -> dict[str, object]:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(compose([f"prompt={prompt}", "task=rte", *parts]))
    assert isinstance(plain, dict)
    return flatten({str(key): value for key, value in plain.items()})


def test_a_file_of_names_that_is_none_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_text("fixed: Prompt tuning\n", "utf-8")
    assert read_names(path).typed == {"fixed": "Prompt tuning"}
    path.write_text("fixed: [a]\n", "utf-8")
    with pytest.raises(UserError, match="'fixed' needs a name"):
        read_names(path)


def test_a_user_s_experiment_names_rows_too(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("labels: {fixed: Prompt tuning}\n", "utf-8")
    made = [make_record("task=rte", "prompt=fixed", experiment="mine")]
    assert shown(made) == ["fixed"]
    for names in (read_names(None, tmp_path), Names(extra_dir=tmp_path)):
        (only,) = build_tables(made, names=names)
        assert [row.name for row in only.rows] == ["Prompt tuning"]


def test_figures_have_the_names_of_tables(tmp_path: Path) -> None:
    plots = pytest.importorskip("dp_bench.report.plots")
    made = [make_record("task=rte", "prompt=fixed", f"prompt.num_tokens={number}") for number in (4, 20)]
    names = Names({"fixed": "Prompt tuning", made[0].backbone: "T5-base"})
    figure = plots.FIGURES["length"]([plots.FinishedRun(record, tmp_path, names) for record in made])
    assert set(figure.points["prompt"]) == {"Prompt tuning", plots.CHANCE}
    assert all(made[0].backbone not in place and "T5-base" in place for place in figure.points["place"])


def test_the_task_of_a_user_is_not_called_a_release() -> None:
    official = make_record("task=rte", "prompt=fixed")
    task = {**official.config["task"], "name": "reviews"}
    local = {**official.config["data"], "dir": "data"}
    for data, title in ((local, "local files"), ({**local, "dir": None}, "aps/super_glue on the hub")):
        mine = replace(official, task="reviews", config={**official.config, "task": task, "data": data})
        assert table([mine]).header.data == title
    assert table([official]).header.data == "SuperGLUE"
