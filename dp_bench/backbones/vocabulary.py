"""Tokenizers without a tokenizer.json: of bytes, and of the vocabulary files of older checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SAMPLE = "Ümläut — 漢字 🙂, of bytes"


def of_bytes(vocab: Mapping[str, int], specials: Sequence[str], around: str, **roles: Any) -> Any:
    """Return a tokenizer that reads bytes. `vocab` has the ids of their characters and of some special
    tokens; the other `specials` get the next ids. `around` is the template of a text, such as "$A </s>";
    `roles` are keyword arguments of transformers such as `pad_token`."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE(vocab=dict(vocab), merges=[], unk_token=roles["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    ends = [(token, tokenizer.token_to_id(token)) for token in around.split() if token != "$A"]
    if ends:
        tokenizer.post_processor = TemplateProcessing(single=around, special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def fast(tokenizer: Any) -> Any:
    """Return the fast form of a Python tokenizer that reads bytes (ByT5); others unchanged."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    if tokenizer.is_fast:
        return tokenizer
    byte_ids = tokenizer.convert_tokens_to_ids([chr(byte) for byte in range(256)])
    if len(set(byte_ids)) < 256:
        return tokenizer
    specials = {str(token): number for number, token in sorted(tokenizer.added_tokens_decoder.items())}
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer.convert_ids_to_tokens(tokenizer("a").input_ids)
    around = " ".join("$A" if token == "a" else token for token in whole)
    roles: dict[str, Any] = {
        name: str(getattr(tokenizer, name))
        for name in ("pad_token", "eos_token", "unk_token", "bos_token", "mask_token")
        if getattr(tokenizer, name) is not None
    }
    roles["additional_special_tokens"] = [token for token in specials if token not in roles.values()]
    vocab = {**specials, **{character: byte_ids[byte] for byte, character in bytes_to_unicode().items()}}
    quick = of_bytes(vocab, list(specials), around, **roles)
    same = len(bare) == 1 and quick(SAMPLE).input_ids == tokenizer(SAMPLE).input_ids
    return quick if same else tokenizer


def older_class(folder: Path) -> Any:
    """Return the tokenizer class for the older vocabulary files of a folder; None where there are none, or a
    tokenizer.json."""
    import transformers

    if (folder / "tokenizer.json").is_file():
        return None
    if (folder / "vocab.txt").is_file():
        return transformers.BertTokenizer
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        has_mask = '"<mask>"' in (folder / "vocab.json").read_text(encoding="utf-8")
        return transformers.RobertaTokenizer if has_mask else transformers.GPT2Tokenizer
    return None
