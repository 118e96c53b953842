"""The models that the benchmarks run, with random weights (time does not depend on them), and their texts.

A family says what differs between an encoder-decoder, a decoder and an encoder: dimensions, the product's
backbone, the inputs that a peer gives the same model of transformers, and the lengths of its texts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

NUM_TEXTS = 512
LABELS = [150, 4273]  # the tokens of the two labels: any will do


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
    config_class: str
    classes: tuple[str, str]  # of transformers, for the product and for a peer
    dims: tuple[str, ...]  # the names of what `sizes` has
    sizes: ClassVar[dict[str, tuple[int, ...]]]
    usual: str  # the size that targets are set for
    fixed: ClassVar[dict[str, Any]] = {}  # what all sizes have in common
    batch: int
    words: tuple[str, ...]  # the settings of dp-bench that name its task and backbone
    lengths: tuple[float, float, int, int]  # mean and deviation of their logarithm, least, most
    around: tuple[int, int]  # tokens before and behind the part of a text that a prompt may split
    answer_offset: int | None = None  # from that part's end to the token at which the answer is read
    task_type: str  # peft's

    def backbone(self, model: Any, settings: Any) -> Any:
        """Return the product's backbone."""
        raise NotImplementedError

    def inputs(self, ids: Any, mask: Any, label: Any, *, training: bool) -> dict[str, Any]:
        """Return what a peer gives the model."""
        raise NotImplementedError

    def answers(self, logits: Any, mask: Any) -> Any:
        """Return the logits of the two labels from what a peer's model returns."""
        raise NotImplementedError

    def config(self, size: str, attention: str = "sdpa", **changed: int) -> Any:
        """Return the dimensions of a size as transformers has them."""
        import transformers

        dims = dict(zip(self.dims, self.sizes[size], strict=True)) | changed
        config = getattr(transformers, self.config_class)(**self.fixed, **dims)
        config._attn_implementation = attention
        return config

    def model_class(self, *, for_peer: bool = False) -> Any:
        import transformers

        return getattr(transformers, self.classes[for_peer])

    def make(self, setup: Setup, attention: str = "sdpa", *, for_peer: bool = True) -> Any:
        """Build a model with random weights."""
        import torch

        with torch.device(setup.device):
            model = self.model_class(for_peer=for_peer)(self.config(setup.size, attention))
        return model.to(setup.dtype).eval()

    def weights(self, model: Any) -> int:
        """Return the weights that a token of the text meets in matrices."""
        from torch import nn

        reader = getattr(model.base_model, "encoder", model.base_model)
        return sum(module.weight.numel() for module in reader.modules() if isinstance(module, nn.Linear))


class T5(Family):
    """T5 1.1, as the paper's LM-adapted checkpoints; heads are 64 wide."""

    title, usual, batch, task_type = "T5", "small", 8, "SEQ_2_SEQ_LM"
    config_class, classes = "T5Config", 2 * ("T5ForConditionalGeneration",)
    dims = ("d_model", "d_ff", "num_layers", "num_heads")
    sizes: ClassVar[dict[str, tuple[int, ...]]] = {
        "tiny": (64, 128, 2, 2),
        "small": (512, 1024, 8, 6),
        "base": (768, 2048, 12, 12),
        "large": (1024, 2816, 24, 16),
        "xl": (2048, 5120, 24, 32),
        "xxl": (4096, 10240, 24, 64),
    }
    fixed: ClassVar[dict[str, Any]] = {
        "vocab_size": 32128,
        "d_kv": 64,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    }
    words = ("task=boolq",)
    lengths = (4.82, 0.46, 24, 480)  # of BoolQ's training set
    around = (0, 1)  # </s>
    decoder_ids = (0, 32099)  # <pad>, <extra_id_0>

    def backbone(self, model: Any, settings: Any) -> Any:
        import torch

        from dp_bench.backbones.encoder_decoder import EncoderDecoder
        from dp_bench.backbones.random_init import byte_tokenizer

        backbone = EncoderDecoder(model, byte_tokenizer(), answer_prefix="<extra_id_0>")
        backbone.decoder_ids_A = torch.tensor(self.decoder_ids)
        return backbone

    def inputs(self, ids: Any, mask: Any, label: Any, *, training: bool) -> dict[str, Any]:
        return {"input_ids": ids, "attention_mask": mask, "labels": _tokens(label)[:, None]}

    def answers(self, logits: Any, mask: Any) -> Any:
        return logits[:, 0, LABELS]


class Decoder(Family):
    """Llama with the dimensions of SmolLM2-135M."""

    title, usual, batch, task_type = "Llama", "smollm2", 16, "CAUSAL_LM"
    config_class, classes = "LlamaConfig", 2 * ("LlamaForCausalLM",)
    dims = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    sizes: ClassVar[dict[str, tuple[int, ...]]] = {
        "tiny": (64, 128, 2, 4, 2),
        "smollm2": (576, 1536, 30, 9, 3),
    }
    fixed: ClassVar[dict[str, Any]] = {
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "use_cache": False,
    }
    words = ("task=rte", "backbone=smollm2")
    lengths = (4.27, 0.48, 21, 307)  # of RTE's training set, as this backbone writes it
    around, answer_offset = (0, 3), 2  # a line break, "Answer", ":"

    def backbone(self, model: Any, settings: Any) -> Any:
        from dp_bench.backbones.decoder_only import DecoderOnly
        from dp_bench.backbones.random_init import byte_tokenizer

        return DecoderOnly(model, byte_tokenizer("llama"))

    def inputs(self, ids: Any, mask: Any, label: Any, *, training: bool) -> dict[str, Any]:
        """The answer follows the text, and alone has a loss."""
        if not training:
            return {"input_ids": ids, "attention_mask": mask}
        from torch.nn.functional import pad

        end, answer = mask.sum(1, keepdim=True), _tokens(label)[:, None]
        ids, mask = pad(ids, (0, 1)).scatter(1, end, answer), pad(mask, (0, 1)).scatter(1, end, 1)
        labels = ids.new_full(ids.shape, -100).scatter(1, end, answer)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def answers(self, logits: Any, mask: Any) -> Any:
        last = mask.sum(1) - 1 + logits.shape[1] - mask.shape[1]  # behind the vectors of the prompt
        return logits[range(len(mask)), last][:, LABELS]


class Encoder(Family):
    """BERT with its usual dimensions or those of MiniLM, and a classifier head."""

    title, usual, batch, task_type = "BERT", "minilm", 16, "SEQ_CLS"
    config_class, classes = "BertConfig", ("BertModel", "BertForSequenceClassification")
    dims = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes: ClassVar[dict[str, tuple[int, ...]]] = {
        "tiny": (64, 128, 2, 2),
        "minilm": (384, 1536, 6, 12),
        "base": (768, 3072, 12, 12),
        "large": (1024, 4096, 24, 16),
    }
    fixed: ClassVar[dict[str, Any]] = {"vocab_size": 30522}
    words = ("task=rte", "backbone=minilm")
    lengths = (4.19, 0.48, 18, 294)  # of RTE's training set
    around = (1, 1)  # [CLS], [SEP]

    def backbone(self, model: Any, settings: Any) -> Any:
        from dp_bench.backbones.encoder_only import EncoderOnly
        from dp_bench.backbones.random_init import byte_tokenizer

        return EncoderOnly(model, byte_tokenizer("bert"), pooling=settings.backbone.pooling)

    def inputs(self, ids: Any, mask: Any, label: Any, *, training: bool) -> dict[str, Any]:
        return {"input_ids": ids, "attention_mask": mask} | ({"labels": label} if training else {})

    def answers(self, logits: Any, mask: Any) -> Any:
        return logits


def _tokens(label: Any) -> Any:
    return label.new_tensor(LABELS)[label]


FAMILIES: dict[str, Family] = {"t5": T5(), "decoder": Decoder(), "encoder": Encoder()}


# ------------------------------------------------------------------------------------------ texts


def make_texts(setup: Setup) -> list[list[int]]:
    """Return the token ids of texts of the lengths of the family's task."""
    import numpy as np

    rng = np.random.default_rng(0)
    lengths = lengths_of_texts(setup, NUM_TEXTS)
    return [
        [*rng.integers(3, setup.kind.fixed["vocab_size"] - 128, size=int(n) - 1).tolist(), 1] for n in lengths
    ]


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
