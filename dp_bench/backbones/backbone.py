"""What every backbone offers: a frozen language model behind a few questions. It sees only `Prompted`, never
a prompt."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dp_bench.backbones import attention
from dp_bench.backbones.head import WordHead
from dp_bench.progress import notice
from dp_bench.types import Dims, Prompted, UserError

EMBEDDINGS = "embeddings in the place of tokens are answered as the tokens are"
OTHER = "another checkpoint, or the other backbone.family of a masked that is also a causal language model"
LOOK_AT = 5  # tokens of the text that shows how a model reads
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


class LacksError(Exception):
    """A model lacks a property that is relied on; the message says what is seen of it."""


@contextmanager
def needing(model: Any, name: str, instead: str = OTHER) -> Iterator[None]:
    """Raise UserError where a model lacks a property, or where looking for it ends in an error."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, UserError):
        raise
    except Exception as error:  # whatever the code of an architecture makes of what it is given
        reason = (str(error).strip() or "no reason is given").splitlines()[0].rstrip(".")
        if not isinstance(error, LacksError):
            reason = f"{type(error).__name__}: {reason}"
        raise UserError(
            f"This {type(model).__name__}, a '{model.config.model_type}' model, lacks a property that "
            f"dp-bench relies on: {name}. A probe by short texts saw otherwise ({reason}). Use {instead}."
        ) from error


class _LookUps(TorchFunctionMode):
    """What is looked up in tables while this is in force, whatever a model calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, int]] = []

    def __torch_function__(self, called: Any, _: Any, args: Any = (), options: Any = None) -> Any:
        if called is nn.functional.embedding:
            self.found.append((args[0], len(args[1])))
        return called(*args, **(options or {}))

    @property
    def of_positions(self) -> tuple[int, int | None]:
        """The first row of the table in which each slot has the next row, and how many there are."""
        for ids, rows in self.found:
            if ids.shape[-1] == LOOK_AT and bool((ids.diff(dim=-1) == 1).all()):
                return int(ids.min()), rows
        return 0, None


class Backbone(nn.Module):
    """A frozen language model. Subclasses say how their family embeds, encodes and answers."""

    scores_choices = False  # whether it can continue a text with a whole choice
    continues_texts = False  # whether choices stand behind the text, and take positions there

    def __init__(self, model: nn.Module, tokenizer: Any, *, dropout: bool = False) -> None:
        super().__init__()
        fuse_activations(model)
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.dropout = dropout  # docs/protocol.md B6: the authors leave the frozen model in training mode
        self.checkpointed: list[nn.Module] = []
        self.train(False)
        with torch.random.fork_rng(devices=[]), needing(model, EMBEDDINGS):
            self._look()

    @property
    def lm(self) -> Any:
        """The model of transformers, whose methods differ from one architecture to the next."""
        return self.model

    @torch.no_grad()
    def _look(self) -> None:
        """Look at a short text pass through: how wide the states are, and where the positions are kept."""
        x_BTD = self.embed(torch.arange(LOOK_AT, device=self.device)[None])
        mask_BT = torch.ones(1, LOOK_AT, dtype=torch.bool, device=self.device)
        with _LookUps() as usual:
            self.state_width: int = self._read(x_BTD, mask_BT).shape[-1]
        with _LookUps() as counted:
            self._read(x_BTD, mask_BT, position_ids=position_ids(mask_BT))
        first, rows = usual.of_positions
        # How many slots the table of positions has; None where positions are relative or rotary.
        self.num_positions: int | None = None if rows is None else rows - first
        # RoBERTa keeps the positions up to that of padding for itself.
        self.first_position = first - counted.of_positions[0]

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

        # The second name is the first one's in older releases of transformers.
        enable = getattr(self.lm, "activation_checkpointing_enable", self.lm.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
        self.checkpointed = [m for m in self.lm.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not self.checkpointed:
            raise UserError(
                f"{type(self.model).__name__} cannot compute activations anew: take "
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
        num_rows, width = self._embedding.weight.shape
        return Dims(
            width=width,
            vocab_size=min(num_rows, len(self.tokenizer)),  # T5 pads 32,100 rows to 32,128
            special_ids=tuple(sorted(set(self.tokenizer.all_special_ids))),
            summary_width=self.state_width,
        )

    @property
    def trained_positions(self) -> int | None:
        """How many slots a model without a table of positions has seen in its training, where it says so."""
        if self.num_positions is not None:
            return None
        found: int | None = getattr(self.lm.config.get_text_config(), "max_position_embeddings", None)
        return found

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
        num_rows = len(self._embedding.weight)
        if largest_id >= num_rows:
            raise UserError(
                f"The texts have the token {self.tokenizer.convert_ids_to_tokens(largest_id)!r}, number "
                f"{largest_id}, and the embedding of {type(self.model).__name__} has "
                f"{num_rows} rows: the tokenizer belongs to another checkpoint, or tokens were "
                "added to it alone. Set backbone.tokenizer to the folder of the one that fits."
            )

    def refuse_places(self, places_BS: Tensor) -> None:
        """Refuse what stands beyond the positions; texts that are short by far wait for no GPU."""
        if self.num_positions is not None and places_BS.shape[1] >= self.num_positions // 2:
            self.refuse_beyond(int(places_BS.max()) + 1)

    def use_own_attention(self) -> None:
        """Route every attention that is looked up by name through the seam for per-layer prompts."""
        usual = self.lm.config._attn_implementation
        self.lm.set_attn_implementation(attention.NAMES.get(usual, usual))

    def site_kinds(self, num_text: int) -> dict[tuple[int, int], str]:
        """Return the kinds of attentions by how many queries and keys they have for a text of some length;
        the others are of the encoder."""
        return {}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def _embedding(self) -> Any:
        return self.lm.get_input_embeddings()

    @property
    def embedding_VD(self) -> Tensor:
        """The input embeddings of all tokens, as a text has them: some models scale their rows."""
        weight: Tensor = self._embedding.weight
        some_N = torch.arange(min(LOOK_AT, len(weight)), device=weight.device)
        if torch.equal(self.embed(some_N), weight[some_N]):
            return weight
        return self.embed(torch.arange(len(weight), device=weight.device))

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Return the input embeddings of a text: [B,T,D]."""
        embedded: Tensor = self._embedding(ids_BT)
        return embedded

    def encode(self, x_BTD: Tensor, mask_BT: Tensor, first_B1: Tensor | int = 0) -> Tensor:
        """Return the states of a text with or without a prompt, whose first slot has position `first_B1`:
        [B,T,D]."""
        places_BT = position_ids(mask_BT) + first_B1
        if "position_ids" not in self._arguments:
            places_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device)[None]
        self.refuse_places(places_BT)
        return self._read(x_BTD, mask_BT, position_ids=places_BT + self.first_position)

    def _read(self, x_BTD: Tensor, mask_BT: Tensor, **more: Tensor) -> Tensor:
        given = {"inputs_embeds": x_BTD, "attention_mask": mask_BT.long(), "use_cache": False, **more}
        known = {name: value for name, value in given.items() if name in self._arguments}
        states: Tensor = self.stacks[0](**known).last_hidden_state
        return states

    @cached_property
    def _arguments(self) -> frozenset[str]:
        """What the stack that reads a text takes."""
        return frozenset(inspect.signature(self.stacks[0].forward).parameters)

    def states(self, prompted: Prompted) -> Tensor:
        """Return the state at each slot: [B,S,D]."""
        first_B1 = 0 if prompted.layers is None else prompted.layers.length_B1
        with attention.attending(prompted.layers):
            return self.encode(prompted.embeds_BSD, prompted.mask_BS, first_B1)

    def forward(self, prompted: Prompted) -> Tensor:
        """Return the state at the answer step: [B,D]."""
        assert prompted.answer_slot_B is not None
        rows = torch.arange(len(prompted.mask_BS), device=prompted.mask_BS.device)
        return self.states(prompted)[rows, prompted.answer_slot_B]

    def pooled(self, prompted: Prompted) -> Tensor:
        """Return what a classifier head reads: [B,D]. Unless the family knows better, the answer's state."""
        state_BD: Tensor = self(prompted)
        return state_BD

    @property
    def pooled_width(self) -> int:
        return self.state_width

    @cached_property
    def head(self) -> Callable[..., Tensor]:
        """The model's head over words."""
        return WordHead(self.model, self.stacks[-1])

    def word_logits(self, state_BD: Tensor, word_ids_C: Tensor) -> Tensor:
        """Return the logits of some words of the vocabulary: [B,C], without computing the others."""
        return self.head(state_BD[:, None], word_ids_C)[:, 0]

    def token_logprobs(self, prompted: Prompted, choice_ids_BCA: Tensor) -> Tensor:
        """Return the log-probability of each token of each choice, given those before it: [B,C,A]."""
        raise NotImplementedError

    def logprobs(self, states: Tensor, choice_ids_BCA: Tensor) -> Tensor:
        """Return the log-probability of each token of each choice, whose states are [B*C,A,D]: [B,C,A]."""
        logits = self.head(states).float()
        choices = choice_ids_BCA.flatten()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), choices, reduction="none")
        return -loss.view(choice_ids_BCA.shape)

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
        kept = {
            name: value
            for name, value in self.lm.config.to_dict().items()
            if not name.startswith("_") and name not in ("architectures", "dtype", "transformers_version")
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
