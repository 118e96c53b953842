"""The table of methods: what each trains, reads and needs. Nothing here imports torch.

A configuration names one with `prompt.method`. Checks, guards, tables and runs look methods up here; no other
code has the name of a method. A new baseline is a row here, or in another package that names it in the
entry-point group `dp_bench.methods`, and a function that makes weights trainable (`prepare`) or a class that
is fitted (`fit`). What asks the frozen model in another way changes how texts are written (`writes`) or how
answers are scored (`scores`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from dp_bench.plugins import by_key
from dp_bench.prompts import catalogue
from dp_bench.prompts.catalogue import COUNT, Setting, Sizes, number
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError

ENTRY_POINTS = "dp_bench.methods"
# What the training loop updates; guards.py has the usual learning rates of each.
PROMPT, SOME_WEIGHTS, ALL_WEIGHTS = "prompt", "some weights", "all weights"


@dataclass(frozen=True)
class Method:
    """How a run comes to its predictions.

    `prepare`, `fit`, `writes` and `scores` are `module:object`, imported when a run begins
    (pkgutil.resolve_name): a function of the loaded backbone and the run's settings that makes weights
    trainable; a class such as `baselines.LinearProbe` that is fitted instead of the training loop; a function
    of the run's context that returns how its texts are written (`writing.Written`); and one that returns the
    verbalizers of its tasks.
    """

    name: str
    trains: str | None = None  # PROMPT, SOME_WEIGHTS, ALL_WEIGHTS; None: no training loop
    prepare: str | None = None
    fit: str | None = None
    writes: str | None = None
    scores: str | None = None
    is_seedless: bool = False  # nothing is random: one run stands for every seed
    reads_model: bool = True
    reads_summaries: bool = False  # of every text; with `fit` only
    needs_labels: bool = False  # the same for every example
    needs_fp32: bool = False  # small updates of bf16 weights are lost to rounding
    needs_continuation: bool = False  # a causal language model, which goes on with a text
    reads_templates: bool = False  # task.templates
    # Settings of the group `prompt` that no other method reads.
    settings: Mapping[str, Setting] = field(default_factory=dict)
    formula: str = "0"  # of the trained numbers, in the letters of methods/counts.py
    # The same in numbers, of a prompt's settings; None where the model alone knows.
    count: Callable[[Mapping[str, Any], Sizes], int | None] = lambda prompt, sizes: 0
    paper: str = ""

    @property
    def is_trained(self) -> bool:
        """Whether it makes updates, and so reads the settings of the trainer."""
        return self.trains is not None

    @property
    def has_prompt(self) -> bool:
        """Whether it trains a prompt."""
        return self.trains == PROMPT


def _are_names(value: Any, _: int) -> bool:
    return value is None or (isinstance(value, list | tuple) and bool(value) and all(value))


def _of_pieces(prompt: Mapping[str, Any], sizes: Sizes) -> int | None:
    if prompt.get("freeze_backbone") is False:
        return None
    beside = adapters_of(prompt)
    more = 0 if beside is None else beside.count(prompt["adapters"], sizes)
    return None if more is None else catalogue.trained(prompt, sizes) + more


def _unknown(prompt: Mapping[str, Any], sizes: Sizes) -> None:
    return None


_BASELINES, _PEFT = "dp_bench.methods.baselines", "dp_bench.methods.peft"
_WRITING = "dp_bench.methods.writing"

METHODS = (
    Method("prompt", PROMPT, count=_of_pieces),
    Method("zero_shot", is_seedless=True),
    Method(
        "calibrated",
        scores="dp_bench.methods.calibration:calibrated",
        is_seedless=True,
        paper="Zhao et al., ICML 2021",
    ),
    Method(
        "in_context",
        writes=f"{_WRITING}:with_examples",
        needs_continuation=True,
        settings={"shots": COUNT},
        paper="Brown et al., NeurIPS 2020",
    ),
    Method("best_template", writes=f"{_WRITING}:with_best_template", reads_templates=True),
    Method("fine_tuning", ALL_WEIGHTS, needs_fp32=True, formula="all weights", count=_unknown),
    Method(
        "lora",
        SOME_WEIGHTS,
        prepare=f"{_PEFT}:add_lora",
        settings={
            "rank": Setting(number(0), "positive: 8 is usual"),
            "alpha": Setting(number(0), "positive: 16 is usual"),
            "target_modules": Setting(_are_names, "null, or names of modules such as [q_proj,v_proj]"),
        },
        formula="2 r S (D + W)",
        count=lambda prompt, s: 2 * int(prompt["rank"]) * sum(s.sites.values()) * (s.width + s.inner),
        paper="Hu et al., ICLR 2022",
    ),
    Method(
        "bottleneck",
        SOME_WEIGHTS,
        prepare="dp_bench.methods.bottleneck:add_bottlenecks",
        settings={"size": COUNT},
        formula="L (2 h D + D + h)",
        count=lambda prompt, s: s.num_layers * (int(prompt["size"]) * (2 * s.width + 1) + s.width),
        paper="Houlsby et al., ICML 2019",
    ),
    Method(
        "bitfit",
        SOME_WEIGHTS,
        prepare=f"{_PEFT}:thaw_biases",
        needs_fp32=True,
        formula="all biases; T5 has none",
        paper="Ben Zaken et al., ACL 2022",
    ),
    Method(
        "linear_probe",
        fit=f"{_BASELINES}:LinearProbe",
        reads_summaries=True,
        needs_labels=True,
        formula="C (D + 1)",
        count=lambda prompt, s: s.num_labels * (s.width + 1),
    ),
    Method("majority", fit=f"{_BASELINES}:Majority", is_seedless=True, reads_model=False),
)


@cache
def methods() -> dict[str, Method]:
    """Return all methods by name: those of this package, then those of installed packages."""
    return by_key({method.name: method for method in METHODS}, ENTRY_POINTS, Method, "name")


def of(name: str) -> Method:
    """Return a method by its name; raise UserError where there is none."""
    if name not in methods():
        raise UserError(
            f"prompt.method={name} does not exist. {did_you_mean(name, tuple(methods()))}"
            f"Methods: {', '.join(methods())}."
        )
    return methods()[name]


def adapters_of(prompt: Mapping[str, Any]) -> Method | None:
    """Return the method whose weights are trained beside a prompt; None for none."""
    adapters = prompt.get("adapters")
    return None if adapters is None else of(str(adapters.get("method")))


def can_adapt() -> list[str]:
    """Return the names of the methods whose weights can be trained beside a prompt."""
    return [method.name for method in methods().values() if method.prepare and method.trains == SOME_WEIGHTS]


def trains_backbone(prompt: Mapping[str, Any]) -> bool:
    """Say whether all weights are trained: by fine-tuning, or with a prompt as P-tuning's authors did."""
    return of(prompt["method"]).trains == ALL_WEIGHTS or prompt.get("freeze_backbone") is False
