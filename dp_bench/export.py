"""Write a finished run for other programs: as an adapter of PEFT, or as a folder with a plain loader.

PEFT puts all vectors before the text, the same for every text. A prompt that stands elsewhere, or that
depends on the text, is refused with the reason.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dp_bench import extras, records
from dp_bench.backbones.families import class_of
from dp_bench.data.encode import affixes, cue_ids
from dp_bench.loader import card, loader
from dp_bench.methods import table
from dp_bench.prompts.late import Late
from dp_bench.records import BACKBONE_FILE, PROMPT_FILE, RunRecord
from dp_bench.settings import Family, Head, SplitOrder
from dp_bench.trained import TrainedRun
from dp_bench.types import InLayers, LayerPrompt, UserError

VECTORS_FILE = "vectors.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
LORA = ".lora_"  # in the names of its tensors


@dataclass(frozen=True)
class FixedPrompt:
    """The vectors of a prompt that is the same for every text: [X,D] each, fp32, and keys and values."""

    before: Tensor
    behind: Tensor
    layers: InLayers | None
    length_B: Tensor | None


def to_peft(run: TrainedRun, out: Path) -> None:
    """Write adapter_config.json, adapter_model.safetensors, README.md, and load.py where it can be written.

    Raises UserError with the reason where PEFT cannot say what the run computes, or is not installed.
    """
    if reason := next(_beyond_peft(run), None):
        raise UserError(
            f"PEFT cannot say what {run.record.run_id} computes: {reason}. Type --to dir for a folder that "
            "dp_bench.open_run opens."
        )
    try:
        import peft
    except ImportError:
        raise extras.absent("peft", "--to peft") from None
    shared = {
        "base_model_name_or_path": run.experiment.settings.backbone.name_or_path,
        "inference_mode": True,
    }
    makes = _lora if _adapts(run) else _virtual_tokens if fixed_prompt(run).layers is None else _prefix
    adapter, tensors, first = makes(run, peft, shared)
    records.make_folder(out)
    adapter.save_pretrained(str(out))
    _save(out / ADAPTER_FILE, tensors)
    _write_texts(run, out, first, is_adapter=True)


Made = tuple[Any, dict[str, Tensor], list[int]]  # an adapter, its tensors, the tokens before each text


def _lora(run: TrainedRun, peft: Any, shared: Mapping[str, Any]) -> Made:
    assert run.model is not None
    prefix, settings = "backbone.model.", run.experiment.settings.prompt
    factors = {n.removeprefix(prefix): v for n, v in run.model.trained_tensors().items() if LORA in n}
    adapted = sorted({name.split(LORA)[0] for name in factors})
    adapter = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=adapted,
        fan_in_fan_out=run.context.backbone.lm.get_submodule(adapted[0]).fan_in_fan_out,
        **shared,
    )
    tensors = {f"base_model.model.{n.replace('.default.', '.')}": value for n, value in factors.items()}
    return adapter, tensors, affixes(run.context.backbone.tokenizer)[0]


def _virtual_tokens(run: TrainedRun, peft: Any, shared: Mapping[str, Any]) -> Made:
    """Return a prompt of PEFT, which stands before tokens such as [CLS]: those become its first vectors."""
    backbone = run.context.backbone
    ids = torch.tensor(affixes(backbone.tokenizer)[0], dtype=torch.long, device=backbone.device)
    vectors = torch.cat([backbone.embed(ids).float(), fixed_prompt(run).before])
    sizes = {"num_virtual_tokens": len(vectors), "token_dim": vectors.shape[1]}
    heads = backbone.lm.config.get_text_config().num_attention_heads
    adapter = peft.PromptTuningConfig(num_attention_heads=heads, **sizes, **_of_model(run, peft), **shared)
    return adapter, {"prompt_embeddings": vectors}, []


def _prefix(run: TrainedRun, peft: Any, shared: Mapping[str, Any]) -> Made:
    layers = fixed_prompt(run).layers
    assert isinstance(layers, LayerPrompt)
    pairs = [pair for both in zip(layers.keys, layers.values, strict=True) for pair in both]
    stacked = torch.stack([pair[0] for pair in pairs if pair is not None])  # [2 S,H,P,E]
    _, heads, num_tokens, width = stacked.shape
    sizes = {"num_virtual_tokens": num_tokens, "token_dim": heads * width, "num_attention_heads": heads}
    adapter = peft.PrefixTuningConfig(
        encoder_hidden_size=heads * width, **sizes, **_of_model(run, peft), **shared
    )
    tensors = {"prompt_embeddings": stacked.permute(2, 0, 1, 3).flatten(1)}
    return adapter, tensors, affixes(run.context.backbone.tokenizer)[0]


def _of_model(run: TrainedRun, peft: Any) -> dict[str, Any]:
    """Return the settings of a prompt of PEFT that are about the model."""
    types = {
        Family.encoder_decoder: peft.TaskType.SEQ_2_SEQ_LM,
        Family.decoder_only: peft.TaskType.CAUSAL_LM,
        Family.encoder_only: peft.TaskType.FEATURE_EXTRACTION,  # also with a language-model head
    }
    return {
        "task_type": types[_family(run)],
        "num_layers": run.context.backbone.lm.config.get_text_config().num_hidden_layers,
        "num_transformer_submodules": 1,  # T5: the encoder's input alone
    }


def to_dir(run: TrainedRun, folder: Path, out: Path) -> None:
    """Write prompt.safetensors, record.json, README.md, and for one prompt at a fixed place load.py.

    `folder` is the run's. dp_bench.open_run opens the new folder.
    """
    records.make_folder(out)
    for name in (PROMPT_FILE, BACKBONE_FILE):
        if (folder / name).is_file():
            records.replace_file(out / name, partial(shutil.copyfile, folder / name))
    records.save(_without_paths(run.record), out)
    if _is_plain(run) and next(_beyond_fixed(run), None) is None and fixed_prompt(run).layers is None:
        fixed = fixed_prompt(run)
        _save(out / VECTORS_FILE, {"before": fixed.before, "behind": fixed.behind})
        _write_texts(run, out, affixes(run.context.backbone.tokenizer)[0], is_adapter=False)
    else:
        _write_texts(run, out, None, is_adapter=False)


def fixed_prompt(run: TrainedRun) -> FixedPrompt:
    """Return the prompt that every text gets; `_beyond_fixed` says where there is none."""
    assert run.model is not None
    model = run.model.eval()
    with torch.no_grad():
        task_B = torch.zeros(1, dtype=torch.long, device=model.backbone.device)
        output = model.prompt(None, task_B, {}, 1.0)
    vectors_PD, outcome = output.vectors_BPD[0].float(), int(output.before_BJ.argmax(-1))
    parts = vectors_PD[:outcome], vectors_PD[outcome:]
    before, behind = parts if model.order is SplitOrder.paper else parts[::-1]
    return FixedPrompt(before, behind, output.layers, output.length_B)


def _beyond_fixed(run: TrainedRun) -> Iterator[str]:
    """Yield why a run has no single prompt for every text, before a frozen backbone."""
    if run.model is None:
        yield "it is a baseline without a model"
        return
    if table.of(run.experiment.settings.prompt.method).scores is not None:
        yield "it changes the scores of the answers"
    if run.record.keeps_backbone is not None:
        yield "it trains the whole backbone"
    prompt, settings = run.model.prompt, run.experiment.settings
    if prompt.needs_summary or prompt.needs_skill:
        yield "its prompt depends on the text"
    elif prompt.noisy_selectors(training=False, sample_at_eval=settings.protocol.sample_at_eval):
        yield "it draws at random where the prompt stands, or which it is"
    elif isinstance(prompt.layers, Late):
        yield "it enters between two layers"
    elif prompt.is_inside:
        yield "it stands inside the text"
    elif prompt.text is not None:
        yield "it changes the embeddings of the text"
    elif prompt.needs_task and len(run.experiment.tasks) > 1:
        yield "each task has its own prompt"
    elif (length_B := fixed_prompt(run).length_B) is not None and int(length_B) < prompt.num_tokens:
        yield "it masks some of its vectors, which keep their places"
    elif others := [name for name in _trained(run) if not name.startswith(("prompt.", "verbalizers."))]:
        yield f"it trains {len(others)} tensors of the backbone, such as {others[0]}"


def _beyond_peft(run: TrainedRun) -> Iterator[str]:
    """Yield why PEFT has no adapter that computes what a run does."""
    if any(name.startswith("verbalizers.") for name in _trained(run)):
        yield "it trains a classifier head, which PEFT's adapter of this model has not"
    if _adapts(run):
        return
    if run.model is not None and (learned := run.model.prompt.learned_selectors):
        yield f"its {' and '.join(learned)} is learned, and PEFT puts all vectors before every text"
    yield from _beyond_fixed(run)
    if not _trained(run):
        yield "nothing is trained"
    fixed = fixed_prompt(run)
    if len(fixed.behind):
        yield (
            f"{len(fixed.behind)} of its vectors stand behind the text, and PEFT puts all before it "
            "(prompt.position.outcome=all trains such a prompt)"
        )
    if not isinstance(fixed.layers, LayerPrompt):
        return
    keys = fixed.layers.keys
    if len(fixed.before):
        yield "it has vectors in the input and in the layers, and an adapter of PEFT has either"
    if _family(run) is not Family.decoder_only:
        yield (
            "PEFT passes keys and values as the cache of a decoder: an encoder has none, and the decoder "
            "of T5 adds relative positions to them"
        )
    if (
        any(key is None for key in keys)
        or len(keys) != run.context.backbone.lm.config.get_text_config().num_hidden_layers
    ):
        yield "it adds keys and values to some of the attentions, and PEFT to all"
    if len({key.shape for key in keys if key is not None}) > 1:
        yield "its attentions differ in their heads, for which PEFT has one shape"


def _trained(run: TrainedRun) -> list[str]:
    """Return the names of all tensors that a run trains."""
    tensors = {} if run.model is None else run.model.trained_tensors()
    return [name for name, value in tensors.items() if value.numel()]


def _adapts(run: TrainedRun) -> bool:
    """Say whether a run trains factors of LoRA, and nothing else."""
    names = _trained(run)
    return bool(names) and all(LORA in name for name in names)


def _family(run: TrainedRun) -> Family:
    assert run.model is not None
    backbone = run.model.backbone
    if backbone.answers_at_mask:
        return Family.encoder_only
    return Family.decoder_only if backbone.continues_texts else Family.encoder_decoder


def _is_plain(run: TrainedRun) -> bool:
    """Say whether plain transformers can load the backbone, and label words answer."""
    backbone = run.experiment.settings.backbone
    by_words = all(task.words and not task.scoring.is_whole for task in run.experiment.tasks)
    escaped = any("{{" in task.template or "}}" in task.template for task in run.experiment.tasks)
    has_head = backbone.head is Head.classifier
    return by_words and not escaped and not has_head and backbone.name_or_path is not None


def _backbone_parts(run: TrainedRun) -> dict[str, Any]:
    """Return how load.py loads the backbone and reads its answer."""
    settings, backbone = run.experiment.settings, run.context.backbone
    is_decoded = _family(run) is Family.encoder_decoder
    return {
        "auto": class_of(_family(run), backbone.lm.config, settings.backbone).__name__,
        "name": settings.backbone.name_or_path,
        "tokenizer": settings.backbone.tokenizer or settings.backbone.name_or_path,
        "options": _options(run),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "decoder": backbone.get_buffer("decoder_ids_A").tolist() if is_decoded else None,
    }


def _options(run: TrainedRun) -> dict[str, str]:
    """Return what from_pretrained needs besides the name."""
    backbone = run.experiment.settings.backbone
    revision = run.record.checkpoint.get("commit") or backbone.revision
    named = {"revision": revision, "gguf_file": backbone.gguf_file}
    return {name: value for name, value in named.items() if value}


def _task_parts(run: TrainedRun, number: int) -> dict[str, Any]:
    """Return how a task's texts are written, tokenised and answered; `answer` counts from the end."""
    task, tokenizer = run.experiment.tasks[number], run.context.backbone.tokenizer
    first, end = affixes(tokenizer)
    cue = run.experiment.settings.cue_of(task)
    ids, offset = cue_ids(cue, tokenizer)
    tail = int(cue == "")  # the text's last token is the cue
    last = [*ids, *end]
    words_C = run.context.verbalizers[number].get_buffer("word_ids_C").tolist()
    return {
        "template": task.template,
        "shorten": task.shorten,
        "longest": task.max_length - len(first) - len(last),
        "tail": tail,
        "last": last,
        "answer": -1 if offset is None else offset - len(last) - tail,
        "words": dict(zip(task.words, words_C, strict=True)),
    }


def _without_paths(record: RunRecord) -> RunRecord:
    """Return a record without the paths of this machine and what was typed, which may have them."""
    content = {**record.config, "results_dir": "results", "cache_dir": None}
    content["data"] = {**content["data"], "dir": None}
    return replace(record, config=content, command=[])


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    records.replace_file(path, lambda temporary: save_file(kept, temporary, {"format": "pt"}))


def _write_texts(run: TrainedRun, out: Path, first: list[int] | None, *, is_adapter: bool) -> None:
    """Write README.md and, where `first`, the tokens before each text, are known, load.py."""
    tasks = {task.name: task for task in run.experiment.tasks}
    has_loader = first is not None and _is_plain(run)
    if has_loader:
        parts = {name: _task_parts(run, number) for number, name in enumerate(tasks)}
        code = loader(parts, first or [], **_backbone_parts(run), is_adapter=is_adapter)
        records.write_text(out / "load.py", code)
    text = card(run.record, tasks, run.experiment.settings, is_adapter=is_adapter, has_loader=has_loader)
    records.write_text(out / "README.md", text)
