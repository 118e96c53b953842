"""The `dp-bench` command: the first word picks a command. Nothing heavy is imported until there is something
to run.

Exit codes: 0 done; 1 a run failed; 2 the user's input is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from dp_bench import __version__, ranks
from dp_bench.suggest import did_you_mean
from dp_bench.types import RunFailedError, UserError

USAGE = """\
dp-bench: compare prompt-tuning methods on SuperGLUE with a frozen language model.

  dp-bench train task=boolq prompt=dynamic      one run; -m prompt=fixed,dynamic for each combination
  dp-bench sweep experiment=micro/position      the runs of an experiment, those that are not finished
  dp-bench status                               how far the sweeps are
  dp-bench tables                               comparison tables of what is finished
  dp-bench plot                                 curves, costs and chosen positions of what is finished
  dp-bench inspect RUN --gradients              is its position learned, or only moved?
  dp-bench pack DIR                             the records of finished runs in one file, in place of runs/
  dp-bench list tasks|backbones|prompts|…       what there is to choose from, and the runs there are
  dp-bench data check [--dir DIR]               which SuperGLUE files are found, their rows and checksums
  dp-bench new task NAME --from FILE            the first files of a task, or a prompt, of yours
  dp-bench doctor                               versions, device, caches, reachable data and checkpoints

`dp-bench COMMAND --help` tells more. `--code FILE.py` adds your pieces, methods and columns to any command.
In this release: {commands}.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without … or ± must not end a run
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except UserError as error:
        print(f"dp-bench: {error}" if "\n" not in str(error) else f"dp-bench:\n{error}", file=sys.stderr)
        code = 2
    except RunFailedError as error:
        print(f"dp-bench: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("dp-bench: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `dp-bench list prompts | head`; what is left unwritten has no reader either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    if ranks.size() > 1:  # all is written: gloo's threads may abort a process that Python takes down
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE.format(commands=", ".join(COMMANDS)))
        return 0
    if words[0] in ("-V", "--version"):
        print(f"dp-bench {__version__}")
        return 0
    if words[0] not in COMMANDS:
        hint = did_you_mean(words[0], tuple(COMMANDS))
        if "=" in words[0]:
            hint = f"Did you mean `dp-bench train {' '.join(words)}`? "
        raise UserError(f"There is no command '{words[0]}'. {hint}Commands: {', '.join(COMMANDS)}.")
    return COMMANDS[words[0]](_with_code(words[1:]))


def _with_code(words: list[str]) -> list[str]:
    """Take `--code FILE` out of the words of any command, and use the file."""
    if "--code" not in words:
        return words
    from dp_bench import plugins

    at = words.index("--code")
    if at + 1 == len(words):
        raise UserError("--code needs a Python file: --code FILE.")
    plugins.use(Path(words[at + 1]))
    return [*words[:at], *words[at + 2 :]]


def _train(words: list[str]) -> int:
    from dp_bench.commands.train import train

    return train(words)


def _sweep(words: list[str]) -> int:
    parser = _parser("sweep", "Run every run of an experiment, or of settings with several values a,b,c.")
    parser.add_argument(
        "words",
        nargs="+",
        metavar="KEY=VALUE",
        help="experiment=NAME (dp-bench list experiments); settings as in dp-bench train, also with several "
        "values, task=cb,rte; hpo=NAME searches for settings first; hydra/launcher=slurm_gpu, "
        "submitit_slurm, local_jobs or joblib hands the runs to a cluster or to joblib; "
        "launcher=local_gpus is --gpus all",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--retry-failed", action="store_true", help="also run what failed before")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once, each in a process (default: 1)")
    parser.add_argument(
        "--gpus", metavar="all|0,1", help="one process on each of these GPUs, or JOBS spread over them"
    )
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with your configurations")
    options = parser.parse_intermixed_args(words)
    if options.config_dir and not options.config_dir.is_dir():
        raise UserError(f"--config-dir {options.config_dir} is not a folder.")
    from dp_bench.commands.sweep import Options, sweep

    how = Options(
        options.dry_run, options.retry_failed, options.jobs, options.gpus, extra_dir=options.config_dir
    )
    return sweep(options.words, how)


def _status(words: list[str]) -> int:
    parser = _parser("status", "Print how far the sweeps are: done, running, failed, missing.")
    parser.add_argument("--experiment", metavar="NAME", help="of this experiment alone")
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results"), help="where runs/ lies (default: results)"
    )
    options = parser.parse_args(words)
    from dp_bench.commands.status import status

    return status(options.results_dir, options.experiment)


def _tables(words: list[str]) -> int:
    from dp_bench.report.columns import columns

    known = columns().values()
    listed = [f"  {column.name:<10}{column.title}: {column.help}" for column in known]
    parser = _parser(
        "tables",
        "Print and write comparison tables of the finished runs.",
        epilog="\n".join(["columns:", *listed]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # Asked has the defaults
    )
    budget = ", ".join(column.name for column in known if column.is_budget)
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results"), help="where runs/ lies (default: results)"
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: RESULTS_DIR/tables)")
    parser.add_argument("--experiment", metavar="NAME", help="of this experiment's runs alone")
    parser.add_argument(
        "--format",
        dest="formats",
        type=_listed,
        metavar="FORMATS",
        help="what to write: md, csv (the default is both), tex, html",
    )
    parser.add_argument(
        "--metric", help="score (the default), select_score, or a metric such as accuracy (the paper's)"
    )
    parser.add_argument("--columns", type=_listed, help="more columns, of those listed below: params,seconds")
    parser.add_argument("--budget", action="store_true", help=f"the columns of what a row spent: {budget}")
    parser.add_argument("--against", metavar="paper", help="the paper's numbers beside ours")
    parser.add_argument("--rows", type=_listed, metavar="PROMPTS", help="these prompts alone")
    parser.add_argument("--tasks", type=_listed, metavar="TASKS", help="these tasks alone")
    parser.add_argument("--aggregate", help="mean (± sd, the default) or median [min, max] over seeds")
    parser.add_argument(
        "--best-of",
        type=int,
        metavar="R",
        help="also, for each row, the best of R restarts by the selection score, R times the compute",
    )
    parser.add_argument(
        "--reference", metavar="ROW", help="the row that others are tested against (default: fixed)"
    )
    parser.add_argument(
        "--tests",
        help="what marks rest on: seeds (the default), or examples, which reads the predictions, and also "
        "writes comparisons.csv with bootstrap intervals and McNemar's test",
    )
    parser.add_argument(
        "--pairs",
        action="store_true",
        help="write comparisons.csv with every pair of rows, not the reference",
    )
    parser.add_argument(
        "--transfer",
        action="store_true",
        help="matrices instead: trained on × evaluated on, of runs with regime.transfer",
    )
    options = vars(parser.parse_args(words))
    from dp_bench.commands.tables import Asked, tables

    return tables(options.pop("results_dir"), Asked(**options))


def _listed(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _plot(words: list[str]) -> int:
    from dp_bench.report.plots import KINDS

    parser = _parser("plot", "Draw the finished runs: PNG and SVG, and the numbers behind each as CSV.")
    parser.add_argument("kinds", nargs="*", metavar="|".join(KINDS), help="what to draw (default: all)")
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results"), help="where runs/ lies (default: results)"
    )
    parser.add_argument("--experiment", metavar="NAME", help="of this experiment's runs alone")
    parser.add_argument("--out", type=Path, help="folder to write to (default: RESULTS_DIR/plots)")
    options = parser.parse_args(words)
    from dp_bench.commands.plot import plot

    return plot(options.results_dir, options.kinds, options.experiment, options.out)


def _inspect(words: list[str]) -> int:
    parser = _parser("inspect", "Look into a finished run.")
    parser.add_argument("run", metavar="RUN", help="its folder, its id, or the start of its id")
    parser.add_argument(
        "--gradients",
        action="store_true",
        help="every estimator of the position's gradient against the exact one over all positions",
    )
    parser.add_argument("--examples", type=int, default=48, help="training examples to use (default: 48)")
    parser.add_argument("--draws", type=int, default=200, help="draws of each estimator (default: 200)")
    parser.add_argument("--fresh", action="store_true", help="with a prompt as training starts from")
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results"), help="where runs/ lies (default: results)"
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: gradients/ in the run's)")
    options = parser.parse_args(words)
    from dp_bench.commands.inspect import inspect

    return inspect(
        options.run,
        options.results_dir,
        gradients=options.gradients,
        examples=options.examples,
        draws=options.draws,
        fresh=options.fresh,
        out=options.out,
    )


def _pack(words: list[str]) -> int:
    parser = _parser(
        "pack",
        "Put the records of finished runs into DIR/records.parquet, which tables, plots and sweeps read "
        "where a run's folder is gone. What is in runs/ is added to a pack that is there, and wins over it.",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="the results folder, which holds runs/")
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove the folders below runs/ that hold a packed record and nothing else",
    )
    parser.add_argument(
        "--drop",
        nargs="+",
        action="extend",
        default=[],
        metavar="RUN_ID",
        help="take these records out of the pack; also patterns, 'rte-minilm-*'",
    )
    options = parser.parse_args(words)
    from dp_bench.commands.pack import pack

    return pack(options.dir, options.drop, remove=options.remove)


def _list(words: list[str]) -> int:
    from dp_bench.commands.list_options import KINDS, list_options

    parser = _parser("list", "Print what there is to choose from.")
    parser.add_argument("kind", metavar="|".join(KINDS), help="what to list")
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results"), help="where runs/ lies (default: results)"
    )
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with your configurations")
    options = parser.parse_args(words)
    return list_options(options.kind, options.results_dir, options.config_dir)


def _data(words: list[str]) -> int:
    parser = _parser("data", "Look for the SuperGLUE files.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="check")
    check = actions.add_parser("check", help="say which files are found, their rows and checksums")
    check.add_argument(
        "--dir", type=Path, help="a folder in the official release layout (BoolQ/train.jsonl …)"
    )
    check.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with your tasks besides")
    options = parser.parse_args(words)
    from dp_bench.commands.data_check import check as check_data

    return check_data(options.dir, options.config_dir)


def _new(words: list[str]) -> int:
    parser = _parser("new", "Write the first files of a task or a prompt of yours.")
    parser.add_argument("kind", choices=("task", "prompt"))
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="task: its training rows")
    parser.add_argument("--label", metavar="COLUMN", help="task: the column of the label")
    parser.add_argument("--dir", type=Path, default=Path(), help="folder to write to (default: this one)")
    options = parser.parse_args(words)
    from dp_bench.commands.new import new_prompt, new_task

    if options.kind == "prompt":
        return new_prompt(options.name, options.dir)
    if options.source is None:
        raise UserError("Add --from FILE, the training rows as .jsonl, .csv or .parquet.")
    return new_task(options.name, options.source, options.dir, options.label)


def _doctor(words: list[str]) -> int:
    parser = _parser(
        "doctor", "Print versions, device, caches, and which data and checkpoints can be reached."
    )
    parser.parse_args(words)
    from dp_bench.commands.doctor import doctor

    return doctor()


def _parser(command: str, description: str, **more: Any) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"dp-bench {command}", description=description, **more)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "sweep": _sweep,
    "status": _status,
    "tables": _tables,
    "plot": _plot,
    "inspect": _inspect,
    "pack": _pack,
    "list": _list,
    "data": _data,
    "new": _new,
    "doctor": _doctor,
}
