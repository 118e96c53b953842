"""Processes that begin with the heavy libraries imported: a command without their four seconds.

They are forked from a server that has imported them, so that each is a process with an id, a folder, an
environment and streams like any other.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("dp_bench.commands.train", "dp_bench.methods.tune", "dp_bench.opening", "dp_bench.outcome"),
        *("transformers.models.t5.modeling_t5", "dp_bench.report.build"),
    ]
)


def _become(
    command: Sequence[str], env: Mapping[str, str], folder: str, streams: Sequence[Connection | None]
) -> None:
    """Do what `python -m MODULE WORDS` does, in a process that is forked."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    null = os.open(os.devnull, os.O_RDWR)
    for number, stream in enumerate(streams):
        os.dup2(null if stream is None else stream.fileno(), number)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1)  # by lines, as Python does
    signal.signal(signal.SIGINT, signal.default_int_handler)
    module, *words = command
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Forked:
    """What is used of subprocess.Popen, for `python -m MODULE WORDS`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stderr: int = subprocess.PIPE,
        **_: Any,
    ) -> None:
        python, switch, *words = command
        assert (python, switch) == (sys.executable, "-m")
        pipes = [FORKS.Pipe(duplex=False) for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1] if stderr == subprocess.PIPE else None]
        folder = str(cwd or Path.cwd())
        self._process = FORKS.Process(target=_become, args=(words, dict(env), folder, theirs))
        self._process.start()
        self.pid = self._process.pid
        self.stdin = _file(pipes[0][1], "w")
        self.stdout, self.stderr = _file(pipes[1][0], "r"), _file(pipes[2][0], "r")
        for pair in pipes:
            for connection in pair:
                connection.close()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        self.stderr.close()
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid or 0, number)


def run_module(words: Sequence[str], env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m WORDS` to its end. It must say less on stderr than a pipe holds."""
    process = Forked([sys.executable, "-m", *words], env=env, cwd=cwd)
    process.stdin.close()
    said = [stream.read() for stream in (process.stdout, process.stderr)]
    process.stdout.close()
    return subprocess.CompletedProcess(words, process.wait(), *said)


def _file(connection: Connection, mode: str) -> io.TextIOBase:
    return os.fdopen(os.dup(connection.fileno()), mode, encoding="utf-8")  # type: ignore[return-value]
