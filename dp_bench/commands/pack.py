"""`dp-bench pack`: put the records of finished runs into one file, which stands for their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from dp_bench import pack as packs
from dp_bench import records
from dp_bench.pack import Row
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError


def pack(results_dir: Path, drop: Sequence[str] = (), *, remove: bool = False) -> int:
    """Add the records in runs/ to the pack beside it, where they replace those of the same runs.

    `drop` names runs, or patterns of them, whose records leave the pack; `remove` removes the folders that
    hold a packed record and nothing else. Returns 1 where a record could not be read; it stays where it is.
    """
    path, before = results_dir / packs.FILE, packs.beside(results_dir)
    there = {file.parent.name: file for file in sorted((results_dir / "runs").glob("*/record.json"))}
    if not there and not path.is_file():
        raise UserError(
            f"There are no finished runs below {results_dir / 'runs'}, and there is no {path}. Give the "
            "folder that holds runs/, as in dp-bench pack results."
        )
    dropped = _matching(drop, before, path)
    if again := sorted(dropped & there.keys()):
        raise UserError(
            f"--drop {again[0]}: its record is also in {there[again[0]]}, which would be packed again. "
            "Remove that folder first."
        )
    read = _read(there)
    files = {run_id: there[run_id] for run_id in read}
    rows = {**{run_id: row for run_id, row in before.items() if run_id not in dropped}, **read}
    size_before = path.stat().st_size if path.is_file() else 0
    _store(rows, files, results_dir, before)
    replaced = [run_id for run_id, row in read.items() if before.get(run_id, row) != row]
    for run_id in replaced:
        print(f"{run_id}: the record in runs/ has replaced the one that was packed")
    size = sum(file.stat().st_size for file in files.values())
    print(
        f"{path}: {len(rows)} records ({len(read.keys() - before.keys())} new, {len(replaced)} replaced, "
        f"{len(dropped)} dropped), each read back as it was\n"
        f"{len(files)} record.json have {size:,} bytes; the pack has {path.stat().st_size:,}, and had "
        f"{size_before:,}"
    )
    _clear(results_dir / "runs", [file.parent for file in files.values()], remove=remove)
    return 1 if len(read) < len(there) else 0


def _matching(words: Sequence[str], known: Mapping[str, Row], path: Path) -> set[str]:
    """Return the packed runs that are named, or match a pattern such as 'rte-*'."""
    found: set[str] = set()
    for word in words:
        matching = {run_id for run_id in known if run_id == word or fnmatchcase(run_id, word)}
        if not matching:
            raise UserError(f"--drop {word}: {path} holds no such run. {did_you_mean(word, tuple(known))}")
        found |= matching
    return found


def _read(files: Mapping[str, Path]) -> dict[str, Row]:
    """Return the rows of the records that can be read, and say which cannot."""
    rows = {}
    for run_id, file in files.items():
        try:
            rows[run_id] = packs.row_of(records.content_of(file))
        except UserError as error:
            print(f"not packed: {error}")
    return rows


def _store(
    rows: Mapping[str, Row], files: Mapping[str, Path], results_dir: Path, before: Mapping[str, Row]
) -> None:
    """Bring the pack up to date, unless it would not give back what the files hold."""

    def write(temporary: Path) -> None:
        packs.write(rows, temporary)
        _verify(temporary, rows, files)
        if packs.beside(results_dir) != before:
            raise UserError("Another process has changed the pack meanwhile: type the same again.")

    path = results_dir / packs.FILE
    if rows == before:
        _verify(path, rows, files)
        return
    try:
        records.replace_file(path, write, durable=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. Nothing has changed.") from None


def _verify(path: Path, rows: Mapping[str, Row], files: Mapping[str, Path]) -> None:
    """Raise UserError unless a pack gives back the rows, and of each file exactly what it holds."""
    stored = packs.read(path)
    wrong = [
        run_id
        for run_id, content in packs.contents(stored, path)
        if stored[run_id] != rows.get(run_id) or not _same(content, files.get(run_id))
    ]
    if wrong or stored.keys() != rows.keys():
        raise UserError(
            f"{', '.join(wrong[:3]) or 'A record'} cannot be read back as it was written, or has changed "
            "meanwhile: the pack stays as it was. Type the same again."
        )


def _same(content: object, file: Path | None) -> bool:
    return file is None or json.dumps(content) == json.dumps(records.content_of(file))


def _clear(runs: Path, packed: Sequence[Path], *, remove: bool) -> None:
    """Say which folders hold a packed record and nothing else, and remove those if asked to."""
    spare = [folder for folder in packed if _holds_a_record_alone(folder)]
    if remove:
        for folder in spare:
            (folder / "record.json").unlink()
            folder.rmdir()
    count = len(list(runs.iterdir())) if runs.is_dir() else 0
    if remove:
        if runs.is_dir() and not count:
            runs.rmdir()
        print(f"removed {len(spare)} folders; {count} that hold more than a packed record are left in {runs}")
    elif count:
        print(
            f"{len(spare)} folders in {runs} hold nothing else and may now be removed, with --remove; "
            f"{count - len(spare)} hold more, such as weights, or no record that could be packed"
        )


def _holds_a_record_alone(folder: Path) -> bool:
    file = folder / "record.json"
    return not (folder.is_symlink() or file.is_symlink()) and list(folder.iterdir()) == [file]
