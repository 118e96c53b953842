"""The few shapes of data that travel between the parts of dp-bench; this module imports none of them.

Shape legend, used as suffixes on every tensor that crosses a function boundary:

    B examples          T text tokens with padding    P prompt vectors        S = P + T slots
    D hidden width      J = P + 1 selector outcomes   C choices               V vocabulary
    N tasks             K pool entries                A tokens in a choice
    H key/value heads   E head width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class UserError(Exception):
    """The user's input is wrong: shown as one paragraph, without a traceback, and ends in exit code 2.

    The message says what is wrong, where, and what to type instead.
    """


class UnreachableError(UserError):
    """A data set or checkpoint is neither on this machine nor to be had from the hub just now."""


class RunFailedError(Exception):
    """A run went wrong by what it computed: told in one paragraph, recorded as failed, exit code 1."""


@dataclass(frozen=True)
class Example:
    """One question to the model, read from a raw SuperGLUE record.

    `label` indexes `choices` and is None where the release hides it (test splits). Where several choices are
    right (ReCoRD), `golds` has them all and `label` the first. Examples with one `group` are scored together
    (the answers to one MultiRC question). `source` names the texts of an example, separated by spaces;
    examples that share one, directly or through others, never stand on both sides of a train/held-out split.
    """

    id: str  # "rte/val/3"; MultiRC "multirc/val/5/2/1": passage, question, answer
    fields: Mapping[str, str]
    choices: tuple[str, ...]
    label: int | None
    group: str
    source: str
    golds: tuple[int, ...] = ()  # empty: the label alone
    skill: int | None = None  # of a mixture of sub-skills: which one this example takes
    line: int = field(default=0, compare=False)  # of its file
    is_unmatched: bool = False  # there are answers, and none of them is a choice
    cuts_words: bool = field(default=False, compare=False)  # a choice begins or ends inside a word


@dataclass(frozen=True)
class Batch:
    """Encoded examples, padded on the right to the longest of them.

    The *body* of a text is what a prompt may be split around: ids[body_start:body_end]. For T5 that is
    everything before `</s>`. `row_B` numbers the rows in their encoded split and addresses what is cached per
    example. `choice_ids_BCA` are the texts of each example's own choices, where those are scored whole:
    padded on the right, and with rows of padding for the choices that an example has not. `noise` holds the
    random numbers of this batch, one row an example, named after the selector that uses them: noise is data,
    so a forward pass is a function of its arguments and resuming needs no generator state.

    All examples of a batch belong to one task, number `task` of the run's. `answer_B` is the place in the
    text at which families without a decoder read the answer: the mask token, or the last token before it.
    """

    ids_BT: Tensor
    mask_BT: Tensor  # bool, True on real tokens
    body_start_B: Tensor
    body_end_B: Tensor
    label_B: Tensor  # -1 where hidden
    row_B: Tensor
    task_B: Tensor
    choice_ids_BCA: Tensor | None = None
    choice_mask_BCA: Tensor | None = None  # bool, True on real tokens; all False for a choice that is none
    gold_BC: Tensor | None = None  # bool, where several choices of a text may be right; None: label_B alone
    summary_BD: Tensor | None = None  # the cached frozen summary, where the prompt asks for one
    answer_B: Tensor | None = None
    skill_B: Tensor | None = None  # which sub-skill of a mixture the data says each text takes
    task: int = 0
    noise: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.ids_BT.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            move(self.ids_BT),
            move(self.mask_BT),
            move(self.body_start_B),
            move(self.body_end_B),
            move(self.label_B),
            move(self.row_B),
            move(self.task_B),
            choice_ids_BCA=None if self.choice_ids_BCA is None else move(self.choice_ids_BCA),
            choice_mask_BCA=None if self.choice_mask_BCA is None else move(self.choice_mask_BCA),
            gold_BC=None if self.gold_BC is None else move(self.gold_BC),
            summary_BD=None if self.summary_BD is None else move(self.summary_BD),
            answer_B=None if self.answer_B is None else move(self.answer_B),
            skill_B=None if self.skill_B is None else move(self.skill_B),
            task=self.task,
            noise={name: move(noise) for name, noise in self.noise.items()},
        )

    def with_(self, *, summary_BD: Tensor | None = None, noise: Mapping[str, Tensor] | None = None) -> Batch:
        """Return this batch with its summary or its noise replaced."""
        return replace(
            self,
            summary_BD=self.summary_BD if summary_BD is None else summary_BD,
            noise=self.noise if noise is None else noise,
        )


@dataclass(frozen=True)
class Site:
    """One attention of the backbone, which a per-layer prompt may give keys and values to."""

    kind: str  # "encoder", "decoder" (self-attention of either) or "cross"
    num_heads: int  # H: of keys and values, fewer than those of queries where they are grouped
    head_width: int  # E


@dataclass(frozen=True)
class Dims:
    """What a prompt may know of the backbone it is trained for."""

    width: int  # D
    vocab_size: int  # V: rows of the input embedding that stand for real tokens
    num_tasks: int = 1  # N
    special_ids: tuple[int, ...] = ()
    sites: tuple[Site, ...] = ()  # in the order in which a forward pass calls them
    summary_width: int = 0  # of what selectors look at; 0: the same

    def __post_init__(self) -> None:
        if not self.summary_width:
            object.__setattr__(self, "summary_width", self.width)


@dataclass(frozen=True)
class LayerPrompt:
    """Keys and values that a prompt adds to attentions: one entry a site of `Dims.sites`, None for a site it
    leaves alone. Shapes [B,H,P,E]."""

    keys: tuple[Tensor | None, ...]
    values: tuple[Tensor | None, ...]
    keep_BP: Tensor | None = None  # as in PromptOutput; nothing attends to a vector with 0

    @property
    def length_B1(self) -> Tensor | int:
        """How many vectors each example has: the text's first position, as with `past_key_values`."""
        if self.keep_BP is not None:
            return self.keep_BP.detach().sum(1, keepdim=True).long()
        return next(key.shape[2] for key in self.keys if key is not None)


@dataclass(frozen=True)
class PromptOutput:
    """What a prompt decided for each example of a batch.

    `before_BJ` is one-hot over the J = P + 1 splits: how many vectors stand before the text. `keep_BP` is 1
    for a vector that is used and 0 for one that the length selector dropped; None means that all are used.
    Both carry the selector's gradient when training.
    """

    vectors_BPD: Tensor
    before_BJ: Tensor
    keep_BP: Tensor | None = None
    pool_weights_BK: Tensor | None = None
    layers: LayerPrompt | None = None
    loss: Tensor | None = None  # a scalar that training adds to the task's loss, such as key matching
    log_prob_B: Tensor | None = None  # of what was drawn, where the estimator learns from scores
    # Of selectors that learn from losses: what they looked at [B,D], and what was drawn [B,J].
    seen: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def length_B(self) -> Tensor | None:
        """How many vectors are kept, in the input or in the layers; None: all."""
        keep_BP = self.keep_BP if self.layers is None else self.layers.keep_BP
        return None if keep_BP is None else keep_BP.sum(1).long()


@dataclass(frozen=True)
class Prompted:
    """A batch with its prompts in place: what a backbone reads.

    `slot_of_text_BT` tells where each text token went, so that an answer slot survives any placement.
    """

    embeds_BSD: Tensor
    mask_BS: Tensor
    slot_of_text_BT: Tensor
    answer_slot_B: Tensor | None = None  # where the token at `Batch.answer_B` went
    layers: LayerPrompt | None = None
