"""`dp-bench nearest`: prompts of other tasks, the most similar first, as SPoT measures it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.records import make_record
from safetensors.torch import load_file, save_file
from torch import Tensor

from dp_bench import cli, records
from dp_bench.commands.nearest import rank, similarities
from dp_bench.config import Experiment
from dp_bench.run import run

VECTORS = "vectors.prompt_PD"
QUICK = ("prompt=fixed", "trainer.max_steps=2", "trainer.eval_every=2", "trainer.lr=0.3")


def naive_cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def naive_similarities(a_PD: Tensor, b_QD: Tensor) -> tuple[float, float]:
    """SPoT's two measures, as loops in float64."""
    a, b = a_PD.double().tolist(), b_QD.double().tolist()
    mean_a = [sum(column) / len(a) for column in zip(*a, strict=True)]
    mean_b = [sum(column) / len(b) for column in zip(*b, strict=True)]
    pairs = [naive_cosine(x, y) for x in a for y in b]
    return naive_cosine(mean_a, mean_b), sum(pairs) / len(pairs)


def leave(results: Path, task: str, tensors: dict[str, Tensor] | None, **changes: object) -> Path:
    """Leave a finished run with these trained tensors."""
    record = make_record(f"task={task}", "prompt=fixed", **changes)
    folder = results / "runs" / record.run_id
    records.save(record, folder)
    if tensors is not None:
        save_file(tensors, folder / records.PROMPT_FILE)
    return folder


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["nearest", *words])
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


def test_similarities_are_those_of_the_paper_written_as_loops() -> None:
    a_PD, b_QD = torch.randn(5, 7), torch.randn(3, 7)
    assert similarities(a_PD, b_QD) == pytest.approx(naive_similarities(a_PD, b_QD), abs=1e-12)
    assert similarities(a_PD, 3 * a_PD)[0] == pytest.approx(1.0)


def test_runs_of_other_tasks_are_ranked_and_one_can_be_started_from(
    experiment: Callable[..., Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    made = {name: run(experiment(f"task={name}", *QUICK)) for name in ("rte", "cb", "wic")}
    results = Path(experiment().settings.results_dir)
    folder = results / "runs" / made["rte"].run_id
    rows, left_out = rank(folder, made["rte"], results)
    vectors = {
        record.run_id: load_file(results / "runs" / record.run_id / records.PROMPT_FILE)[VECTORS]
        for record in made.values()
    }
    mine = vectors.pop(made["rte"].run_id)
    expected = {name: naive_similarities(mine, other) for name, other in vectors.items()}
    assert [row[0] for row in rows] == sorted(expected, key=lambda name: -expected[name][0])
    for row in rows:
        assert row[3:5] == pytest.approx(expected[row[0]], abs=1e-12)
    assert not left_out

    code, out, _ = answer(capsys, made["rte"].run_id, "--results-dir", str(results))
    start = out.splitlines()[-1].split()[-2:]
    assert code == 0
    assert start == ["prompt.init=saved", f"prompt.init_from={results / 'runs' / rows[0][0]}"]
    assert experiment("task=rte", *QUICK, *start).settings.prompt.saved_file.is_file()


def test_what_cannot_be_read_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = {VECTORS: torch.eye(2, 4)}
    folder = leave(tmp_path, "rte", prompt)
    leave(tmp_path, "cb", prompt)
    (leave(tmp_path, "wic", prompt) / records.PROMPT_FILE).write_bytes(b"no tensors")
    (leave(tmp_path, "boolq", prompt) / "record.json").write_text("{")
    leave(tmp_path, "copa", {VECTORS: torch.full((2, 4), math.nan)})
    code, out, err = answer(capsys, folder.name, "--results-dir", str(tmp_path))
    assert code == 0
    assert "prompt.init_from=" in out and "/cb-" in out.splitlines()[-1]
    assert "2 that cannot be read" in out
    assert err.count("a run is left out") == 3


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no run", "No finished run below"),
        ("packed", "has no prompt.safetensors"),
        ("no vectors", "has no vectors of one prompt for all texts"),
        ("alone", "it is the only run"),
        (
            "others",
            "1 of the same task, 1 with another backbone, 1 with another kind or size of prompt",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_paragraph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, message: str
) -> None:
    prompt = {VECTORS: torch.eye(2, 4)}
    tensors = {"packed": None, "no vectors": {"layers.rows_PD.self": torch.eye(2)}}.get(case, prompt)
    folder = leave(tmp_path, "rte", tensors)
    if case == "others":
        leave(tmp_path, "rte", prompt, data_sha256="e" * 64)
        leave(tmp_path, "cb", None)
        leave(tmp_path, "copa", {**prompt, "position.logits_NJ": torch.ones(1, 3)})
        leave(tmp_path, "wic", prompt, checkpoint={**make_record().checkpoint, "fingerprint": "0" * 64})
    named = "nothing" if case == "no run" else folder.name
    code, _, err = answer(capsys, named, "--results-dir", str(tmp_path))
    assert code == 2
    assert message in err and "Traceback" not in err
