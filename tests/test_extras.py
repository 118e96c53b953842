"""Optional dependencies: what they are called, and the command that installs them."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from dp_bench import extras
from dp_bench.types import UserError

ROOT = Path(__file__).parent.parent


def test_extras_are_those_of_the_package_without_the_tools_of_its_developers() -> None:
    assert {"plots", "hpo", "peft"} <= extras.extras().keys()
    assert "test" not in extras.extras()


def test_what_is_missing_is_named_with_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    assert extras.is_installed("peft")
    monkeypatch.setattr(extras, "version", version)
    assert not extras.is_installed("peft")
    error = extras.absent("peft", "prompt=lora")
    assert isinstance(error, UserError)
    assert "prompt=lora" in str(error)
    assert "pip install 'peft>=" in str(error)
    assert extras.install("peft", "peft") == extras.install("peft")


@pytest.mark.parametrize("folder", ["dp_bench", "configs", "docs"])
def test_no_text_installs_the_package_from_an_index_that_may_not_have_it(folder: str) -> None:
    texts = [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".yaml", ".md", ".txt")]
    assert len(texts) > 5
    named = re.compile(r"pip install [^\n]*dp-bench(\[|\b)")
    assert [str(path) for path in texts if named.search(path.read_text())] == []
