"""`dp-bench inspect`: its numbers against naive ones, and what it shows of runs of every kind."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import BASELINES, FIXTURES, make_batch
from helpers.records import make_record
from helpers.runs import tampered
from torch import Tensor

import dp_bench
from dp_bench import cli, config, pack
from dp_bench.anatomy import Drift, anatomy, attention_of, attention_to_prompt, nearest, start
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.load import load_backbone
from dp_bench.commands.inspect import Inspected
from dp_bench.config import Experiment
from dp_bench.prompts.layout import insert
from dp_bench.report import choices, drawn
from dp_bench.report.page import Bars, Drawn, Facts, Grid, Items, Part, Section, spark, to_html
from dp_bench.run import run
from dp_bench.settings import SplitOrder
from dp_bench.types import Prompted, PromptOutput, UserError

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=3")
SEED = torch.Generator().manual_seed(5)


def folder_of(made: Experiment) -> Path:
    return Path(made.settings.results_dir) / "runs" / run(made).run_id


# ------------------------------------------------------------------------------------------ vectors


def test_nearest_tokens_are_those_of_a_naive_search(monkeypatch: pytest.MonkeyPatch) -> None:
    from dp_bench import anatomy as module

    monkeypatch.setattr(module, "CHUNK", 7)  # several chunks, the last one shorter
    vectors, table = torch.randn(4, 6, generator=SEED), torch.randn(40, 6, generator=SEED)
    table[3] = 0  # padding: its cosine is 0, not NaN
    by_cosine, by_distance = nearest(vectors, table, 5)
    v, t = vectors.double().numpy(), table.double().numpy()
    for row in range(4):
        cosine = [
            float(v[row] @ t[i]) / (np.linalg.norm(v[row]) * np.linalg.norm(t[i]) or 1.0) for i in range(40)
        ]
        distance = [float(np.sqrt(((v[row] - t[i]) ** 2).sum())) for i in range(40)]
        order = np.argsort(cosine)[::-1][:5]
        assert by_cosine.ids[row].tolist() == order.tolist()
        np.testing.assert_allclose(by_cosine.values[row], np.asarray(cosine)[order], rtol=1e-12)
        order = np.argsort(distance)[:5]
        assert by_distance.ids[row].tolist() == order.tolist()
        np.testing.assert_allclose(by_distance.values[row], np.asarray(distance)[order], rtol=1e-12)
    assert nearest(vectors, table[:2], 5)[0].ids.shape == (4, 2), "no more than there are"


def test_drift_is_distance_and_cosine() -> None:
    drift = Drift.between(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 4.0], [0.0, 2.0]]))
    assert drift.distance.tolist() == [5.0, 0.0] and drift.cosine.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("init", ["prompt.init=text prompt.init_text=abc", "prompt.init=frequent"])
def test_a_prompt_of_known_tokens_has_them_as_its_nearest(experiment: Build, init: str) -> None:
    still = "trainer.lr=1e-30"
    opened = dp_bench.open_run(folder_of(experiment("prompt=fixed", *init.split(), *QUICK, still)))
    backbone = opened.context.backbone
    (table,) = anatomy(opened, 2).tables
    text = backbone.tokenizer("abc", add_special_tokens=False).input_ids
    plain = [i for i in range(backbone.dims.vocab_size) if i not in backbone.dims.special_ids]
    ids = text if "text" in init else plain[:3]
    assert len(ids) == 3
    assert [near[0][0] for near in table.by_cosine] == [near[0][0] for near in table.by_distance]
    from dp_bench.anatomy import token_of

    assert [near[0][0] for near in table.by_cosine] == [token_of(backbone, i) for i in ids]
    np.testing.assert_allclose([near[0][1] for near in table.by_cosine], 1, atol=1e-12)
    assert table.drift is not None
    assert [near[0][1] for near in table.by_distance] == [0, 0, 0] and table.drift.distance.tolist() == [
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("prompt", ["dynamic", "p_tuning"])
def test_the_start_is_the_prompt_of_a_run_without_updates(experiment: Build, prompt: str) -> None:
    moved = dp_bench.open_run(folder_of(experiment(f"prompt={prompt}", *QUICK, "trainer.lr=0.1")))
    still = dp_bench.open_run(folder_of(experiment(f"prompt={prompt}", *QUICK, "trainer.lr=1e-30")))
    assert still.model is not None and moved.model is not None
    began = start(moved)
    unmoved = still.model.prompt.vectors.by_name(["rte"])
    trained = moved.model.prompt.vectors.by_name(["rte"])
    assert began.keys() == unmoved.keys() == trained.keys() and began
    for key, value in began.items():
        torch.testing.assert_close(value, unmoved[key], atol=1e-6, rtol=0)
    assert any(not torch.equal(began[key], trained[key]) for key in began)


def test_vectors_of_tasks_have_their_names(experiment: Build) -> None:
    words = ("prompt=mpt", "regime=multitask", "regime.tasks=[rte,cb]")
    opened = dp_bench.open_run(folder_of(experiment(*words, *QUICK)))
    assert [table.name for table in anatomy(opened, 1).tables] == ["rte", "cb"]


def test_a_start_that_is_gone_is_named(experiment: Build, tmp_path: Path) -> None:
    first = folder_of(experiment("prompt=fixed", *QUICK))
    saved = shutil.copy(first / "prompt.safetensors", tmp_path / "start.safetensors")
    opened = dp_bench.open_run(
        folder_of(experiment("prompt=fixed", "prompt.init=saved", f"prompt.init_from={saved}", *QUICK))
    )
    assert anatomy(opened, 1).no_start is None
    Path(saved).unlink()
    found = anatomy(opened, 1)
    assert "is gone" in str(found.no_start) and found.tables[0].drift is None
    tuned = ("prompt=p_tuning", "prompt.init=vocab", "prompt.freeze_backbone=false", "keep_weights=true")
    found = anatomy(dp_bench.open_run(folder_of(experiment(*tuned, *QUICK))), 1)
    assert "trained as well" in str(found.no_start)


# ------------------------------------------------------------------------------------------ attention

FAMILIES = ("t5_tiny_random", "gpt2_tiny_random", "llama_tiny_random", "bert_tiny_random")


def backbone_named(name: str) -> Backbone:
    settings = config.build(config.compose([f"backbone={name}", "data.dir=.", *CUE])).settings.backbone
    backbone = load_backbone(settings, device=torch.device("cpu"), dtype=torch.float32, dropout=False)
    backbone.use_prompt_attention()
    return backbone


CUE = ("backbone.answer_cue=' {mask}'",)


def prompted_texts(backbone: Backbone, num_tokens: int, length: int) -> Prompted:
    """Return texts of different lengths with vectors on both sides, of which the first `length` are kept."""
    from dataclasses import replace

    batch = make_batch([7, 5, 9], start=1)
    batch = replace(batch, answer_B=batch.body_end_B)
    before = torch.nn.functional.one_hot(torch.tensor([0, 1, num_tokens]), num_tokens + 1).float()
    keep = (torch.arange(num_tokens) < length).float().expand(3, -1)
    vectors = torch.randn(3, num_tokens, backbone.dims.width, generator=torch.Generator().manual_seed(1))
    output = PromptOutput(vectors, before, None if length == num_tokens else keep)
    return insert(backbone.embed(batch.ids_BT), batch, output, SplitOrder.paper)


def of_transformers(backbone: Backbone, prompted: Prompted) -> Tensor:
    """Return the attention of the answer to every slot by transformers' eager attention: [L,B,S], fp64."""
    backbone.lm.set_attn_implementation("eager")
    mask = prompted.mask_BS
    inputs: dict[str, Any] = {"inputs_embeds": prompted.embeds_BSD, "attention_mask": mask.long()}
    rows = torch.arange(len(mask))
    if backbone.lm.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = backbone.get_buffer("decoder_ids_A").expand(len(mask), -1)
        weights = backbone.model(**inputs, output_attentions=True).cross_attentions
        return torch.stack([layer[:, :, -1].double().mean(1) for layer in weights])
    inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    weights = backbone.model(**inputs, output_attentions=True).attentions
    return torch.stack([layer[rows, :, prompted.answer_slot_B].double().mean(1) for layer in weights])


@pytest.mark.parametrize("length", [4, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_that_of_transformers(name: str, length: int) -> None:
    backbone = backbone_named(name)
    prompted = prompted_texts(backbone, 4, length)
    found = attention_of(backbone, prompted)
    with torch.no_grad():
        known = of_transformers(backbone, prompted)
    assert prompted.slot_of_vector_BP is not None
    expected = torch.stack([layer.gather(1, prompted.slot_of_vector_BP) for layer in known])
    torch.testing.assert_close(found.input_LMP, expected, atol=1e-6, rtol=0)
    assert float(found.layers_LMP.sum()) == 0 and float(found.input_LMP[..., :length].min()) > 0
    assert float(found.input_LMP[..., length:].abs().sum()) == 0, "dropped vectors get none"
    seen_B = prompted.mask_BS.sum(1).double()
    if found.kind == "decoder":
        assert prompted.answer_slot_B is not None
        seen_B = torch.stack(
            [m[: e + 1].sum() for m, e in zip(prompted.mask_BS, prompted.answer_slot_B, strict=True)]
        ).double()
    torch.testing.assert_close(found.even_LM, (length / seen_B).expand_as(found.even_LM))


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_head_reads_where_it_pools(pooling: str) -> None:
    settings = ("backbone.head=classifier", f"backbone.pooling={pooling}", "backbone.answer_cue=null")
    cfg = config.build(
        config.compose(["backbone=bert_tiny_random", "data.dir=.", *settings])
    ).settings.backbone
    backbone = load_backbone(cfg, device=torch.device("cpu"), dtype=torch.float64, dropout=False)
    backbone.use_prompt_attention()
    prompted = prompted_texts(backbone, 2, 2)
    shares = backbone.reads(prompted, pooled=True)
    with torch.no_grad():
        states = backbone.states(prompted)
        torch.testing.assert_close(torch.einsum("bs,bsd->bd", shares, states), backbone.pooled(prompted))
    assert attention_of(backbone, prompted, pooled=True).input_LMP.shape[1:] == (3, 2)


def test_keys_in_the_layers_get_attention_too(experiment: Build) -> None:
    for sites, share in (("[encoder,decoder,cross]", True), ("[encoder]", False)):
        words = ("prompt=p_tuning_v2", f"prompt.layers.sites={sites}")
        opened = dp_bench.open_run(folder_of(experiment(*words, *QUICK)))
        examples = rte_examples(opened)[:4]
        found = attention_to_prompt(opened, "rte", examples)
        assert (float(found.layers_LMP.sum()) > 0) is share and float(found.input_LMP.sum()) == 0
        assert ((found.even_LM > 0) == share).all()


def rte_examples(opened: Any) -> list[Any]:
    from helpers.rows import read_examples

    from dp_bench.data.source import split_file

    return read_examples(opened.tasks["rte"], split_file(FIXTURES / "RTE" / "val.jsonl"), "val", None)


def test_watching_changes_no_answer(experiment: Build) -> None:
    opened = dp_bench.open_run(
        folder_of(experiment("prompt=dynamic", *QUICK, "backbone=gpt2_tiny_random", *CUE[:0]))
    )
    examples = rte_examples(opened)
    before = opened.predict("rte", examples).logits_MC
    found = attention_to_prompt(opened, "rte", examples)
    np.testing.assert_allclose(opened.predict("rte", examples).logits_MC, before, atol=1e-5)
    assert found.input_LMP.shape[1:] == (len(examples), 3)
    assert float(found.share_L.max()) < 1


# ------------------------------------------------------------------------------------------ choices


def frame(**columns: Any) -> pd.DataFrame:
    rows = {"id": [f"boolq/val/{i}" for i in range(4)], "gold": [0, 0, 1, 1], "prediction": [0, 1, 1, 0]}
    scores = {"score_no": np.log([0.9, 0.2, 0.4, 0.7]), "score_yes": np.log([0.1, 0.8, 0.6, 0.3])}
    return pd.DataFrame({**rows, **scores, "position": [0, 2, 2, 2], "length": [2, 2, 2, 2], **columns})


def test_outcomes_are_counted_by_label_and_update() -> None:
    record = make_record("task=boolq", "prompt=adap_ins_pos", "prompt.num_tokens=2", "data.dir=.")
    lines = [{"step": 5, "position_counts": [1, 1, 0]}, {"step": 9}]
    found = {choice.part: choice for choice in choices.choices(record, frame(), lines)}
    position = found["position"]
    assert [spread.group for spread in position.spreads] == ["all", "gold false", "gold true", "update 5"]
    whole, first, second, update = position.spreads
    assert whole.counts == (1, 0, 3) and first.counts == (1, 0, 1) and second.counts == (0, 0, 2)
    assert whole.mean == 1.5 and whole.most == (2, 0.75) and second.entropy == 0
    assert update.entropy == pytest.approx(np.log(2)) and position.only is None
    assert found["length"].only == 2 and "route" not in found


def test_a_record_alone_says_what_it_can() -> None:
    record = make_record("prompt=routed", "task=boolq", "data.dir=.", routes="0 1 1 1")
    found = {choice.part: choice for choice in choices.choices(record, None, [])}
    assert set(found) == {"route"} and found["route"].spreads[0].counts == (1, 3)
    for prompt in ("lora", "majority"):
        assert choices.choices(make_record(f"prompt={prompt}", "task=boolq", "data.dir=."), frame(), []) == []


def test_a_position_that_never_changes_is_a_sentence() -> None:
    record = make_record("task=boolq", "prompt=adap_ins_pos", "prompt.num_tokens=2", "data.dir=.")
    same = choices.choices(record, frame(position=[1] * 4), [])
    blocks = choices.section(record, same).blocks
    assert any(isinstance(b, str) and "position: 1" in b and "the same for every text" in b for b in blocks)
    assert not any(isinstance(block, Grid) for block in blocks)


# ------------------------------------------------------------------------------------------ texts


def test_confident_errors_come_first_then_doubtful_right_answers() -> None:
    record = make_record("task=boolq", "prompt=adap_ins_pos", "prompt.num_tokens=2", "data.dir=.")
    rows = drawn.surprising(record, frame(), "boolq", 4)
    assert rows["id"].tolist() == [f"boolq/val/{i}" for i in (1, 3, 2, 0)]
    assert rows["right"].tolist() == [False, False, True, True]
    np.testing.assert_allclose(rows["confidence"], [0.8, 0.7, 0.6, 0.9])
    assert len(drawn.surprising(record, frame(), "boolq", 1)) == 1


@pytest.mark.parametrize("order", ["paper", "code"])
def test_vectors_are_drawn_where_the_layout_puts_them(order: str) -> None:
    record = make_record("task=boolq", "prompt=split", "prompt.num_tokens=3", "data.dir=.")
    record.config["protocol"]["split_order"] = order
    batch = make_batch([4], start=1)
    vectors = torch.arange(1.0, 4.0).view(1, 3, 1)
    for position in range(4):
        before, behind = drawn.vectors_around(record, position, 3)
        outcome = position if order == "paper" else 3 - position
        chosen = torch.nn.functional.one_hot(torch.tensor([outcome]), 4).float()
        prompted = insert(torch.zeros(1, 4, 1), batch, PromptOutput(vectors, chosen), SplitOrder(order))
        slots = prompted.embeds_BSD[0, :, 0].tolist()
        expected = [f"P{int(value) - 1}" for value in slots if value]
        assert [part.text for part in (*before, *behind)] == expected and len(before) == position
    kinds = [part.kind for part in (*before, *behind)]
    assert kinds == ["vector"] * 3
    before, behind = drawn.vectors_around(record, 3, 1)
    assert sorted((part.text, part.kind) for part in (*before, *behind)) == [
        ("P0", "vector"),
        ("P1", "dropped"),
        ("P2", "dropped"),
    ]


# ------------------------------------------------------------------------------------------ page


class Checker(HTMLParser):
    """Collects the tags of a page and refuses tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = "<script>alert(1)</script> \"'><img src=x onerror=1> \x1b[2J \u202eabc"


def test_nothing_in_a_page_acts_or_loads() -> None:
    blocks = [
        Facts([(EVIL, EVIL)]),
        Grid((EVIL, "b"), [(EVIL, Bars((1.0, 0.0))), (EVIL, Items((EVIL,)))], EVIL, (EVIL,)),
        Drawn(EVIL, EVIL, False, (Part("vector", EVIL), Part("text", EVIL))),
        EVIL,
    ]
    page = to_html(EVIL, [Section(EVIL, blocks, [EVIL])])
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    names = {tag for tag, _ in checker.tags}
    assert not names & {"script", "img", "link", "iframe", "object", "form"}
    assert not any(
        key.startswith("on") or key in ("src", "href") for _, attrs in checker.tags for key in attrs
    )
    assert "url(" not in page and "@import" not in page and "\x1b" not in page and "\u202e" not in page
    assert checker.text.count("alert(1)") == 16 and "color-scheme: light dark" in page


def test_bars_of_a_terminal_fit() -> None:
    assert spark(Bars((0.0, 1.0, 8.0))) == "·▂█"
    shown = spark(Bars(tuple(float(i == 99) for i in range(101))))
    assert len(shown) <= 25 and shown.count("█") == 1 and shown.count("·") == len(shown) - 1
    assert spark(Bars((0.0, 0.0))) == "··" and spark(Bars(())) == ""


# ------------------------------------------------------------------------------------------ command


@pytest.fixture
def inspect(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main(["inspect", *words, "--results-dir", str(tmp_path / "results")])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out + captured.err

    return call


KINDS = {
    "fixed": "nearest by cosine",
    "dynamic": "member 1",
    "adap_ins_len": "length",
    "prefix_tuning": "no vectors in the input: it adds keys",
    "lpt": "its vectors enter between two layers",
    "linear_probe": "weights",
    "majority": "shares",
    "lora": "adds to matrices",
}


def has_prompt(prompt: str) -> bool:
    return prompt not in BASELINES


@pytest.mark.parametrize("prompt", KINDS)
def test_a_run_of_every_kind_is_shown(experiment: Build, inspect: Any, tmp_path: Path, prompt: str) -> None:
    if prompt == "lora":
        pytest.importorskip("peft", reason="the peft extra is not installed")
    record = run(experiment(f"prompt={prompt}", *QUICK[: 4 if has_prompt(prompt) else 3]))
    page = tmp_path / "made" / "run.html"
    code, said = inspect(record.run_id, "--attention", "--examples", "3", "--texts", "2", "--html", str(page))
    assert code == 0 and KINDS[prompt] in said, said
    assert "Left out" not in said and "Traceback" not in said
    assert max(map(len, said.splitlines()[:-1])) <= 80
    html = page.read_text("utf-8")
    assert KINDS[prompt] in html and len(re.findall("<article", html)) == 2
    texts = {
        row["premise"] for row in pd.read_json(FIXTURES / "RTE" / "val.jsonl", lines=True).to_dict("records")
    }
    assert any(text[:30] in html for text in texts)


def test_a_run_of_several_tasks_shows_each(experiment: Build, inspect: Any) -> None:
    words = ("prompt=random_position", "regime=multitask", "regime.tasks=[rte,cb]", "regime.transfer=[wic]")
    record = run(experiment(*words, *QUICK))
    code, said = inspect(record.run_id, "--texts", "1", "--attention", "--examples", "2")
    assert code == 0 and "Left out" not in said and "left out" not in said, said
    for task in ("rte", "cb", "wic"):
        assert f"{task}, position: vectors before the text" in said and f"{task}/val/" in said
        assert f"{task}, vectors in the input" in said


def test_what_is_missing_is_left_out_with_the_reason(experiment: Build, inspect: Any, tmp_path: Path) -> None:
    release = shutil.copytree(FIXTURES, tmp_path / "release")
    made = experiment("prompt=random_position", f"data.dir={release}", *QUICK)
    folder = folder_of(made)
    shutil.rmtree(release)
    code, said = inspect(folder.name, "--texts", "2")
    assert code == 0 and "ids only" in said and "rte/val/" in said and "--data DIR" in " ".join(said.split())
    assert "nearest by cosine" in said, "vectors need no data"
    code, said = inspect(folder.name, "--data", str(FIXTURES), "--texts", "2", "--attention")
    assert (code == 0 and "ids only" not in said and "[P0" in said) or "P0]" in said
    (folder / "prompt.safetensors").unlink()
    (folder / "predictions.parquet").unlink()
    code, said = inspect(folder.name)
    flat = " ".join(said.split())
    assert code == 0 and "update 2" in flat and flat.count("Left out") == 3, said


def test_a_packed_run_shows_its_record(experiment: Build, inspect: Any, tmp_path: Path) -> None:
    record = run(experiment("prompt=routed", *QUICK))
    with pytest.raises(SystemExit):
        cli.main(["pack", str(tmp_path / "results")])
    shutil.rmtree(tmp_path / "results" / "runs")
    code, said = inspect(record.run_id, "--attention")
    assert (
        code == 0 and "route: " in said and f"{record.score:.2f}" in said and "only the run's record" in said
    )
    assert (tmp_path / "results" / pack.FILE).is_file()


def test_damaged_predictions_are_left_out(experiment: Build, inspect: Any) -> None:
    folder = folder_of(experiment("prompt=random_position", *QUICK))
    path = folder / "predictions.parquet"
    table = pd.read_parquet(path)
    values = {"position": 99, "gold": -7, "prediction": -1, "length": None}
    damaged = [table.assign(**{name: [value, *table[name][1:]]}) for name, value in values.items()]
    for rows in (*damaged, table.drop(columns="id"), table.head(0)):
        rows.to_parquet(path)
        with pytest.raises(UserError, match=r"predictions.parquet cannot be read"):
            Inspected(folder).predictions  # noqa: B018 - reading is what fails
    table.assign(prediction=50).to_parquet(path)  # of 2 labels
    code, said = inspect(folder.name)
    assert code == 0 and "predictions.parquetcannotberead" in "".join(said.split()), said  # lines are folded
    path.write_bytes(b"")
    (folder / "metrics.jsonl").write_text('{"step": 1, "position_counts": ["x"]}\n', "utf-8")
    code, said = inspect(folder.name)
    said = "".join(said.split())
    assert code == 0 and "metrics.jsonl" in said and "predictions.parquetcannot" in said


def test_mistakes_are_answered(experiment: Build, inspect: Any) -> None:
    folder = folder_of(experiment("prompt=majority"))
    for words, answer in (
        (("--texts", "-1"), "at least 0"),
        (("--nearest", "0"), "at least 1"),
        (("--examples", "0"), "at least 1"),
        (("--html", "."), "name a file"),
        (("--html", "/dev/null"), "name a file"),
        (("--html", "/dev/null/x.html"), "name another file"),
        (("--fresh",), "belongs to --gradients"),
        (("--gradients", "--html", "x.html"), "not for --gradients"),
    ):
        code, said = inspect(folder.name, *words)
        assert code == 2 and answer in " ".join(said.split()) and "Traceback" not in said, said
    record = dp_bench.records.load(folder)
    assert record is not None
    tampered(folder, config={**record.config, "prompt": {**record.config["prompt"], "unheard": 1}})
    code, said = inspect(folder.name)
    assert code == 2 and "another version" in " ".join(said.split())
