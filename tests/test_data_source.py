"""Raw files are found where they are, or the message says what to type; a broken line is named."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import task_settings
from huggingface_hub import constants

from dp_bench import hub
from dp_bench.data import source
from dp_bench.data.source import file_sha256, locate, read_records, split_file
from dp_bench.settings import DataSettings
from dp_bench.types import UserError

REPOSITORY = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures" / "superglue"
REVISION = "3de24cf8022e94f4ee4b9d55a6f539891524d646"


def data_settings(directory: Path | None, **changes: str) -> DataSettings:
    settings = yaml.safe_load((REPOSITORY / "configs" / "data" / "superglue.yaml").read_text("utf-8"))
    return DataSettings(**{**settings, "dir": None if directory is None else str(directory), **changes})


def message(task: str, data: DataSettings) -> str:
    with pytest.raises(UserError) as error:
        locate(task_settings(task), data)
    return str(error.value)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURES, tmp_path / "release")


@pytest.fixture(autouse=True)
def fresh_probe() -> Iterator[None]:
    probe = hub.hub_reachable  # a test may replace it
    probe.cache_clear()
    yield
    probe.cache_clear()


def write_parquet(folder: Path, *splits: str) -> None:
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True)
    table = pyarrow.table({"premise": ["It rains."], "hypothesis": ["It is wet."], "idx": [0], "label": [0]})
    for split in splits or ("train", "validation"):
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


# ---------------------------------------------------------------------------------------------- a folder


def test_the_official_layout_is_found(release: Path) -> None:
    found = locate(task_settings("rte"), data_settings(release))
    assert (found.task, found.location) == ("rte", str(release))
    assert found.train.path == release / "RTE" / "train.jsonl"
    assert (found.train.split, found.validation.split) == ("train", "val")
    assert found.train.sha256 == file_sha256(release / "RTE" / "train.jsonl")


def test_the_digest_follows_the_contents_of_either_file(release: Path) -> None:
    before = locate(task_settings("rte"), data_settings(release)).sha256
    assert locate(task_settings("rte"), data_settings(release)).sha256 == before
    path = release / "RTE" / "val.jsonl"
    path.write_bytes(path.read_bytes().replace(b"seals", b"ducks"))
    assert locate(task_settings("rte"), data_settings(release)).sha256 != before


def test_a_folder_in_another_case_will_do(release: Path) -> None:
    (release / "BoolQ").rename(release / "boolq")
    assert locate(task_settings("boolq"), data_settings(release)).train.path.parent.name == "boolq"


def test_another_stem_is_read_and_names_the_split(release: Path) -> None:
    (release / "RTE" / "val.jsonl").rename(release / "RTE" / "dev32.jsonl")
    found = locate(task_settings("rte"), data_settings(release, validation_file="dev32"))
    assert found.validation.split == "dev32"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    text = message("rte", data_settings(tmp_path / "nowhere"))
    assert f"data.dir={tmp_path / 'nowhere'} is not a folder" in text


def test_the_folder_one_level_down_is_suggested(release: Path) -> None:
    assert f"set data.dir={release}." in message("rte", data_settings(release.parent))


def test_the_folder_one_level_up_is_suggested(release: Path) -> None:
    assert f"set data.dir={release}." in message("rte", data_settings(release / "RTE"))


def test_an_unrelated_folder_is_listed(release: Path) -> None:
    shutil.rmtree(release / "RTE")
    text = message("rte", data_settings(release))
    assert "contains AX-b, AX-g, BoolQ, CB, COPA, MultiRC, ReCoRD, WSC, …" in text
    assert "RTE/train.jsonl" in text


def test_a_diagnostic_has_one_file_and_the_train_set_of_another_task(release: Path) -> None:
    found = locate(task_settings("axb"), data_settings(release, validation_file="dev32"))
    assert found.train.path == release / "RTE" / "train.jsonl"
    assert (found.validation.path.name, found.validation.split) == ("AX-b.jsonl", "test")
    (release / "RTE" / "train.jsonl").unlink()
    assert f"{release / 'RTE' / 'train.jsonl'} is missing" in message("axb", data_settings(release))
    shutil.rmtree(release / "AX-g")
    assert "has no AX-g/ folder" in message("axg", data_settings(release, train_file="val"))
    (release / "AX-b" / "AX-b.jsonl").rename(release / "AX-b" / "val.jsonl")
    assert "AX-b.jsonl is missing; " in message("axb", data_settings(release, train_file="val"))


def test_a_diagnostic_on_the_hub_has_a_test_split_only(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rte")
    write_parquet(tmp_path / "axb", "test")
    found = locate(task_settings("axb"), data_settings(None, hub=str(tmp_path)))
    assert found.train.path.parent.name == "rte"
    assert (found.validation.path.parent.name, found.validation.split) == ("axb", "test")


def test_both_tasks_of_a_diagnostic_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    root = tmp_path / "datasets--aps--super_glue" / "snapshots" / REVISION
    write_parquet(root / "axb", "test")
    assert "RTE was looked for" in message("axb", data_settings(None))
    write_parquet(root / "rte")
    assert locate(task_settings("axb"), data_settings(None)).location == f"aps/super_glue@{REVISION}"


def test_a_parquet_file_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setattr(source, "PARQUET_ROWS", 4)
    path = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table({"idx": range(10)}), path)
    assert list(read_records(split_file(path))) == [(row + 1, row, {"idx": row}) for row in range(10)]


def test_the_fewglue_layout_is_recognised(release: Path) -> None:
    (release / "RTE" / "val.jsonl").rename(release / "RTE" / "dev32.jsonl")
    assert "data.validation_file=dev32" in message("rte", data_settings(release))


def test_a_missing_file_lists_what_could_be_read(release: Path) -> None:
    text = message("rte", data_settings(release, train_file="training"))
    assert str(release / "RTE" / "training.jsonl") in text
    assert "data.train_file to one of: train, val" in text


# ---------------------------------------------------------------------------------------------- the hub


def test_a_local_folder_in_the_layout_of_the_hub_is_found(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rte")
    found = locate(task_settings("rte"), data_settings(None, hub=str(tmp_path)))
    assert found.train.path.parent == tmp_path / "rte" and found.location == str(tmp_path)
    assert (found.train.split, found.validation.split) == ("train", "val")


def test_a_release_folder_given_for_the_hub_layout_and_back_is_explained(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rte")
    assert f"data.dir=null data.hub={tmp_path}" in message("rte", data_settings(tmp_path))


def test_the_hub_has_no_other_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rte")
    text = message("rte", data_settings(None, hub=str(tmp_path), validation_file="dev32"))
    assert "data.validation_file=dev32" in text
    assert "train, val, test" in text


def test_a_cached_snapshot_is_used_without_asking_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "hub_reachable", lambda: pytest.fail("the hub was asked"))
    write_parquet(tmp_path / "datasets--aps--super_glue" / "snapshots" / REVISION / "rte")
    found = locate(task_settings("rte"), data_settings(None))
    assert found.location == f"aps/super_glue@{REVISION}"


def test_an_unreachable_hub_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    write_parquet(tmp_path / "datasets--aps--super_glue" / "snapshots" / REVISION / "rte")  # RTE only
    text = message("boolq", data_settings(None))
    for part in ("BoolQ", "aps/super_glue", str(tmp_path), "data.dir=PATH", "hf download", "does not answer"):
        assert part in text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in message("boolq", data_settings(None))


def test_a_hub_that_is_neither_folder_nor_name_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path}/nowhere, which is neither an existing folder" in message(
        "rte", data_settings(None, hub=f"{tmp_path}/nowhere")
    )


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on this machine; the list grows by the method of each request it gets."""
    methods: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            methods.append("HEAD")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield methods
        server.shutdown()


def test_the_hub_is_probed_once_a_process(requests: list[str]) -> None:
    assert hub.hub_reachable()
    assert hub.hub_reachable()
    assert requests == ["HEAD"]


def test_an_offline_process_never_probes(requests: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.hub_reachable()
    assert requests == []


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "not a url", "http://hub.invalid"])
def test_a_hub_that_is_not_there_is_unreachable(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setenv("NO_PROXY", "*")
    assert not hub.hub_reachable()


# ---------------------------------------------------------------------------------------------- records


@pytest.mark.parametrize(
    "content", ['{"idx": 0}\n{"idx": 1}', '{"idx": 0}\n{"idx": 1}\n\n', '\ufeff{"idx": 0}\r\n{"idx": 1}\r\n']
)
def test_harmless_line_ends_are_read(content: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content.encode())
    assert list(read_records(split_file(path))) == [(1, 0, {"idx": 0}), (2, 1, {"idx": 1})]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"premise": "It rained", "hypoth', "one whole JSON object"),
        (b'{"premise": It rained}', "but Expecting value at column 13"),
        (b'["premise"]', 'expected a JSON object, {"idx": 0, …}, found ["premise"]'),
        (b'{"premise": "caf\xe9 au lait"}', "not UTF-8 at byte 17"),
    ],
)
def test_a_broken_line_is_named(line: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"idx": 0}\n' + line + b'\n{"idx": 2}\n')
    with pytest.raises(UserError) as error:
        list(read_records(split_file(path)))
    assert f"{path}, line 2: " in str(error.value)
    assert expected in str(error.value)


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet: expected a parquet file"):
        list(read_records(split_file(path)))


def test_nothing_heavy_is_imported_to_reject_bad_input() -> None:
    code = (
        "import sys; import dp_bench.data.readers, dp_bench.data.template, dp_bench.commands.data_check; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'huggingface_hub') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
