"""What a sweep will take: synthetic finished runs whose truth is known, and plans on real rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES
from helpers.records import make_record
from helpers.sweeps import TINY, Sweep, sweep

from dp_bench import config, records
from dp_bench.costs import EVALUATION, TRAINING
from dp_bench.records import RunRecord
from dp_bench.sweep.estimate import LARGE, Costs, passes_of
from dp_bench.sweep.plan import Run, make_plan
from dp_bench.sweep.preview import preview

assert sweep  # the fixture

FIXED, A_TRAINED, AN_EVALUATED = 40.0, 0.02, 0.005  # seconds: of a run, and of a token of a text or prompt
SIZES = {"train": 900, "select": 100, "report": 250}


def seconds(
    resolved: dict[str, Any], tokens: float, controls: int = 0, sizes: dict[str, int] = SIZES
) -> float:
    """Return what a run truly takes."""
    passes = passes_of(resolved, int(resolved["trainer"]["max_steps"]), sizes, 1 + controls)
    length = tokens + resolved["prompt"]["num_tokens"]
    return FIXED + length * (passes.trained * A_TRAINED + passes.evaluated * AN_EVALUATED)


def finished(
    *words: str, tokens: float = 30.0, controls: int = 0, counted: bool = True, **changes: Any
) -> RunRecord:
    record = make_record(*words, num_examples=SIZES)
    updates = int(record.config["trainer"]["max_steps"])
    passes = passes_of(record.config, updates, SIZES, 1 + controls)
    length = tokens + record.config["prompt"]["num_tokens"]
    work = {
        phase: {"examples": examples, "tokens": tokens * examples}
        for phase, examples in ((TRAINING, passes.trained), (EVALUATION, passes.evaluated))
    }
    return make_record(
        *words,
        num_examples=SIZES,
        num_updates=updates,
        train_seconds=passes.trained * length * A_TRAINED,
        eval_seconds=passes.evaluated * length * AN_EVALUATED,
        total_seconds=seconds(record.config, tokens, controls),
        work=work if counted else {},
        diagnostics={f"control{i}_score": 1.0 for i in range(controls)},
        **changes,
    )


def planned(*words: str, cell_id: str = "another") -> Run:
    resolved = make_record(*words).config
    return Run("id", words, {}, resolved, cell_id)


SMOKE = ("task=rte", "prompt=dynamic", "trainer.max_steps=20", "trainer.eval_every=10")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("trainer.max_steps=20000",),
        ("trainer.batch_size=32", "trainer.max_steps=3000", "trainer.eval_every=100"),
        ("prompt.num_tokens=100", "trainer.max_steps=500"),
    ],
)
@pytest.mark.parametrize("controls", [0, 2])
def test_the_estimate_is_the_truth_whatever_is_scaled(words: tuple[str, ...], controls: int) -> None:
    costs = Costs([finished(*SMOKE, controls=controls)])
    run = planned(*SMOKE, *words)
    assert costs.seconds(run) == pytest.approx(seconds(run.resolved, 30.0, controls))


def test_a_short_smoke_does_not_multiply_what_a_run_does_once() -> None:
    """20 updates in 220 s, of which loading and summaries are most: not 11 s an update."""
    smoke = make_record(
        *SMOKE, num_updates=20, train_seconds=10.0, eval_seconds=10.0, total_seconds=220.0, num_examples=SIZES
    )
    estimate = Costs([smoke]).seconds(planned(*SMOKE, "trainer.max_steps=2000", "trainer.eval_every=1000"))
    # Two evaluations, as in the smoke.
    assert estimate == pytest.approx(200.0 + 10.0 * 100 + 10.0)


def test_texts_of_another_length_count_by_their_tokens() -> None:
    known = [finished(*SMOKE, tokens=30.0), finished("task=boolq", "prompt=fixed", tokens=200.0)]
    run = planned("task=boolq", "prompt=dynamic", "trainer.max_steps=50")
    others = Costs([known[0]]).seconds(run)
    assert others == pytest.approx(seconds(run.resolved, 30.0)), "nothing is known of BoolQ's texts"
    assert Costs(known).seconds(run) == pytest.approx(seconds(run.resolved, 200.0))


def test_the_most_similar_runs_decide() -> None:
    def of(*records: RunRecord) -> float | None:
        return Costs(records).seconds(planned(*SMOKE, cell_id=exact.cell_id))

    exact, other = finished(*SMOKE), finished("task=rte", "prompt=fixed")
    assert of(exact, other) == pytest.approx(exact.total_seconds)
    assert of() is None
    assert of(finished("task=rte", "prompt=majority")) is None, (
        "a baseline that trains nothing is not like it"
    )
    assert of(finished("task=rte", "backbone=t5_small")) is None


def test_older_records_without_counts_give_an_estimate_too() -> None:
    run = planned(*SMOKE, "trainer.max_steps=400")
    assert Costs([finished(*SMOKE, counted=False)]).seconds(run) == pytest.approx(seconds(run.resolved, 30.0))


def test_a_run_that_stopped_early_counts_the_updates_that_it_made() -> None:
    early = finished(*SMOKE, counted=False)
    config_of_more = {**early.config, "trainer": {**early.config["trainer"], "max_steps": 5000}}
    costs = Costs([records.RunRecord(**{**vars(early), "config": config_of_more})])
    run = planned(*SMOKE)
    assert costs.seconds(run) == pytest.approx(seconds(run.resolved, 30.0))


def test_examples_are_counted_in_the_files_where_no_run_has_counted_them() -> None:
    words = [*TINY, "prompt=fixed", "seed=0"]
    (run,), (less,) = (make_plan([*words, *more]).runs for more in ((), ("data.limit=8",)))
    lines = len((FIXTURES / "RTE" / "val.jsonl").read_text("utf-8").splitlines())
    sizes, fewer = Costs([]).sizes(run), Costs([]).sizes(less)
    assert sizes and fewer and sizes["report"] == lines >= 8 == fewer["report"]
    assert LARGE > 1_000_000, "files of that size are read in a second"


def test_a_file_that_cannot_be_read_keeps_no_other_run_from_its_estimate(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "RTE", tmp_path / "RTE")
    for name in ("train", "val"):
        (tmp_path / "RTE" / f"{name}.jsonl").write_text('{"idx": 0, "premise": 3}\n', "utf-8")
    words = (*TINY[:-1], f"data.dir={tmp_path}", "prompt=fixed", "trainer.selection=validation")
    (run,) = make_plan([*words, "seed=0"]).runs
    similar = finished("task=rte", "prompt=fixed", "backbone=t5_tiny_random")
    assert Costs([similar]).seconds(run) is not None
    assert "premise" in "".join(preview([run])), "what is wrong with it is shown in the place of examples"


def test_memory_and_disk_are_those_of_similar_runs(tmp_path: Path) -> None:
    record = finished(*SMOKE, peak_memory_mb=1234.0)
    folder = tmp_path / "runs" / record.run_id
    records.save(record, folder)
    (folder / "prompt.safetensors").write_bytes(b"x" * 100_000)
    costs, run = Costs([record], tmp_path), planned(*SMOKE)
    assert costs.memory(run) == 1234.0
    assert costs.disk(run, None) == 100_000 + (folder / "record.json").stat().st_size
    assert Costs([record]).disk(run, 1_000_000) == pytest.approx(4e6, rel=0.05), "packed: from its parameters"
    assert Costs([]).memory(run) is None and Costs([]).disk(run, None) is None


# ------------------------------------------------------------------------------------------------- preview


@pytest.mark.parametrize(
    ("prompt", "before", "behind"),
    [("fixed", "[P0 … P19] ", ""), ("split", "[P0 … P9] ", " [P10 … P19]"), ("postfix", "", " [P0 … P19]")],
)
def test_slots_are_drawn_where_the_prompt_goes(prompt: str, before: str, behind: str) -> None:
    lines = list(preview(make_plan([*TINY, f"prompt={prompt}", "seed=0"]).runs))
    text = " ".join(" ".join(lines).split())
    assert f"  {before}sentence1: " in "\n".join(lines) and text.count(f"{behind} → ") == 2
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("task", config.options("task"))
def test_every_task_is_drawn_without_a_tokenizer(task: str) -> None:
    plan = make_plan([f"task={task}", "prompt=dynamic", "backbone=t5_base", f"data.dir={FIXTURES}"])
    lines = list(preview(plan.runs))
    assert sum(line.startswith("  [P0 …") for line in lines) == 2 and "position will be chosen" in "".join(
        lines
    )


def test_what_has_no_prompt_has_no_slots() -> None:
    def drawn(prompt: str) -> str:
        return "\n".join(preview(make_plan([*TINY, f"prompt={prompt}", "seed=0"]).runs))

    assert "[P0" not in drawn("majority") and "no prompt" in drawn("majority")
    assert "[P0" not in drawn("prefix_tuning") and "in each layer" in drawn("prefix_tuning")
    assert "[P0" not in drawn("lpt") and "that enter at one layer" in drawn("lpt")
    assert drawn("majority,fixed").count("[P0") == 2, "the first run with a prompt is drawn"


def test_a_dry_run_says_what_a_person_needs(sweep: Sweep, tmp_path: Path) -> None:
    code, said = sweep(*TINY, "prompt=fixed", "seed=0")
    assert code == 0
    code, said = sweep(*TINY, "prompt=fixed", "seed=0,1", "--dry-run", "--jobs", "2")
    assert code == 0 and "for 2 processes" in said and "disk: about " in said
    assert "launcher: none: 2 processes on this machine" in said
    code, said = sweep(*TINY, "prompt=fixed", "seed=1", "--dry-run", "hydra/launcher=joblib")
    assert code == 0 and "launcher: joblib\n" in said
    assert len(list((tmp_path / "results" / "runs").iterdir())) == 1
