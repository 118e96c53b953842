"""The typed schema behind `configs/`: what every setting is called, its type, and what it means.

Defaults live in the YAML files; a field here has one only where every YAML of its group would repeat it.
These are plain dataclasses, so that nothing outside `dp_bench.config` knows Hydra or OmegaConf.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from dp_bench.methods import table
from dp_bench.prompts import catalogue

MISSING: Any = "???"  # how OmegaConf writes a value that must be given


class OnMissing(Enum):
    micro = "micro"
    error = "error"


class Selection(Enum):
    heldout = "heldout"
    validation = "validation"


class Precision(Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"  # known, so that it can be refused with the reason


class OptimizerName(Enum):
    adafactor = "adafactor"
    adamw = "adamw"


class Scoring(Enum):
    words = "words"  # one label word a label, the same for every example
    choices = "choices"  # each example brings its own choices, which are scored whole


class Init(Enum):
    uniform = "uniform"
    vocab = "vocab"  # rows of frequent tokens, sampled
    first_vocab = "first_vocab"  # rows 0, 1, 2 …, as the authors' code
    frequent = "frequent"  # rows of the most frequent tokens, in their order
    text = "text"  # the tokens of init_text, repeated
    label_words = "label_words"  # the label words, then sampled rows
    saved = "saved"  # a trained prompt


class Summary(Enum):
    encoder_mean = "encoder_mean"
    embedding_mean = "embedding_mean"
    first = "first"  # the encoder's state of the first token
    last = "last"  # of the last one


class Estimator(Enum):
    gumbel_st = "gumbel_st"  # the paper's: Gumbel-Softmax, straight through
    st = "st"
    reinmax = "reinmax"
    rao_blackwell = "rao_blackwell"
    reinforce = "reinforce"
    leave_one_out = "leave_one_out"
    exact = "exact"
    mixture = "mixture"  # another objective: the likelihood of a mixture of experts


class SplitOrder(Enum):
    paper = "paper"
    code = "code"


class Schedule(Enum):
    constant = "constant"
    exponential = "exponential"
    authors = "authors"


class Attention(Enum):
    auto = "auto"
    eager = "eager"
    sdpa = "sdpa"


class Family(Enum):
    encoder_decoder = "encoder_decoder"
    encoder_only = "encoder_only"
    decoder_only = "decoder_only"


class Head(Enum):
    verbalizer = "verbalizer"
    classifier = "classifier"


class Pooling(Enum):
    first = "first"  # the state of the first token, [CLS]
    mean = "mean"  # over the tokens of the text


# Strings. Were they typed as such, composing would make text of what YAML reads as booleans, numbers or null,
# `[yes, no]`, before checks.py could refuse it.
Words = list[Any]
Text = Any  # a text that a model reads, for the same reason


@dataclass
class TaskSettings:
    name: str = MISSING
    title: str = MISSING  # heading in tables, and the folder of the official release
    order: int | None = None  # among the tasks of lists and tables; None: last, by name
    hub_config: str = MISSING  # the subset's name on the hub
    hub: str | None = None  # name or name@revision of its data set on the hub, or a folder; None: data.hub
    reader: str = MISSING  # shape of the raw record: a function of dp_bench.data.readers
    fields: Words = MISSING  # what the record must have and the template may name
    labels: Words = MISSING  # the release's labels, in the order of the hub's integers
    scoring: Scoring = MISSING
    words: Words = MISSING  # scoring=words: the label word of each label, in the same order; else none
    choices: Words = field(default_factory=list)  # fields with an example's choices; none: the reader's
    template: str = MISSING  # text of the input; {field} is replaced
    shorten: str = MISSING  # the field that gives way at its end when the text is too long
    # Fields whose texts keep rows on one side of every split: of rows that share one, none is trained on
    # while another is held out, and one is drawn. None: `shorten` alone.
    together: Words | None = None
    max_length: int = MISSING  # tokens of the text with </s>, without prompt vectors
    metrics: Words = MISSING  # their mean is the task score
    revision: int | None = None  # raised when the same settings come to other numbers
    only_file: str | None = None  # stem of a diagnostic's one file, in place of data.validation_file
    train_task: TaskSettings | None = None  # the task that a diagnostic is trained on, with its own fields
    label_field: str | None = None  # reader=rows: the column of the label; None: "label"
    # By release and stem of the file: its sha256, and rows where they were counted (data check reads this).
    files: Any = None

    @property
    def training(self) -> TaskSettings:
        """The task that is trained and selected on: RTE for a diagnostic, else this one."""
        return self.train_task or self

    @property
    def trains_on(self) -> str | None:
        """The name of the task whose train file is used, where that is another one."""
        return None if self.train_task is None else self.train_task.name


@dataclass
class BackboneSettings:
    name: str = MISSING
    family: Family | None = Family.encoder_decoder  # None: what the checkpoint says
    head: Head = Head.verbalizer
    name_or_path: str | None = None  # hub name or directory; None builds random weights from `random_init`
    revision: str | None = None
    # Digest of the files that `name_or_path` names, where they travel in a package (backbones/checkpoint.py).
    sha256: str | None = None
    tokenizer: str | None = None  # hub name or directory; None: the checkpoint's own
    random_init: dict[str, Any] | None = None  # arguments of the family's transformers config
    init_seed: int = 0
    answer_prefix: Text = ""  # decoder text before the answer step; "<extra_id_0>" for span-corruption T5
    answer_cue: Text | None = None  # without a decoder: what ends the text, {mask} for the mask token
    pooling: Pooling | None = None  # encoder-only with head=classifier: what it reads; None: the first token
    attention: Attention = Attention.auto


@dataclass
class PromptSettings:
    name: str = MISSING
    method: str = (
        MISSING  # a row of methods/table.py: a prompt, or in baselines all weights, a probe, nothing
    )
    num_tokens: int = MISSING  # P
    init: Init = MISSING
    summary: Summary = MISSING
    estimator: Estimator | None = None  # of the selectors' gradient; None: gumbel_st, the paper's
    standardise: bool | None = None  # the summary, by the training rows
    erase_label: bool | None = None  # from the summary, linearly (LEACE)
    shuffle_input: bool | None = None  # control: every text shows selectors another text's summary
    selector_lr: float | None = None  # of what chooses, where that is not `lr`
    position: dict[str, Any] = field(default_factory=dict)
    length: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, Any] | None = None  # keys and values that every attention gets; None: none
    route: dict[str, Any] | None = None  # which of the members of vectors=routed a text has
    init_text: Text | None = None
    init_from: str | None = None  # folder of a finished run, or its prompt.safetensors
    freeze_backbone: bool | None = None  # False: the backbone is trained too, as trainer.full says
    optimizer: OptimizerName | None = None  # these three: of this method, in place of the trainer's
    lr: float | None = None
    weight_decay: float | None = None
    rank: int | None = None  # of LoRA's factors
    alpha: float | None = None  # LoRA's scale is alpha / rank
    target_modules: list[str] | None = None  # matrices that LoRA adapts, by name; None: of query and value

    @property
    def trains_backbone(self) -> bool:
        """Whether all weights are trained, with trainer.full."""
        return table.trains_backbone(vars(self))

    @property
    def saved_file(self) -> Path:
        """The file that init=saved reads."""
        path = Path(self.init_from or "").expanduser()
        return path / "prompt.safetensors" if path.is_dir() else path

    @property
    def pieces(self) -> dict[str, dict[str, Any] | None]:
        """The pieces by the part that each decides, as `prompts.catalogue` reads them."""
        return {part: getattr(self, part) for part in catalogue.PARTS}

    @property
    def is_routed(self) -> bool:
        known = catalogue.of(self.vectors)
        return known is not None and known.needs_route

    @property
    def in_layers_alone(self) -> bool:
        known = catalogue.of(self.vectors)
        return known is not None and known.is_empty


class FewShotSplit(Enum):
    sampled = "sampled"
    fewglue = "fewglue"


class Mixing(Enum):
    proportional = "proportional"  # to the rows of each task, or to mixing_cap where it has more
    equal = "equal"
    temperature = "temperature"  # proportional to rows ** (1 / mixing_temperature)


@dataclass
class RegimeSettings:
    name: str = MISSING
    shots: int | None = None  # few-shot: rows a class to train on, and as many to select on; None: all rows
    split: FewShotSplit = FewShotSplit.sampled  # whose draw: ours, by split_seed, or FewGLUE's published rows
    split_seed: int = 0
    tasks: list[str] | None = None  # multitask: what one prompt is trained on; None: `task` alone
    mixing: Mixing | None = None  # multitask: the share of each task in an update
    mixing_temperature: float | None = None
    mixing_cap: int | None = None  # rows of a task that count, at most; None: all
    # Mappings from task names, which Hydra sets whole only where the type is open; `checks` has their types.
    task_weights: Any = None  # multitask: factors of the tasks' losses, {rte: 2.0}; 1 unless given
    task_settings: Any = None  # multitask: settings of single tasks, {multirc: {max_length: 600}}
    transfer: list[str] | None = None  # tasks that the trained prompt is also evaluated on


@dataclass
class DataSettings:
    name: str = MISSING
    title: str = MISSING  # what tables and plots call it
    dir: str | None = None  # official release layout: BoolQ/train.jsonl …; None: the hub, then its cache
    hub: str = MISSING  # dataset name on the hub, or a local directory in the hub's layout
    revision: str | None = None
    train_file: str = MISSING  # stem of the file trained on
    validation_file: str = MISSING  # stem of the file reported on
    limit: int | None = None  # keep the first rows of each file only; shown in every table header
    templated: bool | None = (
        None  # rows share sentences because a generator has few: task.together is not read
    )
    difficulty: str | None = None  # easy, default, hard: generate the micro benchmark; None: read files
    world_seed: int = 0  # of the generator; read with `difficulty` only
    # mix2, mix3, mix4, skewed, liar: what the generator writes in place of BoolQ; read with `difficulty`
    mixture: str | None = None


@dataclass
class TemperatureSettings:
    schedule: Schedule = MISSING
    start: float = MISSING
    end: float = MISSING
    anneal: float = MISSING  # the authors' `aneal`; read by schedule=authors only


@dataclass
class FullSettings:
    """What training all weights (prompt=fine_tuning) takes in place of the same settings for a prompt."""

    optimizer: OptimizerName = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING


@dataclass
class TrainerSettings:
    name: str = MISSING
    max_steps: int = MISSING  # updates
    batch_size: int = MISSING  # examples that one update sees
    micro_batch_size: int | None = None  # examples in one forward pass; None: all of batch_size
    step_each_micro_batch: bool | None = None  # an update after each of them, not after batch_size (B1)
    eval_batch_size: int = MISSING
    eval_every: int = MISSING
    patience: int | None = None  # evaluations without a better score before stopping; None: never
    optimizer: OptimizerName = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    warmup_steps: int = MISSING
    max_grad_norm: float = MISSING
    cpu_threads: int | None = None  # on a CPU; None: torch's choice, all cores
    precision: Precision = MISSING  # of the frozen weights; prompt and optimizer are always fp32
    compile: bool | None = None  # torch.compile the backbone
    gradient_checkpointing: bool | None = None  # compute activations anew in the backward pass: less memory
    profile: bool | None = None  # after training, record where the time goes
    bucket_batches: int = MISSING  # batches whose examples are sorted by length together; 1: no bucketing
    selection: Selection = MISSING
    heldout_fraction: float = MISSING  # share of train held out to select on
    heldout_max: int = MISSING  # examples, at most
    temperature: TemperatureSettings = field(default_factory=TemperatureSettings)
    full: FullSettings = field(default_factory=FullSettings)


@dataclass
class ProtocolSettings:
    """Where the paper's code departs from a clean experiment; the tags B1 … B12 are those of
    docs/protocol.md."""

    name: str = MISSING
    split_order: SplitOrder = MISSING
    frozen_dropout: bool = MISSING  # B6
    summary_pad_to: int | None = None  # B5: mean over all of so many positions, padding included
    sample_at_eval: bool = MISSING  # B2
    sum_losses: bool | None = None  # B19: micro-batches' mean losses are added up, not averaged
    warmup_from_zero: bool | None = None  # the first step has rate 0
    whole_classes: bool | None = None  # few-shot: a class with too few rows gives all of them to train on
    revision: int | None = None  # raised when the same switches come to other numbers
    # What a protocol sets elsewhere. config/build.py writes it there, so that no other code knows of it.
    by_piece: Any = None  # settings of pieces by their class: {PerInstance: {relu: true}}
    by_prompt: Any = None  # settings by the name of the prompt: {fixed: {prompt.init: first_vocab}}


@dataclass
class SeedSettings:
    """One random stream each; None follows `seed`. Few-shot rows are drawn by regime.split_seed."""

    order: int | None = None  # of the examples, and their mixture over tasks
    init: int | None = None  # of what is trained
    gumbel: int | None = None  # of the selectors' draws, and of dropout
    heldout: int | None = None  # which training rows are held out to select on


@dataclass
class HpoSettings:
    """A search for settings, of which this run is a trial or the outcome (`dp-bench sweep hpo=NAME`)."""

    name: str | None = None  # None: nothing was searched for
    trials: int | None = None  # of each method
    seed: int | None = None  # of every trial, and of the search itself; best none of the reported ones
    space: dict[str, dict[str, Any]] = field(default_factory=dict)  # by setting: low, high, log, or choices

    @staticmethod
    def is_for(prompt: PromptSettings, entry: Mapping[str, Any]) -> bool:
        """Say whether an entry of the space is searched for a prompt: `methods` may name others."""
        method = prompt.method
        return table.of(method).is_trained and method in entry.get("methods", [method])


@dataclass
class RunSettings:
    experiment: str | None = None  # a file of configs/experiment says its name
    seed: int = MISSING
    seeds: SeedSettings = field(default_factory=SeedSettings)
    device: str = MISSING
    results_dir: str = MISSING
    cache_dir: str | None = None
    on_missing: OnMissing = MISSING
    rerun: bool = MISSING
    keep_weights: bool = False  # of a backbone that is wholly tuned: write backbone.safetensors
    task: TaskSettings | None = field(default_factory=TaskSettings)  # None where regime.tasks names several
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    regime: RegimeSettings = field(default_factory=RegimeSettings)
    data: DataSettings = field(default_factory=DataSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    protocol: ProtocolSettings = field(default_factory=ProtocolSettings)
    hpo: HpoSettings = field(default_factory=HpoSettings)

    def seed_of(self, stream: str) -> int:
        """Return the seed of one of `seeds`."""
        own: int | None = getattr(self.seeds, stream)
        return self.seed if own is None else own

    @property
    def cache(self) -> Path:
        """Where encodings, summaries and generated data are kept: cache_dir, $DP_BENCH_CACHE, the user's
        cache."""
        chosen = self.cache_dir or os.environ.get("DP_BENCH_CACHE")
        if chosen:
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dp-bench"
