"""Models and data from the hub, through its real clients, against a stand-in on this machine."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import pty
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import hub as helper
from helpers.hub import Hub

from dp_bench import config, records
from dp_bench.backbones import checkpoint
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone
from dp_bench.cli import main
from dp_bench.data.source import locate
from dp_bench.hub import hub_reachable
from dp_bench.settings import RunSettings
from dp_bench.types import UnreachableError, UserError

REPOSITORY = Path(__file__).parents[1]
T5 = "google/t5-base-lm-adapt"  # backbone=t5_base
BIN = "pytorch_model.bin"
COMMIT = "c" * 40
COMMAND = ("train", "task=boolq", "prompt=dynamic", "trainer=smoke", "prompt.num_tokens=4", "device=cpu")
SHORT = ("trainer.max_steps=2", "trainer.eval_every=1", "trainer.warmup_steps=1")


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    helper.save_t5(folder / "t5")
    helper.save_boolq(folder / "superglue")
    return folder


@pytest.fixture
def hub(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, with a copy of its repositories below `tmp_path`, and an empty cache."""
    served = tmp_path / "hub"
    shutil.copytree(repositories, served)
    with helper.running() as hub:
        hub.serve("model", T5, served / "t5", COMMIT)
        hub.serve("dataset", "aps/super_glue", served / "superglue", settings().data.revision or "")
        for name in (
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "HF_HUB_CACHE",
            "DISABLE_SAFETENSORS_CONVERSION",
        ):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        point_to(hub.url, monkeypatch)
        monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
        yield hub
        forget()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the hub: its client has read the environment before."""
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    forget()


def forget() -> None:
    """As in a new process."""
    hub_reachable.cache_clear()
    checkpoint._commit_on_hub.cache_clear()


def settings(*overrides: str) -> RunSettings:
    return config.build(config.compose(["task=boolq", *overrides])).settings


def loaded(*overrides: str) -> Backbone:
    backbone = settings(*overrides).backbone
    return load_backbone(backbone, device=torch.device("cpu"), dtype=torch.float32, dropout=False)


def t5_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights = torch.load(folder / BIN, weights_only=True)
    return {name: tensor.clone() for name, tensor in weights.items()}  # safetensors refuses shared memory


# ---------------------------------------------------------------------------------------------- it works


def on_a_terminal(*words: str, folder: Path) -> tuple[int, str]:
    """Return the exit code of dp-bench and all that it prints to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-m", "dp_bench", *words], cwd=folder, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    printed = b""
    try:
        while part := os.read(ours, 65536):
            printed += part
    except OSError:  # it has ended
        pass
    os.close(ours)
    return child.wait(), printed.decode()


def test_the_first_command_runs_from_the_hub_and_then_without_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code, printed = on_a_terminal(*COMMAND, *SHORT, folder=tmp_path)
    assert code == 0, printed
    assert printed.count("Download complete") >= 2, "progress bars, of the data and of the model"
    assert len(hub.asked(f"GET .*{BIN}")) == 1
    assert not hub.asked("discussions|commits|refs/pr|POST|HEAD .*safetensors"), (
        "nobody asks for a conversion"
    )
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = [sys.executable, "-m", "dp_bench", *COMMAND, *SHORT, "seed=1", "on_missing=error"]
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "%|" not in again.stderr, "no bars but on a terminal"
    assert len(hub.requests) == asked
    first, second = records.load_all(tmp_path / "results")
    assert first.checkpoint["commit"] == second.checkpoint["commit"] == COMMIT
    assert first.facts["backbone.revision"] == second.facts["backbone.revision"] == COMMIT
    assert first.checkpoint["fingerprint"] == second.checkpoint["fingerprint"]


def test_what_is_in_the_cache_needs_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loaded().fingerprint()
    asked = len(hub.requests)
    assert loaded().fingerprint() == whole and len(hub.requests) == asked
    point_to("http://127.0.0.1:9", monkeypatch)
    assert loaded().fingerprint() == whole
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:9 does not answer"):
        loaded("backbone=t5_small")


def test_safetensors_are_read_where_there_is_a_bin_too(hub: Hub) -> None:
    from safetensors.torch import save_file

    folder = hub.folders[f"model {T5}"]
    weights = {name: tensor + 1 for name, tensor in t5_weights(folder).items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    read: Any = loaded().model
    assert torch.equal(read.shared.weight, weights["shared.weight"])
    assert not hub.asked(BIN)


@pytest.mark.parametrize("name", ["model.safetensors", BIN])
def test_weights_in_several_files_are_those_in_one(name: str, hub: Hub) -> None:
    from safetensors.torch import save_file

    whole = loaded().fingerprint()
    folder = hub.folders[f"model {T5}"]
    stem, suffix = name.split(".")
    weights, index = t5_weights(folder), {}
    for number in (1, 2):
        part = dict(list(weights.items())[number - 1 :: 2])
        file = f"{stem}-0000{number}-of-00002.{suffix}"
        torch.save(part, folder / file) if suffix == "bin" else save_file(
            part, folder / file, {"format": "pt"}
        )
        index |= dict.fromkeys(part, file)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}), "utf-8")
    (folder / BIN).unlink()
    hub.serve("model", T5, folder, "d" * 40)
    assert loaded("backbone.revision=" + "d" * 40).fingerprint() == whole


def test_code_in_a_bin_is_not_run(hub: Hub, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "it ran",))

    folder = hub.folders[f"model {T5}"]
    torch.save({**t5_weights(folder), "shared.weight": Code()}, folder / BIN)
    with pytest.raises(UserError, match="would run code when they are read"):
        loaded()
    (folder / BIN).write_bytes(pickle.dumps(Code()))
    hub.serve("model", T5, folder, "d" * 40)
    with pytest.raises(UserError, match="holds no checkpoint"):
        loaded("backbone.revision=" + "d" * 40)
    assert not (tmp_path / "it ran").exists()


def test_a_connection_that_breaks_once_goes_on_where_it_was(hub: Hub) -> None:
    hub.cuts[BIN] = 1
    loaded()
    assert len(hub.asked(f"GET .*{BIN}")) == 2


def test_two_processes_download_a_file_once(hub: Hub) -> None:
    code = (
        "from dp_bench.hub import fetch\n"
        f"folder = fetch({T5!r}, 'model', 'main', ['*.bin'], lambda folder: False, subject='', instead='')\n"
        f"print((folder / {BIN!r}).stat().st_size)"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    sizes = [int(child.communicate()[0]) for child in children]
    assert sizes == [(hub.folders[f"model {T5}"] / BIN).stat().st_size] * 2
    assert len(hub.asked(f"GET .*{BIN}")) == 1


# ---------------------------------------------------------------------------------------------- it does not


@pytest.mark.parametrize(
    ("pattern", "answer", "parts"),
    [
        (f"api/models/{T5}", (503, {}), ["out of order", "503", "later"]),
        (f"/{T5}/resolve", (503, {}), ["out of order", "503", "later"]),
        (f"api/models/{T5}", (429, {"Retry-After": "1"}), ["429, too many requests", "hf auth login"]),
        (f"/{T5}/resolve", helper.GATED, ["gated", f"accept its terms on {{url}}/{T5},", "hf auth login"]),
        (T5, (401, helper.GATED[1]), ["gated", f"accept its terms on {{url}}/{T5},", "hf auth login"]),
        (f"/{T5}/resolve", (403, {}), ["the hub refuses it", "hf auth login"]),
        (T5, helper.NO_REPOSITORY, [f"there is no {{url}}/{T5}, or it is private"]),
        ("super_glue/tree", (503, {}), ["BoolQ", "out of order", "503", "data.dir=PATH"]),
        ("super_glue/resolve", (429, {}), ["BoolQ", "429, too many requests", "data.dir=PATH"]),
        (
            "super_glue",
            helper.NO_REVISION,
            ["BoolQ", "does not have this revision", "datasets/aps/super_glue"],
        ),
    ],
)
def test_a_refusal_ends_in_what_to_do(
    pattern: str, answer: helper.Answer, parts: list[str], hub: Hub, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An answer of the hub stops the run: it is not replaced by the micro benchmark."""
    monkeypatch.chdir(tmp_path)
    hub.fails[pattern] = answer
    said = refused(capsys)
    for part in parts:
        assert part.format(url=hub.url) in said
    hub.fails.clear()
    forget()
    assert locate(settings().task, settings().data) and loaded(), "the next attempt is not spoiled"


def test_a_broken_download_of_hf_xet_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library for large files raises RuntimeError, as release 1.8.0 does where nobody listens."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Task error: File reconstruction error: CAS Client Error: error sending request")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", broken)
    with pytest.raises(UserError, match=r"the download broke off \(Task error"):
        locate(settings().task, settings().data)


@pytest.mark.parametrize("name", ["spiece.model", BIN, "train-00000"])
def test_a_connection_that_stays_broken_says_so(
    name: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.cuts[name] = 99
    said = refused(capsys)
    assert "the download broke off" in said and "run the command again" in said
    hub.cuts.clear()
    assert locate(settings().task, settings().data) and loaded(), "what is missing is downloaded"


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the paragraph with which the command ends; nothing is left behind."""
    with pytest.raises(SystemExit) as end:
        main([*COMMAND, *SHORT])
    printed = capsys.readouterr()
    assert end.value.code == 2, printed.out
    assert "Traceback" not in printed.err + printed.out and "NOT the requested" not in printed.out
    assert records.load_all(Path("results")) == []
    (said,) = [line for line in printed.err.splitlines() if line.startswith("dp-bench: ")]
    return said
