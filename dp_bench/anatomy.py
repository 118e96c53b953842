"""What a trained prompt consists of: neighbours, norms and drift of its vectors, and the attention that the
answer pays to them, all in float64.

The words near a vector need not say what it does: Khashabi et al. (2022, "Prompt Waywardness") train prompts
that solve a task and are near any text one likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dp_bench import config
from dp_bench.backbones import attention
from dp_bench.backbones.backbone import Backbone
from dp_bench.digests import file_sha256
from dp_bench.methods.build import make_prompt
from dp_bench.settings import Head, Init
from dp_bench.trained import TrainedRun
from dp_bench.types import Batch, Example, InLayers, LatePrompt, Prompted, UserError

CHUNK = 8192  # rows of the vocabulary that are compared at once
SAMPLED = 256  # rows of the vocabulary whose neighbours are looked up, for comparison


# ------------------------------------------------------------------------------------------ vectors


@dataclass(frozen=True)
class Neighbours:
    """The tokens nearest to each of P vectors, nearest first: ids and values [P,k], fp64."""

    ids: Tensor
    values: Tensor


def nearest(vectors_PD: Tensor, table_VD: Tensor, number: int) -> tuple[Neighbours, Neighbours]:
    """Return the `number` rows of a table with the largest cosine to each vector, and those at the smallest
    distance. A vector or row of zeros has cosine 0 with all others."""
    vectors = vectors_PD.detach().double()
    unit = nn.functional.normalize(vectors, dim=1)
    cosines, distances = [], []
    for chunk in torch.split(table_VD.detach(), CHUNK):
        rows = chunk.to(vectors)
        cosines.append(unit @ nn.functional.normalize(rows, dim=1).T)
        distances.append(torch.cdist(vectors, rows, compute_mode="donot_use_mm_for_euclid_dist"))
    number = min(number, len(table_VD))
    cosine, distance = torch.cat(cosines, 1), torch.cat(distances, 1)
    by_cosine, by_distance = cosine.topk(number), distance.topk(number, largest=False)
    return (
        Neighbours(by_cosine.indices.cpu(), by_cosine.values.cpu()),
        Neighbours(by_distance.indices.cpu(), by_distance.values.cpu()),
    )


@dataclass(frozen=True)
class Drift:
    """How far vectors [P,D] are from where they began: distance, and cosine with the start [P], fp64."""

    distance: Tensor
    cosine: Tensor

    @classmethod
    def between(cls, vectors_PD: Tensor, start_PD: Tensor) -> Drift:
        """Compare vectors with their initial values."""
        now, start = vectors_PD.detach().double().cpu(), start_PD.detach().double().cpu()
        cosine = (nn.functional.normalize(now, dim=1) * nn.functional.normalize(start, dim=1)).sum(1)
        return cls((now - start).norm(dim=1), cosine)


@dataclass(frozen=True)
class VectorTable:
    """The vectors of one task, member, or of all texts (name ""), and what is known of each."""

    name: str
    norms: list[float]
    by_cosine: list[list[tuple[str, float]]]  # token and cosine, nearest first
    by_distance: list[list[tuple[str, float]]]  # token and distance
    drift: Drift | None


@dataclass(frozen=True)
class Anatomy:
    """The vectors of a run's prompt beside the rows of the vocabulary."""

    tables: list[VectorTable]
    row_norms: tuple[float, float, float]  # 5 %, median and 95 % of the norms of the vocabulary's rows
    row_cosine: float  # median cosine of a row of the vocabulary with the nearest other row
    no_start: str | None  # why the initialization is not known


def anatomy(run: TrainedRun, number: int) -> Anatomy:
    """Describe the vectors of a run's prompt, each with its `number` nearest tokens; without tables where the
    prompt has no vectors of the input, or others for every text."""
    assert run.model is not None
    backbone = run.context.backbone
    table_VD = backbone.embedding_VD[: backbone.dims.vocab_size].detach()
    with torch.no_grad():
        found = run.model.prompt.vectors.by_name(list(run.tasks))
        start, no_start = _start(run) if found else ({}, None)
    tables = []
    for name, vectors_PD in found.items():
        by_cosine, by_distance = (
            _named(neighbours, backbone) for neighbours in nearest(vectors_PD, table_VD, number)
        )
        norms = vectors_PD.detach().double().norm(dim=1).tolist()
        drift = Drift.between(vectors_PD, start[name]) if name in start else None
        tables.append(VectorTable(name, norms, by_cosine, by_distance, drift))
    low, middle, high = _quantiles(table_VD.double().norm(dim=1))
    return Anatomy(tables, (low, middle, high), _usual_cosine(table_VD), no_start)


def _quantiles(values: Tensor) -> list[float]:
    ordered, last = values.sort().values, len(values) - 1
    return [float(ordered[round(share * last)]) for share in (0.05, 0.5, 0.95)]


def _usual_cosine(table_VD: Tensor) -> float:
    """Return the median cosine of a row with the nearest other row, over rows spread over the table."""
    rows = table_VD[:: max(1, len(table_VD) // SAMPLED)]
    by_cosine, _ = nearest(rows, table_VD, 2)  # the nearest is the row itself
    return float(by_cosine.values[:, -1].median())


def _named(neighbours: Neighbours, backbone: Backbone) -> list[list[tuple[str, float]]]:
    return [
        [(token_of(backbone, i), value) for i, value in zip(ids, values, strict=True)]
        for ids, values in zip(neighbours.ids.tolist(), neighbours.values.tolist(), strict=True)
    ]


def token_of(backbone: Backbone, number: int) -> str:
    """Return a token as text, a space before it as `▁`; pieces of characters as the vocabulary has them."""
    piece = str(backbone.tokenizer.convert_ids_to_tokens(number))
    text = backbone.tokenizer.decode([number])
    is_whole = bool(text.strip()) and "\ufffd" not in text and "▁" not in piece
    return text.replace(" ", "▁") if is_whole else piece


def _start(run: TrainedRun) -> tuple[Mapping[str, Tensor], str | None]:
    """Make the initial vectors of a run again; or return why that is not possible."""
    try:
        return start(run), None
    except UserError as error:
        return {}, str(error)


def start(run: TrainedRun) -> dict[str, Tensor]:
    """Return the vectors with which the training of a run began, by name, made again from its seed.

    Raises UserError where they depend on something that is no longer there.
    """
    experiment = config.reopen(run.record.config, run.context.directory.parent.parent)
    settings = experiment.settings.prompt
    if settings.trains_backbone and settings.init not in (Init.uniform, Init.saved):
        raise UserError(
            f"prompt.init={settings.init.value} copied rows of an embedding that was trained as well."
        )
    if settings.init is Init.saved:
        path, known = settings.saved_file, run.record.config["prompt"].get("init_sha256")
        if not path.is_file() or file_sha256(path) != known:
            raise UserError(f"prompt.init_from={settings.init_from} is gone, or holds another prompt by now.")
    prompt = make_prompt(replace(run.context, experiment=experiment))
    return prompt.vectors.by_name(list(run.tasks))


def changes(backbone: Backbone) -> list[tuple[str, float]]:
    """Return the matrices to which adapters add, and the norm of what they add by that of the matrix, largest
    first."""
    found = []
    for name, module in backbone.model.named_modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):  # of PEFT
            deltas = [
                module.get_delta_weight(adapter).detach().double() for adapter in module.active_adapters
            ]
            norm = module.base_layer.weight.detach().double().norm()
            found.append((name, float(sum(deltas).norm() / norm)))
    return sorted(found, key=lambda item: -item[1])


# ------------------------------------------------------------------------------------------ attention


@dataclass(frozen=True)
class Attention:
    """How much of its attention the answer pays to each vector, on average over heads: for L attentions of M
    texts, fp64.

    Of vectors in the input and of those in the layers; `even_LM` is the share of all of them if every key got
    as much.
    """

    kind: str  # as of `Site`
    input_LMP: Tensor
    layers_LMP: Tensor
    even_LM: Tensor

    @property
    def share_L(self) -> Tensor:
        """The share of the prompt in each attention, on average over texts."""
        return (self.input_LMP.sum(2) + self.layers_LMP.sum(2)).mean(1)


def attention_to_prompt(run: TrainedRun, task: str, examples: Sequence[Example]) -> Attention:
    """Measure the attention at the step or slot where the answers to these examples are read.

    Of an encoder-decoder it is the cross-attention of the last token before the answer. Random controls draw
    anew. Raises UserError where the backbone does not look its attention up by name.
    """
    assert run.model is not None
    model, backbone = run.model, run.context.backbone
    backbone.use_prompt_attention()
    split = run.split(task, run.encoder(task).in_memory(examples))
    pooled = run.experiment.settings.backbone.head is Head.classifier
    measured: list[Attention] = []

    def measure(_: nn.Module, inputs: tuple[Backbone, Prompted, Batch]) -> None:
        measured.append(attention_of(backbone, inputs[1], pooled=pooled))

    handle = model.verbalizers[split.number].register_forward_pre_hook(measure)
    try:
        run.predict_split(split)
    finally:
        handle.remove()
    return Attention(
        measured[0].kind,
        *(
            torch.cat([getattr(batch, name) for batch in measured], 1)
            for name in ("input_LMP", "layers_LMP", "even_LM")
        ),
    )


@torch.no_grad()
def attention_of(backbone: Backbone, prompted: Prompted, *, pooled: bool = False) -> Attention:
    """Return the attention of one batch; `pooled` where a classifier head reads the answer.

    The backbone has the attention functions for per-layer prompts. Raises UserError where they see nothing.
    """
    num_slots, late = prompted.mask_BS.shape[1], prompted.layers
    late = late if isinstance(late, LatePrompt) else None
    num_late = 0 if late is None else late.num_tokens
    kinds = backbone.site_kinds(num_late + num_slots)
    kind = next((name for name in ("cross", "decoder") if name in kinds.values()), "encoder")
    reads_BQ = backbone.reads(prompted, pooled=pooled)
    if kind != "cross":  # the slots of a late prompt are in front
        reads_BQ = nn.functional.pad(reads_BQ, (num_late, 0))
    rows: list[tuple[Tensor, int]] = []

    def watch(weights_BHQY: Tensor, num_keys: int) -> None:
        if kinds.get((weights_BHQY.shape[2], num_keys), "encoder") == kind:
            row_BY = torch.einsum("bhqy,bq->by", weights_BHQY.double(), reads_BQ) / weights_BHQY.shape[1]
            rows.append((row_BY.cpu(), row_BY.shape[1] - num_keys + num_late))

    with attention.watched(watch):
        (backbone.pooled if pooled else backbone)(prompted)
    if not rows:
        raise UserError(f"{type(backbone.model).__name__} does not show its attention.")
    slots_BP = prompted.slot_of_vector_BP
    assert slots_BP is not None
    slots_BP = slots_BP.cpu()
    mask_BS = prompted.mask_BS.cpu()
    if kind == "decoder":  # what follows is not seen
        mask_BS = mask_BS & (torch.arange(num_slots) <= reads_BQ.argmax(1).cpu()[:, None] - num_late)
    most = max(added for _, added in rows)
    input_LMP = torch.stack([row[:, added:].gather(1, slots_BP) for row, added in rows])
    layers_LMP = torch.stack([nn.functional.pad(row[:, :added], (0, most - added)) for row, added in rows])
    kept_B = _kept(prompted.layers, most, len(mask_BS))
    in_input_B = mask_BS.gather(1, slots_BP).sum(1).double()
    first = 0 if late is None or kind == "cross" else late.layer  # that sees the vectors in the layers
    even_LM = torch.stack(
        [
            (in_input_B + kept_B * is_seen) / (mask_BS.sum(1) + kept_B * is_seen)
            for is_seen in (added > 0 and number >= first for number, (_, added) in enumerate(rows))
        ]
    )
    return Attention(kind, input_LMP, layers_LMP, even_LM)


def _kept(layers: InLayers | None, num_vectors: int, num_rows: int) -> Tensor:
    """Return how many vectors in the layers each text has [B], fp64."""
    if layers is None or layers.keep_BP is None:
        return torch.full((num_rows,), float(num_vectors), dtype=torch.float64)
    return layers.keep_BP.detach().double().sum(1).cpu()
