"""Tokenizers that need no tokenizer.json: of bytes, and of the vocabulary files of older checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SAMPLE = "Ümläut — 漢字 🙂, of bytes"


def alphabet() -> list[str]:
    """Return the characters that stand for the bytes 0 to 255 in byte-level tokenizers: a byte's own where it
    can be printed, else one from beyond."""
    from tokenizers import pre_tokenizers

    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    beyond = iter([character for character in characters if ord(character) > 255])
    return [chr(byte) if chr(byte) in characters else next(beyond) for byte in range(256)]


def of_bytes(vocab: Mapping[str, int], specials: Sequence[str], around: str, **roles: Any) -> Any:
    """Make a tokenizer that reads bytes. `vocab` has the numbers of their characters and of some special
    tokens, the others get the next; `around` is a text with what is put around it, such as "$A </s>"; `roles`
    are what transformers calls some of the special tokens."""
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
    """Return the fast form of a tokenizer that is written in Python and reads bytes (ByT5); others as they
    are."""
    if tokenizer.is_fast:
        return tokenizer
    numbers = tokenizer.convert_tokens_to_ids([chr(byte) for byte in range(256)])
    if len(set(numbers)) < 256:
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
    vocab = {**specials, **dict(zip(alphabet(), numbers, strict=True))}
    made = of_bytes(vocab, list(specials), around, **roles)
    same = len(bare) == 1 and made(SAMPLE).input_ids == tokenizer(SAMPLE).input_ids
    return made if same else tokenizer


def older_kind(folder: Path) -> Any:
    """Return the class that reads the vocabulary of a folder that has the older files alone, or None."""
    import transformers

    if (folder / "tokenizer.json").is_file():
        return None
    if (folder / "vocab.txt").is_file():
        return transformers.BertTokenizer
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        has_mask = '"<mask>"' in (folder / "vocab.json").read_text(encoding="utf-8")
        return transformers.RobertaTokenizer if has_mask else transformers.GPT2Tokenizer
    return None
