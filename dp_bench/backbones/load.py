"""Load a backbone and its tokenizer: from the hub or its cache, a directory, or with random weights."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from dp_bench import extras, faults
from dp_bench.backbones import attention, files, random_init, tensors, vocabulary
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.checkpoint import commit_of, locate, remember_commit
from dp_bench.backbones.decoder_only import DecoderOnly
from dp_bench.backbones.encoder_decoder import EncoderDecoder
from dp_bench.backbones.encoder_only import EncoderOnly
from dp_bench.backbones.families import class_of, family_of
from dp_bench.hub import fetch
from dp_bench.progress import notice
from dp_bench.randomness import fork
from dp_bench.settings import Attention, BackboneSettings, Family, Pooling
from dp_bench.types import UserError


def load_tokenizer(settings: BackboneSettings) -> Any:
    """Load the tokenizer of a backbone; one that reads bytes for random weights without a tokenizer.

    Raises UserError where it is missing or unreadable.
    """
    where = locate(settings.tokenizer or settings.name_or_path)
    if where is None:
        return random_init.byte_tokenizer(random_init.kind_of(settings))
    from transformers import AutoTokenizer, T5Tokenizer

    folder = _folder(where, "tokenizer", settings)
    loader, older = AutoTokenizer, vocabulary.older_class(folder)
    if not any((folder / name).exists() for name in ("config.json", "tokenizer_config.json")):
        loader, older = older or T5Tokenizer, None
    try:
        tokenizer = _load_pretrained(loader, folder, "tokenizer")
    except UserError:
        if older is None:
            raise
        notice(f"{where} does not name the class of its tokenizer: {older.__name__} reads its vocabulary")
        tokenizer = _load_pretrained(older, folder, "tokenizer")
    files.refuse_vocabulary(folder, tokenizer)
    tokenizer = vocabulary.fast(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # GPT-2, LLaMA: padding is masked, so any token serves
    return tokenizer


def _pad_inside(tokenizer: Any, num_rows: int) -> None:
    """Use a padding token that has a row in the embedding. Padding is masked, so any token serves."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= num_rows:
        end = tokenizer.eos_token_id
        inside = end if end is not None and end < num_rows else 0
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(inside)


def load_backbone(
    settings: BackboneSettings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    dropout: bool,
    tokenizer: Any = None,
) -> Backbone:
    """Load a frozen backbone on `device` in `dtype`, in the family that its config says.

    `tokenizer` is its tokenizer where that has been loaded before.

    Raises UserError where the checkpoint is missing, damaged, of an unsupported type, or does not fit
    settings.
    """
    import transformers

    tokenizer = load_tokenizer(settings) if tokenizer is None else tokenizer
    where = locate(settings.name_or_path)
    if where is None:
        config = random_init.random_config(settings, len(tokenizer))
    else:
        folder = _folder(where, "checkpoint", settings)
        config = _load_pretrained(transformers.AutoConfig, folder, "checkpoint")
        if getattr(config, "auto_map", None):
            notice(
                f"{where} names Python code (auto_map in its config.json), which is not run: the weights are "
                f"read by the '{config.model_type}' model of transformers"
            )
    family = family_of(config, settings)
    auto = class_of(family, config, settings)
    if where is None:
        config._attn_implementation = "eager"
        with fork(settings.init_seed, "backbone"):
            model = random_init.random_model(auto, config)
    else:
        # Report tensors of another shape too, so that a message can name them.
        report = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        options = {"dtype": dtype, "attn_implementation": "eager", **report}
        model, loaded = _load_pretrained(auto, folder, "checkpoint", **options)
        tensors.refuse_mismatched(model, loaded, where, settings.head)
    _attend(model, settings, device, dtype)
    rows = len(model.get_input_embeddings().weight)
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"The tokenizer of {where} has {tokenizer.vocab_size} tokens and the embedding {rows} rows: they "
            "are not of one model. Set backbone.tokenizer to the one that belongs to the weights."
        )
    _pad_inside(tokenizer, rows)
    model = model.to(device=device, dtype=dtype)
    if family is Family.encoder_decoder:
        prefix = settings.answer_prefix
        return EncoderDecoder(model, tokenizer, answer_prefix=prefix, dropout=dropout).to(device)
    if family is Family.encoder_only:
        pooling = settings.pooling or Pooling.first
        return EncoderOnly(model, tokenizer, pooling=pooling, dropout=dropout).to(device)
    return DecoderOnly(model, tokenizer, dropout=dropout).to(device)


def _attend(model: Any, settings: BackboneSettings, device: torch.device, dtype: torch.dtype) -> None:
    """Set the attention of a model: fused, unless it has none (Gemma 2) or the settings say otherwise."""
    choice = settings.attention
    if choice is Attention.eager:
        return
    try:
        model.set_attn_implementation(Attention.sdpa.value)
    except (ValueError, ImportError) as error:
        if choice is Attention.sdpa:
            raise UserError(f"backbone.attention=sdpa: {_reason(error)} Use eager.") from error
        return
    if choice is Attention.auto:
        model.set_attn_implementation(default_attention(device.type, dtype))


def default_attention(device: str, dtype: torch.dtype) -> str:
    """Return the fastest attention: fused, but plain for bf16 training on a CPU, where the fused backward
    pass is slow (dimensions of T5-small, one thread, examples per second, plain against fused: 18 and 15 in
    training, 46 and 51 in evaluation; in fp32 8.5 and 9.1, 19.8 and 20.7)."""
    if device != "cpu":
        return attention.NAMES["sdpa"]  # its mask needs no answer from the device
    return attention.MIXED if dtype is torch.bfloat16 else "sdpa"


def _folder(where: str, what: str, settings: BackboneSettings) -> Path:
    """Return the folder of a "tokenizer" or "checkpoint": `where`, or its snapshot in the hub's cache.

    What is missing there is downloaded: the texts, and for a checkpoint safetensors, or .bin without them.
    transformers loads a folder without a request; given a name, it would ask the hub to convert a .bin.
    """
    if Path(where).is_dir():
        return Path(where)
    message = {
        "subject": f"The {what} of backbone={settings.name}",
        "instead": f"Use backbone=local backbone.name_or_path=DIR for a folder, or {extras.SMALL_MODEL}.",
    }
    if settings.tokenizer and what == "tokenizer":
        return fetch(where, "model", "main", files.TEXTS, files.has_vocabulary, **message)
    revision = commit_of(settings) or settings.revision or "main"
    if what == "tokenizer":
        return fetch(where, "model", revision, files.TEXTS, files.has_vocabulary, **message)
    for weights in files.WEIGHTS.values():
        folder = fetch(where, "model", revision, (*files.TEXTS, *weights), files.has_weights, **message)
        if files.has_weights(folder):
            break
    remember_commit(settings, folder.name)
    return folder


def _load_pretrained(loader: Any, folder: Path, what: str, **options: Any) -> Any:
    """Load from a folder; raise UserError where that cannot be done."""
    if loader.__name__.startswith("Auto"):
        options["trust_remote_code"] = False  # never run, without a question
    try:
        return loader.from_pretrained(str(folder), **options)
    except Exception as error:  # a damaged file may raise anything
        if faults.of_machine(error):
            raise
        reason = _reason(error, files.damage(folder))
        if method := files.quantisation(folder):
            reason += (
                f" Its weights are quantised ({method}): install that, or use those without quantisation."
            )
        if what == "tokenizer":
            reason += (
                " Expected are a tokenizer.json or the older files of its class, such as spiece.model, "
                "vocab.txt, or vocab.json with merges.txt."
            )
        raise UserError(f"{folder} holds no {what} that transformers can load: {reason}") from error


def _reason(error: Exception, damage: str = "") -> str:
    """Return in a sentence why transformers could not load something."""
    if "trust_remote_code" in str(error):
        return (
            "it needs Python code of the checkpoint, which dp-bench never runs. Convert it to a model type "
            "that transformers knows."
        )
    if isinstance(error, UnpicklingError) and not damage:
        return (
            "its .bin holds Python objects other than tensors, which would run code when they are read. Ask "
            "for the weights as safetensors."
        )
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return f"{damage or first}."
