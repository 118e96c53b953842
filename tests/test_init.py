"""Where prompt rows start: what each `prompt.init` reads, and the trained prompt of another run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import FIXTURES
from safetensors.torch import load_file, save_file
from torch import Tensor

from dp_bench import config, run
from dp_bench.config import Experiment
from dp_bench.prompts.init import initialiser, load_saved
from dp_bench.settings import Init
from dp_bench.types import Dims, UserError

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=4", "prompt.num_tokens=3")
DIMS = Dims(width=8, vocab_size=12, special_ids=(0, 1, 5))
TABLE_VD = torch.arange(12.0)[:, None].expand(-1, 8)  # every row says whose it is


def rows(kind: Init, num: int, first_ids: tuple[int, ...] = ()) -> list[int]:
    made: Tensor = initialiser(kind, DIMS, TABLE_VD, first_ids)(num)
    assert made.shape == (num, 8) and made.dtype is torch.float32
    return [int(row) for row in made[:, 0]]


def kept(record_dir: Path) -> dict[str, Tensor]:
    return load_file(record_dir / "prompt.safetensors")


def folder(experiment: Experiment, run_id: str) -> Path:
    return Path(experiment.settings.results_dir) / "runs" / run_id


def test_frequent_takes_the_first_pieces_in_order_without_specials() -> None:
    assert rows(Init.frequent, 5) == [2, 3, 4, 6, 7]
    assert rows(Init.frequent, 11) == [2, 3, 4, 6, 7, 8, 9, 10, 11, 2, 3], "begins again at the end"


def test_a_text_is_repeated_or_cut_to_the_number_of_rows() -> None:
    assert rows(Init.text, 5, (7, 5)) == [7, 5, 7, 5, 7]
    assert rows(Init.text, 2, (7, 5, 9)) == [7, 5]


def test_label_words_come_first_and_sampled_pieces_follow() -> None:
    found = rows(Init.label_words, 6, (4, 9))
    assert found[:2] == [4, 9] and len(set(found[2:])) == 4 and not set(found[2:]) & set(DIMS.special_ids)
    assert rows(Init.label_words, 1, (4, 9)) == [4]


def test_first_values_are_the_callers_own() -> None:
    """Training a prompt must not write into the frozen embedding."""
    table_VD = torch.randn(12, 8)
    for kind in (Init.vocab, Init.first_vocab, Init.frequent, Init.text, Init.label_words):
        before = table_VD.clone()
        initialiser(kind, DIMS, table_VD, (4, 9))(6).add_(1.0)
        assert torch.equal(table_VD, before), kind


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["prompt.init=text", "prompt.init_text=abcd"], "abc"),
        (["prompt.init=text", "prompt.init_text=ab"], "aba"),
        (["prompt.init=label_words", "task=cb", "prompt.num_tokens=3"], "ynm"),  # yes, no, maybe, in bytes
    ],
)
def test_a_run_starts_from_the_rows_of_these_tokens(
    experiment: Build, overrides: list[str], expected: str
) -> None:
    """At the least learning rate that fp32 rounds away, what is saved is what the prompt started from."""
    from dp_bench.backbones.load import load_backbone
    from dp_bench.backbones.random_init import byte_tokenizer

    composed = experiment(
        "prompt=fixed", *QUICK, *overrides, "prompt.lr=1e-30", "trainer.heldout_fraction=0.3"
    )
    record = run.run(composed)
    backbone = load_backbone(
        composed.settings.backbone, device=torch.device("cpu"), dtype=torch.float32, dropout=False
    )
    ids = byte_tokenizer()(expected, add_special_tokens=False).input_ids
    assert torch.equal(kept(folder(composed, record.run_id))["vectors.prompt_PD"], backbone.embedding_VD[ids])


def test_a_text_without_a_token_is_refused(experiment: Build) -> None:
    blank = ["backbone=t5_micro", "prompt.init=text", "prompt.init_text='  '"]
    with pytest.raises(UserError, match=r"prompt\.init_text='  ' has no token"):
        run.run(experiment("prompt=fixed", *QUICK, *blank))


# ---------------------------------------------------------------------------------------------- saved


@pytest.mark.parametrize("prompt", ["fixed", "dynamic", "prefix_tuning", "mpt", "l2p_pool"])
def test_a_saved_prompt_is_the_start_of_another_run(experiment: Build, prompt: str) -> None:
    """Told by the scores after no update worth the name, from the folder as from the file."""
    sizes = ["prompt.num_tokens=5"] if prompt == "l2p_pool" else []
    first = experiment(f"prompt={prompt}", *QUICK, *sizes)
    trained = kept(source := folder(first, run.run(first).run_id))
    for name in (source, source / "prompt.safetensors"):
        composed = experiment(
            f"prompt={prompt}",
            *QUICK,
            *sizes,
            "prompt.init=saved",
            f"prompt.init_from={name}",
            "prompt.lr=1e-30",
        )
        started = kept(folder(composed, run.run(composed).run_id))
        assert started.keys() == trained.keys()
        assert all(torch.equal(started[key], trained[key]) for key in trained)


def test_the_content_of_a_saved_prompt_names_the_run_and_its_place_does_not(tmp_path: Path) -> None:
    from dp_bench import records

    def identity(path: Path) -> str:
        words = ["prompt=fixed", f"data.dir={FIXTURES}", "prompt.init=saved", f"prompt.init_from={path}"]
        return records.identify(config.build(config.compose(words)).resolved, "data")[0]

    paths = [tmp_path / name for name in ("one", "same", "other")]
    for path, value in zip(paths, (1.0, 1.0, 2.0), strict=True):
        path.mkdir()
        save_file({"vectors.prompt_PD": torch.full((2, 4), value)}, path / "prompt.safetensors")
    one, same, other = map(identity, paths)
    assert one == same == identity(paths[0] / "prompt.safetensors") != other


def test_a_saved_prompt_of_another_shape_is_refused_with_both_shapes(experiment: Build) -> None:
    first = experiment("prompt=fixed", *QUICK)
    source = folder(first, run.run(first).run_id)
    saved = ["prompt.init=saved", f"prompt.init_from={source}"]
    with pytest.raises(UserError, match=r"vectors\.prompt_PD is 3x64 there and 4x64 here"):
        run.run(experiment("prompt=fixed", *QUICK, *saved, "prompt.num_tokens=4"))
    with pytest.raises(UserError, match=r"position\.linear\.weight is absent there and 4x64 here"):
        run.run(experiment("prompt=adap_ins_pos", *QUICK, *saved))


def test_what_is_no_saved_prompt_is_refused(experiment: Build, tmp_path: Path) -> None:
    broken = tmp_path / "prompt.safetensors"
    broken.write_text("not tensors", "utf-8")
    composed = experiment("prompt=fixed", *QUICK, "prompt.init=saved", f"prompt.init_from={broken}")
    with pytest.raises(UserError, match=r"prompt.safetensors cannot be read .*prompt\.init_from"):
        run.run(composed)
    with pytest.raises(UserError, match="does not exist"):
        experiment("prompt=fixed", "prompt.init=saved", f"prompt.init_from={tmp_path / 'nowhere'}")


def test_a_classifier_head_beside_the_prompt_is_left_out(tmp_path: Path) -> None:
    prompt = torch.nn.Linear(3, 2)
    path = tmp_path / "prompt.safetensors"
    saved = {"weight": torch.ones(2, 3), "bias": torch.ones(2), "verbalizers.0.linear.weight": torch.ones(1)}
    save_file(saved, path)
    load_saved(prompt, path)
    assert torch.equal(prompt.weight, torch.ones(2, 3)) and torch.equal(prompt.bias, torch.ones(2))
