"""Signals that announce the end of a process: of Slurm, `timeout`, a closed terminal, a spot instance.

During training one is remembered until the next update, whose checkpoint loses nothing; elsewhere it stops
the run at once. SIGINT always stops it at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from dp_bench import ranks

WATCHED = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


@dataclass
class _State:
    arrived: int = 0
    is_deferred: bool = False  # someone asks `arrived`


_state = _State()


class Preempted(KeyboardInterrupt):
    """One of the signals has arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def watched() -> Iterator[None]:
    """Raise Preempted where a signal arrives, once, and restore the former handlers at the end.

    Signals that are ignored, as by nohup, stay so. Only the main thread can watch.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in WATCHED}
    former = {number: handler for number, handler in former.items() if handler not in (signal.SIG_IGN, None)}
    for number in former:
        signal.signal(number, _remember)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        number, _state.arrived = _state.arrived, 0
    if number:
        raise Preempted(number)


@contextmanager
def deferred(*, wait: bool = True) -> Iterator[None]:
    """Remember a signal for `arrived`, instead of raising it; inside of that, wait=False raises it."""
    if threading.current_thread() is not threading.main_thread():  # which watches, and defers for all
        if _state.arrived and not wait:
            raise Preempted(_state.arrived)
        yield
        return
    before = _state.is_deferred
    try:
        _state.is_deferred = wait or ranks.size() > 1  # ranks stop together, or the others wait for one
        if _state.arrived and not _state.is_deferred:
            raise Preempted(_state.arrived)
        yield
    finally:
        _state.is_deferred = before


def arrived() -> int:
    """Return a signal that has arrived on any rank, or 0."""
    return max(ranks.from_all(_state.arrived))


def _remember(number: int, _: FrameType | None) -> None:
    is_first, _state.arrived = not _state.arrived, number
    if is_first and not _state.is_deferred:  # a second one must not disturb what the first began
        raise Preempted(number)
