"""`dp-bench inspect RUN`: what the prompt of a finished run chose, its vectors, its most surprising errors.

What needs more than the record, such as weights or data, is left out with the reason where it is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp_bench import config, reading, records
from dp_bench.commands.finished import find_run
from dp_bench.effective import method_of
from dp_bench.prompts import catalogue
from dp_bench.records import RunRecord
from dp_bench.report import choices, drawn
from dp_bench.report.page import Bars, Cell, Drawn, Facts, Grid, Items, Section, show, to_html
from dp_bench.report.runs import data_title, evaluations, regime_title
from dp_bench.terminal import make_console
from dp_bench.types import Example, UserError

if TYPE_CHECKING:
    import pandas as pd

    from dp_bench.anatomy import Attention, VectorTable
    from dp_bench.trained import TrainedRun

REMEDY = "Train the run again with rerun=true."
MOST = 10_000  # a larger number of vectors or choices is damage
MOST_VECTORS = 24  # rows of a table on a terminal
MOST_TENSORS = 12
FEW = 4  # values of a tensor that are shown
WAYWARD = (
    "the words near a vector need not say what it does: prompts can be trained that solve a task and are "
    "near any text one likes (Khashabi et al., 2022, Prompt Waywardness)"
)


def inspect(
    run: str,
    results_dir: Path,
    *,
    texts: int = 5,
    nearest: int = 3,
    attention: bool = False,
    examples: int = 48,
    data: Path | None = None,
    html: Path | None = None,
) -> int:
    """Print the report on a finished run, and write it as a page; `data` is the folder of its data."""
    for name, value, least in (("texts", texts, 0), ("nearest", nearest, 1), ("examples", examples, 1)):
        if value < least:
            raise UserError(f"--{name} {value} must be at least {least}.")
    if html is not None and (html.is_symlink() or (html.exists() and not html.is_file())):
        raise UserError(f"--html {html} is a folder, a link or a device: name a file, such as run.html.")
    opened = Inspected(find_run(run, results_dir), data)
    record = opened.record
    sections = [
        _section("The run", lambda: _facts(record)),
        _section("What the prompt chose", lambda: _choices(opened)),
        _section("Vectors", lambda: _vectors(opened, nearest)),
        _section("Trained tensors", lambda: _tensors(opened)),
    ]
    if attention:
        title = "Attention of the answer to the prompt"
        sections.append(_section(title, lambda: _attention(opened, examples)))
    if texts:
        sections.append(_section("Texts, the most surprising first", lambda: _texts(opened, texts)))
    if html is not None:  # before a reader such as `head` closes the pipe
        _write(html, to_html(record.run_id, sections))
    show(make_console(), record.run_id, sections)
    if html is not None:
        make_console(soft_wrap=True).print(f"\nwritten: {html}")
    return 0


def _write(path: Path, page: str) -> None:
    try:
        records.write_text(path, page)
    except OSError as error:
        raise UserError(f"--html {path} cannot be written ({error.strerror}): name another file.") from None


def _section(title: str, make: Callable[[], Section]) -> Section:
    """Return a section, or its heading with the reason why it cannot be made."""
    try:
        made = make()
        return Section(title, made.blocks, made.notes)
    except UserError as error:
        return Section(title, [f"Left out: {error}"])


class Inspected:
    """A finished run whose parts are read when they are first needed; each raises UserError where it is
    missing."""

    def __init__(self, directory: Path, data: Path | None = None) -> None:
        self.directory, self.data = directory, data
        record = records.load(directory)
        assert record is not None
        self.record = record
        self.experiment = config.reopen(record.config, directory.parent.parent)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that the run reported on."""
        return [*(self.record.by_task or [self.record.task]), *self.record.transfer]

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The predictions of the reported examples."""
        path = self.predictions_file
        if not path.is_file():
            raise UserError(f"{self.directory} has no {path.name}, only the run's record.")
        prompt = self.experiment.settings.prompt
        num_tokens = prompt.num_tokens
        last_place = num_tokens if prompt.boundaries is None else prompt.boundaries - 1
        limits = {
            **{"gold": (-1, MOST), "prediction": (0, MOST), "route": (0, MOST)},
            **{"position": (0, last_place), "length": (0, num_tokens)},
        }
        frame: pd.DataFrame = reading.frame(path, ("id", *set(limits) - {"route"}), REMEDY)
        with reading.guarded(path, REMEDY):
            if not len(frame):
                raise ValueError("it has no rows")
            for name, (low, high) in limits.items():
                values = frame[name].dropna() if name == "route" and name in frame else frame.get(name)
                if values is not None and not (values.between(low, high) & (values % 1 == 0)).all():
                    raise ValueError(f"{name} has values that no run writes")
        return frame

    @property
    def predictions_file(self) -> Path:
        """The file of predictions, which may be missing."""
        return self.directory / "predictions.parquet"

    @property
    def weights_file(self) -> Path:
        """The file of trained tensors."""
        path = self.directory / records.PROMPT_FILE
        if not path.is_file():
            raise UserError(f"{self.directory} has no {path.name}, only the run's record.")
        return path

    @cached_property
    def trained(self) -> TrainedRun:
        """The run with its model."""
        from dp_bench.trained import open_run

        return open_run(self.weights_file.parent)

    @cached_property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer, for which no weights are needed."""
        from dp_bench.backbones.gguf import dequantised
        from dp_bench.backbones.load import load_tokenizer

        if "trained" in vars(self):
            return self.trained.context.backbone.tokenizer
        settings = self.experiment.settings
        return load_tokenizer(dequantised(settings.backbone, settings.cache))

    def examples(self, task: str) -> Iterable[Example]:
        """Return the reported examples of a task, read from its file; raises UserError where that is another
        file than the run read."""
        from dp_bench.data.readers import ExampleFile
        from dp_bench.data.source import locate

        settings = self.experiment.settings
        known = {each.name: each for each in (*self.experiment.tasks, *self.experiment.transfer)}
        where = settings.data if self.data is None else replace(settings.data, dir=str(self.data))
        try:
            file = locate(known[task], where, settings.cache).validation
        except UserError as error:
            raise UserError(f"{error} Or name the folder of the task's files: --data DIR.") from None
        several = bool(self.record.by_task) or task in self.record.transfer
        entry = self.record.data_files.get(f"{task}/validation" if several else "validation", {})
        if entry.get("sha256") != file.sha256:
            raise UserError(
                f"{file.path} is not the file that the run reported on: --data DIR names another."
            )
        return ExampleFile(known[task], file, settings.data.limit)


# ------------------------------------------------------------------------------------------ sections


def _facts(record: RunRecord) -> Section:
    rows = [
        ("task", f"{record.task}, {data_title(record)}"),
        ("prompt", f"{record.prompt}: {record.trainable_parameters:,} trained numbers"),
        ("backbone", f"{record.backbone}, {record.checkpoint['name_or_path'] or 'random weights'}"),
        ("regime", f"{regime_title(record)}, protocol {record.protocol}, seed {record.seed}"),
        ("score", f"{record.score:.2f} on {record.num_examples['report']} examples"),
        (
            "selected",
            f"update {record.best_step} of {record.num_updates}, by {record.select_score:.2f} "
            f"({record.selection})",
        ),
    ]
    for name, entry in {**record.by_task, **record.transfer}.items():
        untrained = " (not trained on)" if name in record.transfer else ""
        rows.append((name, f"{entry['score']:.2f}{untrained}"))
    return Section("", [Facts(rows)])


def _choices(run: Inspected) -> Section:
    record = run.record
    if not method_of(record.config).has_prompt:
        return Section(
            "", [f"method {record.config['prompt']['method']} has no prompt, and chooses nothing."]
        )
    predictions, missing = None, []
    try:
        predictions = run.predictions
    except UserError as error:
        missing.append(f"by example and label: left out. {error}")
    found = choices.choices(record, predictions, evaluations(run.directory))
    made = choices.section(record, found)
    return Section("", made.blocks, [*made.notes, *missing])


def _vectors(run: Inspected, number: int) -> Section:
    record = run.record
    prompt = record.config["prompt"]
    if not method_of(record.config).has_prompt:
        return _changes(run)
    if choices.in_layers_alone(prompt):
        layers = catalogue.of(prompt["layers"])
        is_late = layers is not None and layers.is_late
        adds = (
            "its vectors enter between two layers"
            if is_late
            else "it adds keys and values to attentions of the backbone"
        )
        return Section(
            "",
            [
                f"This prompt has no vectors in the input: {adds}. They are in no space of words, so that no "
                "token is near them; --attention shows how much of the attention each gets."
            ],
        )
    from dp_bench.anatomy import anatomy

    found = anatomy(run.trained, number)
    if not found.tables:
        return Section("", ["Every text has vectors of its own: there is no table of them."])
    low, middle, high = found.row_norms
    notes = [
        WAYWARD,
        f"norm / row: divided by the median norm of the vocabulary's rows, {middle:.3g}; 90 % have "
        f"{low:.3g} to {high:.3g}. A row has a median cosine of {found.row_cosine:.2f} with the next one",
    ]
    if (each := len(found.tables[0].norms)) < prompt["num_tokens"]:
        number_of = prompt["num_tokens"] // each
        notes.append(f"a text has {number_of} members in a row: P{each} of the text is P0 of the second")
    if found.no_start is None:
        notes.append(f"moved, cosine: distance from the initial vector, and cosine with it; {_start(record)}")
    else:
        notes.append(f"how far the vectors moved is not known: {found.no_start}")
    return Section("", [_vector_grid(table, middle) for table in found.tables], notes)


def _changes(run: Inspected) -> Section:
    """Return the section on the weights that a method without a prompt changed."""
    method = run.record.config["prompt"]["method"]
    sentence = f"method {method} has no vectors in the input"
    if not method_of(run.record.config).is_trained:
        return Section("", [f"{sentence}."])
    from dp_bench.anatomy import changes

    rows = [(name, f"{100 * share:.2f} %") for name, share in changes(run.trained.context.backbone)]
    if not rows:
        return Section("", [f"{sentence}: it changed weights of the backbone in place."])
    grid = Grid(("matrix", "changed by"), rows, words=("matrix",), most=MOST_TENSORS)
    return Section(
        "", [f"{sentence}, and adds to matrices:", grid], ["norm of the change by that of the matrix"]
    )


def _start(record: RunRecord) -> str:
    """Say where initial vectors come from, and whether another version drew them."""
    init, now = record.config["prompt"]["init"], records.versions()["torch"]
    then = record.versions.get("torch")
    other = (
        "" if now == then else f", which torch {then} drew and torch {now} has drawn again: they may differ"
    )
    return f"initial vectors (prompt.init={init}) are made again from seed {record.seed}{other}"


def _vector_grid(table: VectorTable, usual: float) -> Grid:
    drift = table.drift
    rows: list[tuple[Cell, ...]] = []
    for index, norm in enumerate(table.norms):
        moved = () if drift is None else (f"{drift.distance[index]:.2f}", f"{drift.cosine[index]:.2f}")
        near = (_tokens(table.by_cosine[index]), _tokens(table.by_distance[index]))
        rows.append((f"P{index}", f"{norm:.2f}", f"{norm / usual:.1f}" if usual else "-", *moved, *near))
    words = ("nearest by cosine", "nearest by distance")
    heads = ("", "norm", "/ row", *(() if drift is None else ("moved", "cosine")), *words)
    return Grid(heads, rows, table.name, words, MOST_VECTORS)


def _tokens(near: Sequence[tuple[str, float]]) -> Items:
    return Items(tuple(f"{token} {value:.2f}" for token, value in near))


def _tensors(run: Inspected) -> Section:
    path = run.weights_file
    from dp_bench.methods.build import TEXTS

    found = reading.tensors(path, REMEDY)
    trained = {name: value for name, value in found.items() if not name.startswith(TEXTS)}
    sized = {name: value.double() for name, value in trained.items() if value.numel()}
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            "x".join(map(str, value.shape)) or "1",
            f"{value.norm():.3g}",
            f"{value.square().mean().sqrt():.3g}",
            " ".join(f"{number:.3g}" for number in value.flatten().tolist()) if value.numel() <= FEW else "",
        )
        for name, value in sorted(sized.items(), key=lambda item: -float(item[1].norm()))
    ]
    if not rows:
        return Section("", ["Nothing was trained, or what was trained is not kept (keep_weights=true)."])
    heads: tuple[str, ...] = ("tensor", "shape", "norm", "rms", "values")
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return Section(
        "", [Grid(heads, rows, words=("tensor",), most=MOST_TENSORS)], [f"from {path.name}, largest first"]
    )


def _attention(run: Inspected, number: int) -> Section:
    from dp_bench.anatomy import attention_to_prompt

    if not method_of(run.record.config).has_prompt:
        return Section("", ["There is no prompt to attend to."])
    blocks: list[Grid | str] = []
    notes: list[str] = []
    for task in run.tasks:
        title = f"{task}, " if len(run.tasks) > 1 else ""
        try:
            known = list(run.examples(task))
            found = attention_to_prompt(run.trained, task, known[:: max(1, len(known) // number)][:number])
        except UserError as error:
            blocks.append(f"{title}left out: {error}")
            continue
        shown = [
            _attention_grid(found, values.mean(1).tolist(), f"{title}vectors in the {where}")
            for where, values in (("input", found.input_LMP), ("layers", found.layers_LMP))
            if float(values.sum())
        ]
        blocks += shown or [f"{title}the answer attends to no vector of the prompt directly."]
        reading_at = {"cross": "the decoder step", "decoder": "the last slot", "encoder": "the slot"}[
            found.kind
        ]
        notes = [
            f"{found.kind} attention of {reading_at} where the answer is read, mean over heads and "
            f"{found.even_LM.shape[1]} reported texts; even: the share if every key got as much",
            "attention says where the model looks, not what it does with it",
        ]
        if found.kind == "decoder":
            notes.append(
                "the first slot of a causal model draws attention whatever is there (attention sinks: "
                "Xiao et al., 2024)"
            )
    return Section("", blocks, notes)


def _attention_grid(found: Attention, layers: list[list[float]], title: str) -> Grid:
    rows = [
        (
            str(layer),
            f"{100 * sum(values):.1f} %",
            f"{100 * float(found.even_LM[layer].mean()):.1f} %",
            f"P{max(range(len(values)), key=values.__getitem__)} ({100 * max(values):.1f} %)",
            Bars(tuple(values)),
        )
        for layer, values in enumerate(layers)
    ]
    last = f"P0 … P{len(layers[0]) - 1}"
    return Grid(("layer", "prompt", "even", "most", last), rows, title, (last,))


def _texts(run: Inspected, number: int) -> Section:
    record = run.record
    blocks: list[Drawn | str] = []
    notes = ["in brackets the probability of the answer; errors come first, the most confident first"]
    for task in run.tasks:
        with reading.guarded(run.predictions_file, REMEDY):
            rows = drawn.surprising(record, run.predictions, task, number)
        wrong = int((~rows["right"]).sum())
        title = f"{task}: " if len(run.tasks) > 1 else ""
        blocks.append(f"{title}{wrong} of these {len(rows)} are wrong.")
        texts: dict[str, drawn.Pieces] = {}
        try:
            texts = _pieces(run, task, set(rows["id"]))
        except UserError as error:
            notes.append(f"{title}ids only: {error}")
        blocks += drawn.draw(record, task, rows, texts)
    if method_of(record.config).has_prompt and choices.in_layers_alone(record.config["prompt"]):
        notes.append("this prompt is in the layers and not in the text")
    return Section("", blocks, notes)


def _pieces(run: Inspected, task: str, ids: set[str]) -> dict[str, drawn.Pieces]:
    """Return texts as the model read them, by id."""
    from dp_bench.data.prepare import encoder_of

    found = [example for example in run.examples(task) if example.id in ids]
    if not found:
        raise UserError("no example of the file has these ids.")
    settings, tokenizer, tasks = run.experiment.settings, run.tokenizer, run.experiment.tasks
    if method_of(run.record.config).writes is not None:
        from dp_bench.methods.writing import from_tensors

        tasks = from_tensors(tasks, run.weights_file)
    known = {each.name: each for each in (*tasks, *run.experiment.transfer)}
    encoded = encoder_of(settings, known[task], tokenizer).in_memory(found)

    def text(ids: Sequence[int]) -> str:
        decoded: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return decoded.strip()

    pieces = {}
    for example, row in zip(found, encoded.dataset, strict=True):
        ids_T, start, end = row["input_ids"], row["body_start"], row["body_end"]
        pieces[example.id] = drawn.Pieces(
            text(ids_T[:start]),
            text(ids_T[start:end]),
            text(ids_T[end:]),
            () if known[task].labels and not known[task].choices else tuple(example.choices),
            row["num_cut"],
        )
    return pieces
