"""Numbers that are not finite, frozen weights that change, caches that are damaged, checkpoints of other
backbones: each is told, and none becomes a score."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dp_bench import config, opening, run
from dp_bench.checks import problems_of
from dp_bench.config import Experiment
from dp_bench.finite import NotFiniteError
from dp_bench.methods import tune
from dp_bench.records import RunRecord
from dp_bench.trainer import Trainer
from dp_bench.types import RunFailedError, UserError
from tests.conftest import make_batch

Build = Callable[..., Experiment]
QUICK = ("trainer.max_steps=2", "trainer.eval_every=1", "trainer.batch_size=4", "data.limit=16")
PROMPT = ("prompt=fixed", "prompt.num_tokens=3")
DECODER = ("backbone=gpt2_tiny_random", "backbone.answer_cue=' Answer:'")


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    """Change the weights of every backbone that a run loads."""
    whole = opening.load_backbone

    def loaded(*args: Any, **options: Any) -> Any:
        backbone = whole(*args, **options)
        with torch.no_grad():
            change(backbone.model)
        return backbone

    monkeypatch.setattr(opening, "load_backbone", loaded)


def set_nan(model: Any) -> None:
    model.encoder.block[1].layer[1].DenseReluDense.wo.weight[0, 0] = torch.nan


def status(experiment: Experiment) -> dict[str, Any]:
    (path,) = Path(experiment.settings.results_dir).glob("runs/*/status.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize(
    "prompt", ["zero_shot", "fixed", "linear_probe", "adap_ins_pos", "lora", "fine_tuning"]
)
def test_nan_in_the_weights_is_no_score(
    prompt: str, experiment: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = experiment(f"prompt={prompt}", *QUICK)
    spoil(monkeypatch, set_nan)
    with pytest.raises(NotFiniteError, match=r"(rte/train/\d+).*DenseReluDense.wo.weight.* has 1 "):
        run.run(composed)
    assert status(composed)["status"] == "failed"


def test_an_example_that_alone_is_not_finite_is_named(
    experiment: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedding of one token is NaN: the first example that has it is the one that is named."""
    composed = experiment("prompt=zero_shot", "data.limit=16", "trainer.selection=validation")
    rows = (Path(str(composed.settings.data.dir)) / "RTE" / "val.jsonl").read_text("utf-8").splitlines()[:16]
    texts = ["".join(json.loads(row)[name] for name in ("premise", "hypothesis")) for row in rows]
    letter = next(c for c in sorted(set("".join(texts))) if c not in texts[0] and c.isascii() and c.isalpha())
    first = next(i for i, text in enumerate(texts) if letter in text)
    from dp_bench.backbones.random_init import byte_tokenizer

    (token,) = byte_tokenizer()(letter, add_special_tokens=False).input_ids

    def change(model: Any) -> None:
        model.get_input_embeddings().weight[token] = torch.nan

    spoil(monkeypatch, change)
    with pytest.raises(NotFiniteError, match=rf"first for rte/val/{first}\."):
        run.run(composed)


def test_infinity_as_padding_of_absent_choices_is_no_failure(experiment: Build) -> None:
    record = run.run(experiment("task=record", *PROMPT, *QUICK))
    assert record.status == "done"


def test_gradients_that_are_not_finite_name_the_update_and_the_example(
    experiment: Build, tmp_path: Path
) -> None:
    from tests.test_trainer import make_trainer

    trainer = make_trainer(experiment(*PROMPT), tmp_path)
    ids = trainer.train_splits[0].encoded.ids

    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return grad * torch.inf

    row = int(trainer.train_splits[0].encoded.rows[2])
    forward = trainer.bare_model.score

    def score(prompted: Any, batch: Any) -> torch.Tensor:
        logits = forward(prompted, batch)
        pairs = zip(logits, batch.row_B.tolist(), strict=True)
        parts = [Explodes.apply(own) if number == row else own for own, number in pairs]
        return torch.stack(parts)

    trainer.bare_model.score = score  # type: ignore[method-assign]
    with pytest.raises(NotFiniteError, match=rf"gradients is \w+ at update 5, first for example {ids[2]}\."):
        trainer._update((np.arange(4),), 4)


def test_a_learning_rate_that_makes_the_prompt_infinite_fails(experiment: Build) -> None:
    composed = experiment(
        *PROMPT, *QUICK, "trainer.optimizer=adamw", "trainer.lr=1e38", "trainer.weight_decay=1e30"
    )
    with pytest.raises(RunFailedError, match=r"trainer\.lr"):
        run.run(composed)


def test_the_command_tells_a_failed_run_in_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from dp_bench.cli import main
    from tests.conftest import FIXTURES

    spoil(monkeypatch, set_nan)
    words = [
        "train",
        "task=rte",
        "backbone=t5_tiny_random",
        "prompt=zero_shot",
        "trainer=smoke",
        "device=cpu",
    ]
    with pytest.raises(SystemExit) as ended:
        main([*words, f"data.dir={FIXTURES}", f"results_dir={tmp_path}"])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "dp-bench: the run failed." in told and "Traceback" not in told


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "key",
    [
        *("trainer.lr", "trainer.max_grad_norm", "trainer.weight_decay", "trainer.temperature.start"),
        *("trainer.full.lr", "prompt.lr", "prompt.selector_lr", "prompt.vectors.key_weight", "prompt.alpha"),
    ],
)
def test_nan_and_infinity_are_no_settings(key: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{key}={value} must be a finite number"):
        config.check(["task=rte", "prompt=l2p_pool", "backbone=t5_tiny_random", f"{key}={value}"])


def test_nan_is_no_setting_where_types_are_open(experiment: Build) -> None:
    settings = experiment(*PROMPT).settings
    settings.regime.task_weights = {"rte": "nan"}
    settings.hpo.space = {"trainer.lr": {"low": float("nan"), "high": float("inf"), "log": True}}
    settings.prompt.route = {"sharpness": [1.0, float("inf")]}
    settings.task.words = ["nan", "inf"]  # words of a language
    told = [text.split("=")[0] for text in problems_of(settings) if "must be a finite number" in text]
    assert told == [
        "prompt.route.sharpness",
        "regime.task_weights.rte",
        "hpo.space.trainer.lr.low",
        "hpo.space.trainer.lr.high",
    ]


@pytest.mark.parametrize("prompt", ["fixed", "lora", "zero_shot"])
def test_frozen_weights_that_change_fail_the_run(
    prompt: str, experiment: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = experiment(f"prompt={prompt}", *QUICK)
    for name in ("fit", "evaluate_only"):
        whole = getattr(Trainer, name)

        def leaking(trainer: Trainer, whole: Any = whole) -> Any:
            progress = whole(trainer)
            with torch.no_grad():  # less than bf16 can tell apart, in a value that no sample need hold
                weight = trainer.bare_model.backbone.embedding_VD
                weight[7, 3] = torch.nextafter(weight[7, 3], torch.tensor(9.0))
            return progress

        monkeypatch.setattr(Trainer, name, leaking)
    with pytest.raises(RunFailedError, match="changed the frozen backbone: 1 of"):
        run.run(composed)
    assert status(composed)["status"] == "failed"


@pytest.mark.parametrize("prompt", ["fine_tuning", "bitfit", "lora", "p_tuning_v2"])
def test_what_is_trained_may_change(prompt: str, experiment: Build) -> None:
    assert run.run(experiment(f"prompt={prompt}", "backbone=bert_tiny_random", *QUICK)).status == "done"


def summarised(experiment: Build, *overrides: str) -> RunRecord:
    return run.run(experiment("prompt=linear_probe", *QUICK, "rerun=true", *overrides))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "zeroed": lambda path: path.write_bytes(
        path.read_bytes()[: -(size := load_file(path)["summary"].nbytes)] + bytes(size)
    ),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "header": lambda path: path.write_bytes(b"\xff" * 100),
    "without digest": lambda path: (path.parent / "manifest.json").unlink(),
    "of others": lambda path: path.write_bytes(
        next(p for p in path.parent.parent.glob("*/*.safetensors") if p != path).read_bytes()
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_summaries_are_made_again(kind: str, experiment: Build, tmp_path: Path) -> None:
    cache = f"cache_dir={tmp_path / 'cache'}"
    before = summarised(experiment, cache)
    (first, *others) = sorted((tmp_path / "cache" / "summaries").glob("*/*.safetensors"))
    assert others
    rows = load_file(first)["summary"].clone()
    DAMAGES[kind](first)
    again = summarised(experiment, cache)
    assert again.score == before.score and again.metrics == before.metrics
    assert [text for text in again.warnings if f"{first.parent} in the cache is damaged" in text]
    assert torch.equal(load_file(first)["summary"], rows)
    assert not summarised(experiment, cache).warnings


def test_summaries_depend_on_the_configuration_of_the_model(make_backbone: Callable[..., Any]) -> None:
    """The same weights with another epsilon or activation compute other states."""
    one, other, far = make_backbone(), make_backbone(), make_backbone(layer_norm_epsilon=0.5)
    assert one.configuration() == other.configuration() != far.configuration()
    assert one.fingerprint() == far.fingerprint()
    batch = make_batch([5, 9])
    states = [own.encode(own.embed(batch.ids_BT), batch.mask_BT) for own in (one, far)]
    assert not torch.allclose(*states)


def test_damaged_generated_rows_are_made_again(
    experiment: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("data=micro", "data.dir=null", "prompt=majority", "task=cb", f"cache_dir={tmp_path / 'cache'}")
    first = run.run(experiment(*words))
    (path,) = (tmp_path / "cache" / "micro").rglob("CB/train.jsonl")
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    again = run.run(experiment(*words, "rerun=true"))
    assert "damaged: it is written again" in capsys.readouterr().err
    assert path.read_text() == whole and again.run_id == first.run_id


def killed_after(experiment: Experiment, monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Leave the checkpoint of a run that was killed."""
    whole = Trainer._update

    def dies(trainer: Trainer, places: Any, step: int) -> float:
        if step == update:
            raise KeyboardInterrupt
        return whole(trainer, places, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", dies)
        with pytest.raises(KeyboardInterrupt):
            run.run(experiment)


def scale(model: Any) -> None:
    model.encoder.final_layer_norm.weight.mul_(2)


def epsilon(model: Any) -> None:
    model.config.layer_norm_epsilon = 1e-3


@pytest.mark.parametrize(("change", "what"), [(scale, "weights"), (epsilon, "configuration"), (None, "")])
def test_a_checkpoint_of_another_backbone_is_not_resumed(
    change: Callable[[Any], None] | None,
    what: str,
    experiment: Build,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    composed = experiment(*PROMPT, *QUICK)
    killed_after(composed, monkeypatch, 1)
    if change is not None:
        spoil(monkeypatch, change)
    record = run.run(composed)
    told = capsys.readouterr().out
    assert ("resuming after update 1" in told) == (change is None)
    assert any(f"backbone with other {what}: it is not resumed" in text for text in record.warnings) == bool(
        what
    )


def test_a_prompt_of_another_backbone_is_told(experiment: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run.run(experiment(*PROMPT, *QUICK))
    folder = Path(experiment().settings.results_dir) / "runs" / first.run_id
    with safe_open(folder / "prompt.safetensors", "pt") as file:
        assert file.metadata()["backbone_fingerprint"] == first.checkpoint["fingerprint"]
    start = ("prompt.init=saved", f"prompt.init_from={folder}")
    same = run.run(experiment(*PROMPT, *QUICK, *start, "seed=1"))
    assert not [text for text in same.warnings if "init_from" in text]
    spoil(monkeypatch, scale)
    other = run.run(experiment(*PROMPT, *QUICK, *start, "seed=2"))
    assert [text for text in other.warnings if "was trained on a backbone with other weights" in text]


def decoder(kind: str, positions: int) -> tuple[str, ...]:
    name = "n_positions" if kind == "gpt2" else "max_position_embeddings"
    return (f"backbone={kind}_tiny_random", f"++backbone.random_init.{name}={positions}")


def needed(experiment: Build, *overrides: str) -> int:
    """Return the positions of the longest text with its prompt and the longest choice."""
    composed = experiment(*overrides)
    from dp_bench.backbones.load import load_tokenizer
    from dp_bench.data.prepare import prepare
    from dp_bench.data.source import locate

    (task,) = composed.tasks
    data = prepare(
        composed.settings,
        task,
        locate(task, composed.settings.data),
        load_tokenizer(composed.settings.backbone),
    )
    splits = (data.train, data.select, data.report)
    choices = [ids for split in splits for row in split.dataset["choice_ids"] for ids in row]
    return max(split.longest for split in splits) + 3 + max(map(len, choices)) - 1


def test_whole_choices_are_counted_among_the_positions(
    experiment: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("task=copa", *PROMPT, *QUICK)
    number = needed(experiment, *words, *decoder("gpt2", 900))
    assert run.run(experiment(*words, *decoder("gpt2", number))).status == "done"
    monkeypatch.setattr(tune, "make_accelerator", None)  # nothing may begin
    with pytest.raises(UserError, match=f"longest choice take {number} positions.* has {number - 1}"):
        run.run(experiment(*words, *decoder("gpt2", number - 1)))


def test_texts_beyond_the_positions_of_the_training_are_told(experiment: Build) -> None:
    words = ("task=copa", *PROMPT, *QUICK)
    number = needed(experiment, *words, *decoder("llama", 900))
    enough, fewer = (run.run(experiment(*words, *decoder("llama", n))) for n in (number, number - 1))
    assert not [text for text in enough.warnings if "was trained with" in text]
    assert [text for text in fewer.warnings if f"was trained with {number - 1}" in text]


@pytest.mark.parametrize("prompt", ["zero_shot", "linear_probe"])
def test_tokens_beyond_the_embedding_are_refused(
    prompt: str, experiment: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda model: model.resize_token_embeddings(100))
    with pytest.raises(UserError, match="the embedding of T5ForConditionalGeneration has 100 rows"):
        run.run(experiment(f"prompt={prompt}", *QUICK))
