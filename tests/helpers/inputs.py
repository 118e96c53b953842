"""Property tests whose inputs are counted and timed: few in `make test`, many in `make soak`.

An input that computes longer than LIMIT seconds, or takes WAITING times that by the clock, is a hang and
fails its property: beside other jobs a sound input takes longer by the clock.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

SOAK = int(os.environ.get("DP_BENCH_SOAK", "0"))  # so many times the inputs of `make test`; 0: its inputs
LIMIT = 60.0  # of computing
WAITING = 5  # times that, by the clock


class HangError(BaseException):
    """An input took too long. No code under test catches it, as it would a TimeoutError."""


@dataclass
class Tally:
    """The inputs that a property was tried on."""

    tried: int = 0
    seconds: float = 0.0
    slowest: float = 0.0


tallies: dict[str, Tally] = {}
UNTIL = "DP_BENCH_SOAK_UNTIL"  # variable: the monotonic time after which inputs are no longer tried


def inputs(number: int, /, **strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """Try a property on so many inputs: the same ones at each run of the tests, others in a soak."""

    def decorate(test: Callable[..., None]) -> Any:
        @functools.wraps(test)
        def tried(*args: Any, **arguments: Any) -> None:
            if time.monotonic() > float(os.environ.get(UNTIL, "inf")):
                return
            began, computed = time.monotonic(), time.process_time()
            tally = tallies.setdefault(test.__name__, Tally())
            try:
                with limited(LIMIT, arguments):
                    test(*args, **arguments)
            finally:
                seconds = time.monotonic() - began
                tally.tried, tally.seconds = tally.tried + 1, tally.seconds + seconds
                tally.slowest = max(tally.slowest, time.process_time() - computed)

        slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
        return settings(
            max_examples=number * max(1, SOAK),
            deadline=None,
            derandomize=not SOAK,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=slow,
        )(given(**strategies)(tried))

    return decorate


@contextmanager
def limited(seconds: float, given_input: object) -> Iterator[None]:
    """Raise HangError in code that computes longer, or takes WAITING times that by the clock; end the process
    where not even that stops it."""

    def stop(*_: object) -> None:
        raise HangError(f"more than {seconds:.0f} s for {given_input!r}"[:2000])

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, 1), signal.SIGALRM: (signal.ITIMER_REAL, WAITING)}
    former = {number: signal.signal(number, stop) for number in timers}
    for timer, times in timers.values():
        signal.setitimer(timer, times * seconds)
    faulthandler.dump_traceback_later(2 * WAITING * seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, former[number])
