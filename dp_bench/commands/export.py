"""`dp-bench export RUN --to peft|dir|hub`: a finished run for other programs and people."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dp_bench.commands.finished import find_run
from dp_bench.printing import say
from dp_bench.types import UserError

TARGETS = ("peft", "dir", "hub")


def export(run: str, results_dir: Path, *, to: str, out: Path | None, repo: str | None, private: bool) -> int:
    """Write a finished run as a folder, or upload that folder to the hub, and return the exit code.

    Raises UserError where the options do not fit, or the run cannot be exported.
    """
    _check(to, out, repo, private)
    folder = find_run(run, results_dir)
    if to != "hub":
        assert out is not None
        _refuse_used(out)
        _write(folder, to, out)
        say(f"written: {out}")
        return 0
    from dp_bench import hub

    assert repo is not None
    hub.refuse_upload(repo)  # before the backbone is loaded
    with tempfile.TemporaryDirectory() as temporary:
        made = out or Path(temporary)
        if out is not None:
            _refuse_used(out)
        _write(folder, "dir", made)
        say(f"uploaded: {hub.upload(made, repo, private=private)}")
    return 0


def _check(to: str, out: Path | None, repo: str | None, private: bool) -> None:
    if to not in TARGETS:
        raise UserError(f"--to {to}: choose one of {', '.join(TARGETS)}.")
    if to == "hub" and repo is None:
        raise UserError("--to hub needs the repository to upload to: --repo USER/NAME.")
    if to != "hub" and out is None:
        raise UserError(f"--to {to} needs a folder to write to: --out DIR.")
    if to != "hub" and (repo is not None or private):
        raise UserError(f"--repo and --private are for --to hub; --to {to} writes to --out DIR only.")


def _refuse_used(out: Path) -> None:
    """Raise UserError for a folder that has files: some of another export would stay among the new ones."""
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out} is not empty: name a new folder, or remove what is in it.")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is not a folder: name a new one.")


def _write(folder: Path, to: str, out: Path) -> None:
    from dp_bench.export import to_dir, to_peft
    from dp_bench.trained import open_run

    run = open_run(folder, device="cpu")
    if to == "peft":
        to_peft(run, out)
    else:
        to_dir(run, folder, out)
