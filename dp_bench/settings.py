"""The typed schema of `configs/`: the name, type and meaning of every setting.

Defaults are in the YAML files; a field here has one only where every YAML of its group would repeat it.
These are plain dataclasses, so that nothing outside `dp_bench.config` imports Hydra or OmegaConf.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from dp_bench.methods import table
from dp_bench.prompts import catalogue

MISSING: Any = "???"  # OmegaConf's mark of a value that must be given


class Logger(Enum):
    """A tracker that a run also writes to."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"
    wandb = "wandb"
    trackio = "trackio"


class OnMissing(Enum):
    """What a single run does where data or checkpoint are missing."""

    micro = "micro"
    error = "error"


class Selection(Enum):
    """The rows on which the best update is selected."""

    heldout = "heldout"
    validation = "validation"


class Precision(Enum):
    """The type of frozen weights."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"  # listed so that it can be refused with the reason


class OptimizerName(Enum):
    adafactor = "adafactor"
    adamw = "adamw"


class LrUnit(Enum):
    """The unit of trainer.lr."""

    absolute = "absolute"
    embedding = "embedding"  # the root mean square of the backbone's input embeddings


class Scoring(Enum):
    """How a label is scored."""

    words = "words"  # one label word a label, the same for every example
    choices = (
        "choices"  # each example has different choices, scored whole: mean log-probability of the tokens
    )
    choices_sum = "choices_sum"  # the same by the sum, as the LM Evaluation Harness does

    @property
    def is_whole(self) -> bool:
        """Whether choices are scored whole, not by label words."""
        return self is not Scoring.words


class Init(Enum):
    """How the vectors of a prompt are initialized."""

    uniform = "uniform"
    vocab = "vocab"  # rows of frequent tokens, sampled
    first_vocab = "first_vocab"  # rows 0, 1, 2 …, as the authors' code
    frequent = "frequent"  # rows of the most frequent tokens, most frequent first
    text = "text"  # the tokens of init_text, repeated
    label_words = "label_words"  # the label words, then sampled rows
    saved = "saved"  # a trained prompt


class Summary(Enum):
    """The vector of a text that selectors read."""

    encoder_mean = "encoder_mean"
    embedding_mean = "embedding_mean"
    embedding_max = "embedding_max"
    first = "first"  # the encoder's state of the first token
    last = "last"  # the state of the last token


class Estimator(Enum):
    """How the gradient passes a selector's discrete outcome."""

    gumbel_st = "gumbel_st"  # the paper's: Gumbel-Softmax, straight through
    st = "st"
    reinmax = "reinmax"
    rao_blackwell = "rao_blackwell"
    reinforce = "reinforce"
    leave_one_out = "leave_one_out"
    exact = "exact"
    mixture = "mixture"  # another objective: the likelihood of a mixture of experts


class SplitOrder(Enum):
    """Whether outcome j counts vectors before the text (paper) or after it (code)."""

    paper = "paper"
    code = "code"


class Schedule(Enum):
    """How the temperature falls over the updates."""

    constant = "constant"
    exponential = "exponential"
    authors = "authors"


class Attention(Enum):
    """The implementation of attention."""

    auto = "auto"
    eager = "eager"
    sdpa = "sdpa"


class Family(Enum):
    """The architecture of a backbone."""

    encoder_decoder = "encoder_decoder"
    encoder_only = "encoder_only"
    decoder_only = "decoder_only"


class Head(Enum):
    """What turns the backbone's states into scores of labels."""

    verbalizer = "verbalizer"
    classifier = "classifier"


class Pooling(Enum):
    """What a classifier head reads of an encoder."""

    first = "first"  # the state of the first token, [CLS]
    mean = "mean"  # over the tokens of the text


# Strings. With the type str, composing would turn what YAML reads as booleans, numbers or null, such as
# `[yes, no]`, into text before a check could refuse it.
Words = list[Any]
Text = Any  # text for the model, for the same reason


@dataclass
class TaskSettings:
    """A task: its files, how records become text, its labels or choices, and its metrics."""

    name: str = MISSING  # in run ids and tables
    title: str = MISSING  # heading in tables, and the folder of the official release
    # Among the tasks of lists and tables; None: last, by name.
    order: int | None = field(default=None, compare=False)
    hub_config: str = MISSING  # the subset's name on the hub
    hub: str | None = None  # name or name@revision of its data set on the hub, or a folder; None: data.hub
    reader: str = MISSING  # format of the raw record: a function of dp_bench.data.readers
    fields: Words = MISSING  # of a record: it must have them, and the template may name them
    labels: Words = MISSING  # the release's labels, in the order of the hub's integers
    # The name of one of `formats`: which texts and words the model reads. None: the one that the backbone
    # prefers, if the task has it. In a record: None is the paper's, what the other keys of the file say.
    format: str | None = None
    # By name: the keys of this task that have other values in that format.
    formats: Any = field(default=None, compare=False)
    scoring: Scoring = MISSING  # how an answer is scored
    words: Words = MISSING  # scoring=words: the label word of each label, in the same order; else none
    choices: Words = field(default_factory=list)  # fields with an example's choices; none: the reader's
    template: str = MISSING  # text of the input; {field} is replaced
    # The end of the text, behind the vectors of a prompt; "": its last token. None: backbone.answer_cue.
    cue: Text | None = None
    # Further templates; prompt=best_template has the best of `template` and these.
    templates: Words | None = field(default=None, compare=False)
    shorten: str = MISSING  # the field that is shortened at its end when the text is too long
    # Rows that share the text of one of these fields are on the same side of every split, and few-shot draws
    # take one of them. None: `shorten` only.
    together: Words | None = None
    max_length: int = MISSING  # tokens of the text with </s>, without prompt vectors
    metrics: Words = MISSING  # their mean is the task score
    revision: int | None = None  # raised when results change with the same settings
    only_file: str | None = None  # stem of a diagnostic's only file, instead of data.validation_file
    train_task: TaskSettings | None = None  # the task that a diagnostic is trained on
    label_field: str | None = None  # reader=rows: the column of the label; None: "label"
    # The labels as the leaderboard spells them, where it does so otherwise (read by submit).
    submitted: Words | None = field(default=None, compare=False)
    # By release and file stem: sha256, and the number of rows where known (read by data check).
    files: Any = field(default=None, compare=False)

    @property
    def training(self) -> TaskSettings:
        """The task that is trained and selected on: RTE for a diagnostic, else this task."""
        return self.train_task or self


@dataclass
class BackboneSettings:
    """The language model: its checkpoint, family and head."""

    name: str = MISSING  # in run ids and tables
    family: Family | None = Family.encoder_decoder  # None: read from the checkpoint
    head: Head = Head.verbalizer  # reads the answer: label words, or a trained classifier
    name_or_path: str | None = None  # hub name or directory; None builds random weights from `random_init`
    revision: str | None = None  # commit, branch or tag on the hub
    # Digest of the files at `name_or_path`, where a package contains them (backbones/checkpoint.py).
    sha256: str | None = None
    gguf_file: str | None = (
        None  # the file at `name_or_path` where weights are quantised, in llama.cpp's GGUF
    )
    tokenizer: str | None = None  # hub name or directory; None: the checkpoint's
    random_init: dict[str, Any] | None = None  # arguments of the family's transformers config
    init_seed: int = 0  # of random_init
    answer_prefix: Text = ""  # decoder text before the answer step; "<extra_id_0>" for span-corruption T5
    format: str | None = None  # of a task's texts, where the task has it (task.formats); None: the paper's
    answer_cue: Text | None = None  # without a decoder: the end of the text, {mask} for the mask token
    # What trainer=default has for this model in place of the paper's settings, which are for T5.
    trainer: dict[str, Any] | None = field(default=None, compare=False)
    pooling: Pooling | None = None  # input of an encoder's head=classifier; None: the first token
    attention: Attention = Attention.auto  # of transformers
    shard: bool = False  # divide the weights of each layer over the processes of a run on several


def prompt_file(named: str) -> Path:
    """Return the file of trained tensors that a folder of a run, or a path, names."""
    path = Path(named).expanduser()
    return path / "prompt.safetensors" if path.is_dir() else path


@dataclass
class PromptSettings:
    """A prompt or a baseline: its method, pieces and initialization."""

    name: str = MISSING  # in run ids and tables
    method: str = MISSING  # a row of methods/table.py: a prompt, or a baseline
    num_tokens: int = MISSING  # P, the number of vectors; at least 1, and 0 without a prompt
    init: Init = MISSING  # how the vectors begin
    summary: Summary = MISSING  # what selectors read of a text
    estimator: Estimator | None = None  # of the selectors' gradient; None: gumbel_st, the paper's
    standardise: bool | None = None  # standardise the summary by the training rows
    erase_label: bool | None = None  # remove labels from the summary, linearly (LEACE)
    shuffle_input: bool | None = None  # control: selectors read the summary of another text
    selector_lr: float | None = None  # of selectors, where it is not `lr`
    network_lr: float | None = None  # of networks that make vectors or change texts, where it is not `lr`
    # J: the vectors stand together at one of so many places inside the text; None: split around it.
    boundaries: int | None = None
    position: dict[str, Any] = field(default_factory=dict)  # piece: how many vectors before the text
    length: dict[str, Any] = field(default_factory=dict)  # piece: how many vectors are used
    vectors: dict[str, Any] = field(default_factory=dict)  # piece: which vectors
    layers: dict[str, Any] | None = None  # keys and values added to every attention; None: none
    route: dict[str, Any] | None = None  # chooses the member of vectors=routed for a text
    adapters: dict[str, Any] | None = None  # a method whose weights are trained beside the prompt
    text: dict[str, Any] | None = None  # changes the embeddings of the text; None: nothing
    init_text: Text | None = None  # the text of init=text
    init_from: str | None = None  # init=saved: folder of a finished run, or its prompt.safetensors
    freeze_backbone: bool | None = None  # False: the backbone is trained too, as trainer.full says
    optimizer: OptimizerName | None = None  # of this method, instead of the trainer's
    lr: float | None = None  # the same
    weight_decay: float | None = None  # the same
    rank: int | None = None  # of LoRA's factors
    alpha: float | None = None  # LoRA's scale is alpha / rank
    size: int | None = None  # hidden width of bottleneck adapters
    shots: int | None = None  # training examples in front of each text
    target_modules: list[str] | None = None  # names of matrices that LoRA adapts; None: query and value

    @property
    def trains_backbone(self) -> bool:
        """Whether all weights are trained, with the settings of trainer.full."""
        return table.trains_backbone(vars(self))

    @property
    def as_adapters(self) -> PromptSettings:
        """These settings with those of the adapters in the place where their method reads them."""
        adapters = {key: value for key, value in (self.adapters or {}).items() if key != "lr"}
        return replace(self, **adapters)

    @property
    def saved_file(self) -> Path:
        """The file that init=saved reads."""
        return prompt_file(self.init_from or "")

    @property
    def source_files(self) -> list[Path]:
        """The files of the source prompts that vectors mix."""
        return [prompt_file(source) for source in self.vectors.get("sources") or ()]

    @property
    def pieces(self) -> dict[str, dict[str, Any] | None]:
        """The pieces, by the part that each decides, for `prompts.catalogue`."""
        return {part: getattr(self, part) for part in catalogue.PARTS}

    @property
    def is_routed(self) -> bool:
        """Whether a route chooses one member of the vectors for each text."""
        known = catalogue.of(self.vectors)
        return known is not None and known.needs_route

    @property
    def in_layers_alone(self) -> bool:
        """Whether the prompt adds nothing to the input, only to the layers."""
        known = catalogue.of(self.vectors)
        return known is not None and known.is_empty


class FewShotSplit(Enum):
    """How few-shot rows are drawn."""

    sampled = "sampled"
    fewglue = "fewglue"


class Mixing(Enum):
    """The share of each task in an update."""

    proportional = "proportional"  # to the rows of each task, or to mixing_cap where it has more
    equal = "equal"
    temperature = "temperature"  # proportional to rows ** (1 / mixing_temperature)


@dataclass
class RegimeSettings:
    """What is trained on: all rows or a few-shot draw, one task or several."""

    name: str = MISSING  # in run ids and tables
    shots: int | None = None  # few-shot: rows a class to train on, and as many to select on; None: all
    split: FewShotSplit = FewShotSplit.sampled  # sampled with split_seed, or FewGLUE's published rows
    split_seed: int = 0  # of the few-shot draw
    tasks: list[str] | None = None  # multitask: tasks that one prompt is trained on; None: `task`
    mixing: Mixing | None = None  # multitask: the share of each task in an update
    mixing_temperature: float | None = None  # of mixing=temperature; 1: proportional
    mixing_cap: int | None = None  # maximum number of rows counted for a task; None: all
    # Hydra replaces these two mappings as a whole only if the type is open. `checks` checks them.

    task_weights: Any = None  # multitask: factors of the tasks' losses, {rte: 2.0}; 1 unless given
    task_settings: Any = None  # multitask: settings of single tasks, {multirc: {max_length: 600}}
    transfer: list[str] | None = None  # tasks that the trained prompt is also evaluated on
    reptile_updates: int | None = None  # Reptile: updates on one task before each outer step; None: mixed
    reptile_rate: float | None = None  # Reptile: of the way to where they end, what an outer step goes


@dataclass
class DataSettings:
    """The files that tasks are read from, or the generator of the micro benchmark."""

    name: str = MISSING  # in run ids
    title: str = MISSING  # name in tables and plots
    dir: str | None = None  # official release layout: BoolQ/train.jsonl …; None: the hub, then its cache
    hub: str = MISSING  # dataset name on the hub, or a local directory in the hub's layout
    revision: str | None = None  # commit of data.hub
    train_file: str = MISSING  # stem of the file trained on
    validation_file: str = MISSING  # stem of the file reported on
    limit: int | None = None  # read only the first rows of each file; shown in every table header
    templated: bool | None = None  # generated rows share sentences: task.together is not used
    difficulty: str | None = None  # easy, default, hard: generate the micro benchmark; None: read files
    world_seed: int = 0  # of the generator; read with `difficulty` only
    # mix2, mix3, mix4, skewed, liar: what the generator writes instead of BoolQ; read with `difficulty` only
    mixture: str | None = None


@dataclass
class TemperatureSettings:
    """How the temperature of selectors falls in training."""

    schedule: Schedule = MISSING  # from start to end over max_steps
    start: float = MISSING  # at the first update
    end: float = MISSING  # at the last
    anneal: float = MISSING  # the authors' `aneal`; read by schedule=authors only


@dataclass
class FullSettings:
    """Settings of the trainer that training all weights (prompt=fine_tuning) uses instead."""

    optimizer: OptimizerName = MISSING  # of all weights
    lr: float = MISSING  # its learning rate, absolute
    weight_decay: float = MISSING  # its weight decay


@dataclass
class TrainerSettings:
    """The training loop: its length, batches, optimizer and selection."""

    name: str = MISSING  # in no run id
    max_steps: int = MISSING  # updates
    batch_size: int = MISSING  # examples in one update
    micro_batch_size: int | None = None  # examples in one forward pass; None: all of batch_size
    step_each_micro_batch: bool | None = None  # an update after each of them, not after batch_size (B1)
    eval_batch_size: int = MISSING  # examples in one forward pass of evaluation
    eval_every: int = MISSING  # updates from one evaluation on the selection rows to the next
    patience: int | None = None  # evaluations without a better score before stopping; None: never
    optimizer: OptimizerName = MISSING  # of the prompt
    lr: float = MISSING  # learning rate after the warm-up, constant
    lr_unit: LrUnit | None = None  # None: absolute. Rates of a prompt or a method (prompt.lr) are absolute
    weight_decay: float = MISSING  # of the optimizer
    warmup_steps: int = MISSING  # updates in which the rate rises linearly
    max_grad_norm: float = MISSING  # gradients of a greater norm are scaled down to it
    cpu_threads: int | None = None  # on a CPU; None: torch's choice, all cores
    precision: Precision = MISSING  # of the frozen weights; prompt and optimizer are always fp32
    compile: bool | None = None  # torch.compile the backbone
    gradient_checkpointing: bool | None = None  # recompute activations in the backward pass: less memory
    checkpoint_minutes: float | None = None  # also save one where the last is this old; None: at evaluations
    profile: bool | None = None  # after training, record where the time goes
    bucket_batches: int = MISSING  # batches whose examples are sorted by length together; 1: no bucketing
    selection: Selection = MISSING  # the rows on which the best update is selected
    heldout_fraction: float = MISSING  # share of train held out to select on
    heldout_max: int = MISSING  # maximum number of examples held out
    heldout_min: int | None = None  # the least, up to half of them, where the share is less; None: 1
    temperature: TemperatureSettings = field(default_factory=TemperatureSettings)
    full: FullSettings = field(default_factory=FullSettings)


@dataclass
class ProtocolSettings:
    """Where the paper's code differs from a clean experiment; the tags such as B5 are those of
    docs/protocol.md."""

    name: str = MISSING  # in run ids and tables
    split_order: SplitOrder = MISSING  # A2: whether outcome j counts vectors before the text, or behind it
    frozen_dropout: bool = MISSING  # B6: the frozen model has dropout in training
    summary_pad_to: int | None = None  # B5: mean over this many positions, padding included
    sample_at_eval: bool = MISSING  # B2: selectors draw at evaluation too
    sum_losses: bool | None = None  # B19: micro-batches' mean losses are added up, not averaged
    warmup_from_zero: bool | None = None  # the first step has rate 0
    whole_classes: bool | None = None  # few-shot: all rows of a class with too few are trained on
    revision: int | None = None  # raised when results change with the same switches
    # What a protocol sets in other groups. Only config/build.py reads these, and writes them there.

    by_piece: Any = None  # settings of pieces by their class: {PerInstance: {relu: true}}
    by_prompt: Any = None  # settings by the name of the prompt: {fixed: {prompt.init: first_vocab}}


@dataclass
class SeedSettings:
    """Seeds of random streams; None is `seed`. Few-shot rows are drawn by regime.split_seed."""

    order: int | None = None  # of the examples, and their mixture over tasks
    init: int | None = None  # of the trained parameters, and which examples are in context
    gumbel: int | None = None  # of the selectors' draws, and of dropout
    heldout: int | None = None  # which training rows are held out to select on


@dataclass
class HpoSettings:
    """The search (`dp-bench sweep hpo=NAME`) of which this run is a trial or has the best settings."""

    name: str | None = None  # None: no search
    trials: int | None = None  # of each method
    seed: int | None = None  # of all trials and of the sampler; should differ from the reported seeds
    # By setting: low, high, log, or choices; `methods` and `prompts` (names) restrict it to some.
    space: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def is_for(prompt: PromptSettings, entry: Mapping[str, Any]) -> bool:
        """Say whether an entry of the space applies to a prompt: `methods` and `prompts` may restrict it."""
        method, name = prompt.method, prompt.name
        is_named = method in entry.get("methods", [method]) and name in entry.get("prompts", [name])
        return table.of(method).is_trained and is_named


@dataclass
class RunSettings:
    """All settings of a run."""

    experiment: str | None = None  # set by the file in configs/experiment
    labels: dict[str, str] | None = None  # names of its rows, for tables and plots alone
    seed: int = MISSING  # of every random stream that has none in `seeds`
    seeds: SeedSettings = field(default_factory=SeedSettings)
    device: str = MISSING  # auto, cpu, cuda, cuda:1
    results_dir: str = MISSING  # folder that holds runs/
    cache_dir: str | None = None  # of encodings and summaries; None: $DP_BENCH_CACHE, or the user's cache
    on_missing: OnMissing = MISSING  # a single run without its data or checkpoint: micro benchmark, or stop
    rerun: bool = MISSING  # run again what is finished
    logger: Logger | None = None  # None: the files of the run alone
    keep_weights: bool = False  # of a fully trained backbone: write backbone.safetensors
    task: TaskSettings | None = field(default_factory=TaskSettings)  # None where regime.tasks names several
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    regime: RegimeSettings = field(default_factory=RegimeSettings)
    data: DataSettings = field(default_factory=DataSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    protocol: ProtocolSettings = field(default_factory=ProtocolSettings)
    hpo: HpoSettings = field(default_factory=HpoSettings)

    def seed_of(self, stream: str) -> int:
        """Return the seed of a random stream, a field of SeedSettings."""
        seed: int | None = getattr(self.seeds, stream)
        return self.seed if seed is None else seed

    def cue_of(self, task: TaskSettings) -> str | None:
        """Return the end of a task's texts, behind which the answer is read; None where a decoder answers."""
        cue: str | None = self.backbone.answer_cue if task.cue is None else task.cue
        return cue

    @property
    def cache(self) -> Path:
        """The folder of encodings, summaries and generated data: cache_dir, $DP_BENCH_CACHE, or
        `dp-bench` in the user's cache."""
        chosen = self.cache_dir or os.environ.get("DP_BENCH_CACHE")
        if chosen:
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dp-bench"
