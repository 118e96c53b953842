"""Data that the modules of dp-bench pass to each other; this module imports none of them.

Letters of shapes, used as suffixes of every tensor that crosses a function boundary:

    B examples of a batch            T text tokens, with padding      P vectors of a prompt
    M rows: of a split, of a window  S = P + T slots of a sequence    V tokens of the vocabulary
    N tasks of a run                 A tokens of a choice             C labels, or choices of an example
    D width: of embeddings, states, or summaries, whichever is meant  K members of a pool
    J outcomes of a selector: P + 1 positions or lengths, K routes    L members chosen of a pool
    H heads of keys and values       E width of a head                X, Y any number, as documented

Two exceptions: buffers of `Ridge`, whose names are in saved files, have N for M; formulas of trained numbers
have the letters of prompts/catalogue.py. Unless a docstring says otherwise, ids and other indices are int64,
masks bool with True for a real token, and vectors, noise and logits of prompts fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class UserError(Exception):
    """The user's input is wrong: printed as one paragraph without a traceback, exit code 2.

    The message says what is wrong, where, and what to type instead.
    """


class UnreachableError(UserError):
    """A data set or checkpoint is not on this machine, and the hub cannot be reached."""


class RunFailedError(Exception):
    """A run computed something unusable: printed as one paragraph, recorded as failed, exit code 1."""


@dataclass(frozen=True)
class Example:
    """One question to the model, read from a raw SuperGLUE record.

    `label` indexes `choices` and is None where the release hides it (test splits). Where several choices are
    right (ReCoRD), `golds` has all of them and `label` the first. Examples with the same `group` are scored
    together (the answers to one MultiRC question). `source` names the source texts of an example, separated
    by spaces; examples that share one, directly or indirectly, stay on one side of a train/held-out split.
    """

    id: str  # "rte/val/3"; MultiRC "multirc/val/5/2/1": passage, question, answer
    fields: Mapping[str, str]
    choices: tuple[str, ...]
    label: int | None
    group: str
    source: str
    golds: tuple[int, ...] = ()  # empty: the label alone
    written: tuple[str, ...] = ()  # the choices as they follow the text, where these are not `choices`
    skill: int | None = None  # the sub-skill that this example needs, in a mixture of them
    line: int = field(default=0, compare=False)  # in its file
    is_unmatched: bool = False  # it has answers, and none of them is a choice
    cuts_words: bool = field(default=False, compare=False)  # a choice begins or ends inside a word


@dataclass(frozen=True)
class Batch:
    """Encoded examples, padded on the right to the longest of them.

    The *body* of a text is what a prompt may be split around: ids[body_start:body_end]. For T5 that is
    everything before `</s>`. `row_B` is the row of each example in its encoded split and indexes what is
    cached per example. `choice_ids_BCA` are the tokens of each example's choices, where choices are scored
    whole: padded on the right, and all padding for choices that an example does not have. `noise` maps the
    name of a selector to its random numbers [B,X], with X as in `Selector.noise_columns`: noise is data, so a
    forward pass is a function of its arguments and resuming needs no generator state.

    All examples of a batch belong to one task, number `task` of the run. `answer_B` is the index of the token
    at which families without a decoder read the answer: the mask token, or the last one before the answer.
    """

    ids_BT: Tensor
    mask_BT: Tensor  # bool, True on real tokens
    body_start_B: Tensor
    body_end_B: Tensor
    label_B: Tensor  # -1 where hidden
    row_B: Tensor
    task_B: Tensor
    choice_ids_BCA: Tensor | None = None
    choice_mask_BCA: Tensor | None = None  # bool, True on real tokens; all False for an absent choice
    gold_BC: Tensor | None = None  # bool, where several choices may be right; None: label_B alone
    summary_BD: Tensor | None = None  # the cached frozen summary, where the prompt needs one
    answer_B: Tensor | None = None
    skill_B: Tensor | None = None  # the sub-skill that each example needs, by the data
    task: int = 0
    noise: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.ids_BT.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """Return this batch with all tensors on `device`."""

        def moved(values: Mapping[str, Any]) -> dict[str, Any]:
            tensors = {name: value for name, value in values.items() if hasattr(value, "to")}
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return replace(self, **moved(vars(self)), noise=moved(self.noise))


@dataclass(frozen=True)
class Site:
    """One attention of the backbone, to which a prompt may add keys and values."""

    kind: str  # "encoder", "decoder" (self-attention of either) or "cross"
    num_heads: int  # H: fewer than those of queries where queries are grouped
    head_width: int  # E


@dataclass(frozen=True)
class Dims:
    """The sizes of a backbone and a run that a prompt is built for."""

    width: int  # D
    vocab_size: int  # V: rows of the input embedding that stand for real tokens
    num_tasks: int = 1  # N
    special_ids: tuple[int, ...] = ()
    sites: tuple[Site, ...] = ()  # in the order of a forward pass
    summary_width: int = 0  # D of summaries; 0: as `width`
    layer_widths: tuple[int, ...] = ()  # D of the states that enter each layer of the first stack

    def __post_init__(self) -> None:
        if not self.summary_width:
            object.__setattr__(self, "summary_width", self.width)


@dataclass(frozen=True)
class LayerPrompt:
    """Keys and values [B,H,P,E] that a prompt adds to attentions: one entry for each of `Dims.sites`, None
    for a site without any."""

    keys: tuple[Tensor | None, ...]
    values: tuple[Tensor | None, ...]
    keep_BP: Tensor | None = None  # as in PromptOutput; vectors with 0 are masked

    def first_position(self, num_rows: int) -> Tensor | int:
        """Return the position of the first token of the text: the number of vectors, as with
        `past_key_values`. Each example has one or several of `num_rows` rows."""
        if self.keep_BP is not None:
            length_B1 = self.keep_BP.detach().sum(1, keepdim=True).long()
            return length_B1.repeat_interleave(num_rows // len(length_B1), 0)
        return next(key.shape[2] for key in self.keys if key is not None)


@dataclass(frozen=True)
class LatePrompt:
    """P vectors that enter before layer `layer` of the first stack, counted from 0, in front of all slots.

    `make` returns them [B,P,D] from the states [B,S,D] that enter this layer and the mask [B,S].
    """

    layer: int
    num_tokens: int
    make: Callable[[Tensor, Tensor], Tensor]
    keep_BP: Tensor | None = None  # as in PromptOutput; vectors with 0 are masked


@dataclass(frozen=True)
class DeepPrompt:
    """Vectors that are added to the states of the input's vectors, before each layer of the first stack but
    the first.

    `make` returns them [B,P,D] for layer 1, 2, ... from the states [B,S,D] that enter it and the mask [B,S]
    of the text's slots. Slots and mask are known once the vectors are inserted.
    """

    make: Callable[[int, Tensor, Tensor], Tensor]
    keep_BP: Tensor | None = None  # as in PromptOutput; nothing is added to vectors with 0
    slot_of_vector_BP: Tensor | None = None
    text_mask_BS: Tensor | None = None  # bool, False on vectors and padding


InLayers = LayerPrompt | LatePrompt | DeepPrompt  # a prompt in the layers of a backbone


@dataclass(frozen=True)
class PromptOutput:
    """What a prompt decided for each example of a batch.

    `before_BJ` is one-hot over the J = P + 1 numbers of vectors before the text or, where `is_inside`, over
    J places inside it, at one of which all vectors stand. `keep_BP` is 1 for a vector that is used and 0 for
    one that the length selector dropped; None: all are used. Both are fp32 and carry the selector's gradient
    in training.
    """

    vectors_BPD: Tensor
    before_BJ: Tensor
    keep_BP: Tensor | None = None
    pool_weights_BK: Tensor | None = None
    layers: InLayers | None = None
    loss: Tensor | None = None  # a scalar that training adds to the task's loss, such as key matching
    log_prob_B: Tensor | None = None  # of the outcomes drawn, for estimators by score functions
    # For selectors that learn from losses: their inputs [B,D] and the outcomes drawn [B,J].
    seen: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    is_inside: bool = False

    @property
    def length_B(self) -> Tensor | None:
        """Return how many vectors are kept, in the input or in the layers; None: all."""
        keep_BP = self.keep_BP if self.layers is None else self.layers.keep_BP
        return None if keep_BP is None else keep_BP.sum(1).long()


@dataclass(frozen=True)
class Prompted:
    """A batch with its prompts inserted: the input of a backbone.

    `slot_of_text_BT` is the slot of each text token, `slot_of_vector_BP` that of each vector.
    """

    embeds_BSD: Tensor
    mask_BS: Tensor  # bool, False on padding and dropped vectors
    slot_of_text_BT: Tensor
    answer_slot_B: Tensor | None = None  # the slot of the token at `Batch.answer_B`
    layers: InLayers | None = None
    slot_of_vector_BP: Tensor | None = None  # None for a text without a prompt
