"""Test the properties that dp-bench requires of a model by two short texts, instead of a list of model names.
Passed probes of a checkpoint are remembered in the cache folder.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from dp_bench.backbones import attention
from dp_bench.backbones.backbone import EMBEDDINGS, Backbone, LacksError, requiring
from dp_bench.records import write_json
from dp_bench.types import InLayers, LatePrompt, LayerPrompt, Prompted, Site

PROBE_VERSION = 1  # raise it when more is required
LENGTHS = (7, 11)  # of the two texts, in tokens
COPIED = 200_000_000  # largest number of weights of a model that is copied
NUM_WORDS = 64  # tokens whose logits are compared


def prove(backbone: Backbone, fingerprint: str, cache: Path) -> None:
    """Raise UserError naming the property that a backbone lacks, if any. Weights whose answers are not finite
    are skipped here: finite.py reports them, with the example."""
    what = [fingerprint, backbone.configuration(), type(backbone.model).__name__, type(backbone).__name__]
    how = [backbone.lm.config._attn_implementation, str(backbone.dtype), transformers.__version__]
    key = sha256(json.dumps([PROBE_VERSION, *what, *how]).encode()).hexdigest()[:32]
    entry = cache / "probes" / f"{key}.json"
    if entry.is_file():
        return
    probed = _precise(backbone)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if not _is_finite(probed):
            return
        for name, check in PROPERTIES.items():
            with requiring(probed.model, name):
                check(probed)
    write_json(entry, {"model": type(backbone.model).__name__, "proved": list(PROPERTIES)})


# --------------------------------------------------------------------------------------------- answers


def _precise(backbone: Backbone) -> Backbone:
    """Return a small model in half precision as a copy in fp32, where rounding hides less; others as they
    are."""
    num_weights = sum(p.numel() for p in backbone.parameters())
    if _is_fine(backbone) or num_weights > COPIED:
        return backbone
    return copy.deepcopy(backbone, {id(backbone.tokenizer): backbone.tokenizer}).float()


def texts(backbone: Backbone) -> list[Tensor]:
    """Return two texts of LENGTHS ordinary tokens, spread over the vocabulary: [T] each, int64."""
    dims = backbone.dims
    ordinary = [i for i in range(min(dims.vocab_size, 5000)) if i not in dims.special_ids]
    num = sum(LENGTHS)
    ids = torch.tensor([ordinary[i * len(ordinary) // num] for i in range(num)], device=backbone.device)
    return [ids[: LENGTHS[0]], ids[LENGTHS[0] :]]


def answers(
    backbone: Backbone,
    rows: Sequence[Tensor],
    masks: Sequence[Tensor] | None = None,
    ends: Sequence[int] | None = None,
    layers: InLayers | None = None,
) -> Tensor:
    """Return the logits of some tokens, or the states, at the last slots or at `ends`: [B,C] or [B,D], fp64.

    `rows` are embeddings [S,D] of texts that are read as one batch, `masks` [S] are False on dropped vectors.
    """
    device = rows[0].device
    x_BSD = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=0.5)
    masks = masks or [torch.ones(len(row), dtype=torch.bool, device=device) for row in rows]
    mask_BS = torch.nn.utils.rnn.pad_sequence(list(masks), batch_first=True)
    slots_BS = torch.arange(x_BSD.shape[1], device=device).expand(len(rows), -1)
    ends_B = torch.tensor(ends or [len(row) - 1 for row in rows], device=device)
    state_BD: Tensor = backbone(Prompted(x_BSD, mask_BS, slots_BS, ends_B, layers))
    words_C = _words(backbone)
    return (state_BD if words_C is None else backbone.word_logits(state_BD, words_C)).double()


def _words(backbone: Backbone) -> Tensor | None:
    """Return the ids of some tokens; None where the model has no language-model head."""
    if backbone.stacks[-1] is backbone.model:
        return None
    num = backbone.dims.vocab_size
    return torch.arange(num, device=backbone.device)[:: max(1, num // NUM_WORDS)]


def _stock(backbone: Backbone, ids_T: Tensor) -> Tensor:
    """Return the model's answer to token ids by its plain attention, without code of dp-bench: [1,C],
    fp64."""
    inputs: dict[str, Any] = {"input_ids": ids_T[None], "attention_mask": torch.ones_like(ids_T[None])}
    if backbone.lm.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = backbone.get_buffer("decoder_ids_A")[None]
        backbone.refuse_unknown(int(inputs["decoder_input_ids"].max()))
    name = backbone.lm.config._attn_implementation
    backbone.lm.set_attn_implementation("eager")
    output = backbone.model(**inputs)
    backbone.lm.set_attn_implementation(name)
    words_C = _words(backbone)
    answer: Tensor = output.last_hidden_state if words_C is None else output.logits[..., words_C]
    return answer[:, -1].double()


def _is_finite(backbone: Backbone) -> bool:
    with requiring(backbone.model, EMBEDDINGS):
        return all(bool(_stock(backbone, text).isfinite().all()) for text in texts(backbone))


def _rounding(backbone: Backbone, answer: Tensor) -> float:
    return 4 * torch.finfo(backbone.dtype).eps * float(answer.abs().max())


def _is_fine(backbone: Backbone) -> bool:
    return torch.finfo(backbone.dtype).eps < 1e-5


def _refuse_different(backbone: Backbone, answer: Tensor, expected: Tensor) -> None:
    """Raise LacksError where answers differ by more than rounding, relative to the change by another text."""
    ids = texts(backbone)
    one, other = (answers(backbone, [backbone.embed(text)]) for text in ids)
    share = 1e-4 if _is_fine(backbone) else 0.1
    allowed = share * float((one - other).abs().max()) + _rounding(backbone, expected)
    difference = float((answer - expected).abs().max())
    if not difference <= allowed:
        raise LacksError(f"its answer differs by {difference:.2g}, where {allowed:.2g} is rounding")


# ------------------------------------------------------------------------------------------ properties


def _reads_embeddings(backbone: Backbone) -> None:
    for text in texts(backbone):
        _refuse_different(backbone, answers(backbone, [backbone.embed(text)]), _stock(backbone, text))


def _ignores_padding(backbone: Backbone) -> None:
    rows = [backbone.embed(text) for text in texts(backbone)]
    alone = torch.cat([answers(backbone, [row]) for row in rows])
    _refuse_different(backbone, answers(backbone, rows), alone)
    # A vector that a length selector dropped keeps its slot.
    dropped = torch.arange(LENGTHS[1], device=backbone.device) != 2
    contents = [rows[1].where(dropped[:, None], other) for other in (rows[1][:1], rows[1][-1:])]
    one, other = (answers(backbone, [row], [dropped]) for row in contents)
    _refuse_different(backbone, one, other)


def _is_causal(backbone: Backbone) -> None:
    if backbone.continues_texts:
        whole, end = backbone.embed(texts(backbone)[1]), LENGTHS[1] - 3
        _refuse_different(
            backbone, answers(backbone, [whole], ends=[end - 1]), answers(backbone, [whole[:end]])
        )


def _knows_order(backbone: Backbone) -> None:
    short, long = (backbone.embed(text) for text in texts(backbone))
    one, other = (
        answers(backbone, [torch.cat(parts)])
        for parts in ((long[:4], short), (short[:-1], long[:4], short[-1:]))
    )
    if not float((one - other).abs().max()) > (8 * _rounding(backbone, one) if _is_fine(backbone) else 0):
        raise LacksError("its answer does not depend on where vectors are inserted")


def _has_gradient(backbone: Backbone) -> None:
    with torch.enable_grad():
        x_TD = backbone.embed(texts(backbone)[0]).detach().requires_grad_()
        answer = answers(backbone, [x_TD])
        (gradient,) = torch.autograd.grad(answer.square().sum(), x_TD)
    if not gradient.isfinite().all() or not bool((gradient.abs().amax(1) > 0).all()):
        raise LacksError("it is absent, zero or not finite at some token")


PROPERTIES: dict[str, Callable[[Backbone], None]] = {
    EMBEDDINGS: _reads_embeddings,
    "padding and the other texts of a batch change no answer": _ignores_padding,
    "what follows a token does not change its state": _is_causal,
    "a vector that is moved changes the answer": _knows_order,
    "a gradient reaches the input embeddings": _has_gradient,
}
INSTEAD = "a prompt without layers, such as prompt=fixed"
LAYERS = "its layers take the states of a text one after another, so that a prompt can enter between them"
SITES = "attentions are looked up by name, and take additional keys and values"


@torch.no_grad()
def find_sites(backbone: Backbone) -> tuple[Site, ...]:
    """Switch a backbone to attention functions for per-layer prompts; return the attentions that they reach.

    Raises UserError where there is none, where the functions change the answer, or added keys do not.
    """
    text = [backbone.embed(texts(backbone)[1])]
    with (
        torch.random.fork_rng(devices=[]),
        requiring(backbone.model, SITES, INSTEAD),
    ):
        plain = answers(backbone, text)
        backbone.use_prompt_attention()
        with attention.finding_sites(backbone.site_kinds(LENGTHS[1])) as sites:
            switched = answers(backbone, text)
        if not sites:
            raise LacksError("none is")
        if bool(plain.isfinite().all()):
            _refuse_different(backbone, switched, plain)
        ones = tuple(
            torch.ones(1, site.num_heads, 1, site.head_width, dtype=backbone.dtype, device=backbone.device)
            for site in sites
        )
        if torch.equal(answers(backbone, text, layers=LayerPrompt(ones, ones)), plain):
            raise LacksError("added keys and values change no answer")
    return tuple(sites)


@torch.no_grad()
def find_layers(backbone: Backbone) -> tuple[int, ...]:
    """Prepare a backbone for late or deep prompts; return the widths of the states that enter each layer of
    its first stack.

    Raises UserError where layers are not found, where vectors that have not entered change the answer, or
    those that have do not.
    """
    x_BTD = backbone.embed(texts(backbone)[1])[None]
    mask_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=backbone.device)

    def ones(states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        return torch.ones_like(states_BSD[:, :2])

    with torch.random.fork_rng(devices=[]), requiring(backbone.model, LAYERS, INSTEAD):
        plain_BTD = backbone.encode(x_BTD, mask_BT)
        backbone.use_late_prompts()
        with attention.entering(None) as widths:
            backbone.encode(x_BTD, mask_BT)
        if not widths:
            raise LacksError("none was found")
        late = [LatePrompt(layer, 2, ones) for layer in (len(widths), len(widths) // 2)]
        never, entered = (backbone.encode(x_BTD, mask_BT, each)[:, 2:].double() for each in late)
        if bool(plain_BTD.isfinite().all()):
            _refuse_different(backbone, never, plain_BTD.double())
        if torch.equal(never, entered):
            raise LacksError("vectors that enter change no state")
    return tuple(widths)
