"""Train several runs at once on the backbone that they share: their texts pass through it together.

Each run is a thread with its trainer, prompt, optimizer, noise and record, and one thread works at a time. A
run that reaches the backbone waits until every run waits; then the rows of all pass through it as one batch.
The backward pass is divided in the same way: each run differentiates its loss as far as what the backbone
gave it, the gradients of all pass back through the backbone together, and each run takes its part further, to
its prompt. A run that no other is with, as in an evaluation that the others do not have, passes alone.

A row of a batch does not depend on the other rows, so that a run's result is that of the run alone, but for
the rounding of products of another shape. What depends on state that the runs share cannot be trained so:
dropout in the frozen model, and trained weights of the backbone (`can_share`).
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, TypeVar

from dp_bench import signals
from dp_bench.methods import table

if TYPE_CHECKING:
    from torch import Tensor

    from dp_bench.backbones.backbone import Backbone
    from dp_bench.types import Batch, Prompted
    from dp_bench.verbalizer import Verbalizer

T = TypeVar("T")
WAIT_SECONDS = 0.2  # between two looks for a signal


def can_join(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether runs of two resolved configurations can be trained together."""
    return can_share(one) and can_share(other) and backbone_of(one) == backbone_of(other)


def can_share(config: Mapping[str, Any]) -> bool:
    """Say whether a run of this resolved configuration can be trained with others: it trains a prompt at the
    input of a frozen backbone."""
    prompt, trainer = config["prompt"], config["trainer"]
    is_at_input = table.of(prompt["method"]).has_prompt and not prompt.get("layers")
    is_frozen = not (
        prompt.get("adapters") or table.trains_backbone(prompt) or config["protocol"]["frozen_dropout"]
    )
    return bool(is_at_input and is_frozen and not trainer.get("compile") and not trainer.get("profile"))


def backbone_of(config: Mapping[str, Any]) -> str:
    """Return what decides how the backbone of a run is loaded, which runs that share one have in common."""
    of_trainer = ("precision", "gradient_checkpointing", "compile", "cpu_threads")
    trainer = {key: config["trainer"].get(key) for key in of_trainer}
    return json.dumps([config["backbone"], config["device"], trainer], sort_keys=True, default=str)


def together(tasks: Sequence[Callable[[], T]]) -> list[T | BaseException]:
    """Run tasks in lockstep; return what each returns or raises.

    Where a signal announces the end, each run saves a checkpoint after its update, and Preempted is raised;
    a KeyboardInterrupt stops each where it is.
    """
    with signals.watched(), signals.deferred():
        return _Lockstep(len(tasks)).run(tasks)


@contextmanager
def alone() -> Iterator[None]:
    """Let what the present run computes not pass with others: to count it, or where its gradients are taken
    without `backward`; those of what passes with others end at the backbone."""
    token = _present.set(None)
    try:
        yield
    finally:
        _present.reset(token)


def size() -> int:
    """Return the number of runs that the present one is trained with, itself included."""
    member = _present.get()
    return 1 if member is None else len(member.lockstep.members)


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """Return what `load` returns, which runs in lockstep load once for each key."""
    member = _present.get()
    if member is None:
        return load()
    loaded = member.lockstep.loaded
    if key not in loaded:
        loaded[key] = load()
    return loaded[key]  # type: ignore[no-any-return]


def read(verbalizer: Verbalizer, backbone: Backbone, prompted: Prompted, batch: Batch) -> Tensor:
    """Return what a verbalizer reads of the backbone's answer to a batch, by a pass with the other runs."""
    member = _present.get()
    if member is None or prompted.layers is not None:
        return verbalizer.read(backbone, prompted, batch)
    asked = member.asked = _Pass(verbalizer, backbone, prompted, batch)
    if not asked.is_trained and (number := signals.arrived()):  # an evaluation may take long
        raise signals.Preempted(number)
    member.wait(_State.forward)
    member.asked = None
    if asked.error is not None:
        raise asked.error
    assert asked.answer is not None
    return asked.answer


def backward(loss: Tensor, alone: Callable[[Tensor], None]) -> None:
    """Add the gradients of a loss to the parameters of the present run; `alone` does so without others."""
    import torch

    member = _present.get()
    passes = [] if member is None else member.passes
    if member is None or not passes:
        alone(loss)
        return
    member.passes = []
    answers = [each.answer for each in passes if each.answer is not None]
    grads = torch.autograd.grad(loss, answers, retain_graph=True, allow_unused=True)
    for each, grad in zip(passes, grads, strict=True):
        each.grad = grad
    member.wait(_State.backward)
    if error := next((each.error for each in passes if each.error is not None), None):
        raise error
    inputs = [each.prompted.embeds_BSD for each in passes]
    ends = [None if each.embeds_BSD is None else each.embeds_BSD.grad for each in passes]
    torch.autograd.backward([loss, *inputs], [None, *ends])


class _State(Enum):
    ready = auto()  # it works, or would
    forward = auto()  # it waits for a pass
    backward = auto()
    ended = auto()


@dataclass(eq=False)
class _Pass:
    """Rows of a run on their way through the backbone. Where they pass with others and are trained,
    `embeds_BSD` and `answer` are leaves of the graph, at which the run's part of it ends."""

    verbalizer: Verbalizer
    backbone: Backbone
    prompted: Prompted
    batch: Batch
    embeds_BSD: Tensor | None = None
    answer: Tensor | None = None
    grad: Tensor | None = None  # of the loss, at the answer
    error: BaseException | None = None
    is_trained: bool = field(init=False)
    is_inference: bool = field(init=False)

    def __post_init__(self) -> None:
        import torch

        self.is_inference = torch.is_inference_mode_enabled()
        self.is_trained = torch.is_grad_enabled() and self.prompted.embeds_BSD.requires_grad

    def cut(self) -> Prompted:
        """Return the input, cut off from the graph of the prompt."""
        self.embeds_BSD = self.prompted.embeds_BSD.detach().requires_grad_()
        return replace(self.prompted, embeds_BSD=self.embeds_BSD)

    @property
    def kind(self) -> Hashable:
        """What passes that go together have in common."""
        how = (self.is_trained, self.is_inference, self.batch.choice_ids_BCA is None)
        return (id(self.backbone), type(self.verbalizer), *how)


@dataclass(eq=False)
class _Joint:
    """A pass of several runs, of which the backward pass is to come."""

    passes: list[_Pass]
    answers: list[Tensor]


class _Member:
    """A run, and the thread that it works in."""

    def __init__(self, lockstep: _Lockstep) -> None:
        self.lockstep = lockstep
        self.state = _State.ready
        self.asked: _Pass | None = None
        self.passes: list[_Pass] = []  # with others, since the last backward pass

    def wait(self, state: _State) -> None:
        """Let the others work until what this run waits for is done."""
        self.state = state
        self.lockstep.pass_on(self)


_present: ContextVar[_Member | None] = ContextVar("dp_bench_lockstep", default=None)


class _Lockstep:
    def __init__(self, number: int) -> None:
        self.loaded: dict[Hashable, Any] = {}
        self.members = [_Member(self) for _ in range(number)]
        self._turn = threading.Condition()
        self._working: _Member | None = None
        self._joint: list[_Joint] = []
        self._stop = False

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T | BaseException]:
        ends: list[Any] = [None] * len(tasks)

        def work(number: int) -> None:
            member = self.members[number]
            _present.set(member)
            try:
                self._wait_for_turn(member)
                ends[number] = tasks[number]()
            except BaseException as error:  # it ends this run alone
                ends[number] = error
            finally:
                member.state = _State.ended
                self.pass_on(member)

        threads = [
            threading.Thread(target=copy_context().run, args=(work, number)) for number in range(len(tasks))
        ]
        for thread in threads:
            thread.start()
        with self._turn:
            self._choose()
        try:
            self._join(threads)
        except KeyboardInterrupt:
            self._stop = True
            self._join(threads)
            raise
        return ends

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            while thread.is_alive():
                thread.join(WAIT_SECONDS)

    def pass_on(self, member: _Member) -> None:
        """Let the next run work, and wait until it is this one's turn again."""
        with self._turn:
            self._choose()
        if member.state is not _State.ended:
            self._wait_for_turn(member)

    def _wait_for_turn(self, member: _Member) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._working is member)
        if self._stop:
            raise KeyboardInterrupt

    def _choose(self) -> None:
        """Choose who works next, after the passes that all wait for. Forward passes come first: a run that
        waits for a backward pass waits for the others of its pass."""
        while not any(member.state is _State.ready for member in self.members):
            at_forward = [member for member in self.members if member.state is _State.forward]
            at_backward = [member for member in self.members if member.state is _State.backward]
            if not self._stop:
                self._forward(at_forward) if at_forward else self._backward()
            for member in at_forward or at_backward:
                member.state = _State.ready
            if not at_forward and not at_backward:
                return  # all have ended
        self._working = next(member for member in self.members if member.state is _State.ready)
        self._turn.notify_all()

    def _forward(self, members: Sequence[_Member]) -> None:
        groups: dict[Hashable, list[_Member]] = defaultdict(list)
        for member in members:
            assert member.asked is not None
            groups[member.asked.kind].append(member)
        for group in groups.values():
            passes = [member.asked for member in group if member.asked is not None]
            try:
                joint = _pass_together(passes)
            except Exception as error:  # each run meets it, as if it were alone
                for each in passes:
                    each.error = error
                continue
            if joint is not None:
                self._joint.append(joint)
                for member, each in zip(group, passes, strict=True):
                    member.passes.append(each)

    def _backward(self) -> None:
        joints, self._joint = self._joint, []
        for joint in joints:
            try:
                _pass_back(joint)
            except Exception as error:
                for each in joint.passes:
                    each.error = error


def _pass_together(passes: Sequence[_Pass]) -> _Joint | None:
    """Make a forward pass of several runs; return it where a backward pass is to follow."""
    import torch

    first, is_joint = passes[0], len(passes) > 1 and passes[0].is_trained
    with torch.inference_mode(first.is_inference), torch.set_grad_enabled(first.is_trained):
        first.backbone.train(first.is_trained)
        inputs = [each.cut() if is_joint else each.prompted for each in passes]
        batches = [each.batch for each in passes]
        answers = first.verbalizer.read_together(first.backbone, inputs, batches)
        for each, answer in zip(passes, answers, strict=True):
            each.answer = answer.detach().requires_grad_() if is_joint else answer
    return _Joint(list(passes), answers) if is_joint else None


def _pass_back(joint: _Joint) -> None:
    """Pass the gradients of several runs back through the backbone. A run that has ended has none."""
    import torch

    grads = [
        torch.zeros_like(answer) if each.grad is None else each.grad
        for each, answer in zip(joint.passes, joint.answers, strict=True)
    ]
    torch.autograd.backward(joint.answers, grads)
