"""What a prompt is built of: each piece once, with all that is known of it without torch.

Checks, counts, guards, tables and lists read this, so that none of them knows a piece by its name. A
configuration names a piece by the `_target_` of its YAML, which is a key of this catalogue: what is not in it
is never imported.

Letters of the formulas: P vectors of width D, J outcomes of a selector (P + 1 of a position or a length, K of
a route), K members of a pool, N tasks, S attentions of inner width W.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import Any

from dp_bench.plugins import by_key
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError

ENTRY_POINTS = "dp_bench.pieces"  # of other packages: each names a Piece, or a list of them
PARTS = ("position", "length", "vectors", "layers", "route")
SELECTORS = ("position", "length", "route")
SITES = ("encoder", "decoder", "cross")
OUTCOMES = ("all", "half", "none")
HYDRAS = ("_target_", "_partial_")  # keys of a piece that are no settings


@dataclass(frozen=True)
class Sizes:
    """What the formulas of trained numbers read."""

    num_tokens: int  # P
    width: int  # D
    outcomes: int = 0  # J, of the selector that is counted
    num_tasks: int = 1  # N
    sites: Mapping[str, int] = field(default_factory=dict)  # S, by kind of attention
    inner: int = 0  # W: heads times head width
    num_labels: int = 2  # C


@dataclass(frozen=True)
class Setting:
    """What a setting of a piece may be: `allows` is asked with the value and P; `said` is what it must be,
    with {p} for P."""

    allows: Callable[[Any, int], bool]
    said: str


Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """A class that decides a part of a prompt."""

    target: str  # module and name of the class
    parts: tuple[str, ...]  # which of PARTS it can decide
    formula: str = ""  # of its trained numbers; "" for none
    count: Callable[[Sizes, Settings], int] = lambda sizes, own: 0  # the same in numbers
    settings: Mapping[str, Setting] = field(default_factory=dict)
    problem: Callable[[Settings, int], str | None] = lambda own, p: None  # between settings
    is_learned: bool = False  # a selector that is trained: it draws in training and not at evaluation
    looks: bool = False  # at the summary of each text
    has_members: bool = False  # one of K prompts for each text, or a mixture of them
    needs_route: bool = False  # vectors of which a route says which member a text has
    is_empty: bool = False  # vectors that put nothing into the input
    is_random: bool = False  # a control that draws at evaluation as well
    rates: str = "prompt"  # among what the usual learning rates of guards.py are looked up
    paper: str = ""

    @property
    def name(self) -> str:
        return self.target.rsplit(".", 1)[-1]


def number(low: float, high: float = math.inf, *, low_too: bool = False) -> Callable[[Any, int], bool]:
    """Return the test of a finite number above `low` (or from it on) and up to `high`."""

    def allows(value: Any, _: int) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return is_number and (low < value <= high or (low_too and value == low))

    return allows


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_outcome(value: Any, num_tokens: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return value in OUTCOMES
    return 0 <= value <= num_tokens


def _are_sites(value: Any, _: int) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(kind in SITES for kind in value)


def _are_two_numbers(value: Any, _: int) -> bool:
    finite = number(-math.inf)
    return isinstance(value, list | tuple) and len(value) == 2 and all(finite(own, 0) for own in value)


COUNT = Setting(lambda value, p: is_count(value), "at least 1")
COUNT_OR_NULL = Setting(lambda value, p: value is None or is_count(value), "at least 1, or null")
SWITCH = Setting(lambda value, p: isinstance(value, bool), "true or false")
SHARE = Setting(number(0, 1), "a number above 0 and at most 1")
MEMBERS = {"num_prompts": COUNT}
KEYS_AND_VALUES = {
    "sites": Setting(_are_sites, f"a list of some of {', '.join(SITES)}, such as [encoder]"),
}


def _chosen_problem(own: Settings, num_tokens: int) -> str | None:
    chosen, members = own["num_chosen"], own["num_prompts"]
    if num_tokens % chosen == 0 and chosen <= members:
        return None
    return (
        f"prompt.vectors.num_chosen={chosen} members make up prompt.num_tokens={num_tokens} rows and come "
        f"out of num_prompts={members}: it must divide the first and not exceed the second."
    )


def _keys_and_values(sizes: Sizes, own: Settings) -> list[int]:
    """Return the numbers of keys and values of a vector, for each kind of attention that is used."""
    kinds = own.get("sites", SITES)
    return [2 * number_of * sizes.inner for kind, number_of in sizes.sites.items() if kind in kinds]


def _mlps(s: Sizes, own: Settings) -> int:
    hidden = own.get("hidden") or s.width
    widths = _keys_and_values(s, own)
    return sum(s.num_tokens * s.width + (s.width + 1) * hidden + (hidden + 1) * width for width in widths)


def _lstm_and_mlp(s: Sizes, own: Settings) -> int:
    hidden, layers = own.get("hidden") or s.width // 2, own.get("num_layers", 2)
    between = own.get("mlp_hidden") or 2 * hidden
    lstm = sum(2 * 4 * hidden * (above + hidden + 2) for above in (s.width, *[2 * hidden] * (layers - 1)))
    return s.num_tokens * s.width + lstm + (2 * hidden + 1) * between + (between + 1) * s.width


def _members(s: Sizes, own: Settings) -> int:
    return int(own["num_prompts"]) * s.num_tokens * s.width


_S, _V, _L = "dp_bench.prompts.selectors.", "dp_bench.prompts.vectors.", "dp_bench.prompts.layers."
LESTER = "Lester et al., EMNLP 2021"
DYNAMIC = "Yang et al., arXiv 2303.02909"

PIECES = (
    Piece(
        f"{_S}Fixed",
        ("position", "length"),
        settings={
            "outcome": Setting(_is_outcome, "all, half, none or a number from 0 to prompt.num_tokens={p}")
        },
    ),
    Piece(
        f"{_S}PerTask",
        ("position", "length", "route"),
        "N J",
        lambda s, own: s.num_tasks * s.outcomes,
        {"shared_draw": SWITCH, "rows_a_draw": COUNT},
        is_learned=True,
        paper=DYNAMIC,
    ),
    Piece(
        f"{_S}PerInstance",
        ("position", "length", "route"),
        "(D + 1) J",
        lambda s, own: (s.width + 1) * s.outcomes,
        {"relu": SWITCH},
        is_learned=True,
        looks=True,
        paper=DYNAMIC,
    ),
    Piece(f"{_S}Random", ("position", "length", "route"), is_random=True),
    Piece(
        f"{_S}Known",
        ("position", "length", "route"),
        settings={"group": Setting(lambda value, p: value in ("task", "skill"), "task or skill")},
    ),
    Piece(
        "dp_bench.prompts.ridge.Ridge",
        ("position", "length", "route"),
        "(D + 1) J",
        lambda s, own: (s.width + 1) * s.outcomes,
        {
            "balanced": SWITCH,
            "ridge": Setting(number(0), "a number above 0"),
            "window": COUNT,
            "refit_every": COUNT,
            "explore": Setting(number(0, 1, low_too=True), "a number from 0 and at most 1"),
            "sharpness": Setting(_are_two_numbers, "two numbers, at the start and at the end: [1, 6]"),
            "sharpen_until": SHARE,
            "fit_until": SHARE,
        },
        is_learned=True,
        looks=True,
    ),
    Piece(f"{_V}NoVectors", ("vectors",), is_empty=True),
    Piece(f"{_V}Single", ("vectors",), "P D", lambda s, own: s.num_tokens * s.width, paper=LESTER),
    Piece(
        f"{_V}Reparameterised",
        ("vectors",),
        "P D + 14 D^2 + 18 D",  # two layers of a bidirectional LSTM, D / 2 wide each way, and an MLP
        _lstm_and_mlp,
        {"hidden": COUNT_OR_NULL, "mlp_hidden": COUNT_OR_NULL, "num_layers": COUNT},
        paper="P-tuning: Liu et al., 2021",
    ),
    Piece(
        f"{_V}Pool",
        ("vectors",),
        "K P D + K (D + 1)",
        lambda s, own: _members(s, own) + own["num_prompts"] * (s.width + 1),
        {**MEMBERS, "tanh": SWITCH},
        looks=True,
        has_members=True,
        paper=DYNAMIC,
    ),
    Piece(f"{_V}UniformPool", ("vectors",), "K P D", _members, MEMBERS),
    Piece(
        f"{_V}SimilarityPool",
        ("vectors",),
        "K P D + D (D + 1)",
        lambda s, own: _members(s, own) + s.width * (s.width + 1),
        MEMBERS,
        looks=True,
        has_members=True,
    ),
    Piece(
        f"{_V}KeyedPool",
        ("vectors",),
        "K (P / n) D + K D",  # n: num_chosen
        lambda s, own: own["num_prompts"] * (s.num_tokens // own["num_chosen"] + 1) * s.width,
        {
            **MEMBERS,
            "num_chosen": COUNT,
            "positive_keys": SWITCH,
            "key_weight": Setting(number(0, low_too=True), "a number, not negative"),
        },
        _chosen_problem,
        looks=True,
        has_members=True,
        paper="L2P: Wang et al., CVPR 2022",
    ),
    Piece(
        f"{_V}TaskPool",
        ("vectors",),
        "K P D + N K (D + 1)",
        lambda s, own: _members(s, own) + s.num_tasks * own["num_prompts"] * (s.width + 1),
        MEMBERS,
        looks=True,
        has_members=True,
    ),
    Piece(f"{_V}Routed", ("vectors",), "K P D", _members, MEMBERS, needs_route=True),
    Piece(
        f"{_V}TaskFactor",
        ("vectors",),
        "P D + N (P + D)",
        lambda s, own: s.num_tokens * s.width + s.num_tasks * (s.num_tokens + s.width),
        paper="MPT: Wang et al., ICLR 2023",
    ),
    Piece(
        f"{_L}Table",
        ("layers",),
        "2 P S W",
        lambda s, own: s.num_tokens * sum(_keys_and_values(s, own)),
        KEYS_AND_VALUES,
        rates="keys and values",
        paper="P-tuning v2: Liu et al., ACL 2022",
    ),
    Piece(
        f"{_L}Mlp",
        ("layers",),
        "P D + (D + 1) h + (h + 1) 2 S W for each kind of attention",  # h: hidden
        _mlps,
        {**KEYS_AND_VALUES, "hidden": COUNT_OR_NULL},
        rates="keys and values out of an MLP",
        paper="prefix tuning: Li and Liang, ACL 2021",
    ),
)


@cache
def catalogue() -> dict[str, Piece]:
    """Return all pieces by their target: those of this package, then those that installed packages add."""
    return by_key({piece.target: piece for piece in PIECES}, ENTRY_POINTS, Piece, "target")


def of(piece: Settings | None) -> Piece | None:
    """Return what is known of a piece as a configuration writes it; None for no piece or an unknown one."""
    return catalogue().get(str((piece or {}).get("_target_")))


def used(prompt: Mapping[str, Any]) -> dict[str, Piece]:
    """Return the known pieces of a prompt's settings, by the part that each decides."""
    found = {part: of(prompt.get(part)) for part in PARTS}
    return {part: piece for part, piece in found.items() if piece is not None}


def build(piece: Settings | None) -> Callable[..., Any] | None:
    """Return the class of a piece with its settings filled in; sizes of the run are left to be given."""
    if piece is None:
        return None
    known = of(piece)
    if known is None:
        raise UserError(f"{_unknown(piece)}")
    module, name = known.target.rsplit(".", 1)
    made = getattr(import_module(module), name)
    settings = {key: value for key, value in piece.items() if key not in HYDRAS}

    def fill(*sizes: Any) -> Any:
        return made(*sizes, **settings)

    return fill


def problems(prompt: Mapping[str, Any], num_tokens: int) -> Iterator[str]:
    """Yield what is wrong with the pieces of a prompt, each for itself."""
    for part in PARTS:
        piece = prompt.get(part)
        if piece is None:
            continue
        known = of(piece)
        if known is None or part not in known.parts:
            yield f"prompt.{part}: {_unknown(piece, part)}"
            continue
        own = {key: value for key, value in piece.items() if key not in HYDRAS}
        wrong = False
        for key, value in own.items():
            if key not in known.settings:
                wrong = True
                hint = did_you_mean(key, tuple(known.settings))
                yield f"prompt.{part}.{key} is no setting of {known.name}. {hint}".strip()
            elif not known.settings[key].allows(value, num_tokens):
                wrong = True
                shown = "null" if value is None else value
                yield f"prompt.{part}.{key}={shown} must be {known.settings[key].said.format(p=num_tokens)}."
        if not wrong and (problem := known.problem(own, num_tokens)):
            yield problem


def _unknown(piece: Settings, part: str | None = None) -> str:
    target = piece.get("_target_")
    names = [p.target for p in catalogue().values() if part is None or part in p.parts]
    return (
        f"_target_={'null' if target is None else target} is refused: only pieces of the catalogue are "
        f"built, here {', '.join(names)}. One of your own comes from an installed package, or from a file: "
        "--code FILE."
    )


def formula(prompt: Mapping[str, Any]) -> str:
    """Return the formula of the numbers that a prompt's pieces train together."""
    letters = {"route": "K"}
    terms = [
        piece.formula.replace("J", letters.get(part, "J"))
        for part, piece in used(prompt).items()
        if piece.formula
    ]
    return " + ".join(sorted(terms, key=lambda term: "P D" not in term))


def trained(prompt: Mapping[str, Any], sizes: Sizes) -> int:
    """Return how many numbers a prompt's pieces train, at `sizes` whose `outcomes` do not count."""
    known, num_tokens = used(prompt), sizes.num_tokens
    vectors = prompt.get("vectors") or {}
    in_input = 0 if "vectors" in known and known["vectors"].is_empty else num_tokens
    outcomes = {
        "position": in_input + 1,
        "length": num_tokens + 1,
        "route": int(vectors.get("num_prompts", 1)),
    }
    return sum(
        piece.count(replace(sizes, outcomes=outcomes.get(part, 0)), prompt[part])
        for part, piece in known.items()
    )
