"""A packed record is the record: whole, read by all that read records, and never lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.records import make_record

import dp_bench
from dp_bench import cli, pack, records, run
from dp_bench.config import Experiment
from dp_bench.records import RunRecord
from dp_bench.report import index
from dp_bench.sweep.plan import State, states
from dp_bench.types import UserError

QUICK = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=2", "prompt.num_tokens=2")
Command = Callable[..., tuple[int, str]]
Build = Callable[..., Experiment]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out + captured.err

    return call


def save(results: Path, *made: RunRecord) -> list[Path]:
    """Leave records as their runs would have, and return their files."""
    for record in made:
        records.save(record, results / "runs" / record.run_id)
    return [results / "runs" / record.run_id / "record.json" for record in made]


def some(number: int, **changes: Any) -> list[RunRecord]:
    return [
        make_record("task=rte", f"seed={seed}", score=50.0 + seed / 10, **changes) for seed in range(number)
    ]


def written(content: Any) -> str:
    """Return the bytes that a record.json with this content has."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def packed(results: Path) -> dict[str, str]:
    path = results / pack.FILE
    return {run_id: written(content) for run_id, content in pack.contents(pack.read(path), path)}


# ---------------------------------------------------------------------------------------------- whole


def test_records_of_real_runs_come_back_to_the_byte(
    experiment: Build, command: Command, tmp_path: Path
) -> None:
    pool = ("prompt=pool", *QUICK)
    made = [
        run.run(experiment(*words)) for words in ((*pool, "seed=1"), (*pool, "seed=2"), ("prompt=majority",))
    ]
    results = tmp_path / "results"
    files = {path.parent.name: path.read_text("utf-8") for path in results.glob("runs/*/record.json")}
    assert files.keys() == {record.run_id for record in made}
    code, said = command("pack", results)
    assert code == 0 and "3 records (3 new, 0 replaced, 0 dropped)" in said
    assert packed(results) == files
    shutil.rmtree(results / "runs")
    assert records.load_all(results) == sorted(made, key=lambda record: record.run_id)


@pytest.mark.parametrize(
    "change",
    [
        {"diagnostics": {"nested": [{"é …": [1e-300, 0.1 + 0.2, -0.0, 2**70, None, True]}]}},
        {"diagnostics": {"not a number": float("nan"), "infinite": float("-inf")}},
        {"config": {"b": {"seed": 3}, "seed": 4, "a": None}},
        {"config": {"seed": None}},
        {"config": {}},
        {"routes": "0 1 " * 50_000},
    ],
    ids=["odd values", "no numbers", "order of keys", "no seed", "no config", "long"],
)
def test_nothing_of_a_record_is_lost(change: dict[str, Any], command: Command, tmp_path: Path) -> None:
    old = {**vars(make_record("task=rte")), **change}
    del old["transfer"], old["optimizer"]  # fields that an older version did not write
    text = json.dumps(old, indent=2)
    records.write_text(tmp_path / "runs" / "one" / "record.json", text)
    assert command("pack", tmp_path)[0] == 0
    assert packed(tmp_path) == {"one": written(json.loads(text))}


def test_the_same_records_give_the_same_bytes(command: Command, tmp_path: Path) -> None:
    made = some(5)
    once, bit_by_bit = tmp_path / "once", tmp_path / "bit by bit"
    save(once, *made)
    command("pack", once)
    for record in reversed(made):
        save(bit_by_bit, record)
        command("pack", bit_by_bit, "--remove")
    assert (once / pack.FILE).read_bytes() == (bit_by_bit / pack.FILE).read_bytes()


def test_each_configuration_is_stored_once(tmp_path: Path) -> None:
    from pyarrow import parquet

    config = make_record("task=rte").config
    rows = {
        f"{cell} {seed}": pack.row_of({"config": {**config, "note": str(cell) * 100_000, "seed": seed}})
        for cell in range(1000, 1005)
        for seed in range(4)
    }
    pack.write(rows, tmp_path / pack.FILE)
    group = parquet.ParquetFile(tmp_path / pack.FILE).metadata.row_group(0)
    (column,) = (group.column(i) for i in range(5) if group.column(i).path_in_schema == "config")
    once = sum(map(len, {row.config for row in rows.values()}))
    assert 2e6 < once <= column.total_uncompressed_size < 1.01 * once


# ---------------------------------------------------------------------------------------------- readers


@pytest.mark.parametrize("number", [3, index.WORTH_IT + 5])
def test_runs_win_over_the_pack(number: int, command: Command, tmp_path: Path) -> None:
    made = some(number)
    save(tmp_path, *made)
    command("pack", tmp_path, "--remove")
    assert not (tmp_path / "runs").exists()
    changed, new = make_record("task=rte", "seed=1", score=1.5), make_record("task=cb", score=2.5)
    truth = sorted([*(r for r in made if r.seed != 1), changed, new], key=lambda record: record.run_id)
    save(tmp_path, changed, new)
    for _ in range(2):  # from the folders, then from an index of them
        assert records.load_all(tmp_path) == index.load_all(tmp_path) == truth
    assert records.finished(tmp_path) == [record.run_id for record in truth]

    code, said = command("pack", tmp_path)
    assert code == 0 and f"{number + 1} records (1 new, 1 replaced, 0 dropped)" in said
    assert f"{changed.run_id}: the record in runs/ replaced" in said
    shutil.rmtree(tmp_path / "runs")
    assert records.load_all(tmp_path) == index.load_all(tmp_path) == truth


def test_commands_say_the_same_of_packed_runs(command: Command, tmp_path: Path) -> None:
    made = [*some(3), *(make_record("task=rte", "prompt=fixed", f"seed={seed}") for seed in range(3))]
    save(tmp_path, *made)

    def answers() -> Iterator[str]:
        for words in (
            ["tables", "--columns", "params,seconds", "--out", tmp_path / "tables"],
            ["plot", "cost"],
            ["status"],
        ):
            yield command(*words, "--results-dir", tmp_path)[1]
        yield from (path.read_text("utf-8") for path in sorted(tmp_path.glob("*/*.csv")))

    before = list(answers())
    assert len(before) >= 4 and "finished" not in before[0]
    command("pack", tmp_path, "--remove")
    assert not (tmp_path / "runs").exists() and list(answers()) == before
    code, said = command("list", "runs", "--results-dir", tmp_path)
    assert code == 0
    assert f"{made[0].run_id}\tpacked  score {made[0].score:.2f}" in said and said.count("packed") == len(
        made
    )
    found = states(tmp_path, [made[0].run_id, "another"])
    assert found == {made[0].run_id: State.done, "another": State.missing}


def test_a_packed_run_is_finished_and_has_no_weights(
    experiment: Build, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = experiment("prompt=adap_ins_pos", *QUICK)
    first, results = run.run(made), tmp_path / "results"
    command("pack", results)
    folder = results / "runs" / first.run_id
    shutil.rmtree(folder)
    assert run.run(made) == first and "finished before" in capsys.readouterr().out and not folder.exists()
    with pytest.raises(UserError, match="but not its weights") as refused:
        dp_bench.open_run(folder)
    assert str(results / pack.FILE) in str(refused.value)
    code, said = command("inspect", first.run_id[:20], "--gradients", "--results-dir", results)
    assert code == 2 and "but not its weights" in said

    run.run(experiment("prompt=adap_ins_pos", *QUICK, "rerun=true"))
    assert dp_bench.open_run(folder, "cpu").record.run_id == first.run_id
    assert not list(folder.glob("before-*")), "it came to the same numbers"


def test_a_rerun_keeps_the_packed_record_aside(experiment: Build, command: Command, tmp_path: Path) -> None:
    first, results = run.run(experiment("prompt=fixed", *QUICK)), tmp_path / "results"
    folder = results / "runs" / first.run_id
    records.write_json(folder / "record.json", {**vars(first), "score": 3.0})
    command("pack", results)
    shutil.rmtree(folder)
    again = run.run(experiment("prompt=fixed", *QUICK, "rerun=true"))
    assert any("was 3.0" in text for text in again.warnings)
    kept = records.load(folder / "before-1")
    assert kept is not None and kept.score == 3.0
    assert records.load_all(results) == [again]


# ---------------------------------------------------------------------------------------------- safe


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 1}', '{"schema_version": 9}', '"\xff"'])
def test_a_record_that_cannot_be_read_is_named_and_stays(text: str, command: Command, tmp_path: Path) -> None:
    broken, whole = save(tmp_path, *some(2))
    broken.write_text(text, "latin-1")
    code, said = command("pack", tmp_path, "--remove")
    assert code == 1 and str(broken) in said and "1 records (1 new" in said
    assert broken.read_text("latin-1") == text and not whole.exists()
    assert packed(tmp_path).keys() == {whole.parent.name}


def test_only_folders_with_nothing_but_a_packed_record_are_removed(command: Command, tmp_path: Path) -> None:
    bare, weights, status, nested, linked = save(tmp_path, *some(5))
    (weights.parent / "prompt.safetensors").write_bytes(b"weights")
    records.write_status(status.parent, "done")
    (nested.parent / "before-1").mkdir()
    shutil.move(linked, tmp_path / "elsewhere.json")
    linked.symlink_to(tmp_path / "elsewhere.json")
    records.write_status(tmp_path / "runs" / "unfinished", "interrupted")
    before = set(tmp_path.rglob("*"))
    code, said = command("pack", tmp_path)
    assert code == 0 and "1 folders" in said and "5 hold more" in said
    assert set(tmp_path.rglob("*")) == before | {tmp_path / pack.FILE}
    code, said = command("pack", tmp_path, "--remove")
    assert code == 0 and "removed 1 folders; 5 that hold more" in said
    assert before - set(tmp_path.rglob("*")) == {bare, bare.parent}


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    place = len(content) // 4
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [_cut, _flipped, lambda _: b"", lambda _: b"no parquet"])
def test_a_damaged_pack_is_named(
    damage: Callable[[bytes], bytes], command: Command, experiment: Build, tmp_path: Path
) -> None:
    save(tmp_path, *some(20))
    command("pack", tmp_path, "--remove")
    path = tmp_path / pack.FILE
    path.write_bytes(damage(path.read_bytes()))
    pack._cached.cache_clear()  # another process
    for words in (["tables"], ["plot"], ["status"], ["list", "runs"], ["inspect", "rte", "--gradients"]):
        code, said = command(*words, "--results-dir", tmp_path)
        assert code == 2 and f"{path} cannot be read" in said
    damaged = path.read_bytes()
    save(tmp_path, *some(1))
    assert command("pack", tmp_path, "--remove")[0] == 2
    assert path.read_bytes() == damaged and list(tmp_path.glob("runs/*/record.json"))
    with pytest.raises(UserError, match="cannot be read"):
        run.run(experiment("prompt=majority", f"results_dir={tmp_path}"))


def test_a_file_of_somebody_else_is_no_pack(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"run_id": ["a"], "score": [1.0]}), tmp_path / pack.FILE)
    with pytest.raises(UserError, match=r"records\.parquet cannot be read .*holds no records"):
        records.load_all(tmp_path)


def test_a_pack_that_reads_back_otherwise_is_not_taken(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = some(2)
    save(tmp_path, first)
    command("pack", tmp_path)
    before = (tmp_path / pack.FILE).read_bytes()
    (file,) = save(tmp_path, second)
    real = pack.write

    def lossy(rows: Any, path: Path) -> None:
        real(
            {name: row._replace(record=row.record.replace("51.0", "51")) for name, row in rows.items()}, path
        )

    monkeypatch.setattr(pack, "write", lossy)
    code, said = command("pack", tmp_path, "--remove")
    assert code == 2 and second.run_id in said
    assert (tmp_path / pack.FILE).read_bytes() == before and file.is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"runs", pack.FILE}


def test_records_are_dropped_by_id_and_by_pattern(command: Command, tmp_path: Path) -> None:
    made = [*some(3), make_record("task=cb"), make_record("task=wic")]
    save(tmp_path, *made)
    command("pack", tmp_path, "--remove")
    code, said = command("pack", tmp_path, "--drop", made[0].run_id, "cb-*")
    assert code == 0 and "3 records (0 new, 0 replaced, 2 dropped)" in said
    left = {made[1].run_id, made[2].run_id, made[4].run_id}
    assert packed(tmp_path).keys() == left
    for words, answer in ((["nothing"], "holds no such run"), ([made[1].run_id, "x*"], "holds no such run")):
        assert answer in command("pack", tmp_path, "--drop", *words)[1]
    save(tmp_path, made[1])
    code, said = command("pack", tmp_path, "--drop", made[1].run_id)
    assert code == 2 and "would be packed again" in said
    assert packed(tmp_path).keys() == left


def test_there_must_be_something_to_pack(command: Command, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, said = command("pack", folder)
        assert code == 2 and "no finished runs" in said and not (folder / pack.FILE).exists()
