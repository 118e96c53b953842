"""The `dp-bench` command: the first word names a command, which imports what it needs when it runs.

Exit codes: 0 done; 1 a run failed; 2 the user's input is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from dp_bench import __version__, faults, grammar, ranks
from dp_bench.printing import say
from dp_bench.suggest import did_you_mean
from dp_bench.types import RunFailedError, UserError

USAGE = """\
dp-bench: compare prompt-tuning methods on SuperGLUE with a frozen language model.

  train task=boolq prompt=dynamic    one run; -m for combinations of a,b values
  sweep experiment=micro/position    the unfinished runs of an experiment
  status                             the progress of sweeps
  tables                             comparison tables of finished runs
  plot                               curves, costs, chosen positions
  compare A B                        two runs: settings, scores, flips, costs
  nearest RUN                        runs of other tasks with the most similar prompt
  reproduce RUN                      the same run again, and what differs
  predict RUN --input FILE           its answers to your records
  submit RUN… --out FILE.zip         for the SuperGLUE leaderboard
  inspect RUN                        what its prompt chose, and its errors
  export RUN --to peft|dir|hub       an adapter, a folder, a page of the hub
  pack DIR                           finished runs in one file, without runs/
  list tasks|backbones|prompts|…     what can be chosen, and the runs
  data check DIR                     which SuperGLUE files are found
  new task NAME --from FILE          templates for your task or prompt
  doctor                             versions, devices, and what is ready here
  completion bash|zsh|fish           a script for tab completion

`dp-bench COMMAND --help` lists the options of a command; `--code FILE.py` adds
your pieces, methods and columns to any of them.

Next: a first run of seconds, without any data
  dp-bench train task=boolq prompt=dynamic backbone=t5_micro data=micro trainer=micro
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Hydra 1.3 uses what omegaconf 2.4 gives up.
    for message in (r"register_new_resolver\(\) is deprecated", "Implicit conversion from Version"):
        warnings.filterwarnings("ignore", message=message)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot print … or ± must not stop a run
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except UserError as error:
        say(f"dp-bench: {error}" if "\n" not in str(error) else f"dp-bench:\n{error}", file=sys.stderr)
        code = 2
    except RunFailedError as error:
        say(f"dp-bench: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt as stop:
        say("dp-bench: interrupted; the same command continues from the last checkpoint.", file=sys.stderr)
        code = 128 + getattr(stop, "number", signal.SIGINT)
    except BrokenPipeError:  # `dp-bench list prompts | head`: nobody reads the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if (fault := faults.of_machine(error)) is None:
            raise
        say(f"dp-bench: {fault}", file=sys.stderr)
        code = 1
    if ranks.size() > 1:  # gloo's threads may abort a process that Python shuts down; all output is written
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def _dispatch(words: list[str]) -> int:
    _refuse_unusable(words)
    if not words or words[0] in ("-h", "--help", "help"):
        say(USAGE, end="")
        return 0
    if words[0] in ("-V", "--version"):
        say(f"dp-bench {__version__}")
        return 0
    if words[0] not in COMMANDS:
        hint = did_you_mean(words[0], tuple(COMMANDS))
        if "=" in words[0]:
            hint = f"Did you mean `dp-bench train {' '.join(words)}`? "
        raise UserError(f"There is no command '{words[0]}'. {hint}Commands: {', '.join(COMMANDS)}.")
    return COMMANDS[words[0]](_with_code(words[1:]))


def _refuse_unusable(words: Sequence[str]) -> None:
    """Raise UserError for an empty argument, and for one that no name of a file, run or setting can have."""
    for word in words:
        if not word or (word.startswith("--") and word.endswith("=")):
            raise UserError(f"The argument '{word}' is empty: give it a value, or leave it out.")
        is_text = not any("\ud800" <= letter < "\udc80" or "\udcff" < letter <= "\udfff" for letter in word)
        if "\0" in word or not is_text:
            raise UserError(f"The argument {word[:80]!r} has a character that no text or file name can have.")


def _with_code(words: list[str]) -> list[str]:
    """Load the file of `--code FILE` and return the other words."""
    if "--code" not in words:
        return words
    from dp_bench import plugins

    index = words.index("--code")
    if index + 1 == len(words):
        raise UserError("--code needs a Python file: --code FILE.")
    plugins.use(Path(words[index + 1]))
    return [*words[:index], *words[index + 2 :]]


def _call(target: str, *args: Any, **options: Any) -> int:
    """Call `module:function` of dp_bench.commands, which is imported now, and return the exit code."""
    code: int = resolve_name(f"dp_bench.commands.{target}")(*args, **options)
    return code


def _sweep(words: list[str]) -> int:
    parser = _parser("sweep", "Run every run of an experiment, or of settings with several values a,b,c.")
    parser.add_argument(
        "words",
        nargs="+",
        metavar="KEY=VALUE",
        help="experiment=NAME (dp-bench list experiments); settings as in dp-bench train, also with several "
        "values: task=cb,rte; hpo=NAME searches hyperparameters first; hydra/launcher=slurm_gpu, "
        "submitit_slurm, local_jobs or joblib submits the runs to a cluster or to joblib; "
        "launcher=local_gpus is --gpus all",
    )
    help = "begin with the settings of a finished run; those typed win"
    parser.add_argument("--from", dest="start", metavar="RUN", help=help)
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    parser.add_argument("--retry-failed", action="store_true", help="run failed runs again")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes, each with one run (default: 1)")
    help = "train N runs on one backbone at once in each process, of prompts at its input (default: 1)"
    parser.add_argument("--pack", type=int, metavar="N", help=help)
    parser.add_argument("--detach", action="store_true", help="submit to Slurm and return")
    parser.add_argument("--gpus", metavar="all|0,1", help="GPUs of one process each, or of --jobs processes")
    _add_config_dir(parser)
    words = [word for word in words if word not in ("-m", "--multirun")]
    return _call("sweep:sweep", **vars(parser.parse_with_settings(words)))


def _status(words: list[str]) -> int:
    parser = _parser("status", "Print the state of the runs of sweeps: done, running, failed, missing.")
    _add_runs(parser)
    return _call("status:status", **vars(parser.parse_args(words)))


def _tables(words: list[str]) -> int:
    from dp_bench.report.columns import columns

    all_columns = columns().values()
    descriptions = [f"  {column.name:<10}{column.title}: {column.help}" for column in all_columns]
    parser = _parser(
        "tables",
        "Print comparison tables of the finished runs, and write them where --out or --format is given.",
        epilog="\n".join(["columns:", *descriptions]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # the defaults are those of TableOptions
    )
    budget = ", ".join(column.name for column in all_columns if column.is_budget)
    _add_runs(parser)
    parser.add_argument("--out", type=Path, help="folder to write to (with --format: RESULTS_DIR/tables)")
    parser.add_argument(
        "--format",
        dest="formats",
        type=_comma_separated,
        metavar="FORMATS",
        help="formats to write, of md, csv, tex, html (with --out: md,csv)",
    )
    _add_names(parser)
    help = "tables (default), or paper: backbones as the blocks of one table, as the paper has them"
    parser.add_argument("--layout", help=help)
    parser.add_argument("--caption", help="of the table in LaTeX")
    parser.add_argument("--label", help="of the table in LaTeX, such as tab:main")
    parser.add_argument("--metric", help="score (default), select_score, or a metric; the paper's: accuracy")
    parser.add_argument("--columns", type=_comma_separated, help="more columns, listed below: params,seconds")
    parser.add_argument("--budget", action="store_true", help=f"the columns on compute: {budget}")
    parser.add_argument("--against", metavar="paper", help="add the paper's numbers")
    parser.add_argument("--rows", type=_comma_separated, metavar="PROMPTS", help="these prompts only")
    parser.add_argument("--tasks", type=_comma_separated, metavar="TASKS", help="these tasks only")
    parser.add_argument("--aggregate", help="mean (± sd, default) or median [min, max] over seeds")
    parser.add_argument(
        "--best-of",
        type=int,
        metavar="R",
        help="add a row with the best of R restarts by selection score (R times the compute)",
    )
    parser.add_argument("--reference", metavar="ROW", help="the row to compare others with (default: fixed)")
    parser.add_argument(
        "--tests",
        help="mark differences by a test over seeds (default), or over examples: bootstrap and McNemar's "
        "test on the predictions, also written to comparisons.csv",
    )
    parser.add_argument("--pairs", action="store_true", help="write comparisons.csv with every pair of rows")
    parser.add_argument("--transfer", action="store_true", help="print matrices of runs with regime.transfer")
    options = vars(parser.parse_args(words))
    from dp_bench.commands.tables import TableOptions, tables

    return tables(options.pop("results_dir"), TableOptions(**options))


def _comma_separated(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _plot(words: list[str]) -> int:
    from dp_bench.report.plots import FIGURES

    parser = _parser("plot", "Draw figures of the finished runs as PNG and SVG, with their numbers as CSV.")
    parser.add_argument("kinds", nargs="*", metavar="|".join(FIGURES), help="figures (default: all)")
    _add_runs(parser)
    parser.add_argument("--out", type=Path, help="folder to write to (default: RESULTS_DIR/plots)")
    _add_names(parser)
    return _call("plot:plot", **vars(parser.parse_args(words)))


def _compare(words: list[str]) -> int:
    parser = _parser("compare", "Compare two finished runs: settings, scores, flips, cost, environment.")
    for name in ("a", "b"):
        _add_run(parser, name, metavar=name.upper())
    _add_results_dir(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all of it: .md, .json or .csv")
    return _call("compare:compare", **vars(parser.parse_args(words)))


def _nearest(words: list[str]) -> int:
    parser = _parser(
        "nearest",
        "Rank the finished runs of other tasks by how similar their prompt is to that of a run, which may "
        "start from the first with prompt.init=saved (SPoT: Vu et al., 2022).",
    )
    _add_run(parser, "run")
    _add_results_dir(parser)
    return _call("nearest:nearest", **vars(parser.parse_args(words)))


def _reproduce(words: list[str]) -> int:
    parser = _parser(
        "reproduce",
        "Print the command, environment and data of a finished run, run it again in another folder, and "
        "print what differs. Exit code 0: its numbers are equal; 1: they differ.",
    )
    _add_run(parser, "run")
    help = "where things are here: data.dir=DIR device=cpu"
    parser.add_argument("typed", nargs="*", metavar="KEY=VALUE", help=help)
    parser.add_argument("--dry-run", action="store_true", help="print what it needs, and run nothing")
    help = "folder of the new run (default: RESULTS_DIR/reproduced)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=help)
    _add_results_dir(parser)
    _add_config_dir(parser)
    return _call("reproduce:reproduce", **vars(parser.parse_with_settings(words)))


def _predict(words: list[str]) -> int:
    parser = _parser(
        "predict",
        "Print what finished runs answer to records: a JSON object a line, in the order of the input. "
        "Several runs on one backbone are answered in mixed batches. Exit code 1: a line could not be read.",
    )
    _add_run(parser, "runs", nargs="+")
    parser.add_argument(
        "--input",
        required=True,
        metavar="FILE|-",
        help="records of the task as its release has them, or with the fields of its template: JSONL, CSV "
        "or Parquet by the file's ending; - is standard input",
    )
    parser.add_argument("--format", choices=("jsonl", "csv"), help="of another file (default: jsonl)")
    parser.add_argument("--task", metavar="NAME", help="the task of the records, for runs on several")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to FILE.jsonl or FILE.parquet")
    parser.add_argument("--score", action="store_true", help="read the labels, and print the score")
    _add_device(parser)
    _add_results_dir(parser)
    return _call("predict:predict", **vars(parser.parse_with_settings(words)))


def _submit(words: list[str]) -> int:
    parser = _parser(
        "submit",
        "Predict the test files of SuperGLUE and write them as the zip that its leaderboard takes. AX-b and "
        "AX-g are answered by the run on RTE.",
    )
    _add_run(parser, "runs", nargs="+")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.zip", help="the file to write")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="folder of the release (default: that of the first run)"
    )
    parser.add_argument(
        "--fill-majority", action="store_true", help="tasks without a run: the most frequent training label"
    )
    _add_device(parser)
    _add_results_dir(parser)
    return _call("submit:submit", **vars(parser.parse_with_settings(words)))


def _inspect(words: list[str]) -> int:
    parser = _parser("inspect", "Show what the prompt of a finished run did.")
    _add_run(parser, "run")
    _add_results_dir(parser)
    report = parser.add_argument_group("report")
    report.add_argument("--texts", type=int, metavar="N", help="texts of each task to show (default: 5)")
    report.add_argument("--nearest", type=int, metavar="N", help="tokens to show for a vector (default: 3)")
    report.add_argument(
        "--attention", action="store_true", help="measure the answer's attention to the prompt"
    )
    help = "folder of the tasks' files, where it is not that of the run"
    report.add_argument("--data", type=Path, metavar="DIR", help=help)
    report.add_argument("--html", type=Path, metavar="FILE", help="write the report as one page too")
    slopes = parser.add_argument_group("gradients of a learned position, instead of the report")
    slopes.add_argument("--gradients", action="store_true", help="compare estimators with the exact gradient")
    slopes.add_argument("--draws", type=int, metavar="N", help="draws per estimator (default: 200)")
    slopes.add_argument("--fresh", action="store_true", help="with an untrained prompt")
    slopes.add_argument("--out", type=Path, help="folder to write to (default: the run's, gradients/)")
    help = (
        "examples to use: of the training rows for --gradients, reported ones for --attention (default: 48)"
    )
    parser.add_argument("--examples", type=int, metavar="N", help=help)
    typed = vars(parser.parse_args(words))
    options = {key: value for key, value in typed.items() if value is not None and value is not False}
    command = "gradients" if options.pop("gradients", False) else "inspect"
    other = {
        "inspect": ("draws", "fresh", "out"),
        "gradients": ("texts", "nearest", "attention", "data", "html"),
    }
    if wrong := [f"--{name}" for name in other[command] if name in options]:
        needs = "belongs to --gradients" if command == "inspect" else "is not for --gradients"
        raise UserError(f"dp-bench inspect: {wrong[0]} {needs}: add or remove --gradients.")
    return _call(f"{command}:{command}", **options)


def _export(words: list[str]) -> int:
    parser = _parser(
        "export", "Write a finished run for other programs, or upload it to the Hugging Face hub."
    )
    _add_run(parser, "run")
    parser.add_argument(
        "--to",
        required=True,
        metavar="peft|dir|hub",
        help="an adapter of PEFT, where that is exact; a folder with a model card and a loader; the same on "
        "the hub",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder to write to")
    parser.add_argument("--repo", metavar="USER/NAME", help="hub: the repository, which is made if need be")
    parser.add_argument("--private", action="store_true", help="hub: a new repository is private")
    _add_results_dir(parser)
    return _call("export:export", **vars(parser.parse_args(words)))


def _pack(words: list[str]) -> int:
    parser = _parser(
        "pack",
        "Write the records of finished runs to DIR/records.parquet, which tables, plots and sweeps read for "
        "runs without a folder. Records in runs/ are added to an existing pack and replace packed ones.",
    )
    parser.add_argument("results_dir", type=Path, metavar="DIR", help="the results folder, which holds runs/")
    parser.add_argument("--remove", action="store_true", help="remove folders that hold only a packed record")
    parser.add_argument(
        "--drop",
        nargs="+",
        action="extend",
        default=[],
        metavar="RUN_ID",
        help="remove these records from the pack; patterns such as 'rte-minilm-*' too",
    )
    return _call("pack:pack", **vars(parser.parse_args(words)))


def _list(words: list[str]) -> int:
    from dp_bench.commands.list_options import KINDS

    parser = _parser("list", "Print the available options.")
    parser.add_argument("kind", metavar="|".join(KINDS), help="what to list")
    _add_results_dir(parser)
    _add_config_dir(parser)
    return _call("list_options:list_options", **vars(parser.parse_args(words)))


def _data(words: list[str]) -> int:
    parser = _parser("data", "Check the SuperGLUE files.")
    actions = parser.add_subparsers(required=True, metavar="check")
    check = actions.add_parser("check", help="print the files found, their rows and checksums")
    help = "a folder with the layout of the official release (BoolQ/train.jsonl …)"
    check.add_argument("folder", nargs="?", type=Path, metavar="DIR", help=help)
    for flag in ("--dir", "--data.dir"):
        check.add_argument(flag, dest="directory", type=Path, help=argparse.SUPPRESS)
    _add_config_dir(check)
    options = vars(parser.parse_args(words))
    folder = options.pop("folder")
    return _call("data_check:check", **{**options, "directory": options["directory"] or folder})


def _new(words: list[str]) -> int:
    parser = _parser("new", "Write template files for your task or prompt.")
    parser.add_argument("kind", choices=("task", "prompt"))
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="task: the training rows")
    parser.add_argument("--label", metavar="COLUMN", help="task: the label column")
    parser.add_argument("--dir", type=Path, default=Path(), help="folder to write to (default: here)")
    options = parser.parse_args(words)
    if options.kind == "prompt":
        return _call("new:new_prompt", options.name, options.dir)
    return _call("new:new_task", options.name, options.source, options.dir, options.label)


def _doctor(words: list[str]) -> int:
    about = "Print versions, device, caches, and which data and checkpoints can be reached."
    return _call("doctor:doctor", **vars(_parser("doctor", about).parse_args(words)))


def _completion(words: list[str]) -> int:
    if words[:1] == ["--words"]:  # what the shell's script asks
        return _call("completion:complete", words[1:], COMMANDS)
    parser = _parser("completion", 'Print a script for tab completion: eval "$(dp-bench completion bash)".')
    parser.add_argument("shell", metavar="bash|zsh|fish")
    return _call("completion:completion", parser.parse_args(words).shell)


class _Parser(argparse.ArgumentParser):
    def parse_with_settings(self, words: list[str]) -> argparse.Namespace:
        """Parse flags among settings, `key=value`, in any order."""
        return self.parse_intermixed_args(grammar.as_settings(words, grammar.flags_of(self)))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words, in which `key=value` may be a flag and its value."""
        with_value = [name for name, action in grammar.flags_of(self).items() if action.nargs != 0]
        return super().parse_known_args(grammar.as_flags(args, with_value), namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. `{self.prog} --help` lists what there is.")


def _parser(command: str, description: str, **more: Any) -> _Parser:
    return _Parser(prog=f"dp-bench {command}", description=description, **more)


def _add_run(parser: argparse.ArgumentParser, name: str, **more: Any) -> None:
    """Add finished runs that `commands.finished.find_run` finds."""
    parser.add_argument(name, **{"metavar": "RUN", "help": "folder, id, or a part of the id", **more})


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def _add_results_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results"), help="folder that holds runs/ (default: results)"
    )


def _add_config_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-dir", dest="extra_dir", type=_folder, metavar="DIR", help="folder of YAML files"
    )


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise UserError(f"--config-dir {text} is not a folder. Give one that holds prompt/NAME.yaml.")
    return Path(text)


def _add_names(parser: argparse.ArgumentParser) -> None:
    help = "names of rows, tasks and backbones: a YAML file with lines such as `fixed: Prompt tuning`"
    parser.add_argument("--names", type=Path, metavar="FILE", help=help)
    _add_config_dir(parser)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    _add_results_dir(parser)
    parser.add_argument("--experiment", metavar="NAME", help="this experiment only")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": partial(_call, "train:train"),
    "sweep": _sweep,
    "status": _status,
    "tables": _tables,
    "plot": _plot,
    "compare": _compare,
    "nearest": _nearest,
    "reproduce": _reproduce,
    "predict": _predict,
    "submit": _submit,
    "inspect": _inspect,
    "export": _export,
    "pack": _pack,
    "list": _list,
    "data": _data,
    "new": _new,
    "doctor": _doctor,
    "completion": _completion,
}
