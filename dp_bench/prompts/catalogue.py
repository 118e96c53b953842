"""The pieces of prompts, and what is known of each without importing torch.

Checks, counts, guards, tables and lists read this; none of them knows a piece by name. A configuration names
a piece by the `_target_` of its YAML, a key of this catalogue: nothing else is imported.

Letters of the formulas: P vectors of width D, J outcomes of a selector (P + 1 positions or lengths, K
routes), K members of a pool, N tasks, S attentions of inner width W, E layers of the first stack, h hidden
width, n members chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from typing import Any

from dp_bench.plugins import by_key
from dp_bench.suggest import did_you_mean
from dp_bench.types import UserError

ENTRY_POINTS = "dp_bench.pieces"  # group of entry points that name a Piece or a list of them
PARTS = ("position", "length", "vectors", "layers", "route", "text")
SELECTORS = ("position", "length", "route")
SITES = ("encoder", "decoder", "cross")
OUTCOMES = ("all", "half", "none")
HYDRA_KEYS = ("_target_", "_partial_")  # keys of a piece that are no settings


@dataclass(frozen=True)
class Sizes:
    """The sizes in the formulas of trained numbers."""

    num_tokens: int  # P
    width: int  # D
    outcomes: int = 0  # J of the selector that is counted
    num_tasks: int = 1  # N
    sites: Mapping[str, int] = field(default_factory=dict)  # S, by kind of attention
    inner: int = 0  # W: heads times head width
    num_labels: int = 2  # C

    @property
    def num_layers(self) -> int:
        """L: a layer has one attention to itself."""
        return sum(count for kind, count in self.sites.items() if kind != "cross")

    @property
    def first_layers(self) -> int:
        """E: the layers of the first stack."""
        return self.sites.get("encoder", 0)


@dataclass(frozen=True)
class Setting:
    """The allowed values of a setting: a test of the value and P, and the same in words, with {p} for P."""

    allows: Callable[[Any, int], bool]
    requirement: str

    def problem(self, key: str, value: Any, num_tokens: int = 0) -> Iterator[str]:
        """Yield a message where a value is not allowed."""
        if not self.allows(value, num_tokens):
            shown = "null" if value is None else value
            yield f"{key}={shown} must be {self.requirement.format(p=num_tokens)}."


Settings = Mapping[str, Any]
Count = Callable[[Sizes, Settings], int]


@dataclass(frozen=True)
class Piece:
    """A class that decides a part of a prompt, and its properties."""

    target: str  # module and name of the class
    parts: tuple[str, ...]  # those of PARTS that it can decide
    formula: str = ""  # of its trained numbers; "" for none
    count: Count = lambda sizes, settings: 0  # their number
    settings: Mapping[str, Setting] = field(default_factory=dict)
    problem: Callable[[Settings, int], str | None] = lambda settings, p: None  # of settings together
    is_learned: bool = False  # a selector that is trained: it draws in training and not at evaluation
    looks: bool = False  # at the summary of each example
    has_members: bool = False  # chooses or mixes K prompts for each example
    has_network: bool = False  # weights whose rate prompt.network_lr may be another
    weighs: bool = False  # a selector whose choice is weighted by its probability, which is its gradient
    needs_route: bool = False  # vectors whose member is chosen by a route
    is_empty: bool = False  # vectors that add nothing to the input
    is_late: bool = False  # in layers: vectors that enter between them, not keys and values
    generates: bool = False  # vectors that a network makes of one state of the text, by `generate`
    shares_generator: bool = False  # in layers: built with the vectors, whose `generate` it calls, too
    is_random: bool = False  # a control that draws at evaluation as well
    rates: str = "prompt"  # key of the usual learning rates in guards.py
    paper: str = ""

    @property
    def name(self) -> str:
        """Return the name of the class."""
        return self.target.rsplit(".", 1)[-1]


def number(low: float, high: float = math.inf, *, low_too: bool = False) -> Callable[[Any, int], bool]:
    """Return a test for finite numbers above `low` (or from it on) and up to `high`."""

    def allows(value: Any, _: int) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return is_number and (low < value <= high or (low_too and value == low))

    return allows


def is_count(value: Any) -> bool:
    """Return whether a value is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_outcome(value: Any, num_tokens: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return value in OUTCOMES
    return 0 <= value <= num_tokens


def _are_sites(value: Any, _: int) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(kind in SITES for kind in value)


def _are_two_numbers(value: Any, _: int) -> bool:
    finite = number(-math.inf)
    return isinstance(value, list | tuple) and len(value) == 2 and all(finite(each, 0) for each in value)


def among(*values: str) -> Setting:
    """Return the setting of one of these values."""
    return Setting(lambda value, p: value in values, " or ".join(values))


COUNT = Setting(lambda value, p: is_count(value), "at least 1")
COUNT_OR_NULL = Setting(lambda value, p: value is None or is_count(value), "at least 1, or null")
SWITCH = Setting(lambda value, p: isinstance(value, bool), "true or false")
LAYER = Setting(
    lambda value, p: value is None or value == 0 or is_count(value), "a number of layers from 0 on, or null"
)
NOT_NEGATIVE = Setting(number(0, low_too=True), "a number, not negative")
SHARE = Setting(number(0, 1), "a number above 0 and at most 1")
LEFT_OUT = Setting(
    lambda value, p: number(0, 1, low_too=True)(value, p) and value < 1, "a number from 0 and below 1"
)
READ = among("mean", "first", "last")
MEMBERS = {"num_prompts": COUNT}
KEYS_AND_VALUES = {
    "sites": Setting(_are_sites, f"a list of some of {', '.join(SITES)}, such as [encoder]"),
}


def _chosen_problem(settings: Settings, num_tokens: int) -> str | None:
    chosen, members = settings["num_chosen"], settings["num_prompts"]
    if num_tokens % chosen == 0 and chosen <= members:
        return None
    return (
        f"prompt.vectors.num_chosen={chosen} must divide prompt.num_tokens={num_tokens} and not exceed "
        f"num_prompts={members}: the chosen members share the prompt's vectors."
    )


def _keys_and_values(s: Sizes, settings: Settings) -> list[int]:
    """Return how many numbers the keys and values of a vector have, for each kind of attention used."""
    kinds = settings.get("sites", SITES)
    return [2 * count * s.inner for kind, count in s.sites.items() if kind in kinds]


def _mlps(s: Sizes, settings: Settings) -> int:
    hidden = settings.get("hidden") or s.width
    widths = _keys_and_values(s, settings)
    return sum(s.num_tokens * s.width + (s.width + 1) * hidden + (hidden + 1) * width for width in widths)


def _lstm_and_mlp(s: Sizes, settings: Settings) -> int:
    hidden, layers = settings.get("hidden") or s.width // 2, settings.get("num_layers", 2)
    mlp_hidden = settings.get("mlp_hidden") or 2 * hidden
    lstm = sum(2 * 4 * hidden * (inputs + hidden + 2) for inputs in (s.width, *[2 * hidden] * (layers - 1)))
    return s.num_tokens * s.width + lstm + (2 * hidden + 1) * mlp_hidden + (mlp_hidden + 1) * s.width


def _members(s: Sizes, settings: Settings) -> int:
    return int(settings["num_prompts"]) * s.num_tokens * s.width


def _rules_problem(settings: Settings, num_tokens: int) -> str | None:
    rules, hidden = settings["rules"], settings["hidden"]
    if hidden % rules == 0:
        return None
    return f"prompt.vectors.rules={rules} must divide prompt.vectors.hidden={hidden}: change one of them."


def _generator(s: Sizes, settings: Settings) -> int:
    hidden, rules = int(settings["hidden"]), int(settings.get("rules", 1))
    weights = hidden * (s.num_tokens + 1) * s.width // rules
    of_rules = rules**3 if "rules" in settings else 0
    return s.num_tokens * s.width + weights + of_rules + hidden


def _are_sources(value: Any, _: int) -> bool:
    return value is None or (isinstance(value, list | tuple) and all(isinstance(each, str) for each in value))


def _sources_problem(settings: Settings, num_tokens: int) -> str | None:
    sources, number = settings.get("sources"), settings["num_prompts"]
    if sources is None or len(sources) == number:
        return None
    return (
        f"prompt.vectors.sources names {len(sources)} runs and prompt.vectors.num_prompts={number}: "
        f"add prompt.vectors.num_prompts={len(sources)}."
    )


def _pruned_problem(settings: Settings, num_tokens: int) -> str | None:
    if len(settings["sources"] or ()) == 1:
        return None
    return (
        "prompt.vectors.sources must name the one run whose prompt is pruned: train prompt=fixed, and add "
        "'prompt.vectors.sources=[results/runs/ID]'."
    )


def left_over(num_tokens: int, settings: Settings) -> tuple[int, int]:
    """Return how many vectors and how many pieces are left of a pruned prompt; shares are rounded down."""

    def rest(number: int, share: float) -> int:
        return number - math.floor(share * number + 1e-9)

    vectors = rest(num_tokens, settings["token_share"])
    return vectors, rest(vectors * int(settings["pieces"]), settings["piece_share"])


def _source_attention(s: Sizes, settings: Settings) -> int:
    trained = 1 if settings.get("sources") else 1 + int(settings["num_prompts"])  # sources of runs are frozen
    return trained * s.num_tokens * s.width + 2 * (int(settings["hidden"]) + 1) * s.width


def _rank_problem(settings: Settings, num_tokens: int) -> str | None:
    if settings["rank"] <= num_tokens:
        return None
    return f"prompt.vectors.rank={settings['rank']} exceeds prompt.num_tokens={num_tokens}: lower it."


def _late(name: str, formula: str, count: Count, settings: Mapping[str, Setting] = {}) -> Piece:
    """Return vectors that enter between two layers; D is the width of the states there. A network makes them
    if there are `settings` beside the layer."""
    return Piece(
        f"dp_bench.prompts.late.{name}",
        ("layers",),
        formula,
        count,
        {"layer": LAYER, **settings},
        is_late=True,
        has_network=bool(settings),
        rates="a network" if settings else "late vectors",
        paper="LPT: Liu et al., EMNLP Findings 2022",
    )


def _bottleneck(s: Sizes, settings: Settings, vectors: int) -> int:
    hidden = int(settings["hidden"])
    return (s.width + 1) * hidden + (hidden + 1) * vectors * s.width


_S, _V, _L = "dp_bench.prompts.selectors.", "dp_bench.prompts.vectors.", "dp_bench.prompts.layers."
_R = "dp_bench.prompts.router."
_A = "dp_bench.prompts.sources."
_N, _F = "dp_bench.prompts.networks.", "dp_bench.prompts.factors."
IDPG = "IDPG: Wu et al., NAACL 2022"
LESTER = "Lester et al., EMNLP 2021"
DYNAMIC = "Yang et al., arXiv 2303.02909"


def _mixture(
    name: str, formula: str, count: Count, more: Mapping[str, Setting] = {}, paper: str = ""
) -> Piece:
    """Return a pool that mixes its members for each text; `formula` and `count` are of what weights them."""
    return Piece(
        f"{_V}{name}",
        ("vectors",),
        f"K P D + {formula}",
        lambda s, settings: _members(s, settings) + count(s, settings),
        {**MEMBERS, **more},
        looks=True,
        has_members=True,
        paper=paper,
    )


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
        SELECTORS,
        "N J",
        lambda s, _: s.num_tasks * s.outcomes,
        {"shared_draw": SWITCH, "rows_a_draw": COUNT},
        is_learned=True,
        paper=DYNAMIC,
    ),
    Piece(
        f"{_S}PerInstance",
        SELECTORS,
        "(D + 1) J",
        lambda s, _: (s.width + 1) * s.outcomes,
        {"relu": SWITCH},
        is_learned=True,
        looks=True,
        paper=DYNAMIC,
    ),
    Piece(f"{_S}Random", SELECTORS, is_random=True),
    Piece(
        f"{_S}Known",
        SELECTORS,
        settings={"group": among("task", "skill")},
    ),
    Piece(
        "dp_bench.prompts.ridge.Ridge",
        SELECTORS,
        "(D + 1) J",
        lambda s, _: (s.width + 1) * s.outcomes,
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
    Piece(
        f"{_R}Router",
        ("route",),
        "D J",
        lambda s, _: s.width * s.outcomes,
        {"sigma": NOT_NEGATIVE, "balance": NOT_NEGATIVE},
        is_learned=True,
        looks=True,
        weighs=True,
        paper="SMoP: Choi et al., EMNLP 2023",
    ),
    Piece(f"{_V}NoVectors", ("vectors",), is_empty=True),
    Piece(f"{_V}Single", ("vectors",), "P D", lambda s, _: s.num_tokens * s.width, paper=LESTER),
    Piece(
        f"{_V}Reparameterised",
        ("vectors",),
        "P D + 14 D^2 + 18 D",  # two layers of a bidirectional LSTM, D / 2 wide each way, and an MLP
        _lstm_and_mlp,
        {"hidden": COUNT_OR_NULL, "mlp_hidden": COUNT_OR_NULL, "num_layers": COUNT},
        paper="P-tuning: Liu et al., 2021",
    ),
    _mixture("Pool", "K (D + 1)", lambda s, k: k["num_prompts"] * (s.width + 1), {"tanh": SWITCH}, DYNAMIC),
    Piece(f"{_V}UniformPool", ("vectors",), "K P D", _members, MEMBERS),
    _mixture("SimilarityPool", "D (D + 1)", lambda s, _: s.width * (s.width + 1)),
    Piece(
        f"{_V}KeyedPool",
        ("vectors",),
        "K (P / n) D + K D",  # n: num_chosen
        lambda s, settings: settings["num_prompts"] * (s.num_tokens // settings["num_chosen"] + 1) * s.width,
        {
            **MEMBERS,
            "num_chosen": COUNT,
            "positive_keys": SWITCH,
            "key_weight": NOT_NEGATIVE,
        },
        _chosen_problem,
        looks=True,
        has_members=True,
        paper="L2P: Wang et al., CVPR 2022",
    ),
    _mixture("TaskPool", "N K (D + 1)", lambda s, k: s.num_tasks * k["num_prompts"] * (s.width + 1)),
    Piece(f"{_V}Routed", ("vectors",), "K P D", _members, MEMBERS, needs_route=True),
    Piece(
        f"{_V}TaskFactor",
        ("vectors",),
        "P D + N (P + D)",
        lambda s, _: s.num_tokens * s.width + s.num_tasks * (s.num_tokens + s.width),
        paper="MPT: Wang et al., ICLR 2023",
    ),
    Piece(
        f"{_N}Generated",
        ("vectors",),
        "P D + h (P + 1) D + h",  # h: hidden
        _generator,
        {"hidden": COUNT},
        looks=True,
        has_network=True,
        generates=True,
        paper=IDPG,
    ),
    Piece(
        f"{_N}GeneratedPhm",
        ("vectors",),
        "P D + n^3 + h (P + 1) D / n + h",  # h: hidden, n: rules
        _generator,
        {"hidden": COUNT, "rules": COUNT},
        _rules_problem,
        looks=True,
        has_network=True,
        generates=True,
        paper=IDPG,
    ),
    Piece(
        f"{_N}Residual",
        ("vectors",),
        "P D + 2 h D + h + 3 D",  # h: hidden
        lambda s, k: s.num_tokens * s.width + 2 * k["hidden"] * s.width + k["hidden"] + 3 * s.width,
        {"hidden": COUNT},
        has_network=True,
        paper="Razdaibiedina et al., ACL 2023",
    ),
    Piece(
        f"{_A}SourceAttention",
        ("vectors",),
        "P D + K P D + 2 (h + 1) D",  # h: hidden; without K P D where the sources are frozen
        _source_attention,
        {
            **MEMBERS,
            "hidden": COUNT,
            "temperature": Setting(
                lambda value, p: value is None or number(0)(value, p), "a number above 0, or null"
            ),
            "sources": Setting(_are_sources, "null, or a list of folders of finished runs"),
        },
        _sources_problem,
        looks=True,
        has_members=True,
        paper="ATTEMPT: Asai et al., EMNLP 2022",
    ),
    Piece(
        "dp_bench.prompts.pruned.Pruned",
        ("vectors",),
        "(1 - a) (1 - b) P D",  # a: token_share, b: piece_share
        lambda s, k: left_over(s.num_tokens, k)[1] * s.width // int(k["pieces"]),
        {
            "pieces": COUNT,
            "token_share": LEFT_OUT,
            "piece_share": LEFT_OUT,
            "sources": Setting(_are_sources, "a list of one folder of a finished run"),
        },
        _pruned_problem,
        paper="XPrompt: Ma et al., EMNLP 2022",
    ),
    Piece(
        "dp_bench.prompts.text.LowRankUpdate",
        ("text",),
        "r (T + D)",  # r: rank, T: max_length
        lambda s, k: int(k["rank"]) * (int(k["max_length"]) + s.width),
        {"rank": COUNT, "max_length": COUNT, "alpha": Setting(number(0), "a number above 0")},
        has_network=True,
        paper="DePT: Shi and Lipani, ICLR 2024",
    ),
    Piece(
        f"{_F}LowRank",
        ("vectors",),
        "r (P + D)",  # r: rank
        lambda s, k: k["rank"] * (s.num_tokens + s.width),
        {"rank": COUNT},
        _rank_problem,
        paper="LoPT: Guo et al., 2024",
    ),
    Piece(
        f"{_F}Normalised",
        ("vectors",),
        "P (D + 1)",
        lambda s, k: s.num_tokens * (s.width + int(k["trained_length"])),
        {"trained_length": SWITCH},
        paper="weight normalisation: Salimans and Kingma, NeurIPS 2016",
    ),
    Piece(
        f"{_L}Table",
        ("layers",),
        "2 P S W",
        lambda s, settings: s.num_tokens * sum(_keys_and_values(s, settings)),
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
    _late("LateVectors", "P D", lambda s, _: s.num_tokens * s.width),
    _late(
        "LateGenerated",
        "(D + 1) h + (h + 1) P D",  # h: hidden
        lambda s, k: _bottleneck(s, k, s.num_tokens),
        {"hidden": COUNT, "read": READ},
    ),
    _late(
        "LatePooled",
        "(D + 1) h + (h + 1) D",  # h: hidden
        lambda s, k: _bottleneck(s, k, 1),
        {"hidden": COUNT, "pooling": among("average", "max")},
    ),
    Piece(
        "dp_bench.prompts.deep.DeepGenerated",
        ("layers",),
        "(E - 1) P D",
        lambda s, _: (s.first_layers - 1) * s.num_tokens * s.width,
        {"read": READ},
        is_late=True,
        shares_generator=True,
        paper=f"M-{IDPG}",
    ),
)


@cache
def catalogue() -> dict[str, Piece]:
    """Return all pieces by target: those of this package, then those of installed packages."""
    return by_key({piece.target: piece for piece in PIECES}, ENTRY_POINTS, Piece, "target")


def of(piece: Settings | None) -> Piece | None:
    """Return the catalogue's entry for the settings of a piece; None for no piece or an unknown one."""
    return catalogue().get(str((piece or {}).get("_target_")))


def used(prompt: Mapping[str, Any]) -> dict[str, Piece]:
    """Return the known pieces of a prompt's settings, by the part that each decides."""
    return {part: piece for part in PARTS if (piece := of(prompt.get(part))) is not None}


def build(piece: Settings | None) -> Callable[..., Any] | None:
    """Return the constructor of a piece with its settings filled in, to be called with sizes of the run.

    Raises UserError for a piece outside the catalogue.
    """
    if piece is None:
        return None
    known = of(piece)
    if known is None:
        raise UserError(_unknown(piece))
    module, name = known.target.rsplit(".", 1)
    return partial(getattr(import_module(module), name), **_settings(piece))


def unknown(prompt: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each piece of a prompt that is not in the catalogue."""
    for part in PARTS:
        if (piece := prompt.get(part)) is not None and of(piece) is None:
            yield f"prompt.{part}: {_unknown(piece)}"


def problems(prompt: Mapping[str, Any], num_tokens: int) -> Iterator[str]:
    """Yield a message for each wrong setting of the pieces of a prompt."""
    for part in PARTS:
        piece = prompt.get(part)
        if piece is None:
            continue
        known = of(piece)
        if known is None or part not in known.parts:
            yield f"prompt.{part}: {_unknown(piece, part)}"
            continue
        settings = _settings(piece)
        wrong: list[str] = []
        for key, value in settings.items():
            if key in known.settings:
                wrong += known.settings[key].problem(f"prompt.{part}.{key}", value, num_tokens)
            else:
                hint = did_you_mean(key, tuple(known.settings))
                wrong.append(f"prompt.{part}.{key} is no setting of {known.name}. {hint}".strip())
        yield from wrong or filter(None, [known.problem(settings, num_tokens)])


def _settings(piece: Settings) -> dict[str, Any]:
    return {key: value for key, value in piece.items() if key not in HYDRA_KEYS}


def _unknown(piece: Settings, part: str | None = None) -> str:
    target = piece.get("_target_")
    names = [p.target for p in catalogue().values() if part is None or part in p.parts]
    return (
        f"_target_={'null' if target is None else target} is refused: only pieces of the catalogue are "
        f"built, here {', '.join(names)}. Yours may come from an installed package, or from a file: "
        "--code FILE."
    )


def formula(prompt: Mapping[str, Any]) -> str:
    """Return the formula of the number of trained numbers of a prompt."""
    letters = {"route": "K"}
    terms = [
        piece.formula.replace("J", letters.get(part, "J"))
        for part, piece in used(prompt).items()
        if piece.formula
    ]
    return " + ".join(sorted(terms, key=lambda term: "P D" not in term))


def trained(prompt: Mapping[str, Any], sizes: Sizes) -> int:
    """Return how many numbers a prompt trains; `sizes.outcomes` is ignored."""
    known, num_tokens = used(prompt), sizes.num_tokens
    vectors = prompt.get("vectors") or {}
    in_input = 0 if "vectors" in known and known["vectors"].is_empty else num_tokens
    outcomes = {
        "position": int(prompt.get("boundaries") or in_input + 1),
        "length": num_tokens + 1,
        "route": int(vectors.get("num_prompts", 1)),
    }
    return sum(
        piece.count(replace(sizes, outcomes=outcomes.get(part, 0)), prompt[part])
        for part, piece in known.items()
    )
