"""A template renders its fields and reports the position of the one that may be shortened."""

from __future__ import annotations

import pytest
from conftest import task_settings

from dp_bench import config
from dp_bench.data.template import Template
from dp_bench.types import UserError

TASKS = config.options("task")


def test_rendering_fills_the_fields() -> None:
    template = Template.parse("sentence1: {premise} sentence2: {hypothesis}", "premise")
    rendered = template.render({"premise": "It rained.", "hypothesis": "It was {wet}."})
    assert rendered.text == "sentence1: It rained. sentence2: It was {wet}."
    assert rendered.text[rendered.shorten_start : rendered.shorten_end] == "It rained."


@pytest.mark.parametrize("shorten", ["a", "b", "c"])
def test_the_span_is_that_of_the_field_that_gives_way(shorten: str) -> None:
    fields = {"a": "first", "b": "", "c": "third, and last"}
    rendered = Template.parse("{a}{b}. {{c}}: {c}", shorten).render(fields)
    assert rendered.text == "first. {c}: third, and last"
    assert rendered.text[rendered.shorten_start : rendered.shorten_end] == fields[shorten]


def test_every_shipped_template_is_whole() -> None:
    assert len(TASKS) == 10
    for name in TASKS:
        task = task_settings(name)
        assert set(Template.of(task).fields) <= set(task.fields)


def test_an_unknown_field_names_the_file() -> None:
    task = task_settings("rte")
    task.template = "{premise} {hypotesis}"
    with pytest.raises(
        UserError, match=r"task\.template of task=rte: the template names \{hypotesis\}.*premise, hypothesis"
    ):
        Template.of(task)


@pytest.mark.parametrize("text", ["{hypothesis}", "{premise} {premise}", "no field"])
def test_the_field_that_gives_way_must_stand_in_it_once(text: str) -> None:
    with pytest.raises(UserError, match="shorten=premise must occur exactly once"):
        Template.parse(text, "premise")


@pytest.mark.parametrize("text", ["{premise", "{}", "{0}", "{premise!r}", "{premise:>3}", "{premise.text}"])
def test_a_template_is_only_text_and_plain_names(text: str) -> None:
    with pytest.raises(UserError, match="template"):
        Template.parse(text, "premise")
