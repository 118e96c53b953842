"""The interface of a frozen language model. It receives `Prompted` batches and knows nothing of prompts."""

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

from dp_bench import faults, ranks
from dp_bench.backbones import attention
from dp_bench.backbones.head import WordHead
from dp_bench.progress import notice
from dp_bench.types import DeepPrompt, Dims, InLayers, LatePrompt, LayerPrompt, Prompted, UserError

EMBEDDINGS = "input embeddings give the same answer as their tokens"
OTHER = "another checkpoint, or the other backbone.family of a masked that is also a causal language model"
PROBE_TOKENS = 5  # length of the text by which states and positions are examined
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def position_ids(mask_BS: Tensor) -> Tensor:
    """Number the real slots of each row from 0; padding and dropped vectors are not counted: [B,S], int64."""
    return (mask_BS.long().cumsum(1) - 1).clamp(min=0)


def at_least_fp32(x: Tensor) -> Tensor:
    """Convert half precision to fp32; return anything finer unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def fuse_activations(model: nn.Module) -> None:
    """Compute the tanh form of GELU, as in T5 and GPT-2, by one kernel instead of eight."""
    from transformers.activations import NewGELUActivation

    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def _whole(weight: Any) -> Tensor:
    """Return all of a weight that `Backbone.shard` may have divided; every rank asks for it."""
    whole: Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return whole.detach()


def _here(weight: Any) -> Tensor:
    """Return what this process has of a weight that `Backbone.shard` may have divided."""
    part: Tensor = weight.to_local() if hasattr(weight, "to_local") else weight
    return part.detach()


class LacksError(Exception):
    """A model lacks a required property; the message says what was observed."""


@contextmanager
def requiring(model: Any, name: str, instead: str = OTHER) -> Iterator[None]:
    """Raise UserError where a model lacks a property, or testing for it raises an error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the code of an architecture may raise anything
        if faults.is_out_of_memory(error):
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".")
        if not isinstance(error, LacksError):
            reason = f"{type(error).__name__}: {reason}"
        raise UserError(
            f"This {type(model).__name__}, a '{model.config.model_type}' model, lacks a property that "
            f"dp-bench relies on: {name}. A probe by short texts failed ({reason}). Use {instead}."
        ) from error


class _Lookups(TorchFunctionMode):
    """Record all embedding lookups while active."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups: list[tuple[Tensor, int]] = []

    def __torch_function__(self, function: Any, _: Any, args: Any = (), options: Any = None) -> Any:
        if function is nn.functional.embedding:
            self.lookups.append((args[0], len(args[1])))
        return function(*args, **(options or {}))

    @property
    def of_positions(self) -> tuple[int, int | None]:
        """Return the first row read of the position table, whose rows are consecutive, and its number of
        rows."""
        for ids, rows in self.lookups:
            if ids.shape[-1] == PROBE_TOKENS and bool((ids.diff(dim=-1) == 1).all()):
                return int(ids.min()), rows
        return 0, None


class Backbone(nn.Module):
    """A frozen language model with its tokenizer; a subclass per family.

    Raises UserError where input embeddings cannot stand for tokens.
    """

    scores_choices = False  # whether it can score a whole choice as continuation of a text
    answers_in_text = True  # whether the answer is read at a token of the text, so that it needs a cue
    answers_at_mask = False  # whether that is the mask token
    continues_texts = False  # whether choices follow the text in the same sequence

    def __init__(self, model: nn.Module, tokenizer: Any, *, dropout: bool = False) -> None:
        super().__init__()
        fuse_activations(model)
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.dropout = dropout  # docs/protocol.md B6: the authors leave the frozen model in training mode
        self.checkpointed: list[nn.Module] = []
        self._before: list[tuple[nn.Parameter, Tensor]] = []  # weights trained beside a prompt
        self._counts_layers = False
        self.is_sharded = False
        self.train(False)
        with torch.random.fork_rng(devices=[]), requiring(model, EMBEDDINGS):
            self._examine()

    @property
    def lm(self) -> Any:
        """Return the model untyped: its methods differ between architectures."""
        return self.model

    @torch.no_grad()
    def _examine(self) -> None:
        """Run a short text to see how wide states are and how the model numbers positions."""
        x_BTD = self.embed(torch.arange(PROBE_TOKENS, device=self.device)[None])
        mask_BT = torch.ones(1, PROBE_TOKENS, dtype=torch.bool, device=self.device)
        with _Lookups() as default:
            self.state_width: int = self._read(x_BTD, mask_BT).shape[-1]
        with _Lookups() as counted:
            self._read(x_BTD, mask_BT, position_ids=position_ids(mask_BT))
        first, rows = default.of_positions
        # How many slots the table of positions has; None where positions are relative or rotary.
        self.num_positions: int | None = None if rows is None else rows - first
        # RoBERTa reserves the positions up to the id of padding.
        self.first_position = first - counted.of_positions[0]

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode unless `dropout`: the model is frozen, and dropout would only add noise."""
        super().train(mode and self.dropout)
        for layer in self.checkpointed:
            layer.training = mode  # this switches checkpointing on; dropout is in the modules below
        return self

    def checkpoint_activations(self) -> None:
        """Keep only the input of each layer and recompute the rest in the backward pass: a third more time, a
        fraction of the memory. Exact. Raises UserError for a model without support."""
        # The second name is the first one's in older releases of transformers.
        enable = getattr(self.lm, "activation_checkpointing_enable", self.lm.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
        self.checkpointed = self._layers("trainer.gradient_checkpointing", "recompute activations")

    def shard(self, device: torch.device) -> None:
        """Divide the weights of each layer evenly over all ranks, which gather them while the layer computes;
        the rest moves to `device`. The weights have to be frozen, and on the CPU or on `device`.

        From here on all ranks have to make the same passes at the same time. Raises UserError for a model
        whose layers are not known.
        """
        from torch.distributed import device_mesh, fsdp

        mesh = device_mesh.init_device_mesh(device.type, (ranks.size(),))
        for layer in self._layers("backbone.shard", "divide its layers among processes"):
            fsdp.fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        self.to(device)
        self.is_sharded = True
        self._examine()  # outside inference mode, so that training can use the buffers that this makes

    def _layers(self, key: str, what: str) -> list[nn.Module]:
        """Return the layers of all stacks. Raises UserError where transformers does not mark them."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        layers = [m for m in self.lm.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise UserError(f"{type(self.model).__name__} cannot {what}: remove {key}.")
        return layers

    @property
    def stacks(self) -> list[nn.Module]:
        """Return the encoder or decoder, or both, in the order of a forward pass."""
        raise NotImplementedError

    def remember(self) -> None:
        """Keep the present values of the weights that will be trained, for `as_loaded`."""
        self._before = [(p, p.detach().clone()) for p in self.model.parameters() if p.requires_grad]

    @contextmanager
    def as_loaded(self) -> Iterator[None]:
        """Compute with the values that `remember` kept, so that a summary does not depend on training."""
        after = [parameter.data for parameter, _ in self._before]
        for parameter, before in self._before:
            parameter.data = before.to(parameter.device)
        try:
            yield
        finally:
            for (parameter, _), value in zip(self._before, after, strict=True):
                parameter.data = value

    def thaw(self) -> None:
        """Make all weights trainable, with the model's own dropout while training: fine-tuning."""
        self.model.requires_grad_(True)
        self.dropout = True

    @property
    def dims(self) -> Dims:
        """Return the sizes that a prompt is built for; ALBERT's embedding is narrower than its states."""
        num_rows, width = self._embedding.weight.shape
        return Dims(
            width=width,
            vocab_size=min(num_rows, len(self.tokenizer)),  # T5 pads 32,100 rows to 32,128
            special_ids=tuple(sorted(set(self.tokenizer.all_special_ids))),
            summary_width=self.state_width,
        )

    @property
    def trained_positions(self) -> int | None:
        """Return the longest length in pre-training of a model without a position table, where known."""
        if self.num_positions is not None:
            return None
        longest: int | None = getattr(self.lm.config.get_text_config(), "max_position_embeddings", None)
        return longest

    def refuse_beyond(
        self,
        num_slots: int,
        what: str = "Text and prompt",
        remedy: str = "lower task.max_length or prompt.num_tokens",
    ) -> None:
        """Raise UserError where text and prompt need more slots than there are positions; warn where they
        need more than in pre-training."""
        if self.num_positions is not None and num_slots > self.num_positions:
            raise UserError(
                f"{what} take {num_slots} positions, and {type(self.model).__name__} has "
                f"{self.num_positions}: {remedy}."
            )
        if self.trained_positions is not None and num_slots > self.trained_positions:
            notice(
                f"{what[0].lower()}{what[1:]} take up to {num_slots} positions, and "
                f"{type(self.model).__name__} was trained with {self.trained_positions}: it has not learned "
                f"from longer texts: {remedy}"
            )

    def refuse_unknown(self, largest_id: int) -> None:
        """Raise UserError where a token id has no row in the embedding."""
        num_rows = len(self._embedding.weight)
        if largest_id >= num_rows:
            raise UserError(
                f"The texts have the token {self.tokenizer.convert_ids_to_tokens(largest_id)!r}, number "
                f"{largest_id}, and the embedding of {type(self.model).__name__} has {num_rows} rows: the "
                "tokenizer belongs to another checkpoint, or tokens were added to the tokenizer alone. Set "
                "backbone.tokenizer to the folder of the matching tokenizer."
            )

    def _refuse_positions(self, positions_BS: Tensor) -> None:
        """Raise UserError for positions out of range, without a GPU synchronisation for short texts."""
        if self.num_positions is not None and positions_BS.shape[1] >= self.num_positions // 2:
            self.refuse_beyond(int(positions_BS.max()) + 1)

    def use_prompt_attention(self) -> None:
        """Use the attention functions for per-layer prompts wherever attentions are looked up by name."""
        name = self.lm.config._attn_implementation
        self.lm.set_attn_implementation(attention.NAMES.get(name, name))

    def site_kinds(self, num_text: int) -> dict[tuple[int, int], str]:
        """Return the kinds of attentions by their numbers of queries and keys for a text of `num_text`
        tokens; others are "encoder"."""
        return {}

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def _embedding(self) -> Any:
        return self.lm.get_input_embeddings()

    @property
    def embedding_rms(self) -> float:
        """Return the root mean square of the input embeddings, the unit of trainer.lr_unit=embedding."""
        return float(self.embedding_VD.detach().float().square().mean().sqrt())

    @property
    def embedding_VD(self) -> Tensor:
        """Return the input embeddings of all tokens, scaled where the model scales them, in `dtype`."""
        weight: Tensor = self._embedding.weight
        ids_T = torch.arange(min(PROBE_TOKENS, len(weight)), device=weight.device)
        if torch.equal(self.embed(ids_T), weight[ids_T]):
            return weight
        return self.embed(torch.arange(len(weight), device=weight.device))

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Return the input embeddings of int64 token ids: [B,T,D], in `dtype`."""
        embedded: Tensor = self._embedding(ids_BT)
        return embedded

    def encode(
        self,
        x_BTD: Tensor,
        mask_BT: Tensor,
        layers: InLayers | None = None,
        read_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the states of a text with or without a prompt: [B,T,D], in `dtype`; with a late prompt
        [B,P+T,D], its vectors first.

        `x_BTD` is in `dtype`, `mask_BT` bool, with one row or several for each example of `layers`. A late
        prompt is made from the slots that `read_BT` marks, with one row for each example; None: `mask_BT`.
        Raises UserError where the text needs more slots than there are positions.
        """
        late = layers if isinstance(layers, LatePrompt) else None
        positions_BT = position_ids(mask_BT)
        if late is not None:
            x_BTD = nn.functional.pad(x_BTD, (0, 0, late.num_tokens, 0))
            mask_BT = self.wide_mask(mask_BT, late)
            # Positions of a table are added below the layer at which the vectors enter; relative ones are
            # read by every layer, and there the vectors have some.
            is_table = self.num_positions is not None
            added = (late.num_tokens, 0)
            positions_BT = nn.functional.pad(positions_BT, added) if is_table else position_ids(mask_BT)
        elif isinstance(layers, LayerPrompt):
            positions_BT = positions_BT + layers.first_position(len(mask_BT))
        if "position_ids" not in self._arguments:
            positions_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device)[None]
        self._refuse_positions(positions_BT)
        more = {"position_ids": positions_BT + self.first_position}
        if not isinstance(layers, LatePrompt | DeepPrompt):
            return self._read(x_BTD, mask_BT, **more)
        if late is not None and read_BT is None:
            read_BT = mask_BT[:, late.num_tokens :]
        with attention.entering(layers, read_BT):
            return self._read(x_BTD, mask_BT, **more)

    def wide_mask(self, mask_BT: Tensor, layers: InLayers | None) -> Tensor:
        """Return the mask of what `encode` returns: that of a text, behind the vectors of a late prompt."""
        if not isinstance(layers, LatePrompt):
            return mask_BT
        made = mask_BT.new_ones(len(mask_BT), layers.num_tokens)
        if layers.keep_BP is not None:
            made = layers.keep_BP.detach().repeat_interleave(len(mask_BT) // len(layers.keep_BP), 0) > 0.5
        return torch.cat([made, mask_BT], dim=1)

    def use_late_prompts(self) -> None:
        """Use the attention functions for prompts in layers, and let late and deep prompts enter between
        them."""
        self.use_prompt_attention()
        if not self._counts_layers:
            attention.count_layers(self.stacks[0])
            self._counts_layers = True

    def _read(self, x_BTD: Tensor, mask_BT: Tensor, **more: Tensor) -> Tensor:
        options = {"inputs_embeds": x_BTD, "attention_mask": mask_BT.long(), "use_cache": False, **more}
        options = {name: value for name, value in options.items() if name in self._arguments}
        states: Tensor = self.stacks[0](**options).last_hidden_state
        return states

    @cached_property
    def _arguments(self) -> frozenset[str]:
        """Return the names of the arguments of the first stack."""
        return frozenset(inspect.signature(self.stacks[0].forward).parameters)

    def states(self, prompted: Prompted) -> Tensor:
        """Return the state at each slot: [B,S,D], in `dtype`. Raises UserError as `encode` does."""
        with attention.attending(prompted.layers):
            states = self.encode(prompted.embeds_BSD, prompted.mask_BS, prompted.layers)
        return states[:, -prompted.mask_BS.shape[1] :]

    def forward(self, prompted: Prompted) -> Tensor:
        """Return the state at the answer step: [B,D], in `dtype`.

        Families without a decoder need `answer_slot_B`. Raises UserError as `encode` does.
        """
        assert prompted.answer_slot_B is not None
        rows = torch.arange(len(prompted.mask_BS), device=prompted.mask_BS.device)
        return self.states(prompted)[rows, prompted.answer_slot_B]

    def reads(self, prompted: Prompted, *, pooled: bool = False) -> Tensor:
        """Return the share of each slot, or decoder step, in the state that the answer or the head (`pooled`)
        is computed from: [B,S], fp64."""
        assert prompted.answer_slot_B is not None
        return nn.functional.one_hot(prompted.answer_slot_B, prompted.mask_BS.shape[1]).double()

    def pooled(self, prompted: Prompted) -> Tensor:
        """Return the input of a classifier head: [B,D], in `dtype`. By default the state at the answer
        step."""
        state_BD: Tensor = self(prompted)
        return state_BD

    @cached_property
    def head(self) -> Callable[..., Tensor]:
        """Return the language-model head."""
        return WordHead(self.model, self.stacks[-1])

    def word_logits(self, state_BD: Tensor, word_ids_C: Tensor) -> Tensor:
        """Return the logits of some tokens, without computing the others: [B,C], in the dtype of the head.

        `state_BD` is what `forward` returns; `word_ids_C` are int64.
        """
        return self.head(state_BD[:, None], word_ids_C)[:, 0]

    def token_logprobs(self, prompted: Prompted, choice_ids_BCA: Tensor) -> Tensor:
        """Return the log-probability of each token of each choice, given those before it: [B,C,A], fp32.

        `choice_ids_BCA` are int64, with padding. Raises UserError as `encode` does, and NotImplementedError
        unless `scores_choices`.
        """
        raise NotImplementedError

    def logprobs(self, states: Tensor, choice_ids_BCA: Tensor) -> Tensor:
        """Return the log-probability of each token of each choice from states [B*C,A,D]: [B,C,A], fp32."""
        logits = self.head(states).float()
        choices = choice_ids_BCA.flatten()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), choices, reduction="none")
        return -loss.view(choice_ids_BCA.shape)

    def fingerprint(self) -> str:
        """Return a cheap digest of names, shapes and up to 8,191 values of every tensor.

        It is a key of what is cached per checkpoint.
        """
        digest = hashlib.sha256()
        for name, weight in self.model.state_dict().items():
            flat = _whole(weight).reshape(-1)
            # Rounded to bf16, so that a checkpoint has one fingerprint in every precision.
            sample = flat[:: max(1, flat.numel() // 4096)].to(torch.bfloat16).view(torch.int16).cpu()
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            digest.update(sample.numpy().tobytes())
        return digest.hexdigest()

    def num_here(self) -> int:
        """Return how many weights this process has; `shard` divides those of layers among the ranks."""
        return sum(_here(weight).numel() for weight in self.parameters())

    def frozen(self) -> dict[str, int]:
        """Return a checksum of all bits that this process has of each tensor that is not trained, computed on
        their device."""
        return {
            name: int(_here(weight).view(BITS[weight.element_size()]).sum(dtype=torch.int64))
            for name, weight in self.model.named_parameters()
            if not weight.requires_grad
        }

    def configuration(self) -> str:
        """Return a digest of the settings that decide what the model computes, without those of its origin
        and precision."""
        kept = {
            name: value
            for name, value in self.lm.config.to_dict().items()
            if not name.startswith("_") and name not in ("architectures", "dtype", "transformers_version")
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
