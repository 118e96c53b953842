"""`dp-bench predict`: finished runs answer records that may be damaged, in their order, as they recorded."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import FIXTURES

from dp_bench.commands.predict import open_runs, predict
from dp_bench.config import Experiment
from dp_bench.data.source import streamed
from dp_bench.predicting import Line, Predictor, chunks, read, why_alone
from dp_bench.records import RunRecord
from dp_bench.run import run
from dp_bench.types import Example, UserError

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=2", "trainer.eval_every=1", "trainer.lr=0.3")
VAL = FIXTURES / "RTE" / "val.jsonl"


def made(experiment: Build, *words: str) -> tuple[Path, RunRecord]:
    built = experiment(*words, *QUICK)
    record = run(built)
    return Path(built.settings.results_dir) / "runs" / record.run_id, record


def answer(folder: Path, source: Path, **options: Any) -> tuple[int, list[dict[str, Any]]]:
    """Return exit code and lines of `dp-bench predict FOLDER --input SOURCE`."""
    out = folder.parent / "out.jsonl"
    usual = {"format": None, "task": None, "out": out, "score": False, "device": "cpu"}
    code = predict([str(folder)], folder, input=str(source), **{**usual, **options})
    return code, [json.loads(line) for line in out.read_text().splitlines()]


def records_of(path: Path = VAL) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: Path, lines: list[Any]) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(
    "words", ["prompt=dynamic", "prompt=routed", "prompt=random_position", "task=record", "prompt=majority"]
)
def test_the_answers_are_those_recorded(experiment: Build, words: str, tmp_path: Path) -> None:
    folder, record = made(experiment, words)
    table = pd.read_parquet(folder / "predictions.parquet")
    title = "ReCoRD" if record.task == "record" else "RTE"
    code, lines = answer(folder, FIXTURES / title / "val.jsonl", score=True)
    assert code == 0
    assert [line["id"] for line in lines] == table["id"].tolist()
    assert [line["position"] for line in lines] == table["position"].tolist()
    assert [line["length"] for line in lines] == table["length"].tolist()
    assert [line["member"] for line in lines] == table.get("route", pd.Series([None] * len(lines))).tolist()
    names = [name for name in table if name.startswith("score_")]
    for line, scores, choice in zip(lines, table[names].to_numpy(), table["prediction"], strict=True):
        shares = list(line["probabilities"].values())
        np.testing.assert_allclose(shares, np.exp(scores[: len(shares)]), atol=1e-12)
        assert line["label"] == list(line["probabilities"])[choice]


def test_the_score_is_that_of_the_run(experiment: Build, capsys: pytest.CaptureFixture[str]) -> None:
    folder, record = made(experiment, "task=multirc")
    answer(folder, FIXTURES / "MultiRC" / "val.jsonl", score=True)
    assert f"score {record.score:.2f}" in capsys.readouterr().out
    hidden = [{name: value for name, value in row.items() if name != "label"} for row in records_of()]
    folder, _ = made(experiment)
    with pytest.raises(UserError, match="no line has one"):
        answer(folder, write(folder.parent / "hidden.jsonl", hidden), score=True)


def test_bad_lines_are_named_and_the_others_answered(
    experiment: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = made(experiment)
    first, second, *_ = records_of()
    bad = ["{", "[]", "NaN", '{"premise": "\\ud800", "hypothesis": "b"}', {"premise": "a"}]
    bad += [{**first, "hypothesis": 3}, {**first, "hypothesis": "word " * 600}]
    code, lines = answer(folder, write(tmp_path / "in.jsonl", [first, *bad, "", second]))
    shown = capsys.readouterr().err
    assert code == 1 and "7 lines" in shown
    assert all(f"line {number}:" in shown for number in range(2, 9))
    assert [line["line"] for line in lines] == [1, 10]
    assert [line["id"] for line in lines] == [f"rte/in/{row['idx']}" for row in (first, second)]


def test_a_text_that_is_too_long_for_what_a_prompt_changes_is_named(
    experiment: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = made(experiment, "prompt=dept", "prompt.text.max_length=200")
    first, second, *_ = records_of()
    long = {**first, "premise": "word " * 60}
    code, lines = answer(folder, write(tmp_path / "in.jsonl", [first, long, second]))
    assert code == 1 and [line["line"] for line in lines] == [1, 3]
    assert "tokens, and prompt.text changes 200" in capsys.readouterr().err


def test_plain_records_keep_their_ids(experiment: Build, tmp_path: Path) -> None:
    folder, _ = made(experiment, "prompt=dynamic")
    rows = [
        {"id": f"q{n}", **{k: r[k] for k in ("premise", "hypothesis")}} for n, r in enumerate(records_of())
    ]
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0])
    table.writeheader()
    table.writerows(rows)
    (tmp_path / "in.csv").write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())  # with BOM and CRLF
    _, raw = answer(folder, VAL)
    for source in (write(tmp_path / "in.jsonl", rows), tmp_path / "in.csv"):
        code, lines = answer(folder, source)
        assert code == 0 and [line["id"] for line in lines] == [row["id"] for row in rows]
        assert [line["probabilities"] for line in lines] == [line["probabilities"] for line in raw]


def test_bad_rows_of_csv_have_the_lines_of_the_file() -> None:
    refused: list[str] = []
    content = b'a,b\n"1\n2",3\n4\n\xff,5\n6,7\n'
    rows = list(streamed(io.BytesIO(content), Path("x.csv"), ".csv", refused.append))
    assert rows == [(2, 0, {"a": "1\n2", "b": "3"}), (6, 3, {"a": "6", "b": "7"})]
    assert ["line 4" in refused[0], "line 5" in refused[1], len(refused)] == [True, True, 2]
    with pytest.raises(UserError, match="names of the columns"):
        list(streamed(io.BytesIO(b"a,a\n1,2\n"), Path("x.csv"), ".csv", refused.append))


def test_a_parquet_file_has_the_same(experiment: Build, tmp_path: Path) -> None:
    folder, _ = made(experiment, "prompt=dynamic")
    _, lines = answer(folder, VAL, score=True)
    out = tmp_path / "out.parquet"
    answer(folder, VAL, score=True, out=out)
    table = pd.read_parquet(out)
    assert list(table) == list(lines[0])
    assert [dict(each) for each in table["probabilities"]] == [line["probabilities"] for line in lines]
    assert table["id"].tolist() == [line["id"] for line in lines]


def test_a_stream_is_answered_before_it_ends() -> None:
    more = threading.Event()

    def lines() -> Iterator[Line]:
        for number in range(3):
            yield Line(number, number, Example("", {}, (), None, "", ""))
        assert more.wait(10)
        yield Line(3, 3, Example("", {}, (), None, "", ""))

    stream = chunks(lines(), 2, 0.05)
    assert [len(next(stream)), len(next(stream))] == [2, 1]
    more.set()
    assert [len(chunk) for chunk in stream] == [1]


def test_what_reading_raises_arrives() -> None:
    def broken() -> Iterator[Line]:
        raise UserError("broken")
        yield

    with pytest.raises(UserError, match="broken"):
        list(chunks(broken(), 2, None))


MIXES = (
    ("", ("prompt=routed", "prompt=dynamic")),
    ("backbone=bert_tiny_random backbone.head=classifier", ("prompt=fixed", "prompt=dynamic")),
    ("backbone=gpt2_tiny_random task=copa", ("prompt=fixed prompt.num_tokens=5", "prompt=adap_ins_len")),
)


@pytest.mark.parametrize(("words", "prompts"), MIXES)
def test_mixed_batches_answer_as_one_run_after_another(
    experiment: Build, words: str, prompts: tuple[str, ...]
) -> None:
    folders = [made(experiment, *words.split(), *prompt.split())[0] for prompt in prompts]
    runs = open_runs(folders, None, "cpu")
    assert len({id(each.context.backbone) for each in runs}) == 1
    (task,) = {each.record.task for each in runs}
    path = FIXTURES / runs[0].tasks[task].title / "val.jsonl"
    with path.open("rb") as file:
        lines = list(
            read(file, path, runs[0].tasks[task], suffix=".jsonl", with_labels=True, refuse=pytest.fail)
        )
    mixed = Predictor(runs, task)
    assert mixed.groups == [list(range(len(runs)))]
    found = list(mixed(lines, pytest.fail))
    for number, each in enumerate(runs):
        for together, (alone,) in zip(found, Predictor([each], task)(lines, pytest.fail), strict=True):
            row = together[number]
            assert row.pop("probabilities") == pytest.approx(alone.pop("probabilities"), abs=1e-5)
            assert row == alone


def test_runs_that_cannot_be_mixed_are_answered_alone(
    experiment: Build, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompts = ("fixed", "prefix_tuning", "majority", "dynamic")
    folders = [made(experiment, f"prompt={prompt}")[0] for prompt in prompts]
    runs = open_runs(folders, None, "cpu")
    assert Predictor(runs, "rte").groups == [[0, 3], [1], [2]]
    assert [why_alone(each) is None for each in runs] == [True, False, False, True]
    usual = {"format": None, "task": None, "score": False, "device": "cpu", "out": tmp_path / "x.jsonl"}
    assert predict(list(map(str, folders)), tmp_path, input=str(VAL), **usual) == 0
    assert "prompt is in the layers" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    names = [folder.name for folder in folders]
    assert [line["run"] for line in lines] == names * len(records_of())


def test_a_run_on_several_tasks_needs_one_named(experiment: Build) -> None:
    tasks = ("regime=multitask", "regime.tasks=[rte,cb]", "trainer.selection=heldout")
    folder, _ = made(experiment, "prompt=fixed", *tasks)
    with pytest.raises(UserError, match="rte, cb: add --task"):
        answer(folder, VAL)
    code, lines = answer(folder, FIXTURES / "CB" / "val.jsonl", task="cb")
    table = pd.read_parquet(folder / "predictions.parquet").query("task == 'cb'")
    labels = ["entailment", "contradiction", "neutral"]
    assert code == 0 and [line["label"] for line in lines] == [labels[n] for n in table["prediction"]]
    with pytest.raises(UserError, match="Did you mean cb"):
        answer(folder, VAL, task="cbb")


def test_what_cannot_be_read_or_written_is_said_first(experiment: Build, tmp_path: Path) -> None:
    folder, _ = made(experiment)
    empty = write(tmp_path / "empty.jsonl", [])
    for options, message in (
        ({"source": tmp_path}, "directory"),
        ({"source": tmp_path / "none"}, "No such file"),
        ({"source": empty}, "no records"),
        ({"source": VAL, "out": tmp_path / "x.txt"}, r"\.jsonl or \.parquet"),
        ({"source": empty, "out": empty}, "is the input"),
    ):
        with pytest.raises(UserError, match=message):
            answer(folder, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.glob(".*.tmp"))
