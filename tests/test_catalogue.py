"""The catalogue says of each piece what its class says, and takes in the pieces of other packages."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from helpers.packages import OTHER_PACKAGE, install

from dp_bench import config
from dp_bench.config import Experiment, files
from dp_bench.prompts import catalogue
from dp_bench.prompts.catalogue import PIECES, Piece
from dp_bench.prompts.selectors import Selector
from dp_bench.prompts.vectors import Routed
from dp_bench.run import run
from dp_bench.types import Dims, Site, UserError

Build = Callable[..., Experiment]


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package with a piece, and its folder of configurations."""
    site, code = tmp_path / "site", (OTHER_PACKAGE / "other_package.py").read_text("utf-8")
    install(site, "other_package", code, "[dp_bench.pieces]\nadded = other_package:piece\n")
    monkeypatch.syspath_prepend(str(site))
    catalogue.catalogue.cache_clear()
    yield OTHER_PACKAGE / "configs"
    catalogue.catalogue.cache_clear()
    sys.modules.pop("other_package", None)


def test_a_piece_of_another_package_is_checked_counted_and_trained(
    experiment: Build, other_package: Path, tmp_path: Path
) -> None:
    words = ["prompt=gated", "prompt.num_tokens=4"]
    config.check(words, config.Composer(other_package))
    base = experiment("prompt=fixed").resolved
    typed = ["task=rte", "backbone=t5_tiny_random", "trainer=smoke", "device=cpu", "trainer.max_steps=2"]
    where = [f"data.dir={base['data']['dir']}", f"results_dir={tmp_path / 'results'}"]
    record = run(config.experiment([*typed, *words, *where], other_package))
    assert record.trainable_parameters == 2 * 4 * 64 + 1
    prompt = {**record.config["prompt"]}
    assert catalogue.trained(prompt, catalogue.Sizes(4, 64)) == record.trainable_parameters
    assert catalogue.formula(prompt) == "2 P D + 1"
    with pytest.raises(UserError, match=r"prompt\.vectors\.open_at=1 must be a number with a point"):
        config.check([*words, "+prompt.vectors.open_at=1"], config.Composer(other_package))
    config.check([*words, "+prompt.vectors.open_at=1.0"], config.Composer(other_package))
    with pytest.raises(UserError, match=r"write \+prompt.vectors.open_at=1.0"):
        config.check([*words, "prompt.vectors.open_at=1.0"], config.Composer(other_package))
    with pytest.raises(UserError, match=r"There is no setting .prompt\.vectors\.width."):
        config.check([*words, "+prompt.vectors.width=1"], config.Composer(other_package))


def test_without_the_package_its_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"other_package\.Gated is refused: only pieces of the catalogue"):
        config.check(["prompt=gated"], config.Composer(OTHER_PACKAGE / "configs"))


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.name)
def test_what_is_known_of_a_piece_is_what_its_class_says(piece: Piece) -> None:
    module, name = piece.target.rsplit(".", 1)
    made = getattr(import_module(module), name)
    assert piece.settings.keys() == _settings_of(made)
    if issubclass(made, Selector):
        assert piece.looks == made.needs_summary
        assert piece.is_learned == (made.needs_noise and not made.noise_at_eval)
        assert piece.is_random == made.noise_at_eval
    elif piece.parts == ("vectors",):
        assert piece.looks == made.needs_summary
        assert piece.needs_route == issubclass(made, Routed)


def _settings_of(made: type) -> set[str]:
    from inspect import Parameter, signature

    return {
        name
        for name, parameter in signature(made.__init__).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }


def test_every_shipped_piece_is_in_the_catalogue() -> None:
    for part in catalogue.PARTS:
        for option in config.options(f"prompt/{part}"):
            piece = files.option_file(f"prompt/{part}", option, None)
            known = catalogue.of(piece)
            assert known is not None and part in known.parts, option
            wrong = catalogue.problems({part: piece}, 20)
            assert not [text for text in wrong if "sources=[results/runs/ID]" not in text], option  # a run


def test_nothing_is_built_that_is_not_in_the_catalogue() -> None:
    for target in (
        "os.system",
        "dp_bench.records.subprocess.run",
        "dp_bench.prompts.vectors.nn.Linear",
        None,
    ):
        with pytest.raises(UserError, match="is refused"):
            catalogue.build({"_target_": target, "_partial_": False})


def test_pieces_are_built_with_their_settings() -> None:
    dims = Dims(width=8, vocab_size=0, sites=(Site("encoder", 2, 4),))
    fixed = catalogue.build(
        {"_target_": "dp_bench.prompts.selectors.Fixed", "_partial_": True, "outcome": "half"}
    )
    assert fixed is not None and fixed(21, dims).outcome == 10
    assert catalogue.build(None) is None
    assert dataclasses.is_dataclass(Piece)
