"""`dp-bench reproduce RUN`: what a finished run needs, the same run beside it, and what differs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from dp_bench import config, plugins, records
from dp_bench.commands.compare import show
from dp_bench.commands.finished import find_run
from dp_bench.commands.train import run_one
from dp_bench.identity import Identity, Sources, identify
from dp_bench.printing import say
from dp_bench.records import RunRecord
from dp_bench.report.again import compare_again
from dp_bench.report.pair import record_in
from dp_bench.types import UserError

WHEELS = "https://download.pytorch.org/whl"  # of builds of torch such as 2.11.0+cpu

NOT_REPRODUCED = (
    "Not reproduced: numbers differ. What differs in the environment may be why. So may the processor, which "
    "the record of a run on a CPU does not name: it decides the order in which sums are made."
)


def reproduce(
    run: str,
    typed: Sequence[str],
    results_dir: Path,
    out: Path | None = None,
    dry_run: bool = False,
    extra_dir: Path | None = None,
) -> int:
    """Print what a finished run needs, run it in another folder, and print what differs.

    `typed` says where things are here: data.dir=DIR. Returns 1 where numbers differ or the run fails.
    """
    folder, composer = find_run(run, results_dir), config.Composer(extra_dir)
    record, out = record_in(folder), out or results_dir / "reproduced"
    said = config.words_of(record.config, composer)
    say(f"{record.run_id}: score {record.score:.2f}, {record.started}\n")
    flags = [*plugins.flags(), *(["--config-dir", str(extra_dir)] if extra_dir else [])]
    say(f"command:      {shlex.join(['dp-bench', 'train', *flags, *said.words])}")
    if not said.is_exact:
        say(f"              but {said.problem}")
    _say_environment(record)
    if not said.is_exact:
        _say_data(record, None, "")
        raise UserError(
            f"This version of dp-bench cannot run it as it was: {said.problem}. Use the version above, or "
            "give the --config-dir and --code that it was started with."
        )
    words = [*_with_places(record, said.words, typed, composer), f"results_dir={out}"]
    experiment = config.build(composer.compose(words), composer)
    try:
        sources = Sources.of(experiment)
    except UserError as error:
        _say_data(record, None, str(error))
        if dry_run:
            return 0
        raise UserError(f"{error} For this command: dp-bench reproduce {run} data.dir=DIR.") from None
    _say_data(record, sources, "")
    identity = identify(experiment, sources)
    if identity.run_id != record.run_id:
        say(f"              here its id is {identity.run_id}: {_why(record, identity, sources)}")
    if dry_run:
        return 0
    new = out / "runs" / identity.run_id
    if new.resolve() == folder.resolve() or out.resolve() == folder.resolve().parent.parent:
        raise UserError(f"{out} has the run itself, which stays as it is: name another folder, --out DIR.")
    say(f"\nrunning it in {out}\n")
    records.typed(words)
    if code := run_one(composer.compose(words), composer):
        return code
    sections, is_equal = compare_again(folder, new)
    say(f"\nA is {folder}\nB is {new}")
    show(sections, f": dp-bench compare {folder} {new} --out FILE.csv has all")
    say(f"\n{'Reproduced: the numbers are equal.' if is_equal else NOT_REPRODUCED}")
    return 0 if is_equal else 1


def _with_places(
    record: RunRecord, words: Sequence[str], typed: Sequence[str], composer: config.Composer
) -> list[str]:
    """Return the words of a run with those typed, which must not make another run of it."""
    if not typed:
        return list(words)
    config.check(typed, composer, sweep=False)
    both = config.merged(words, typed, composer.extra_dir)
    resolved = config.build(composer.compose(both), composer).resolved
    if records.identify(resolved, _data_sha256(record), record.facts)[0] != record.run_id:
        raise UserError(
            f"{shlex.join(typed)} makes another run of it: dp-bench train --from {record.run_id} "
            f"{shlex.join(typed)}. Here stands where things are: data.dir=DIR device=cpu."
        )
    return both


def _data_sha256(record: RunRecord) -> str:
    """Return the digest of all files that a run read."""
    trained, others = (
        [str(entry.get("data_sha256")) for entry in part.values()]
        for part in (record.by_task, record.transfer)
    )
    return records.digest_of([*(trained or [record.data_sha256]), *others])


def _say_environment(record: RunRecord) -> None:
    here = records.versions()
    packages = {name: record.versions.get(name) for name in records.PACKAGES}
    git = record.git or {}
    pins = [f"{name}=={version}" for name, version in packages.items() if version]
    if not git:
        pins = [f"dp-bench=={record.versions.get('dp-bench')}", *pins]
    builds = {build[1] for version in packages.values() if (build := re.search(r"\+(\w+)$", version or ""))}
    index = [f"--extra-index-url {WHEELS}/{build}" for build in sorted(builds)]
    say(f"environment:  pip install {' '.join([*pins, *index])}")
    known = {name: version for name, version in record.versions.items() if version}
    other = [f"{name} {here.get(name)}" for name, version in known.items() if here.get(name) != version]
    say(f"              Python {record.versions.get('python')}, {record.versions.get('platform')}")
    say(f"              here: {', '.join(other) if other else 'the same'}")
    if git:
        now = (records.git_state() or {}).get("commit")
        dirty = ", with changes that were not committed" if git.get("dirty") else ""
        same = "the same" if now == git.get("commit") else f"{now or 'no checkout'}"
        say(f"code:         git checkout {git.get('commit')}{dirty} (here: {same})")
    say(f"device:       {record.device}, weights in {record.precision}")
    weights = ", ".join(f"{name} {value}" for name, value in record.checkpoint.items() if value)
    say(f"weights:      {weights}")


def _say_data(record: RunRecord, sources: Sources | None, problem: str) -> None:
    say("data:")
    found = sources.files if sources else {}
    for name, file in record.data_files.items():
        was, here = file.get("sha256"), found.get(name, {}).get("sha256")
        state = "found" if here == was else f"another file here, {here}"
        if here is None:
            state = "not found" if problem else "not looked for"
        say(f"  {name}: {file.get('file')} sha256 {was} ({state})")
    if problem:
        say(f"  {problem}")


def _why(record: RunRecord, identity: Identity, sources: Sources) -> str:
    """Return what about the files and weights here gives a run another id."""
    was = {**record.facts, "data": _data_sha256(record)}
    now = {**identity.facts, "data": sources.sha256}
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return f"{', '.join(names)} differ{'s' if len(names) == 1 else ''}"
