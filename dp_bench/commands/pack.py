"""`dp-bench pack`: write the records of finished runs to one file, which replaces their folders."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from dp_bench import pack as packs
from dp_bench import records
from dp_bench.pack import Row
from dp_bench.printing import say
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError


def pack(results_dir: Path, drop: Sequence[str] = (), *, remove: bool = False) -> int:
    """Add the records in runs/ to the pack beside it, replacing those of the same runs.

    `drop` lists run ids or patterns to remove from the pack; `remove` deletes the folders that hold only a
    packed record. Returns 1 if a record could not be read; its folder is kept. Raises UserError if there is
    nothing to pack or `drop` matches no packed run.
    """
    path, before = results_dir / packs.FILE, packs.packed_rows(results_dir)
    paths = {file.parent.name: file for file in sorted((results_dir / "runs").glob("*/record.json"))}
    if not paths and not path.is_file():
        raise UserError(
            f"There are no finished runs below {results_dir / 'runs'} and there is no {path}. Give the "
            "folder that holds runs/, as in dp-bench pack results."
        )
    dropped = _matching(drop, before, path)
    if in_both := sorted(dropped & paths.keys()):
        raise UserError(
            f"--drop {in_both[0]}: its record is also in {paths[in_both[0]]} and would be packed again. "
            "Remove that folder first."
        )
    new_rows = _read(paths)
    files = {run_id: paths[run_id] for run_id in new_rows}
    rows = {**{run_id: row for run_id, row in before.items() if run_id not in dropped}, **new_rows}
    size_before = path.stat().st_size if path.is_file() else 0
    _store(rows, files, results_dir, before)
    replaced = [run_id for run_id, row in new_rows.items() if before.get(run_id, row) != row]
    for run_id in replaced:
        say(f"{run_id}: the record in runs/ replaced the packed one")
    size = sum(file.stat().st_size for file in files.values())
    say(
        f"{path}: {len(rows)} records ({len(new_rows.keys() - before.keys())} new, {len(replaced)} replaced, "
        f"{len(dropped)} dropped), each verified by reading it back\n"
        f"{len(files)} record.json have {size:,} bytes; the pack has {path.stat().st_size:,} (before: "
        f"{size_before:,})"
    )
    _clear(results_dir / "runs", files.values(), remove=remove)
    return 1 if len(new_rows) < len(paths) else 0


def _matching(words: Sequence[str], known: Mapping[str, Row], path: Path) -> set[str]:
    """Return the packed runs that match an id or a pattern such as 'rte-*'. Raises UserError if none does."""
    matches: set[str] = set()
    for word in words:
        matching = {run_id for run_id in known if run_id == word or fnmatchcase(run_id, word)}
        if not matching:
            raise UserError(f"--drop {word}: {path} holds no such run. {did_you_mean(word, tuple(known))}")
        matches |= matching
    return matches


def _read(files: Mapping[str, Path]) -> dict[str, Row]:
    """Return the rows of the records that can be read, and print which cannot."""
    rows = {}
    for run_id, file in files.items():
        try:
            rows[run_id] = packs.row_of(records.content_of(file))
        except UserError as error:
            say(f"not packed: {error}")
    return rows


def _store(
    rows: Mapping[str, Row], files: Mapping[str, Path], results_dir: Path, before: Mapping[str, Row]
) -> None:
    """Write the pack if it has changed, and verify it. Raises UserError and keeps the old one on failure."""

    def write(temporary: Path) -> None:
        packs.write(rows, temporary)
        _verify(temporary, rows, files)
        if packs.packed_rows(results_dir) != before:
            raise UserError("Another process changed the pack meanwhile: run the command again.")

    path = results_dir / packs.FILE
    if rows == before:
        _verify(path, rows, files)
        return
    records.replace_file(path, write)


def _verify(path: Path, rows: Mapping[str, Row], files: Mapping[str, Path]) -> None:
    """Raise UserError unless the pack holds exactly these rows, equal to the content of the files."""
    stored = packs.read(path)
    wrong = [
        run_id
        for run_id, content in packs.contents(stored, path)
        if stored[run_id] != rows.get(run_id)
        or (run_id in files and json.dumps(content) != json.dumps(records.content_of(files[run_id])))
    ]
    if wrong or stored.keys() != rows.keys():
        raise UserError(
            f"{', '.join(wrong[:3]) or 'A record'} cannot be read back as written, or has changed meanwhile: "
            "the pack is unchanged. Run the command again."
        )


def _clear(runs: Path, packed: Collection[Path], *, remove: bool) -> None:
    """Print how many folders hold only a packed record, and with `remove` delete them."""
    if not runs.is_dir():
        return
    spare = [
        file
        for file in packed
        if list(file.parent.iterdir()) == [file] and not (file.is_symlink() or file.parent.is_symlink())
    ]
    more = len(list(runs.iterdir())) - len(spare)
    if remove:
        for file in spare:
            file.unlink()
            file.parent.rmdir()
        if not more:
            runs.rmdir()
        say(f"removed {len(spare)} folders; {more} that hold more than a packed record are left in {runs}")
    elif spare or more:
        say(
            f"{len(spare)} folders in {runs} hold only a packed record: --remove deletes them; "
            f"{more} hold more, such as weights, or no readable record"
        )
