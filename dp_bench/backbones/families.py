"""The family of a model: which classes of transformers there are for its type."""

from __future__ import annotations

from typing import Any

from dp_bench.settings import BackboneSettings, Family, Head
from dp_bench.types import UserError


def families_of(config: Any) -> list[Family]:
    """Return the families for which transformers has a model of this type, the saved one first."""
    from transformers.models.auto import modeling_auto as auto

    kinds = {
        Family.encoder_only: auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        Family.decoder_only: auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    if config.is_encoder_decoder:
        kinds = {Family.encoder_decoder: auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}
    families = [family for family, classes in kinds.items() if config.model_type in classes]
    saved_as = getattr(config, "architectures", None) or []
    return sorted(families, key=lambda family: kinds[family][config.model_type] not in saved_as)


def family_of(config: Any, settings: BackboneSettings) -> Family:
    """Return the family of a checkpoint; raise UserError for one without a family, or of another than set."""
    families = families_of(config)
    if not families:
        raise UserError(
            f"backbone.name_or_path={settings.name_or_path} is a '{config.model_type}' model, of which "
            "transformers has no sequence-to-sequence, masked or causal language model of texts. Use a "
            "checkpoint of a type that has one, such as t5, bert or llama."
        )
    if settings.family not in (None, *families):
        raise UserError(
            f"backbone.name_or_path={settings.name_or_path} is a '{config.model_type}' model, whose family "
            f"is {' or '.join(family.value for family in families)}: use "
            f"backbone.family={families[0].value}, or null to use what the checkpoint says."
        )
    return settings.family or families[0]


def class_of(family: Family, config: Any, settings: BackboneSettings) -> Any:
    """Return the class of transformers that loads a model of a family, with the head that is used.

    Raises UserError for label words that the checkpoint of an encoder cannot score.
    """
    import transformers

    if family is Family.encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    if family is Family.decoder_only:
        return transformers.AutoModelForCausalLM
    if settings.head is Head.classifier:
        return transformers.AutoModel
    named = getattr(config, "architectures", None) or []
    if named and not any(name.endswith(("MaskedLM", "PreTraining")) for name in named):
        raise UserError(
            f"backbone={settings.name} has no language-model head ({', '.join(named)}), so that it cannot "
            "score label words: add backbone.head=classifier backbone.answer_cue=null."
        )
    return transformers.AutoModelForMaskedLM
