"""The tiny T5 before its first update, its tokenizer, and the settings of a pretraining.

T5 knows the order of words only by its relative-position bias. Four encoder heads are initialised local (one
word back, one ahead, seven back, seven ahead), and the other heads attend to similar words: from random
weights, a short pretraining mostly goes into learning these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from dp_bench.micro.lexicon import SENTINELS, vocabulary

LOCAL_HEADS = 4  # of the first heads, which do not attend to similar words


@dataclass(frozen=True)
class Settings:
    """One pretraining; the defaults are the shipped backbone's."""

    seed: int = 0
    steps: int = 12000
    batch_size: int = 32
    width: int = 64
    ff_width: int = 192
    heads: int = 8
    head_width: int = 16
    encoder_layers: int = 3
    decoder_layers: int = 2
    lr: float = 2.5e-3
    bias_lr: float = 0.03
    embedding_lr: float = 0.01
    embedding_std: float = 0.3
    warmup_steps: int = 200
    decay_from: float = 0.6  # of the steps; then the learning rate decays to `final_lr`
    final_lr: float = 0.02  # of lr
    growing_steps: int = 2400  # in which the world grows from its first words to all of them
    denoising: int = 3  # batches of each CHUNK
    uninstructed_share: float = 0.15  # of the other batches
    local_start: float = 4.0
    log_every: int = 250
    held_out: int = 100  # examples of each operation that the log scores


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: one id a word, lower case, every punctuation mark a word, `</s>` at the end."""
    words = [*vocabulary(), *SENTINELS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(SENTINELS),
        model_max_length=512,
    )


def build_model(settings: Settings, vocab_size: int) -> T5ForConditionalGeneration:
    """Build the model before its first update, from the seed of the settings."""
    torch.manual_seed(settings.seed)
    config = T5Config(
        vocab_size=vocab_size,
        d_model=settings.width,
        d_kv=settings.head_width,
        d_ff=settings.ff_width,
        num_layers=settings.encoder_layers,
        num_decoder_layers=settings.decoder_layers,
        num_heads=settings.heads,
        relative_attention_max_distance=64,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    model.set_attn_implementation("eager")  # fused kernels are slower with a trained bias
    with torch.no_grad():
        model.shared.weight.mul_(settings.embedding_std)
    start_local(model, settings.local_start)
    start_similar(model)
    return model


@torch.no_grad()
def start_local(model: T5ForConditionalGeneration, strength: float) -> None:
    """Initialise four encoder heads to attend one word back, one ahead, seven back, seven ahead."""
    encoder = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    decoder = model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    for bias in (encoder, decoder):
        bias.normal_(std=0.1)
    ahead = encoder.shape[0] // 2  # the encoder's buckets: distance back, then distance ahead
    encoder[1, 0] += 2 * strength
    encoder[ahead + 1, 1] += 2 * strength
    encoder[1:8, 2] += strength - 1
    encoder[ahead + 1 : ahead + 8, 3] += strength - 1
    encoder[:ahead, 6] += strength / 2  # two of the heads for similar words attend to one side
    encoder[ahead:, 6] -= strength / 2
    encoder[:ahead, 7] -= strength / 2
    encoder[ahead:, 7] += strength / 2
    decoder[1, 0] += strength
    first = model.encoder.block[0].layer[0].SelfAttention  # writes the adjacent words into a word
    rows = 2 * first.key_value_proj_dim
    first.o.weight[:, :rows] = first.v.weight[:rows].T


@torch.no_grad()
def start_similar(model: T5ForConditionalGeneration) -> None:
    """Initialise the other heads to attend to similar words: W_q proportional to W_k."""
    attentions = [block.layer[0].SelfAttention for block in model.encoder.block]
    attentions += [block.layer[1].EncDecAttention for block in model.decoder.block]
    for attention in attentions:
        row = LOCAL_HEADS * attention.key_value_proj_dim
        attention.q.weight[row:] = attention.k.weight[row:] * attention.key_value_proj_dim**-0.5
