"""Load a backbone and its tokenizer: from the hub or its cache, from a directory, or with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.encoder_decoder import EncoderDecoder
from dp_bench.hub import hub_reachable
from dp_bench.randomness import fork
from dp_bench.settings import Attention, BackboneSettings
from dp_bench.types import UnreachableError, UserError

NUM_SENTINELS = 100
BUILTIN = "builtin:"


def load_tokenizer(settings: BackboneSettings) -> Any:
    """Load the tokenizer that goes with a backbone; bytes for a random one that names none."""
    where = _place(settings.tokenizer or settings.name_or_path)
    if where is None:
        return byte_tokenizer()
    from transformers import AutoTokenizer, T5Tokenizer

    folder = Path(where)
    if folder.is_dir() and not any((folder / n).exists() for n in ("tokenizer.json", "spiece.model")):
        raise UserError(f"{where} holds no tokenizer: a tokenizer.json or a spiece.model is expected there.")
    bare = folder.is_dir() and not any(
        (folder / n).exists() for n in ("config.json", "tokenizer_config.json")
    )
    loader = (
        T5Tokenizer if bare else AutoTokenizer
    )  # a folder with a vocabulary alone does not say whose it is
    return _reach(loader, where, None if settings.tokenizer else settings.revision, "tokenizer", settings)


def load_backbone(
    settings: BackboneSettings, *, device: torch.device, dtype: torch.dtype, dropout: bool
) -> Backbone:
    """Load a frozen backbone on `device` in `dtype`."""
    from transformers import AutoConfig, T5Config, T5ForConditionalGeneration

    tokenizer = load_tokenizer(settings)
    attention = _attention(settings.attention, device)
    where = _place(settings.name_or_path)
    if where is None:
        config = _random_config(T5Config, settings, vocab_size=len(tokenizer))
        config._attn_implementation = attention
        with fork(settings.init_seed, "backbone"):
            model = T5ForConditionalGeneration(config)
    else:
        config = _reach(AutoConfig, where, settings.revision, "checkpoint", settings)
        if config.model_type not in ("t5", "mt5", "umt5"):
            raise UserError(
                f"backbone.name_or_path={settings.name_or_path} is a '{config.model_type}' model, not one "
                "of the T5 "
                "family, which is what backbone.family=encoder_decoder reads in this release."
            )
        from transformers import AutoModelForSeq2SeqLM

        model = _reach(
            AutoModelForSeq2SeqLM,
            where,
            settings.revision,
            "checkpoint",
            settings,
            dtype=dtype,
            attn_implementation=attention,
        )
    model = model.to(device=device, dtype=dtype)
    return EncoderDecoder(model, tokenizer, answer_prefix=settings.answer_prefix, dropout=dropout).to(device)


def _random_config(kind: Any, settings: BackboneSettings, vocab_size: int) -> Any:
    dims = settings.random_init or {}
    unknown = sorted(dims.keys() - kind().to_dict().keys())
    if unknown:
        raise UserError(f"backbone.random_init.{unknown[0]} is not a setting of {kind.__name__}.")
    try:
        return kind(vocab_size=vocab_size, decoder_start_token_id=0, use_cache=False, **dims)
    except (TypeError, ValueError, StrictDataclassError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"backbone.random_init does not make a {kind.__name__}: {reason}.") from error


def byte_tokenizer() -> Any:
    """Make a tokenizer that reads bytes, with T5's special tokens and sentinels: no vocabulary file is
    needed."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        BPE(vocab={token: i for i, token in enumerate([*specials, *alphabet])}, merges=[], unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sentinels = [f"<extra_id_{i}>" for i in range(NUM_SENTINELS)]
    tokenizer.add_special_tokens([*specials, *sentinels])
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
    )


def _place(where: str | None) -> str | None:
    """Return a hub name or directory; `builtin:` names a folder of this package."""
    if where is not None and where.startswith(BUILTIN):
        return str(Path(__file__).resolve().parents[1] / where.removeprefix(BUILTIN))
    return where


def _attention(choice: Attention, device: torch.device) -> str:
    if choice is not Attention.auto:
        return str(choice.value)
    # On a CPU the fused attention's backward is the slow one (bf16: six tenths of a step), on CUDA the fast
    # one.
    return "sdpa" if device.type == "cuda" else "eager"


def _reach(
    loader: Any, where: str, revision: str | None, what: str, settings: BackboneSettings, **options: Any
) -> Any:
    """Load from a directory or the hub's cache; ask the hub, once and briefly, only for what is in
    neither."""
    if Path(where).is_dir():
        try:
            return loader.from_pretrained(where, **options)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{where} holds no {what} that transformers can load ({reason}).") from error
    if where.startswith((".", "/", "~")):
        raise UserError(
            f"There is no directory {where}, which backbone.name_or_path or backbone.tokenizer names."
        )
    try:
        return loader.from_pretrained(where, revision=revision or "main", local_files_only=True, **options)
    except OSError:
        if not hub_reachable():
            raise UnreachableError(_not_reachable(where, what, settings)) from None
    try:
        return loader.from_pretrained(where, revision=revision or "main", **options)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"The {what} {where} (revision {revision or 'main'}) could not be loaded: {reason}"
        ) from error


def _not_reachable(where: str, what: str, settings: BackboneSettings) -> str:
    return (
        f"The {what} of backbone={settings.name} is '{where}', which is not in the local cache, and the "
        "model hub cannot be "
        f"reached from here. On a connected machine `hf download {where}` fetches it; then copy the folder "
        "and use "
        "backbone=local backbone.name_or_path=DIR. To try the tool without a checkpoint: "
        "backbone=t5_tiny_random."
    )
