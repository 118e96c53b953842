"""What every backbone offers: a frozen language model behind a few questions. It sees only `Prompted`, never
a prompt."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from dp_bench.backbones import attention
from dp_bench.progress import notice
from dp_bench.types import Dims, Prompted, Site, UserError

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def position_ids(mask_BS: Tensor) -> Tensor:
    """Number the real slots of each row from 0; padding and dropped vectors take no position: [B,S]."""
    return (mask_BS.long().cumsum(1) - 1).clamp(min=0)


def at_least_fp32(x: Tensor) -> Tensor:
    """Return half precision as fp32, and anything finer as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def fuse_activations(model: nn.Module) -> None:
    """Compute the tanh form of GELU, T5's and GPT-2's, by one kernel in the place of eight."""
    from transformers.activations import NewGELUActivation

    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


class Backbone(nn.Module):
    """A frozen language model. Subclasses say how their family embeds, encodes and answers."""

    scores_choices = True  # whether it can continue a text with a whole choice
    continues_texts = False  # whether choices stand behind the text, and take positions there

    def __init__(self, model: nn.Module, tokenizer: Any, *, dropout: bool = False) -> None:
        super().__init__()
        fuse_activations(model)
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.dropout = dropout  # docs/protocol.md B6: the authors leave the frozen model in training mode
        self.checkpointed: list[nn.Module] = []
        self.train(False)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode: the model is frozen, and dropout would only add noise."""
        super().train(mode and self.dropout)
        for layer in self.checkpointed:
            layer.training = mode  # what switches checkpointing on; dropout sits in the modules below it
        return self

    def checkpoint_activations(self) -> None:
        """Keep only each layer's input for the backward pass and compute the rest anew: about a third more
        time, a fraction of the memory. Exact."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        model: Any = self.model
        # The second name is the first one's in older releases of transformers.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
        self.checkpointed = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not self.checkpointed:
            raise UserError(
                f"{type(model).__name__} cannot compute activations anew: take "
                "trainer.gradient_checkpointing away."
            )

    def compile_stacks(self) -> None:
        """Compile encoder and decoder for texts of any length."""
        for stack in self.stacks:
            stack.compile(dynamic=True)

    @property
    def stacks(self) -> list[nn.Module]:
        """The modules that a forward pass calls."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Make all weights trainable, with the model's own dropout while training: fine-tuning."""
        self.model.requires_grad_(True)
        self.dropout = True

    @property
    def dims(self) -> Dims:
        """What a prompt may know; ALBERT's embedding is narrower than its states."""
        config: Any = self.model.config
        return Dims(
            width=self.embedding_VD.shape[1],
            vocab_size=min(len(self.embedding_VD), len(self.tokenizer)),  # T5 pads 32,100 rows to 32,128
            special_ids=tuple(sorted(set(self.tokenizer.all_special_ids))),
            summary_width=getattr(config, "word_embed_proj_dim", config.hidden_size),  # OPT's states
        )

    @property
    def num_positions(self) -> int | None:
        """How many slots the table of positions has, or None where positions are relative or rotary."""
        return None

    @property
    def trained_positions(self) -> int | None:
        """How many slots a model with rotary positions has seen in its training, where it says so."""
        return None

    def refuse_beyond(self, num_slots: int, what: str = "Text and prompt") -> None:
        """Raise UserError where a text with its prompt takes more slots than there are positions; give notice
        where it takes more than the model was trained with."""
        if self.num_positions is not None and num_slots > self.num_positions:
            raise UserError(
                f"{what} take {num_slots} positions, and {type(self.model).__name__} has "
                f"{self.num_positions}: lower task.max_length or prompt.num_tokens."
            )
        if self.trained_positions is not None and num_slots > self.trained_positions:
            notice(
                f"{what[0].lower()}{what[1:]} take up to {num_slots} positions, and "
                f"{type(self.model).__name__} was trained with {self.trained_positions}: what it says of "
                "longer texts it has not learned. Lower task.max_length or prompt.num_tokens"
            )

    def refuse_unknown(self, largest_id: int) -> None:
        """Raise UserError where texts have tokens beyond the embedding."""
        if largest_id >= len(self.embedding_VD):
            raise UserError(
                f"The texts have the token {self.tokenizer.convert_ids_to_tokens(largest_id)!r}, number "
                f"{largest_id}, and the embedding of {type(self.model).__name__} has "
                f"{len(self.embedding_VD)} rows: the tokenizer belongs to another checkpoint, or tokens were "
                "added to it alone. Set backbone.tokenizer to the folder of the one that fits."
            )

    def refuse_places(self, places_BS: Tensor) -> None:
        """Refuse what stands beyond the positions; texts that are short by far wait for no GPU."""
        if self.num_positions is not None and places_BS.shape[1] >= self.num_positions // 2:
            self.refuse_beyond(int(places_BS.max()) + 1)

    def use_own_attention(self) -> None:
        """Route every attention through the seam for per-layer prompts."""
        model: Any = self.model
        usual = model.config._attn_implementation
        model.set_attn_implementation(attention.NAMES.get(usual, usual))

    def find_sites(self) -> tuple[Site, ...]:
        """Route every attention through the seam for per-layer prompts and return where they may enter."""
        self.use_own_attention()
        x_BTD = self.embed(torch.zeros(1, 2, dtype=torch.long, device=self.device))
        ones = torch.ones(1, 2, dtype=torch.bool, device=self.device)
        slots = torch.arange(2, device=self.device)[None]
        with torch.no_grad(), attention.finding_sites() as sites:
            self(Prompted(x_BTD, ones, slots, answer_slot_B=slots[:, 1]))
        if not sites:
            raise UserError(
                f"{type(self.model).__name__} does not look its attention up by name, so that no keys and "
                "values can be added to it: use a prompt without layers, such as prompt=fixed."
            )
        return tuple(sites)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def embedding_VD(self) -> Tensor:
        model: Any = self.model
        weight: Tensor = model.get_input_embeddings().weight
        return weight

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Return the input embeddings of a text: [B,T,D]."""
        return nn.functional.embedding(ids_BT, self.embedding_VD)

    def encode(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the states of a text without a prompt, as an instance-level selector sees it: [B,T,D]."""
        raise NotImplementedError

    def forward(self, prompted: Prompted) -> Tensor:
        """Return the state at the answer step: [B,D]."""
        raise NotImplementedError

    def pooled(self, prompted: Prompted) -> Tensor:
        """Return what a classifier head reads: [B,D]. Unless the family knows better, the answer's state."""
        state_BD: Tensor = self(prompted)
        return state_BD

    @property
    def pooled_width(self) -> int:
        return self.dims.summary_width

    def word_logits(self, state_BD: Tensor, word_ids_C: Tensor) -> Tensor:
        """Return the logits of some words of the vocabulary: [B,C], without computing the others."""
        raise NotImplementedError

    def token_logprobs(self, prompted: Prompted, choice_ids_BCA: Tensor) -> Tensor:
        """Return the log-probability of each token of each choice, given those before it: [B,C,A]."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Return a digest of names, shapes and a sample of every weight: cheap, and another for another
        checkpoint.

        It keys what is cached per checkpoint. Up to 8,191 values are read of each tensor.
        """
        digest = hashlib.sha256()
        for name, weight in self.model.state_dict().items():
            flat = weight.detach().reshape(-1)
            # Rounded to bf16, so that a checkpoint has one fingerprint whatever the precision it is held in.
            sample = flat[:: max(1, flat.numel() // 4096)].to(torch.bfloat16).view(torch.int16).cpu()
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            digest.update(sample.numpy().tobytes())
        return digest.hexdigest()

    def frozen(self) -> dict[str, int]:
        """Return a checksum of all bits of each tensor that is not trained: one pass over the weights where
        they lie."""
        return {
            name: int(weight.detach().view(BITS[weight.element_size()]).sum(dtype=torch.int64))
            for name, weight in self.model.named_parameters()
            if not weight.requires_grad
        }

    def configuration(self) -> str:
        """Return a digest of what beside the weights decides what the model computes of a text: the settings
        of its config.json, less those that say where it comes from and how it is held."""
        config: Any = self.model.config
        kept = {
            name: value
            for name, value in config.to_dict().items()
            if not name.startswith("_") and name not in ("architectures", "dtype", "transformers_version")
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
