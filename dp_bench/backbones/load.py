"""Load a backbone and its tokenizer: from the hub or its cache, from a directory, or with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from dp_bench.backbones import attention, files, tensors, vocabulary
from dp_bench.backbones.backbone import Backbone
from dp_bench.backbones.checkpoint import commit_of, locate
from dp_bench.backbones.decoder_only import DecoderOnly
from dp_bench.backbones.encoder_decoder import EncoderDecoder
from dp_bench.backbones.encoder_only import EncoderOnly
from dp_bench.hub import hub_reachable
from dp_bench.progress import notice
from dp_bench.randomness import fork
from dp_bench.settings import Attention, BackboneSettings, Family, Head, Pooling
from dp_bench.types import UnreachableError, UserError

NUM_SENTINELS = 100


def load_tokenizer(settings: BackboneSettings) -> Any:
    """Load the tokenizer that goes with a backbone; bytes for a random one that names none."""
    where = locate(settings.tokenizer or settings.name_or_path)
    if where is None:
        return byte_tokenizer(_random_kind(settings))
    from transformers import AutoTokenizer, T5Tokenizer

    folder = Path(where)
    revision = None if settings.tokenizer else commit_of(settings)
    loader, older = AutoTokenizer, vocabulary.older_kind(folder)
    described = any((folder / name).exists() for name in ("config.json", "tokenizer_config.json"))
    if folder.is_dir() and not described:
        loader, older = older or T5Tokenizer, None
    try:
        tokenizer = _reach(loader, where, revision, "tokenizer", settings)
    except UserError:
        if older is None:
            raise
        notice(f"{where} does not say what its tokenizer is: its vocabulary is read by {older.__name__}")
        tokenizer = _reach(older, where, revision, "tokenizer", settings)
    if folder.is_dir():
        files.refuse_vocabulary(folder, tokenizer)
    tokenizer = vocabulary.fast(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # GPT-2, LLaMA: padding is masked, so that any token serves
    return tokenizer


def _pad_inside(tokenizer: Any, num_rows: int) -> None:
    """Pad with a token that the embedding has a row for. Padding is masked, so that any token serves."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= num_rows:
        end = tokenizer.eos_token_id
        inside = end if end is not None and end < num_rows else 0
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(inside)


def load_backbone(
    settings: BackboneSettings, *, device: torch.device, dtype: torch.dtype, dropout: bool
) -> Backbone:
    """Load a frozen backbone on `device` in `dtype`; its family is what the checkpoint's config says."""
    import transformers

    tokenizer = load_tokenizer(settings)
    where = locate(settings.name_or_path)
    if where is None:
        config = _random_config(settings, len(tokenizer))
    else:
        config = _reach(transformers.AutoConfig, where, commit_of(settings), "checkpoint", settings)
        if getattr(config, "auto_map", None):
            notice(
                f"{where} names Python code of its own (auto_map in its config.json), which is not run: the "
                f"weights are read by transformers' '{config.model_type}' model"
            )
    family = _family(config, settings)
    auto = {
        Family.encoder_decoder: transformers.AutoModelForSeq2SeqLM,
        Family.encoder_only: transformers.AutoModelForMaskedLM,
        Family.decoder_only: transformers.AutoModelForCausalLM,
    }[family]
    if family is Family.encoder_only:
        auto = _head_of_encoder(config, settings, auto, transformers.AutoModel)
    if where is None:
        config._attn_implementation = "eager"
        with fork(settings.init_seed, "backbone"):
            model = _random_model(auto, config)
    else:
        # Tensors of another shape are reported too, so that they can be named.
        report = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        options = {"dtype": dtype, "attn_implementation": "eager", **report}
        model, loaded = _reach(auto, where, commit_of(settings), "checkpoint", settings, **options)
        tensors.refuse_others(model, loaded, where, settings.head)
    _attend(model, settings, device, dtype)
    _pad_inside(tokenizer, len(model.get_input_embeddings().weight))
    model = model.to(device=device, dtype=dtype)
    if family is Family.encoder_decoder:
        prefix = settings.answer_prefix
        return EncoderDecoder(model, tokenizer, answer_prefix=prefix, dropout=dropout).to(device)
    if settings.head is Head.verbalizer and settings.answer_cue is None:
        example = "' Answer: {mask}'" if family is Family.encoder_only else "' Answer:'"
        raise UserError(
            f"backbone={settings.name} reads its answer in the text, and no answer cue is set: add "
            f'"backbone.answer_cue={example}".'
        )
    if family is Family.encoder_only:
        pooling = settings.pooling or Pooling.first
        return EncoderOnly(model, tokenizer, pooling=pooling, dropout=dropout).to(device)
    return DecoderOnly(model, tokenizer, dropout=dropout).to(device)


def _attend(model: Any, settings: BackboneSettings, device: torch.device, dtype: torch.dtype) -> None:
    """Choose how a model attends: fused, unless it cannot (Gemma 2) or the settings say otherwise."""
    chosen = settings.attention
    if chosen is Attention.eager:
        return
    try:
        model.set_attn_implementation(Attention.sdpa.value)
    except (ValueError, ImportError) as error:
        if chosen is Attention.sdpa:
            raise UserError(f"backbone.attention=sdpa: {_reason(error)} Use eager.") from error
        return
    if chosen is Attention.auto:
        model.set_attn_implementation(usual_attention(device.type, dtype))


def families_of(config: Any) -> list[Family]:
    """Return what transformers can make of a model type, the usual one first."""
    from transformers.models.auto import modeling_auto as auto

    kinds = {
        Family.encoder_only: auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        Family.decoder_only: auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    if config.is_encoder_decoder:
        kinds = {Family.encoder_decoder: auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}
    found = [family for family, classes in kinds.items() if config.model_type in classes]
    saved_as = getattr(config, "architectures", None) or []
    return sorted(found, key=lambda family: kinds[family][config.model_type] not in saved_as)


def _family(config: Any, settings: BackboneSettings) -> Family:
    found = families_of(config)
    if not found:
        raise UserError(
            f"backbone.name_or_path={settings.name_or_path} is a '{config.model_type}' model, of which "
            "transformers has no sequence-to-sequence, masked or causal language model of texts. Use a "
            "checkpoint of a type that has one, such as t5, bert or llama."
        )
    if settings.family not in (None, *found):
        raise UserError(
            f"backbone.name_or_path={settings.name_or_path} is a '{config.model_type}' model, whose family "
            f"is {' or '.join(family.value for family in found)}: use backbone.family={found[0].value}, or "
            "null to take what the checkpoint says."
        )
    return settings.family or found[0]


def _head_of_encoder(config: Any, settings: BackboneSettings, with_words: Any, bare: Any) -> Any:
    """Return the class to load an encoder with; refuse label words where the checkpoint cannot score them."""
    if settings.head is Head.classifier:
        return bare
    named = getattr(config, "architectures", None) or []
    if named and not any(name.endswith(("MaskedLM", "PreTraining")) for name in named):
        raise UserError(
            f"backbone={settings.name} has no language-model head ({', '.join(named)}), so that no label "
            "word "
            "can be scored: add backbone.head=classifier backbone.answer_cue=null."
        )
    return with_words


def _random_kind(settings: BackboneSettings) -> str:
    return str((settings.random_init or {}).get("model_type", "t5"))


def _named_config(kind: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(kind)
    except ValueError as error:
        raise UserError(f"backbone.random_init.model_type={kind} is unknown to transformers.") from error


def _random_config(settings: BackboneSettings, vocab_size: int) -> Any:
    from transformers import AutoConfig

    kind = _random_kind(settings)
    dims = {name: value for name, value in (settings.random_init or {}).items() if name != "model_type"}
    named = _named_config(kind)
    unknown = sorted(dims.keys() - named.to_dict().keys())
    if unknown:
        raise UserError(f"backbone.random_init.{unknown[0]} is not a setting of {type(named).__name__}.")
    specials = {"pad_token_id": 0, "eos_token_id": 1, "use_cache": False}
    specials |= {"decoder_start_token_id": 0} if named.is_encoder_decoder else {"bos_token_id": 1}
    try:
        return AutoConfig.for_model(kind, vocab_size=vocab_size, **specials, **dims)
    except (TypeError, ValueError, StrictDataclassError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"backbone.random_init does not make a {type(named).__name__}: {reason}.") from error


def _random_model(auto: Any, config: Any) -> Any:
    try:
        return auto.from_config(config)
    except (AssertionError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"backbone.random_init does not make a {config.model_type}: {reason}.") from error


def byte_tokenizer(model_type: str = "t5") -> Any:
    """Make a tokenizer that reads bytes, with the special tokens of a family: no vocabulary file is needed.

    T5's have sentinels; those of encoders put [CLS] before and [SEP] behind a text, and know [MASK].
    """
    from tokenizers import pre_tokenizers

    specials = ["<pad>", "</s>", "<unk>"]
    names = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    family = next(iter(families_of(_named_config(model_type))), Family.decoder_only)
    own: dict[str, Any] = {}
    around = "$A"
    if family is Family.encoder_decoder:
        own = {"additional_special_tokens": [f"<extra_id_{i}>" for i in range(NUM_SENTINELS)]}
        specials += own["additional_special_tokens"]
        around = "$A </s>"
    elif family is Family.encoder_only:
        own = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        specials += own.values()
        around = "[CLS] $A [SEP]"
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", **own}
    vocab = {token: number for number, token in enumerate(names)}
    return vocabulary.of_bytes(vocab, specials, around, **roles)


def usual_attention(device: str, dtype: torch.dtype) -> str:
    """Return the fastest attention: the fused one; but for bf16 on a CPU the plain one where there is a
    backward pass, because the fused one's is slow there (T5-small's dimensions, one thread, examples a
    second: 18 against 15 in training, 46 against 51 in evaluation; in fp32 8.5 against 9.1 and 19.8 against
    20.7)."""
    return attention.MIXED if device == "cpu" and dtype is torch.bfloat16 else "sdpa"


def _reach(
    loader: Any, where: str, revision: str | None, what: str, settings: BackboneSettings, **options: Any
) -> Any:
    """Load from a directory or the hub's cache; ask the hub, once and briefly, only for what is in
    neither."""
    if loader.__name__.startswith("Auto"):
        options["trust_remote_code"] = False  # never run, and never asked about
    if Path(where).is_dir():
        try:
            return loader.from_pretrained(where, **options)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a damaged file makes of a reader
            reason = _reason(error, files.damage(Path(where)))
            if what == "tokenizer":
                reason += (
                    " Expected are a tokenizer.json or the older files of its kind, such as spiece.model, "
                    "vocab.txt, or vocab.json with merges.txt."
                )
            raise UserError(f"{where} holds no {what} that transformers can load: {reason}") from error
    if where.startswith((".", "/", "~")):
        raise UserError(
            f"There is no directory {where}, which backbone.name_or_path or backbone.tokenizer names."
        )
    try:
        return loader.from_pretrained(where, revision=revision or "main", local_files_only=True, **options)
    except OSError:
        if not hub_reachable():
            raise UnreachableError(_not_reachable(where, what, settings)) from None
    except (ValueError, SafetensorError) as error:
        raise UserError(
            f"The {what} {where} in the local cache cannot be loaded: {_reason(error)}"
        ) from error
    try:
        return loader.from_pretrained(where, revision=revision or "main", **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"The {what} {where} (revision {revision or 'main'}) could not be loaded: {_reason(error)}"
        ) from error


def _reason(error: Exception, damage: str = "") -> str:
    """Return in one sentence why transformers could not load something."""
    if "trust_remote_code" in str(error):
        return (
            "it needs Python code that comes with it, which dp-bench never runs. Convert it to a model of a "
            "type that transformers knows."
        )
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return f"{damage or first}."


def _not_reachable(where: str, what: str, settings: BackboneSettings) -> str:
    return (
        f"The {what} of backbone={settings.name} is '{where}', which is not in the local cache, and the "
        "model hub cannot be "
        f"reached from here. On a connected machine `hf download {where}` fetches it; then copy the folder "
        "and use "
        "backbone=local backbone.name_or_path=DIR. To try the tool without a checkpoint: "
        "backbone=t5_tiny_random."
    )
