"""Models with random weights, and a tokenizer that reads bytes: for tests and for trying things out."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError

from dp_bench.backbones import vocabulary
from dp_bench.backbones.families import families_of
from dp_bench.settings import BackboneSettings, Family
from dp_bench.types import UserError

NUM_SENTINELS = 100


def kind_of(settings: BackboneSettings) -> str:
    """Return the model type of random weights; T5 where none is named."""
    return str((settings.random_init or {}).get("model_type", "t5"))


def _named_config(kind: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(kind)
    except ValueError as error:
        raise UserError(f"backbone.random_init.model_type={kind} is unknown to transformers.") from error


def random_config(settings: BackboneSettings, vocab_size: int) -> Any:
    """Return the config of random weights; raise UserError for settings that its type does not have."""
    from transformers import AutoConfig

    kind = kind_of(settings)
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


def random_model(auto: Any, config: Any) -> Any:
    """Return a model with random weights; raise UserError where the settings do not fit each other."""
    try:
        return auto.from_config(config)
    except (AssertionError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"backbone.random_init does not make a {config.model_type}: {reason}.") from error


def byte_tokenizer(model_type: str = "t5") -> Any:
    """Return a tokenizer that reads bytes and needs no vocabulary file, with the special tokens of a family.

    T5 has sentinels; encoders have [CLS] before and [SEP] behind a text, and [MASK].
    Raises UserError for a model type unknown to transformers.
    """
    from tokenizers import pre_tokenizers

    specials = ["<pad>", "</s>", "<unk>"]
    names = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    family = next(iter(families_of(_named_config(model_type))), Family.decoder_only)
    extra: dict[str, Any] = {}
    around = "$A"
    if family is Family.encoder_decoder:
        extra = {"additional_special_tokens": [f"<extra_id_{i}>" for i in range(NUM_SENTINELS)]}
        specials += extra["additional_special_tokens"]
        around = "$A </s>"
    elif family is Family.encoder_only:
        extra = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        specials += extra.values()
        around = "[CLS] $A [SEP]"
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", **extra}
    vocab = {token: number for number, token in enumerate(names)}
    return vocabulary.of_bytes(vocab, specials, around, **roles)
