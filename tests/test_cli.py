"""The command line as a user meets it: in a process of its own, in a folder of its own, without a network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("dp-bench")
FIXTURES = Path(__file__).parent / "fixtures" / "superglue"
PROMPTS = "adap_ins_len, adap_ins_pos, adap_ins_vec, adap_ins_vec_pos, adap_len, adap_pos, adap_pos_ins_vec, "


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment whose hub does not answer and whose caches are empty."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "DP_BENCH_"))}
    own = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hf"),
        "DP_BENCH_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return {**kept, **own}


class Cli:
    """Runs `dp-bench` and never accepts a traceback."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def __call__(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [SCRIPT, *words],
            cwd=self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr + done.stdout
        assert "Warning" not in done.stderr
        return done

    def refused(self, *words: str, **variables: str) -> str:
        """Return what a refused command says; it says it on stderr alone and leaves nothing behind."""
        done = self(*words, **variables)
        assert done.returncode == 2
        assert done.stdout == ""
        return done.stderr


@pytest.fixture
def cli(tmp_path: Path, environment: dict[str, str]) -> Cli:
    folder = tmp_path / "work"
    folder.mkdir()
    return Cli(folder, environment)


# ---------------------------------------------------------------------------------------------- refused


OVERRIDES = [
    ("tsk=boolq", "There is no setting 'tsk'. Did you mean task?"),
    ("trainer.max_step=1", "There is no setting 'trainer.max_step'. Did you mean trainer.max_steps"),
    ("trainer.learning_rate=1", "Did you mean trainer.lr?"),
    ("nonsense=1", "There is no setting 'nonsense'. `dp-bench train --cfg job` prints every setting"),
    ("+extra=1", "There is no setting 'extra'."),
    ("~seed", "~seed removes what every run needs: write seed=VALUE."),
    (
        "task=bolq",
        "There is no task 'bolq'. Did you mean boolq? task= takes: axb, axg, boolq, cb, copa, multirc, ",
    ),
    ("prompt=dynamc", f"There is no prompt 'dynamc'. Did you mean dynamic? prompt= takes: {PROMPTS}"),
    ("prompt/position=taks", "There is no prompt/position 'taks'. Did you mean task?"),
    ("prompt.position=task", "prompt.position is a group of settings: write prompt/position=task"),
    ("task=null", "There is no task 'null'."),
    ("+task=cb", "+task=cb adds a second task: write task=cb."),
    ("tasks/boolq=1", "There is no setting 'tasks/boolq'."),
    (
        "trainer.precision=fp8",
        "trainer.precision: Invalid value 'fp8', expected one of [auto, fp32, bf16",
    ),
    ("prompt.num_tokens=many", "prompt.num_tokens: Value 'many' of type 'str' could not be converted"),
    ("prompt.num_tokens=", "prompt.num_tokens: Value '' of type 'str' could not be converted"),
    ("trainer.lr=-1", "trainer.lr=-1.0 must be positive"),
    ("results_dir=${oc.env:NOT_SET_AT_ALL}", "a configuration does not read the environment"),
    ("task", "'task' cannot be read (missing EQUAL at '<EOF>'). Write KEY=VALUE"),
    ("seed=[1", "'seed=[1' cannot be read"),
    ("seed=0,1", "seed=0,1 describes several runs: add -m, dp-bench train -m seed=0,1 …"),
    ("hydra.job.nmae=x", "hydra.job.nmae=x is refused: of Hydra's keys, dp-bench sweep takes"),
    ("hydra/launcher=slrum", "There is no hydra/launcher 'slrum': use slurm_gpu"),
]
ANSWER_ALL = """
import contextlib, io, json, sys
from dp_bench.cli import main
answers = {}
for typed in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(["train", typed])
        except SystemExit as stop:
            answers[typed] = [stop.code, out.getvalue(), err.getvalue()]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """What `dp-bench train OVERRIDE` answers, asked in one process for speed."""
    folder = tmp_path_factory.mktemp("answers")
    typed = json.dumps([typed for typed, _ in OVERRIDES])
    done = subprocess.run(
        [sys.executable, "-c", ANSWER_ALL, typed], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert list(folder.iterdir()) == []
    found: dict[str, list[object]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("typed", "answer"), OVERRIDES)
def test_a_wrong_override_is_answered_in_one_paragraph(
    answers: dict[str, list[object]], typed: str, answer: str
) -> None:
    code, out, said = answers[typed]
    assert (code, out) == (2, "")
    assert isinstance(said, str)
    assert said.startswith("dp-bench: ")
    assert answer in said
    assert len(said.splitlines()) == 1


def test_what_other_tools_call_a_setting_is_known(cli: Cli) -> None:
    names = ("soft_token_num", "num_virtual_tokens", "prompt_length", "pre_seq_len")
    said = cli.refused("train", *(f"{name}=8" for name in names), "prompt.soft_token_num=8")
    for name in (*names, "prompt.soft_token_num"):
        assert f"There is no setting '{name}'. Did you mean prompt.num_tokens?" in said


def test_all_problems_are_reported_at_once(cli: Cli) -> None:
    said = cli.refused(
        "train",
        "task=bolq",
        "nonsense=1",
        "seed",
        "trainer.precision=fp8",
        "trainer.lr=-1",
        "prompt.num_tokens=x",
    )
    lines = said.splitlines()
    assert lines[0] == "dp-bench:"
    assert all(line.startswith("  - ") for line in lines[1:])
    for word in ("'bolq'", "'nonsense'", "'seed'", "'fp8'", "trainer.lr=-1.0", "'x'"):
        assert sum(word in line for line in lines) == 1


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["prompt=fixed,dynamc", "seed=0,1"], "There is no prompt 'dynamc'."),
        (["trainer.lr=0.1,0.2,-1", "prompt=fixed,dynamic"], "trainer.lr=-1.0 must be positive"),
        (["trainer.lr=interval(0,1)"], "'trainer.lr=interval(0,1)' names no values"),
        (["prompt=glob(nothing*)"], "prompt=glob(nothing*) matches nothing."),
        (["task=boolq,cb", "--cfg", "job"], "-m runs every combination, --cfg and --info show one"),
    ],
)
def test_a_sweep_with_one_bad_value_does_not_start(cli: Cli, words: list[str], answer: str) -> None:
    said = cli.refused("train", "-m", *words)
    assert answer in said
    assert len(said.splitlines()) == 1
    assert list(cli.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            ["trian"],
            "There is no command 'trian'. Did you mean train? Commands: train, sweep, status, tables",
        ),
        (["task=boolq", "seed=1"], "Did you mean `dp-bench train task=boolq seed=1`?"),
        (["list", "promts"], "There is no list of 'promts'. Did you mean prompts?"),
        (["list"], "The following arguments are required"),
        (["tables"], "There are no finished runs below results/runs. Start one: dp-bench train"),
        (["tables", "--format", "pdf"], "--format does not know 'pdf'. It takes: md"),
        (["tables", "--columns", "second"], "--columns does not know 'second'. Did you mean seconds?"),
        (["data"], "The following arguments are required"),
        (["data", "check", "--dir", "nowhere"], "nowhere is not a folder."),
        (["doctor", "--now"], "Unrecognized arguments: --now"),
        (["train", "--now"], "Unrecognized arguments: --now"),
        (["train", "--config-dir", "nowhere"], "--config-dir nowhere is not a folder."),
        (["train", "--config-name", "other"], "--config-name is a flag of Hydra that dp-bench does not have"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_answered(cli: Cli, words: list[str], answer: str) -> None:
    assert answer in cli.refused(*words)


# ---------------------------------------------------------------------------------------------- answered


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["help"]], ids=" ".join)
def test_help_names_every_command(cli: Cli, words: list[str]) -> None:
    done = cli(*words)
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("train", "tables", "list", "data check", "doctor"):
        assert f"\n  {command}" in done.stdout


@pytest.mark.parametrize("command", ["train", "tables", "list", "data", "data check", "doctor"])
def test_every_command_has_help(cli: Cli, command: str) -> None:
    done = cli(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"dp-bench {command}" in done.stdout


def test_the_version_is_the_packages(cli: Cli) -> None:
    from dp_bench import __version__

    assert cli("--version").stdout == f"dp-bench {__version__}\n"


@pytest.mark.parametrize(
    ("kind", "number", "line"),
    [
        (
            "tasks",
            5,
            "rte\tRecognising textual entailment: does the premise entail the hypothesis (2,490 train",
        ),
        ("backbones", 12, "t5_base\tT5 1.1 base, LM-adapted (220 M weights), as in the paper."),
        ("prompts", 12, "adap_len\tDynamic length, one for the task."),
        ("regimes", 1, "full\tThe whole training set"),
        ("experiments", 0, ""),
        ("runs", 0, ""),
    ],
)
def test_list_prints_a_line_an_option(cli: Cli, kind: str, number: int, line: str) -> None:
    done = cli("list", kind)
    assert (done.returncode, done.stderr) == (0, "")
    assert line in done.stdout
    if done.stdout != f"no {kind} yet\n":
        found = [row.split("\t") for row in done.stdout.splitlines()]
        assert len(found) >= number > 0 or kind == "experiments"
        assert all(len(row) == 2 and row[1].endswith(".") for row in found)


def test_cfg_prints_the_configuration_and_stops(cli: Cli) -> None:
    done = cli("train", "prompt.num_tokens=7", "--cfg", "job")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  num_tokens: 7\n" in done.stdout
    assert list(cli.folder.iterdir()) == []


def test_data_check_counts_the_rows_of_a_folder(cli: Cli) -> None:
    done = cli("data", "check", "--dir", str(FIXTURES))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usable: BoolQ, CB, COPA, MultiRC, ReCoRD, RTE, WiC, WSC, AX-b, AX-g." in done.stdout


def test_a_reader_that_stops_early_is_no_error(cli: Cli) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [SCRIPT, "list", "prompts"],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=cli.environment,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_that_knows_ascii_only_is_no_error(cli: Cli) -> None:
    assert cli("--help", PYTHONIOENCODING="ascii").returncode == 0
    assert "add -m" in cli.refused("train", "seed=0,1", PYTHONIOENCODING="ascii")


# ---------------------------------------------------------------------------------------------- light


def test_nothing_heavy_is_imported_before_there_is_something_to_run(cli: Cli) -> None:
    child = """
import json, sys
from dp_bench.cli import main
from pathlib import Path
heavy, found = {"torch", "transformers", "datasets", "evaluate", "pandas"}, {}
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit:
        pass
    found[" ".join(words)] = sorted(heavy & sys.modules.keys())
Path("heavy.json").write_text(json.dumps(found))
"""
    commands = [
        *(["--help"], ["--version"], ["trian"], ["list", "prompts"], ["list", "runs"], ["list", "columns"]),
        ["tables", "--help"],
        *(["train", "task=bolq"], ["train", "trainer.lr=-1"], ["train", "-m", "seed=0,1", "prompt=fixd"]),
        *(["train", "--cfg", "job"], ["data", "check", "--dir", str(FIXTURES)]),
    ]
    subprocess.run(
        [sys.executable, "-c", child, json.dumps(commands)],
        cwd=cli.folder,
        env=cli.environment,
        capture_output=True,
        check=True,
    )
    imported = json.loads((cli.folder / "heavy.json").read_text("utf-8"))
    assert imported == {" ".join(words): [] for words in commands}


def test_doctor_says_what_is_ready_and_what_to_type_next(cli: Cli) -> None:
    done = cli("doctor", COLUMNS="400")
    assert done.returncode == 0
    assert re.search(r"^cache .* GiB free", done.stdout, re.MULTILINE)
    _, ready, absent, last = re.split(r"^(?:Ready:|Not ready:|Next: )", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^micro .*backbone=t5_micro data=micro", ready, re.MULTILINE)
    assert re.search(r"^backbones .*t5_micro", ready, re.MULTILINE)
    assert re.search(r"^t5 .*t5_base.*hf download google/t5-base-lm-adapt", absent, re.MULTILINE)
    assert re.search(r"^SuperGLUE .*hf download aps/super_glue .*--revision \w{40}", absent, re.MULTILINE)
    assert last.startswith("dp-bench train") and "data=micro" in last


# ---------------------------------------------------------------------------------------------- no network


@pytest.mark.parametrize(
    ("variables", "why"),
    [({}, "http://127.0.0.1:9 does not answer"), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")],
    ids=["unreachable", "offline"],
)
def test_data_that_cannot_be_had_is_said_before_anything_is_written(
    cli: Cli, variables: dict[str, str], why: str
) -> None:
    done = cli("train", "task=boolq", "on_missing=error", **variables)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert why in done.stderr
    assert "data.dir=PATH" in done.stderr
    assert "hf download aps/super_glue" in done.stderr
    assert list(cli.folder.iterdir()) == []


def test_a_checkpoint_that_cannot_be_had_names_what_to_do(cli: Cli) -> None:
    done = cli("train", "task=boolq", "on_missing=error", f"data.dir={FIXTURES}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    for word in ("google/t5-base-lm-adapt", "backbone.name_or_path=DIR", "hf download"):
        assert word in done.stderr


def test_a_sweep_in_which_a_run_fails_goes_on_and_fails(cli: Cli) -> None:
    done = cli("train", "-m", "task=boolq,cb", "on_missing=error", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "BoolQ was looked for" in done.stderr
    assert "CB was looked for" in done.stderr
    assert "2 runs: 0 done, 2 failed." in done.stdout
