"""A stand-in for the Hugging Face hub on this machine, which serves folders and fails where it is told to."""

from __future__ import annotations

import json
import re
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from conftest import FIXTURES

from helpers.tokenizers import fixture_examples

API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<rev>[^/?]+))?"
)
FILE = re.compile(r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>[^?]+)")
Answer = tuple[int, dict[str, str]]  # a status and headers
GATED: Answer = (403, {"X-Error-Code": "GatedRepo"})
NO_REPOSITORY: Answer = (401, {"X-Error-Code": "RepoNotFound"})
NO_REVISION: Answer = (404, {"X-Error-Code": "RevisionNotFound"})
NO_FILE: Answer = (404, {"X-Error-Code": "EntryNotFound"})


@dataclass
class Hub:
    """What it serves by kind and name, such as "model google/t5", what it was asked, and where it fails."""

    url: str = ""
    folders: dict[str, Path] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fails: dict[str, Answer] = field(default_factory=dict)  # by a pattern of requests, such as "GET .*json"
    uploaded: dict[str, dict[str, bytes]] = field(default_factory=dict)  # files by repository and name
    cuts: dict[str, int] = field(default_factory=dict)  # by a pattern: how often a file ends in its middle

    def serve(self, kind: str, name: str, folder: Path, commit: str) -> None:
        self.folders[f"{kind} {name}"], self.commits[f"{kind} {name}"] = folder, commit

    def asked(self, pattern: str) -> list[str]:
        return [request for request in self.requests if re.search(pattern, request)]

    def _answer(self, request: str, body: bytes = b"") -> tuple[Answer, bytes]:
        path = request.split(" ", 1)[1]
        failure = next((self.fails[p] for p in self.fails if re.search(p, request)), None)
        if failure or path == "/":
            return failure or (200, {}), b""
        if request.startswith("POST "):
            return (200, {}), json.dumps(self._upload(path, body)).encode()
        asked = API.match(path) or FILE.match(path)
        repository = f"{(asked['kind'] or 'models').strip('s/')} {asked['name']}" if asked else ""
        if asked is None or repository not in self.folders:
            return NO_REPOSITORY, b""
        folder, commit = self.folders[repository], self.commits[repository]
        if asked["rev"] not in (None, "main", commit):
            return NO_REVISION, b""
        headers = {"X-Repo-Commit": commit}
        if asked.re is FILE:
            content = (folder / asked["path"]).read_bytes() if (folder / asked["path"]).is_file() else None
            etag = {"ETag": f'"{sha1(content or b"").hexdigest()}"'}
            return ((200, {**headers, **etag}), content) if content is not None else (NO_FILE, b"")
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
        info: Any = {"id": asked["name"], "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        if asked["what"] == "tree":
            info = [_entry(name, file.read_bytes()) for name, file in files.items()]
        return (200, headers), json.dumps(info).encode()

    def _upload(self, path: str, body: bytes) -> dict[str, Any]:
        """Make a repository, say that all files are sent with the commit, or take a commit."""
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            name = json.loads(body)["organization"] + "/" + json.loads(body)["name"]
            self.uploaded.setdefault(name, {})
            return {"url": f"{self.url}/{name}"}
        name, what = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+).*", path).groups()
        if what == "preupload":
            files = json.loads(body)["files"]
            return {
                "files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            }
        if what == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.uploaded[name][value["path"]] = b64decode(value["content"])
        return {"commitUrl": f"{self.url}/{name}/commit/{'e' * 40}", "commitOid": "e" * 40}

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        request = f"{handler.command} {handler.path}"
        self.requests.append(request)
        body = _body(handler)
        (status, headers), content = self._answer(request, body)
        begin = re.match(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if status == 200 and begin:
            size = len(content)
            content, status = content[int(begin[1]) :], 206
            headers = {**headers, "Content-Range": f"bytes {begin[1]}-{size - 1}/{size}"}
        handler.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        pattern = next(
            (pattern for pattern, left in self.cuts.items() if left and re.search(pattern, request)), None
        )
        if pattern is not None:
            self.cuts[pattern] -= 1
            content = b"" if begin else content[: len(content) // 2]
            handler.close_connection = True
        handler.wfile.write(content)


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    """Return what was sent, whole or in chunks."""
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    parts = []
    while size := int(handler.rfile.readline(), 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": sha1(content).hexdigest()}


@contextmanager
def running() -> Iterator[Hub]:
    """Serve while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            hub.handle(self)

        do_GET = do_HEAD = do_POST = _handle

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()


def save_t5(folder: Path) -> None:
    """Write a T5 of two layers with random weights in the files of google/t5-base-lm-adapt: one .bin, and the
    vocabulary for sentencepiece alone."""
    import sentencepiece
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    folder.mkdir(parents=True)
    texts = [text for example in fixture_examples("boolq") for text in example.fields.values()]
    with (folder / "spiece.model").open("wb") as file:
        ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*texts, "hypothesis: premise: yes no"] * 3),
            model_writer=file,
            vocab_size=200,
            hard_vocab_limit=False,
            minloglevel=2,
            **ids,
        )
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = T5Config(
        vocab_size=300,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        architectures=["T5ForConditionalGeneration"],
        **sizes,
    )
    config.save_pretrained(folder)
    torch.manual_seed(0)
    torch.save(T5ForConditionalGeneration(config).state_dict(), folder / "pytorch_model.bin")


def save_boolq(folder: Path) -> None:
    """Write the rows of the fixtures as the hub has them: one parquet file a split."""
    import pyarrow
    from pyarrow import parquet

    (folder / "boolq").mkdir(parents=True)
    for stem, split in (("train", "train"), ("val", "validation")):
        lines = (FIXTURES / "BoolQ" / f"{stem}.jsonl").read_text("utf-8").splitlines()
        rows = [{**row, "label": int(row["label"])} for row in map(json.loads, lines)]
        path = folder / "boolq" / f"{split}-00000-of-00001.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
