"""LaTeX that compiles, a page that needs nothing else, figures with the numbers behind them, an index."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.records import make_record

from dp_bench import records, run
from dp_bench.commands.plot import plot
from dp_bench.commands.tables import TableOptions, tables
from dp_bench.config import Experiment
from dp_bench.records import RunRecord
from dp_bench.report import index, plots
from dp_bench.report.build import build_tables
from dp_bench.report.html import to_html
from dp_bench.report.latex import escape, to_latex
from dp_bench.report.sheet import Sheet, SheetOptions, in_blocks, make_sheet
from dp_bench.report.tables import to_markdown
from dp_bench.types import UserError

COMMITTED = Path(__file__).parent.parent / "results"
NASTY = "task.template='50% of {premise} & {hypothesis} #1 ~ $x_1^2$ <b>\"|\"</b>'"


@pytest.fixture(scope="module")
def sheets() -> list[Sheet]:
    made = [
        make_record("task=rte", f"prompt={prompt}", f"seed={seed}", score=base + seed / 3, **changes)
        for prompt, base, changes in (
            ("fixed", 60.0, {"trainable_parameters": 1280}),
            ("adap_pos", 70.0, {"trainable_parameters": 1301}),
            ("majority", 50.0, {"trainable_parameters": 0}),
        )
        for seed in range(8)
    ]
    made += [
        make_record("task=cb", NASTY, "prompt=split", score=61.25),
        make_record("task=cb", "prompt=split"),
    ]
    return [make_sheet(table, SheetOptions(columns=("params",))) for table in build_tables(made)]


# ---------------------------------------------------------------------------------------------- LaTeX


def test_latex_escapes_whatever_a_setting_holds() -> None:
    assert escape("50% & #1 a_b {x} $5 ~ ^ \\") == (
        "50\\% \\& \\#1 a\\_b \\{x\\} \\$5 \\textasciitilde{} \\textasciicircum{} \\textbackslash{}"
    )
    assert escape("1 ± 2 (3)†‡") == "1 $\\pm$ 2 (3)$^\\dagger$$^\\ddagger$"


def test_latex_has_a_line_a_row_and_marks_the_best(sheets: list[Sheet]) -> None:
    text = to_latex(sheets)
    assert text.count("\\begin{table}") == text.count("\\end{table}") == len(sheets)
    assert "\\begin{table*}" in to_latex([replace(sheets[0], heads=[*sheets[0].heads, *"abcd"])])
    body = text.split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
    assert len(body) == len(sheets[0].lines)
    assert {line.count(" & ") for line in body} == {len(sheets[0].heads) - 1}
    assert "\\textbf{71.17$_{\\pm 0.82}$$^\\dagger$}" in text
    assert text.isascii(), "a paper's preamble may not know other letters"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_and_a_wide_table_fits_the_page_of_a_conference(
    sheets: list[Sheet], tmp_path: Path
) -> None:
    compiled(tmp_path, sheets)
    of_six_tasks = build_tables(records.load_all(COMMITTED / "minilm"))
    assert "Overfull" not in compiled(tmp_path, [make_sheet(table) for table in of_six_tasks])


def compiled(folder: Path, sheets: list[Sheet]) -> str:
    """Return what pdflatex says of tables on a page of 397 points' width."""
    (folder / "tables.tex").write_text(to_latex(sheets), "utf-8")
    (folder / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage[textwidth=397pt]{geometry}"
        "\\usepackage{booktabs}\\usepackage{threeparttable}"
        "\\begin{document}\\input{tables}\\end{document}",
        "utf-8",
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


# ---------------------------------------------------------------------------------------------- HTML


class Page(HTMLParser):
    """Collects what a page asks for and what its tables hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.cells: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "input"):
            self.open.append(tag)
        if tag == "tr" and "details" not in self.open:
            self.cells.append([])
        if tag in ("td", "th") and "details" not in self.open:
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if ("td" in self.open or "th" in self.open) and "details" not in self.open:
            self.cells[-1][-1] += data


def test_sizes_are_blocks_in_the_layout_of_the_paper() -> None:
    made = [
        make_record("task=rte", f"prompt={prompt}", f"backbone={name}", score=score, frozen_parameters=size)
        for name, size in (("t5_small", 2), ("t5_base", 9))
        for prompt, score in (("fixed", 60.0), ("split", 61.0))
    ]
    (sheet,) = in_blocks([make_sheet(table) for table in build_tables(made)])
    assert sheet.blocks == {0: "t5_small", 2: "t5_base"} and len(sheet.lines) == 4
    text = to_latex([sheet], "Two sizes", "tab:main")
    assert "\\caption{Two sizes.}" in text and "\\label{tab:main}" in text
    assert "\\multicolumn{2}{l}{\\textit{t5\\_base}}" in text and text.count("\\begin{tablenotes}") == 1
    assert "resizebox" not in text
    assert "| **t5_base** |  |" in to_markdown([sheet]) and 'class="block"' in to_html([sheet])


def test_the_page_asks_for_nothing_and_shows_what_the_sheets_hold(sheets: list[Sheet]) -> None:
    text = to_html(sheets)
    page = Page(text)
    assert not page.open and all(target.startswith("#runs-") for target in page.asked)
    assert all(f'id="{target[1:]}"' in text for target in page.asked), "the runs of each score are there"
    assert 'title="adap_pos: ' in text, "what a row means"
    assert "http" not in text and "url(" not in text and "@import" not in text
    expected = [
        line
        for sheet in sheets
        for line in (sheet.heads, *([shown.text for shown in own] for own in sheet.lines))
    ]
    assert page.cells == expected
    assert "<b>" not in text, "what a setting holds is text"


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
CLICK = """<script>
const head = [...document.querySelectorAll("th button")].find(button => button.textContent === "RTE");
head.click();
const first = () => document.querySelector(".scores tbody tr").cells[0].textContent;
const down = first();
head.click();
const up = first();
const input = document.querySelector("input");
input.value = "adap_pos";
input.dispatchEvent(new Event("input"));
const rows = [...document.querySelectorAll(".scores tbody tr")];
const shown = rows.filter(row => row.offsetParent !== null).length;
document.querySelector(".scores tbody tr:not([hidden]) td a").click();
const asked = document.querySelectorAll("tr.asked").length;
const fits = document.documentElement.scrollWidth <= window.innerWidth;
document.title = [down, up, shown, asked, location.hash, fits].join("|");
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_sorts_and_filters_in_a_browser(sheets: list[Sheet], tmp_path: Path) -> None:
    path = tmp_path / "tables.html"
    path.write_text(to_html(sheets[-1:]).replace("</body>", f"{CLICK}</body>"), "utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=390,800",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    title = done.stdout.split("<title>")[1].split("</title>")[0]
    assert title == "adap_pos|majority|1|8|#q=adap_pos&amp;s0=2up|true"


# ---------------------------------------------------------------------------------------------- command


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for seed in range(2):
        for prompt, experiment in (("fixed", "mine"), ("split", None)):
            record = make_record("task=rte", f"prompt={prompt}", f"seed={seed}", experiment=experiment)
            records.save(record, tmp_path / "runs" / record.run_id)
            right = pd.DataFrame(
                {"id": ["a", "b"], "gold": [0, 1], "prediction": [0, int(prompt == "fixed")]}
            )
            right.to_parquet(tmp_path / "runs" / record.run_id / "predictions.parquet")
    return tmp_path


def test_every_format_is_written_alike_twice(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = TableOptions(formats=("md", "csv", "tex", "html"), tests="examples", budget=True, pairs=True)
    written = []
    for _ in range(2):
        assert tables(results, asked) == 0
        files = sorted((results / "tables").iterdir())
        written.append({file.name: file.read_bytes() for file in files})
    assert written[0] == written[1]
    assert set(written[0]) == {"tables.md", "tables.csv", "tables.tex", "tables.html", "comparisons.csv"}
    line = pd.read_csv(results / "tables" / "comparisons.csv").iloc[0]
    assert (line["a"], line["b"], line["n"], line["examples_num_examples"]) == ("fixed", "split", 2, 2)
    capsys.readouterr()


def test_rows_tasks_experiments_and_medians_are_selectable(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables(results, TableOptions(rows=("split",))) == 0
    assert "| fixed" not in capsys.readouterr().out
    assert tables(results, TableOptions(experiment="mine")) == 0
    assert "| split" not in capsys.readouterr().out
    assert tables(results, TableOptions(aggregate="median")) == 0
    assert "50.00 [50.00, 50.00] (2)" in capsys.readouterr().out
    for wrong, answer in (
        (TableOptions(experiment="mien"), "Did you mean mine?"),
        (TableOptions(rows=("fixd",)), "--rows does not know 'fixd'. Did you mean fixed?"),
        (TableOptions(tasks=("rta",)), "--tasks does not know 'rta'"),
        (TableOptions(against="papr"), "--against does not know 'papr'"),
        (TableOptions(reference="adap_pos"), "--reference does not know 'adap_pos'"),
    ):
        with pytest.raises(UserError) as caught:
            tables(results, wrong)
        assert answer in str(caught.value)


# ---------------------------------------------------------------------------------------------- plots


def test_figures_come_with_the_numbers_that_they_show(
    experiment: Callable[..., Experiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    quick = ("trainer.max_steps=6", "trainer.eval_every=2", "trainer.batch_size=4")
    runs: list[RunRecord] = []
    for words in (
        ("prompt=adap_ins_pos", "seed=0", "regime.transfer=[cb]"),
        ("prompt=adap_ins_pos", "seed=1"),
        ("prompt=fixed", "prompt.num_tokens=4"),
        ("prompt=fixed", "prompt.num_tokens=8"),
    ):
        runs.append(run.run(experiment(*quick, *words)))
    written = []
    for _ in range(2):
        assert plot(tmp_path / "results", [], None, tmp_path / "plots") == 0
        written.append({path.name: path.read_bytes() for path in sorted((tmp_path / "plots").iterdir())})
    assert written[0] == written[1]
    said = capsys.readouterr().out
    assert "shots: nothing to draw" in said
    kinds = ("curves", "length", "parameters", "seconds", "choices", "training", "entropy", "transfer")
    assert set(written[0]) == {
        "index.html",
        *(f"{kind}.{form}" for kind in kinds for form in ("png", "svg", "csv")),
    }
    curves = pd.read_csv(tmp_path / "plots" / "curves.csv")
    own = curves[(curves["prompt"] == "adap_ins_pos") & (curves["step"] == 4)].iloc[0]
    lines = [
        json.loads((tmp_path / "results" / "runs" / r.run_id / "metrics.jsonl").read_text().splitlines()[1])
        for r in runs[:2]
    ]
    assert own["mean"] == pytest.approx(np.mean([line["select_score"] for line in lines]))
    assert own["count"] == 2
    choices = pd.read_csv(tmp_path / "plots" / "choices.csv")
    assert set(choices["piece"]) == {"position"} and set(choices["prompt"]) == {"adap_ins_pos"}
    assert choices[choices["task"] == "rte"]["count"].sum() == 2 * runs[0].num_examples["report"]
    training = pd.read_csv(tmp_path / "plots" / "training.csv")
    assert set(training["step"]) == {2, 4, 6} and set(training["piece"]) == {"position"}
    assert training.groupby("step")["share"].sum().tolist() == pytest.approx([1, 1, 1])
    lengths = pd.read_csv(tmp_path / "plots" / "length.csv")
    varied = lengths.dropna(subset=["num_tokens"])
    assert set(varied["num_tokens"]) == {4, 8} and set(varied["prompt"]) == {"fixed"}
    assert set(curves["prompt"]) - {"chance"} == {"adap_ins_pos", "fixed", "fixed [8 vectors]"}
    matrix = pd.read_csv(tmp_path / "plots" / "transfer.csv").set_index("evaluated_on")["score"]
    assert matrix["CB"] == pytest.approx(runs[0].transfer["cb"]["score"])
    with pytest.raises(UserError, match="Did you mean curves"):
        plot(tmp_path / "results", ["curve"], None, None)


def test_runs_that_differ_in_a_setting_never_make_one_point(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = [
        make_record(
            "prompt=routed", f"prompt.vectors.num_prompts={members}", f"seed={seed}", *more, score=score
        )
        for members, score in ((1, 60.0), (2, 80.0), (4, 70.0))
        for seed in (0, 1)
        for more in ((), ("trainer.max_steps=9",))
    ]
    made.append(make_record("prompt=fixed", score=50.0))
    figure = plots.FIGURES["members"]([plots.FinishedRun(record, tmp_path) for record in made])
    assert figure is not None
    chance = figure.points[figure.points["prompt"] == "chance"]
    assert set(chance["mean"]) == {50.0}, "of two labels"
    varied = figure.points.drop(chance.index)
    assert set(varied["prompt"]) == {"routed [9 steps]", "routed"}
    assert set(varied["count"]) == {2} and set(varied["num_prompts"]) == {1, 2, 4}
    pareto = plots.FIGURES["parameters"]([plots.FinishedRun(record, tmp_path) for record in made])
    assert pareto is not None and len(pareto.points[pareto.points["prompt"] != "chance"]) == 7


# ---------------------------------------------------------------------------------------------- index


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for number in range(index.WORTH_IT + 5):
        record = make_record("task=rte", f"seed={number}", score=float(number % 100))
        records.save(record, tmp_path / "runs" / record.run_id)
    return tmp_path


def test_the_index_gives_the_records_that_the_folders_hold(many: Path) -> None:
    truth = records.load_all(many)
    assert index.load_all(many) == truth and (many / index.FILE).is_file()
    assert index.load_all(many) == truth, "out of the index"


def test_the_index_is_never_stale(many: Path) -> None:
    index.load_all(many)
    folders = sorted((many / "runs").iterdir())
    changed = records.load(folders[0])
    assert changed is not None
    records.save(make_record("task=rte", "seed=9999", score=1.5), many / "runs" / "new")
    records.write_json(folders[0] / "record.json", {**vars(changed), "score": 99.125})
    shutil.rmtree(folders[1])
    found = index.load_all(many)
    assert found == records.load_all(many)
    assert {99.125, 1.5} <= {record.score for record in found}
    (many / index.FILE).write_bytes(b"no parquet")
    assert index.load_all(many) == found


def test_few_runs_need_no_index(tmp_path: Path) -> None:
    record = make_record("task=rte")
    records.save(record, tmp_path / "runs" / record.run_id)
    assert index.load_all(tmp_path) == [record] and not (tmp_path / index.FILE).exists()
    assert index.load_all(tmp_path / "nothing") == []


def test_a_task_without_a_baseline_has_figures(tmp_path: Path) -> None:
    made = [make_record("task=cb", "prompt=fixed", f"prompt.num_tokens={number}") for number in (4, 20)]
    made = [replace(record, metrics={"accuracy": 50.0, "macro_f1": 40.0}) for record in made]
    for kind in ("length", "parameters", "seconds"):
        assert plots.FIGURES[kind]([plots.FinishedRun(record, tmp_path) for record in made]) is not None
