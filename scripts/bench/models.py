"""The models that the benchmarks run, with random weights (time does not depend on them), and their texts.

A family says what differs between an encoder-decoder, a decoder and an encoder: dimensions, the product's
backbone, the inputs that a peer gives the same model of transformers, and the lengths of its texts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

NUM_TEXTS = 512
Dims = tuple[int, ...]


@dataclass(frozen=True)
class Setup:
    """The model, where and in which precision it runs, and the files that lengths of texts are read from."""

    family: str
    size: str
    precision: str = "fp32"
    device: str = "cpu"
    dir: str | None = None
    tokenizer: str | None = None

    @property
    def kind(self) -> Family:
        return FAMILIES[self.family]

    @property
    def dtype(self) -> Any:
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]


class Family:
    """What differs between families of models."""

    title: str
    sizes: ClassVar[dict[str, Dims]]
    usual: str  # the size that targets are set for
    vocabulary: int
    batch: int
    words: tuple[str, ...]  # the settings of dp-bench that name its task and backbone
    lengths: tuple[float, float, int, int]  # mean and deviation of their logarithm, least, most
    around: tuple[int, int]  # tokens before and behind the part of a text that a prompt may split
    answer_offset: int | None = None  # from that part's end to the token at which the answer is read
    task_type: str  # peft's

    def config(self, size: str, attention: str = "sdpa", **changed: int) -> Any:
        """Return the dimensions of a size as transformers has them."""
        raise NotImplementedError

    def classes(self) -> tuple[Any, Any]:
        """Return the class of transformers that the product loads, and that which a peer loads."""
        raise NotImplementedError

    def reader(self, model: Any) -> Any:
        """Return the part of a model that reads the text."""
        raise NotImplementedError

    def backbone(self, model: Any, settings: Any) -> Any:
        """Return the product's backbone."""
        raise NotImplementedError

    def inputs(self, ids: Any, mask: Any, label: Any, *, training: bool) -> dict[str, Any]:
        """Return what a peer gives the model."""
        raise NotImplementedError

    def answers(self, logits: Any, mask: Any) -> Any:
        """Return the logits of the two labels from what a peer's model returns."""
        raise NotImplementedError

    def make(self, setup: Setup, attention: str = "sdpa", *, for_peer: bool = True) -> Any:
        """Build a model with random weights."""
        import torch

        with torch.device(setup.device):
            model = self.classes()[for_peer](self.config(setup.size, attention))
        return model.to(setup.dtype).eval()

    def weights(self, model: Any) -> int:
        """Return the weights that a token of the text meets in matrices."""
        from torch import nn

        modules = self.reader(model).modules()
        return sum(module.weight.numel() for module in modules if isinstance(module, nn.Linear))

    def label_ids(self, label: Any) -> Any:
        """Return the token of each label: any two will do."""
        return label.new_tensor([150, 4273])[label]


class T5(Family):
    """T5 1.1, as the paper's LM-adapted checkpoints: d_model, d_ff, layers, heads (each 64 wide)."""

    title, usual, vocabulary, batch = "T5", "small", 32128, 8
    sizes: ClassVar[dict[str, Dims]] = {
        "tiny": (64, 128, 2, 2),
        "small": (512, 1024, 8, 6),
        "base": (768, 2048, 12, 12),
        "large": (1024, 2816, 24, 16),
        "xl": (2048, 5120, 24, 32),
        "xxl": (4096, 10240, 24, 64),
    }
    words = ("task=boolq",)
    lengths = (4.82, 0.46, 24, 480)  # of BoolQ's training set
    around = (0, 1)  # </s>
    task_type = "SEQ_2_SEQ_LM"

    def config(self, size: str, attention: str = "sdpa", **changed: int) -> Any:
        from transformers import T5Config

        d_model, d_ff, layers, heads = self.sizes[size]
        dims = {"d_model": d_model, "d_ff": d_ff, "d_kv": 64, "num_layers": layers, "num_heads": heads}
        kind = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0}
        return _attending(T5Config(vocab_size=self.vocabulary, **kind, **(dims | changed)), attention)

    def classes(self) -> tuple[Any, Any]:
        from transformers import T5ForConditionalGeneration

        return T5ForConditionalGeneration, T5ForConditionalGeneration

    def reader(self, model: Any) -> Any:
        return model.get_encoder()

    def backbone(self, model: Any, settings: Any) -> Any:
        import torch

        from dp_bench.backbones.encoder_decoder import EncoderDecoder
        from dp_bench.backbones.random_init import byte_tokenizer

        backbone = EncoderDecoder(model, byte_tokenizer(), answer_prefix="<extra_id_0>")
        backbone.decoder_ids_A = torch.tensor([0, self.vocabulary - 29])  # <pad>, <extra_id_0>
        return backbone

    def inputs(self, ids: Any, mask: Any, label: Any, *, training: bool) -> dict[str, Any]:
        return {"input_ids": ids, "attention_mask": mask, "labels": self.label_ids(label)[:, None]}

    def answers(self, logits: Any, mask: Any) -> Any:
        return logits[:, 0, [150, 4273]]


class Decoder(Family):
    """Llama with the dimensions of SmolLM2-135M: width, width inside, layers, heads, those of keys and
    values."""

    title, usual, vocabulary, batch = "Llama", "smollm2", 49152, 16
    sizes: ClassVar[dict[str, Dims]] = {"tiny": (64, 128, 2, 4, 2), "smollm2": (576, 1536, 30, 9, 3)}
    words = ("task=rte", "backbone=smollm2")
    lengths = (4.27, 0.48, 21, 307)  # of RTE's training set, as this backbone writes it
    around, answer_offset = (0, 3), 2  # a line break, "Answer", ":"
    task_type = "CAUSAL_LM"

    def config(self, size: str, attention: str = "sdpa", **changed: int) -> Any:
        from transformers import LlamaConfig

        width, inside, layers, heads, kv_heads = self.sizes[size]
        dims = {"hidden_size": width, "intermediate_size": inside, "num_hidden_layers": layers}
        dims |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
        kind = {"tie_word_embeddings": True, "max_position_embeddings": 8192, "use_cache": False}
        return _attending(LlamaConfig(vocab_size=self.vocabulary, **kind, **(dims | changed)), attention)

    def classes(self) -> tuple[Any, Any]:
        from transformers import LlamaForCausalLM

        return LlamaForCausalLM, LlamaForCausalLM

    def reader(self, model: Any) -> Any:
        return model.get_decoder()

    def backbone(self, model: Any, settings: Any) -> Any:
        from dp_bench.backbones.decoder_only import DecoderOnly
        from dp_bench.backbones.random_init import byte_tokenizer

        return DecoderOnly(model, byte_tokenizer("llama"))

    def inputs(self, ids: Any, mask: Any, label: Any, *, training: bool) -> dict[str, Any]:
        """The answer follows the text, and alone has a loss."""
        if not training:
            return {"input_ids": ids, "attention_mask": mask}
        from torch.nn.functional import pad

        end, answer = mask.sum(1, keepdim=True), self.label_ids(label)[:, None]
        ids, mask = pad(ids, (0, 1)).scatter(1, end, answer), pad(mask, (0, 1)).scatter(1, end, 1)
        labels = ids.new_full(ids.shape, -100).scatter(1, end, answer)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def answers(self, logits: Any, mask: Any) -> Any:
        last = mask.sum(1) - 1 + logits.shape[1] - mask.shape[1]  # behind the vectors of the prompt
        return logits[range(len(mask)), last][:, [150, 4273]]


class Encoder(Family):
    """BERT with the dimensions of MiniLM or its own, and a classifier head: width, width inside, layers,
    heads."""

    title, usual, vocabulary, batch = "BERT", "minilm", 30522, 16
    sizes: ClassVar[dict[str, Dims]] = {
        "tiny": (64, 128, 2, 2),
        "minilm": (384, 1536, 6, 12),
        "base": (768, 3072, 12, 12),
        "large": (1024, 4096, 24, 16),
    }
    words = ("task=rte", "backbone=minilm")
    lengths = (4.19, 0.48, 18, 294)  # of RTE's training set
    around = (1, 1)  # [CLS], [SEP]
    task_type = "SEQ_CLS"

    def config(self, size: str, attention: str = "sdpa", **changed: int) -> Any:
        from transformers import BertConfig

        width, inside, layers, heads = self.sizes[size]
        dims = {"hidden_size": width, "intermediate_size": inside, "num_hidden_layers": layers}
        dims |= {"num_attention_heads": heads}
        return _attending(BertConfig(vocab_size=self.vocabulary, **(dims | changed)), attention)

    def classes(self) -> tuple[Any, Any]:
        from transformers import BertForSequenceClassification, BertModel

        return BertModel, BertForSequenceClassification

    def reader(self, model: Any) -> Any:
        return model.base_model.encoder

    def backbone(self, model: Any, settings: Any) -> Any:
        from dp_bench.backbones.encoder_only import EncoderOnly
        from dp_bench.backbones.random_init import byte_tokenizer

        return EncoderOnly(model, byte_tokenizer("bert"), pooling=settings.backbone.pooling)

    def inputs(self, ids: Any, mask: Any, label: Any, *, training: bool) -> dict[str, Any]:
        return {"input_ids": ids, "attention_mask": mask} | ({"labels": label} if training else {})

    def answers(self, logits: Any, mask: Any) -> Any:
        return logits


FAMILIES: dict[str, Family] = {"t5": T5(), "decoder": Decoder(), "encoder": Encoder()}


def _attending(config: Any, attention: str) -> Any:
    config._attn_implementation = attention
    return config


# ------------------------------------------------------------------------------------------ texts


def make_texts(setup: Setup) -> list[list[int]]:
    """Return the token ids of texts of the lengths of the family's task."""
    import numpy as np

    rng = np.random.default_rng(0)
    lengths = lengths_of_texts(setup, NUM_TEXTS)
    return [[*rng.integers(3, setup.kind.vocabulary - 128, size=int(n) - 1).tolist(), 1] for n in lengths]


def lengths_of_texts(setup: Setup, number: int) -> Any:
    """Return the lengths of so many texts: read from the task's training set, or a fixed log-normal sample
    like them."""
    import numpy as np

    rng = np.random.default_rng(1)
    if setup.dir:
        return rng.choice(_lengths_read(setup), size=number, replace=False)
    mean, deviation, least, most = setup.kind.lengths
    return np.clip(np.exp(rng.normal(mean, deviation, size=number)), least, most).astype(int)


def _lengths_read(setup: Setup) -> Any:
    """Return the lengths of a training set's first 2,000 texts, as dp-bench writes and shortens them."""
    from dp_bench import config
    from dp_bench.backbones.gguf import dequantised
    from dp_bench.backbones.load import load_tokenizer
    from dp_bench.data.encode import Encoder as TextEncoder
    from dp_bench.data.readers import ExampleFile
    from dp_bench.data.source import locate
    from dp_bench.data.template import Template

    experiment = config.build(config.compose([*setup.kind.words, f"data.dir={setup.dir}"]))
    (task,), settings = experiment.tasks, experiment.settings
    backbone = replace(settings.backbone, tokenizer=setup.tokenizer)
    tokenizer = load_tokenizer(
        backbone if setup.tokenizer else dequantised(settings.backbone, settings.cache)
    )
    encoder = TextEncoder(Template.of(task), tokenizer, task.max_length, task.scoring, settings.cue_of(task))
    examples = ExampleFile(task, locate(task, settings.data).train)
    return encoder.in_memory(islice(examples, 2000)).lengths
